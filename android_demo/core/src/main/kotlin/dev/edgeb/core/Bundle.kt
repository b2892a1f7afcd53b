package dev.edgeb.core

import java.io.File
import java.security.MessageDigest

private const val KEY_VERSION = "edgeb.schema_version"
private const val KEY_MANIFEST = "edgeb.manifest"
private const val KEY_MANIFEST_HASH = "edgeb.manifest_sha256"
private const val KEY_CANDIDATES = "edgeb.candidates"
private const val KEY_POPULATION = "edgeb.population"

/** Reads and verifies a bundle: one GGUF file whose `edgeb.*` metadata say what it predicts and how it was made. */
object Bundle {
    /**
     * Read a bundle's manifest from the head of the file, without reading vocabulary or tensors.
     *
     * @throws EdgebException not there, not GGUF, cut short, no bundle, or a manifest this edgeb refuses.
     */
    @JvmStatic
    fun read(path: File): Manifest = GgufFile(path).use { manifestOf(it, entries(it), path) }

    /** What people in general do; null where the bundle has no table. @throws EdgebException as `read`, or damaged. */
    internal fun population(path: File): PopulationTable? = GgufFile(path).use { populationOf(it, path) }

    /**
     * Check every byte of a bundle against its manifest's hashes and return the manifest.
     *
     * @throws EdgebException as `read`, or the file was truncated or changed since it was written.
     */
    @JvmStatic
    fun verify(path: File): Manifest = GgufFile(path).use { file ->
        val manifest = manifestOf(file, entries(file), path)
        populationOf(file, path)
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
        check(path, "tokenizer", hex(tokenizer.digest()), manifest.tokenizerSha256)
        check(path, "tensors", hex(tensors.digest()), manifest.tensorsSha256)
        manifest
    }

    private fun populationOf(file: GgufFile, path: File): PopulationTable? {
        val found = entries(file)
        val manifest = manifestOf(file, found, path)
        val info = manifest.population?.let { PopulationInfo.of(it, "$path: manifest.population") } ?: return null
        val content = file.raw(found.getValue(KEY_POPULATION))
        return PopulationTable.of(content, info, manifest.candidates, manifest.layout.places, path.toString())
    }

    private fun entries(file: GgufFile): Map<String, GgufEntry> {
        val found = HashMap<String, GgufEntry>()
        file.metadata { entry ->
            val isOurs = entry.key.startsWith("edgeb.")
            if (isOurs) found[entry.key] = entry
            // The writer puts them here so that the vocabulary need not be stepped over.
            isOurs || (found.isEmpty() && !entry.key.startsWith("tokenizer."))
        }
        return found
    }

    private fun manifestOf(file: GgufFile, found: Map<String, GgufEntry>, path: File): Manifest {
        val held = found[KEY_MANIFEST]
            ?: throw EdgebException("$path is a GGUF but not an edgeb bundle", "export it with edgeb export")
        found[KEY_VERSION]?.let { Manifest.checkSchema(file.number(it), path.toString()) }
        val (version, hash, candidates) = listOf(KEY_VERSION, KEY_MANIFEST_HASH, KEY_CANDIDATES).map {
            found[it] ?: throw EdgebException("$path: the metadata key '$it' is missing", DAMAGED_HINT)
        }
        val text = file.text(held)
        if (file.text(hash) != hex(sha256().digest(text.toByteArray(Charsets.UTF_8)))) {
            throw EdgebException("$path: the manifest does not match its hash", DAMAGED_HINT)
        }
        val manifest = Manifest.parse(text, path.toString())
        if (file.number(version) != manifest.schemaVersion.toLong()) {
            throw EdgebException("$path: '$KEY_VERSION' differs from the manifest's", DAMAGED_HINT)
        }
        if (file.texts(candidates) != manifest.candidates.labels) {
            throw EdgebException("$path: '$KEY_CANDIDATES' differs from the manifest's candidates", DAMAGED_HINT)
        }
        if (found.containsKey(KEY_POPULATION) != (manifest.population != null)) {
            throw EdgebException(
                "$path: '$KEY_POPULATION' and the manifest's 'population' need each other", DAMAGED_HINT
            )
        }
        return manifest
    }

    private fun check(path: File, name: String, found: String, expected: String) {
        if (found != expected) throw EdgebException("$path: the $name do not match the manifest's hash", DAMAGED_HINT)
    }
}

internal fun sha256(): MessageDigest = MessageDigest.getInstance("SHA-256")

internal fun hex(bytes: ByteArray): String {
    val digits = "0123456789abcdef"
    val text = StringBuilder()
    for (byte in bytes) text.append(digits[(byte.toInt() shr 4) and 15]).append(digits[byte.toInt() and 15])
    return text.toString()
}
