package dev.edgeb.core

private const val KEY_VERSION = "edgeb.schema_version"
private const val KEY_MANIFEST = "edgeb.manifest"
private const val KEY_MANIFEST_HASH = "edgeb.manifest_sha256"
private const val KEY_CANDIDATES = "edgeb.candidates"
private const val KEY_POPULATION = "edgeb.population"

/** A bundle that is one GGUF file, whose `edgeb.*` metadata say what it predicts and how it was made. */
internal class GgufBundle(private val source: ModelSource) : OpenBundle {
    private val file = GgufFile(source)
    private val found: Map<String, GgufEntry>
    override val manifest: BundleManifest

    init {
        try {
            found = entries()
            manifest = manifestOf()
        } catch (error: Throwable) {
            file.close()
            throw error
        }
    }

    override val bytes: Long
        get() = file.size

    override fun population(): PopulationTable? {
        val info = manifest.population?.let { PopulationInfo.of(it, "$source: manifest.population") } ?: return null
        val content = file.raw(found.getValue(KEY_POPULATION))
        return PopulationTable.of(content, info, manifest.candidates, manifest.layout.places, source.toString())
    }

    override fun verify() {
        population()
        val tokenizer = sha256()
        val tensors = sha256()
        file.metadata { entry ->
            if (!entry.key.startsWith("edgeb.")) {
                file.hash(entry.start, entry.end, if (entry.key.startsWith("tokenizer.")) tokenizer else tensors)
            }
            true
        }
        val table = file.tensors()
        file.hash(table.start, table.end, tensors)
        if (file.bytes(table.end, (table.dataStart - table.end).toInt()).any { it != 0.toByte() }) {
            throw file.damaged("the padding before the tensor data is not empty")
        }
        file.hash(table.dataStart, file.size, tensors)
        check("tokenizer", hex(tokenizer.digest()), manifest.tokenizerSha256)
        check("tensors", hex(tensors.digest()), manifest.tensorsSha256)
    }

    override fun close() = file.close()

    private fun entries(): Map<String, GgufEntry> {
        val found = HashMap<String, GgufEntry>()
        file.metadata { entry ->
            val isOurs = entry.key.startsWith("edgeb.")
            if (isOurs) found[entry.key] = entry
            // The writer puts them here so that the vocabulary need not be stepped over.
            isOurs || (found.isEmpty() && !entry.key.startsWith("tokenizer."))
        }
        return found
    }

    private fun manifestOf(): BundleManifest {
        val held = found[KEY_MANIFEST]
            ?: throw EdgebException(
                "$source is a GGUF but not an edgeb bundle", "export it with edgeb export", ErrorCode.NOT_A_BUNDLE
            )
        found[KEY_VERSION]?.let { BundleManifest.checkSchema(file.number(it), source.toString()) }
        val (version, hash, candidates) = listOf(KEY_VERSION, KEY_MANIFEST_HASH, KEY_CANDIDATES).map {
            found[it] ?: throw EdgebException(
                "$source: the metadata key '$it' is missing", DAMAGED_HINT, ErrorCode.DAMAGED
            )
        }
        val text = file.text(held)
        if (file.text(hash) != hex(sha256().digest(text.toByteArray(Charsets.UTF_8)))) {
            throw EdgebException("$source: the manifest does not match its hash", DAMAGED_HINT, ErrorCode.DAMAGED)
        }
        val manifest = BundleManifest.parse(text, source.toString())
        if (file.number(version) != manifest.schemaVersion.toLong()) {
            throw EdgebException("$source: '$KEY_VERSION' differs from the manifest's", DAMAGED_HINT, ErrorCode.DAMAGED)
        }
        if (file.texts(candidates) != manifest.candidates.labels) {
            throw EdgebException(
                "$source: '$KEY_CANDIDATES' differs from the manifest's candidates", DAMAGED_HINT, ErrorCode.DAMAGED
            )
        }
        if (found.containsKey(KEY_POPULATION) != (manifest.population != null)) {
            throw EdgebException(
                "$source: '$KEY_POPULATION' and the manifest's 'population' need each other", DAMAGED_HINT,
                ErrorCode.DAMAGED
            )
        }
        return manifest
    }

    private fun check(name: String, found: String, expected: String) {
        if (found != expected) throw EdgebException(
            "$source: the $name do not match the manifest's hash", DAMAGED_HINT, ErrorCode.DAMAGED
        )
    }
}
