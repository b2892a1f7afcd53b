package dev.edgeb.core

/** What p(y|x) means: see docs/integrate.md. */
public enum class Scoring(public val text: String) {
    /** Full-vocabulary token probabilities along a label and its terminator, renormalized over the candidates. */
    EXACT("exact"),

    /** Renormalized over the children at every node of the label trie, as grammar-constrained sampling does. */
    MASKED("masked")
}

/** Which distribution ranks the candidates. */
public enum class Source(public val text: String) {
    MODEL("model"),
    HABITS("habits"),
    FUSED("fused")
}

/**
 * One candidate and its probability among the candidates asked for.
 *
 * @property behavior The label.
 * @property probability 0 to 1.
 */
public data class Ranked(val behavior: String, val probability: Double)

/** The program that computes a model. */
public enum class EngineKind(public val text: String) {
    /** llama.cpp, for GGUF bundles. */
    LLAMA_CPP("llama.cpp"),

    /** LiteRT, for .tflite bundles. */
    LITERT("LiteRT"),

    /** This library itself, for sequence models. */
    KOTLIN("kotlin")
}

/**
 * What evaluates a predictor's model.
 *
 * @property kind The program.
 * @property version Its name and version.
 * @property accelerator What it runs on.
 * @property threads CPU threads that it was given.
 * @property cpuVariant Which of llama.cpp's libraries per CPU generation the process loaded; null where it has none.
 * @property refused Why the accelerator asked for did not take the bundle and the CPU did; null where that was not so.
 */
public class EngineInfo internal constructor(
    public val kind: EngineKind,
    public val version: String,
    public val accelerator: Accelerator,
    public val threads: Int,
    public val cpuVariant: String?,
    public val refused: String?
) {
    /** In one line, for a screen. */
    override fun toString(): String =
        "$version on the ${accelerator.text}" + (cpuVariant?.let { ", $it" } ?: "") + (refused?.let { ": $it" } ?: "")
}

/**
 * What a prediction says and what it cost.
 *
 * @property ranked Candidates by falling probability, `topK` of them. Their order is proven; where candidates were left
 *   unexpanded, probabilities are lower bounds that miss at most `unexpanded` in all.
 * @property tokensEvaluated Tokens the model was run on.
 * @property elapsedMs Wall time of the call.
 * @property decodeMs Part of it spent inside llama.cpp or LiteRT.
 * @property unexpanded Upper bound of the probability held by candidates that were not looked at to their end.
 * @property calibrated Whether the probabilities are calibrated; false for a bundle without calibration, too.
 * @property suggest Whether to suggest the first candidate at the precision asked for; null if none was.
 * @property likely The likely set at the coverage asked for, by falling probability; null if none was.
 * @property balance τ by which rare behaviors were raised, see `Balance`.
 * @property accelerator What the model ran on; null where it was not asked.
 * @property engine The program that computed it; null where it was not asked.
 */
public data class Prediction(
    val ranked: List<Ranked>,
    val scoring: Scoring,
    val source: Source,
    val tokensEvaluated: Int,
    val elapsedMs: Double,
    val decodeMs: Double,
    val unexpanded: Double,
    val calibrated: Boolean,
    val suggest: Boolean?,
    val likely: List<String>?,
    val balance: Double = 0.0,
    val accelerator: Accelerator? = null,
    val engine: EngineKind? = null
)

/**
 * Which candidates to rank; null for all.
 *
 * @throws EdgebException a label that is no candidate, or none left.
 */
internal fun allowed(candidates: CandidateSet, options: PredictOptions): BooleanArray? {
    val only = options.only
    if (only == null && options.exclude.isEmpty()) return null
    val mask = BooleanArray(candidates.size) { only == null }
    for (label in only ?: emptyList()) mask[candidates.code(label, "only")] = true
    for (label in options.exclude) mask[candidates.code(label, "exclude")] = false
    if (mask.none { it }) {
        throw EdgebException(
            "no candidate is left to rank", "name fewer labels in exclude or more in only", ErrorCode.INVALID_ARGUMENT
        )
    }
    return mask
}

/** @throws EdgebException less than one. */
internal fun checkTopK(topK: Int?) {
    if (topK != null && topK < 1) {
        throw EdgebException("topK is $topK", "ask for at least one candidate", ErrorCode.INVALID_ARGUMENT)
    }
}
