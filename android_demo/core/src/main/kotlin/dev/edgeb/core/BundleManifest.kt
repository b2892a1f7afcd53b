package dev.edgeb.core

internal const val SCHEMA_VERSION = 1
private val FIELDS = listOf(
    "schema_version", "created_with", "candidates", "layout", "static_prompt", "bos_id", "eos_id", "architecture",
    "quantization", "context_length", "base_model", "training", "evaluation", "vocabulary", "habits", "population",
    "calibration", "balance", "parity", "tokenizer_sha256", "tensors_sha256"
)

// Left out of the file where there is none.
private val OPTIONAL = listOf("population", "balance")

/**
 * What a bundle carries beside its weights.
 *
 * @property createdWith Program and version that wrote it, like "edgeb 0.1.0".
 * @property candidates The labels it predicts and their training counts.
 * @property layout How its prompts are worded.
 * @property bosId Token id every prompt without chat turns starts with, or null for none.
 * @property eosId Token id that ends an answer where the layout has neither a terminator of its own nor chat turns.
 * @property architecture GGUF architecture, "qwen2" or "llama".
 * @property quantization llama.cpp's name of the weight format, like "Q4_K_M".
 * @property contextLength Positions the model was built for.
 * @property baseModel The backbone and its license.
 * @property training The resolved recipe of the run.
 * @property evaluation The metrics of the run.
 * @property vocabulary What pruning left of the vocabulary; null if nothing was pruned.
 * @property habits How the per-user counter is set and fused with the model; null without one.
 * @property population What the table of people's habits was counted from; null without one.
 * @property calibration How scores become the probabilities that are shown; null if not fitted.
 * @property balance How far to raise rare behaviors where that is asked for, per source; null if not fitted.
 * @property parity What every step of the export changed; null if it was not measured.
 * @property tokenizerSha256 Hash of the file's tokenizer metadata.
 * @property tensorsSha256 Hash of everything that decides the logits.
 */
public class BundleManifest private constructor(
    public val createdWith: String,
    public val candidates: CandidateSet,
    public val layout: PromptLayout,
    public val bosId: Int?,
    public val eosId: Int,
    public val architecture: String,
    public val quantization: String,
    public val contextLength: Int,
    public val baseModel: BaseModel,
    public val training: Map<String, Any?>,
    public val evaluation: Map<String, Any?>,
    public val vocabulary: Map<String, Any?>?,
    public val habits: Map<String, Any?>?,
    public val population: Map<String, Any?>?,
    public val calibration: Map<String, Any?>?,
    public val balance: Map<String, Any?>?,
    public val parity: Map<String, Any?>?,
    public val tokenizerSha256: String,
    public val tensorsSha256: String,
    public val schemaVersion: Int
) {
    /** Text of the part of the prompt that never changes. */
    public val staticPrompt: String
        get() = layout.static(candidates.labels).joinToString("")

    internal companion object {
        /**
         * Read a manifest strictly.
         *
         * @throws EdgebException not JSON, a newer schema, a field that is missing, unknown or of the wrong type, or a
         *   prompt wording that this edgeb would render differently.
         */
        fun parse(text: String, path: String): BundleManifest {
            val where = "$path: manifest"
            val json = Json.parse(text, where)
            checkSchema((json as? Map<*, *>)?.get("schema_version"), path)
            val absent = OPTIONAL.filter { (json as? Map<*, *>)?.containsKey(it) == false }
            val fields = Fields(json, FIELDS - absent, where)
            val found = located(where) {
                val listed = Fields(fields.any("candidates"), listOf("labels", "counts"), "candidates")
                val labels = listed.list("labels").map { it as? String ?: throw notA("candidates.labels", "text") }
                val counts = listed.list("counts").map {
                    it as? Long ?: throw notA("candidates.counts", "a whole number")
                }
                BundleManifest(
                    createdWith = fields.string("created_with"),
                    candidates = CandidateSet(labels, counts),
                    layout = PromptLayout.of(fields.any("layout"), "layout"),
                    bosId = fields.intOrNull("bos_id"),
                    eosId = fields.int("eos_id"),
                    architecture = fields.string("architecture"),
                    quantization = fields.string("quantization"),
                    contextLength = fields.int("context_length"),
                    baseModel = BaseModel.of(fields.any("base_model"), "base_model"),
                    training = fields.map("training"),
                    evaluation = fields.map("evaluation"),
                    vocabulary = fields.mapOrNull("vocabulary"),
                    habits = fields.mapOrNull("habits"),
                    population = if ("population" in absent) null else fields.map("population"),
                    calibration = fields.mapOrNull("calibration"),
                    balance = if ("balance" in absent) null else fields.map("balance"),
                    parity = fields.mapOrNull("parity"),
                    tokenizerSha256 = fields.string("tokenizer_sha256"),
                    tensorsSha256 = fields.string("tensors_sha256"),
                    schemaVersion = fields.int("schema_version")
                )
            }
            if (found.contextLength < 1) {
                throw EdgebException(
                    "$where: context_length is ${found.contextLength}", DAMAGED_HINT, ErrorCode.DAMAGED
                )
            }
            if (found.staticPrompt != fields.string("static_prompt")) {
                throw EdgebException(
                    "$where: this edgeb words the prompt otherwise than ${found.createdWith}, which wrote the bundle",
                    "use that version, or train and export again", ErrorCode.UNSUPPORTED_VERSION
                )
            }
            return found
        }

        /** Refuse a schema version this program does not know. */
        fun checkSchema(version: Any?, where: String) {
            if (version !is Long || version < 1) {
                throw EdgebException("$where: schema_version is $version", DAMAGED_HINT, ErrorCode.DAMAGED)
            }
            if (version > SCHEMA_VERSION) {
                throw EdgebException(
                    "$where was written by a newer edgeb (schema $version, this one reads $SCHEMA_VERSION)",
                    "update the app", ErrorCode.UNSUPPORTED_VERSION
                )
            }
        }

        private fun notA(name: String, wanted: String) = EdgebException(
            "an item of $name is not $wanted", DAMAGED_HINT, ErrorCode.DAMAGED
        )
    }
}

/** Put the place before the message of what goes wrong inside. */
internal inline fun <T> located(where: String, block: () -> T): T {
    try {
        return block()
    } catch (error: EdgebException) {
        val message = error.message.orEmpty()
        throw if (message.startsWith(where)) error else EdgebException("$where: $message", error.hint, error.code)
    }
}
