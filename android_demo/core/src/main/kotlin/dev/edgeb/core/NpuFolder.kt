package dev.edgeb.core

internal const val NPU_FILE = "npu.json"
private const val SCHEMA = 1L
private const val MOST = 1L shl 40
private const val MOST_TOKENS = 1L shl 16
private const val MOST_NATS = 1e9
private val FIELDS = listOf("schema_version", "bundle_sha256", "quantization", "size", "compiler", "contexts")
private val CONTEXT_FIELDS = listOf(
    "chip", "architecture", "file", "sha256", "bytes", "context_offset", "context_bytes", "graph", "inputs", "outputs",
    "operators", "memory", "parity"
)
private val COMPILER_FIELDS = listOf("ai_edge_litert", "onnxruntime_qnn", "qnn")
private val QUANTIZATIONS = listOf("int8", "f16")
private val HASH = Regex("[0-9a-f]{64}")
private val NAME = Regex("v\\d+\\.tflite")
private val VERSION = Regex("\\d+(\\.\\d+)*")

/**
 * What was compiled for one architecture.
 *
 * @property file Name of the `.tflite`.
 * @property tolerance How far it was from the bundle's known rows under emulation, with a margin, nats; null where it
 *   was not emulated.
 */
internal class NpuContext(
    val chip: String,
    val architecture: String,
    val file: String,
    val sha256: String,
    val bytes: Long,
    val tolerance: Double?
)

/**
 * The content of `npu.json`, which lists a bundle's compiled contexts: the counterpart of
 * edge_behavior/bundle/npu_folder.py. Knows no engine.
 *
 * @property bundleSha256 The manifest's `tensorsSha256` of the bundle that it was compiled from.
 * @property size New tokens per call.
 * @property qnn Version of Qualcomm's compiler, which the phone's run time must not be below.
 */
internal class NpuFolder private constructor(
    val bundleSha256: String,
    val size: Int,
    val qnn: String,
    val contexts: List<NpuContext>
) {
    /** How far contexts may be from the bundle's known rows, nats; null where none was emulated. */
    val tolerance: Double?
        get() = contexts.mapNotNull { it.tolerance }.sorted().lastOrNull()

    /** The context that a chip runs. @throws EdgebException none was compiled for its architecture. */
    fun contextFor(chip: NpuChip): NpuContext = contexts.firstOrNull { it.architecture == chip.architecture }
        ?: throw EdgebException(
            "$NPU_FILE has no context for ${chip.name} (${chip.architecture}), but for " +
                contexts.joinToString { "${it.chip} (${it.architecture})" },
            "export it again with --npu ${chip.name}", ErrorCode.ACCELERATOR_REFUSED
        )

    /** Refuse contexts of a newer compiler than the run time, whose version of QNN is given. */
    fun checkRunTime(version: String) {
        if (compareVersions(qnn, version) > 0) {
            throw EdgebException(
                "the contexts were compiled by QNN $qnn, the app packages a run time of $version",
                "package com.qualcomm.qti:qnn-runtime of $qnn or newer, or export with an older onnxruntime-qnn",
                ErrorCode.ACCELERATOR_REFUSED
            )
        }
    }

    companion object {
        /** Read the text strictly. @throws EdgebException a newer schema, or a field that is missing or bad. */
        fun of(text: String, where: String): NpuFolder {
            val json = Json.parse(text, where)
            val schema = (json as? Map<*, *>)?.get("schema_version")
            if (schema is Long && schema > SCHEMA) {
                throw EdgebException(
                    "$where was written by a newer edgeb", "update the app", ErrorCode.UNSUPPORTED_VERSION
                )
            }
            val fields = Fields(json, FIELDS, where)
            if (fields.long("schema_version") != SCHEMA) throw damaged("$where: field 'schema_version' is $schema")
            val bundle = fields.string("bundle_sha256")
            if (!HASH.matches(bundle)) throw damaged("$where: 'bundle_sha256' is none")
            val quantization = fields.string("quantization")
            if (quantization !in QUANTIZATIONS) {
                throw damaged("$where: field 'quantization' is '${quantization.take(40)}'")
            }
            val compiler = Fields(fields.any("compiler"), COMPILER_FIELDS, "$where: compiler")
            for (name in COMPILER_FIELDS) {
                val version = compiler.string(name)
                if (VERSION.find(version)?.range?.first != 0) {
                    throw damaged("$where: compiler: $name is '${version.take(40)}', no version")
                }
            }
            val contexts = fields.list("contexts").mapIndexed { i, one -> context(one, "$where: contexts[$i]") }
            if (contexts.isEmpty() || contexts.distinctBy { it.architecture }.size != contexts.size) {
                throw damaged("$where: 'contexts' is empty, or has an architecture twice")
            }
            val size = whole(fields, "size", MOST_TOKENS, where).toInt()
            return NpuFolder(bundle, size, compiler.string("qnn"), contexts)
        }

        private fun context(value: Any?, where: String): NpuContext {
            val fields = Fields(value, CONTEXT_FIELDS, where)
            val bytes = whole(fields, "bytes", MOST, where)
            val end = whole(fields, "context_offset", MOST, where) + whole(fields, "context_bytes", MOST, where)
            if (end > bytes) throw damaged("$where: the context does not lie in its file")
            for (name in listOf("operators", "memory")) whole(fields, name, MOST, where)
            val chip = fields.string("chip")
            val architecture = fields.string("architecture")
            if (NpuChip.ALL.none { it.name == chip && it.architecture == architecture }) {
                throw damaged("$where: '${chip.take(40)}' is no ${architecture.take(40)}")
            }
            val file = fields.string("file")
            val hash = fields.string("sha256")
            if (!HASH.matches(hash) || !NAME.matches(file)) throw damaged("$where: 'file' or 'sha256' is none")
            fields.string("graph")
            for (name in listOf("inputs", "outputs")) {
                val tensors = fields.map(name)
                if (tensors.isEmpty() || tensors.values.any { it !is String }) {
                    throw damaged("$where: field '$name' does not name tensors")
                }
            }
            val tolerance = fields.mapOrNull("parity")?.let {
                val found = (it["known_rows_tolerance"] as? Number)?.toDouble() ?: -1.0
                if (!(found >= 0.0 && found <= MOST_NATS)) throw damaged("$where: parity has no 'known_rows_tolerance'")
                found
            }
            return NpuContext(chip, architecture, file, hash, bytes, tolerance)
        }

        private fun whole(fields: Fields, name: String, most: Long, where: String): Long {
            val found = fields.long(name)
            if (found < 1 || found >= most) throw damaged("$where: field '$name' is $found")
            return found
        }

        private fun damaged(what: String) = EdgebException(what, DAMAGED_HINT, ErrorCode.DAMAGED)
    }
}

/** Major, minor and patch of two versions; what is missing is 0. */
internal fun compareVersions(one: String, other: String): Int {
    val (left, right) = listOf(one, other).map { text ->
        Regex("\\d+").findAll(text).map { it.value.toLong() }.take(3).toList() + listOf(0L, 0L, 0L)
    }
    for (i in 0 until 3) if (left[i] != right[i]) return left[i].compareTo(right[i])
    return 0
}
