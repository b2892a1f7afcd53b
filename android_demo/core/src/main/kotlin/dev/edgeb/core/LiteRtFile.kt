package dev.edgeb.core

import java.io.IOException

private const val MANIFEST_ENTRY = "edgeb.json"
private const val TOKENIZER_ENTRY = "tokenizer.gguf"
private const val POPULATION_ENTRY = "population.bin"
private const val PROBE_ENTRY = "probe.json"
private const val EXPORT_HINT = "export it with edgeb export --format litert"
private const val CUT_HINT = "copy or export it again"
private const val CHUNK = 1 shl 20
private val FIELDS = listOf(
    "schema_version", "manifest", "manifest_sha256", "graph", "model_bytes", "model_sha256", "files"
)
private val HASH = Regex("[0-9a-f]{64}")

// A flatbuffer's identifier stands behind the offset of its root.
private val IDENTIFIER = "TFL3".toByteArray(Charsets.US_ASCII)
private const val IDENTIFIER_AT = 4
private val LOCAL_HEADER = byteArrayOf(80, 75, 3, 4)
private const val LOCAL_HEADER_BYTES = 30

/**
 * A LiteRT bundle opened for reading: a stock .tflite with a ZIP archive behind it, which holds manifest, graph,
 * tokenizer and, where there is one, the table of people's habits. Knows nothing of what the model computes.
 *
 * Opening it checks everything but the contents of model and entries.
 */
internal class LiteRtFile(private val source: ModelSource) : OpenBundle {
    private val archive = ZipArchive(source)
    private lateinit var entries: Map<String, ZipEntryAt>
    private lateinit var hashes: Map<String, String>
    private lateinit var modelHash: String
    private var modelBytes = 0L

    override lateinit var manifest: BundleManifest
        private set

    /** What a host must know of the model's graph. */
    lateinit var graph: LiteRtGraph
        private set

    init {
        try {
            open()
        } catch (error: Throwable) {
            archive.close()
            throw error
        }
    }

    /** A GGUF file that holds the vocabulary. @throws EdgebException it was changed. */
    fun tokenizer(): ByteArray = entry(TOKENIZER_ENTRY)

    /** Known rows to check an accelerator by; null where it has none. @throws EdgebException they were changed. */
    fun probe(): LiteRtProbe? {
        if (PROBE_ENTRY !in hashes) return null
        val where = "$source: $PROBE_ENTRY"
        return LiteRtProbe.of(Json.parse(String(entry(PROBE_ENTRY), Charsets.UTF_8), where), graph.vocabulary, where)
    }

    override val bytes: Long
        get() = archive.size

    override fun population(): PopulationTable? {
        val info = manifest.population?.let { PopulationInfo.of(it, "$source: manifest.population") } ?: return null
        val content = entry(POPULATION_ENTRY)
        return PopulationTable.of(content, info, manifest.candidates, manifest.layout.places, source.toString())
    }

    override fun verify() {
        for (name in hashes.keys) entry(name)
        population()
        val digest = sha256()
        var next = 0L
        reading {
            while (next < modelBytes) {
                val chunk = archive.bytes(next, minOf(CHUNK.toLong(), modelBytes - next).toInt())
                digest.update(chunk)
                next += chunk.size
            }
        }
        if (hex(digest.digest()) != modelHash) {
            throw EdgebException("$source: the model does not match its hash", DAMAGED_HINT, ErrorCode.DAMAGED)
        }
    }

    override fun close() = archive.close()

    private fun open() {
        if (!archive.isThere) throw withoutArchive()
        entries = reading { archive.entries() }
        val held = entries[MANIFEST_ENTRY]
            ?: throw EdgebException(
                "$source is a LiteRT file without edgeb's manifest", EXPORT_HINT, ErrorCode.NOT_A_BUNDLE
            )
        val where = "$source: $MANIFEST_ENTRY"
        val json = Json.parse(String(reading { archive.read(held) }, Charsets.UTF_8), where)
        // First: a newer schema may have any fields.
        if (json is Map<*, *>) BundleManifest.checkSchema(json["schema_version"], source.toString())
        val fields = Fields(json, FIELDS, where)
        hashes = fields.map("files").mapValues { hash(it.value) }
        modelHash = hash(fields.string("model_sha256"))
        modelBytes = fields.long("model_bytes")
        checkEntries()
        val text = fields.string("manifest")
        if (fields.string("manifest_sha256") != hashOf(text)) {
            throw damaged("the manifest does not match its hash")
        }
        manifest = BundleManifest.parse(text, source.toString())
        if (fields.long("schema_version") != manifest.schemaVersion.toLong()) {
            throw damaged("'schema_version' differs from the manifest's")
        }
        graph = LiteRtGraph.of(fields.any("graph"), "$source: graph")
        val tensors = hashOf("[\"$modelHash\", ${graph.canonical()}]")
        if (hashes[TOKENIZER_ENTRY] != manifest.tokenizerSha256 || tensors != manifest.tensorsSha256) {
            throw damaged("the hashes do not match the manifest's")
        }
        if ((POPULATION_ENTRY in hashes) != (manifest.population != null)) {
            throw damaged("'$POPULATION_ENTRY' and the manifest's 'population' need each other")
        }
    }

    /** Refuse an archive that holds other entries than are listed, or begins elsewhere than the model ends. */
    private fun checkEntries() {
        if (hashes.keys - POPULATION_ENTRY - PROBE_ENTRY != setOf(TOKENIZER_ENTRY)) {
            throw damaged("'files' has ${hashes.keys.joinToString().take(150)}")
        }
        if (entries.keys != hashes.keys + MANIFEST_ENTRY) {
            throw damaged("the archive holds ${entries.keys.joinToString().take(150)}")
        }
        if (modelBytes != entries.values.map { it.header }.sorted().first()) {
            throw damaged("the archive does not begin where the model ends")
        }
    }

    private fun entry(name: String): ByteArray {
        val content = reading { archive.read(entries.getValue(name)) }
        if (hex(sha256().digest(content)) != hashes[name]) {
            throw EdgebException("$source: $name does not match its hash", DAMAGED_HINT, ErrorCode.DAMAGED)
        }
        return content
    }

    private fun <T> reading(work: () -> T): T {
        try {
            return work()
        } catch (error: BrokenArchive) {
            throw damaged("the archive at its end cannot be read: ${error.message}")
        } catch (error: IOException) {
            throw EdgebException("cannot read $source: ${error.message}", CUT_HINT, ErrorCode.UNREADABLE)
        }
    }

    private fun hash(value: Any?): String {
        val found = value as? String
        if (found == null || !HASH.matches(found)) throw damaged("a hash is '${value.toString().take(60)}'")
        return found
    }

    /** What to say of a file that does not end in an archive: its beginning tells whether it was cut short. */
    private fun withoutArchive(): EdgebException =
        if (reading { holdsManifest() }) {
            EdgebException("$source is cut short: it ends inside edgeb's archive", CUT_HINT, ErrorCode.DAMAGED)
        } else {
            EdgebException(
                "$source is a LiteRT file without edgeb's manifest, or cut short before it",
                "$EXPORT_HINT, or copy it again", ErrorCode.NOT_A_BUNDLE
            )
        }

    /** Whether the header of edgeb.json is anywhere in the file. */
    private fun holdsManifest(): Boolean {
        val name = MANIFEST_ENTRY.toByteArray(Charsets.US_ASCII)
        val length = LOCAL_HEADER_BYTES + name.size
        var next = 0L
        while (next + length <= archive.size) {
            val chunk = archive.bytes(next, minOf(CHUNK.toLong(), archive.size - next).toInt())
            for (at in 0..chunk.size - length) {
                if (isAt(chunk, at, LOCAL_HEADER) && isAt(chunk, at + LOCAL_HEADER_BYTES, name)) return true
            }
            next += chunk.size - length + 1
        }
        return false
    }

    private fun damaged(what: String) = EdgebException("$source is damaged: $what", CUT_HINT, ErrorCode.DAMAGED)

    companion object {
        /** Whether it is a LiteRT file by its first bytes; one that cannot be read, or none, is no LiteRT file. */
        fun isOne(source: ModelSource): Boolean {
            val head = ByteArray(IDENTIFIER_AT + IDENTIFIER.size)
            return try {
                source.open().use { it.read(0, head, 0, head.size) }
                isAt(head, IDENTIFIER_AT, IDENTIFIER)
            } catch (error: IOException) {
                false
            } catch (error: EdgebException) {
                false
            }
        }

        private fun isAt(bytes: ByteArray, at: Int, wanted: ByteArray): Boolean {
            for (i in wanted.indices) if (bytes[at + i] != wanted[i]) return false
            return true
        }

        private fun hashOf(text: String) = hex(sha256().digest(text.toByteArray(Charsets.UTF_8)))
    }
}
