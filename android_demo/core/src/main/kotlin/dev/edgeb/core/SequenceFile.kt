package dev.edgeb.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

internal const val SASREC = "edgeb-sasrec"
internal const val BERT4REC = "edgeb-bert4rec"
internal val SEQUENCE_ARCHITECTURES = listOf(SASREC, BERT4REC)

/** Kinds of context, in the order of their numbers. */
internal val CONTEXTS = listOf("hour", "weekday", "place")
private const val TOKENIZER = "edgeb-events"
private const val KEY_ARCHITECTURE = "general.architecture"
private const val KEY_TOKENIZER = "tokenizer.ggml.model"
private const val KEY_LABELS = "tokenizer.ggml.tokens"
private const val KEY_PLACES = "tokenizer.edgeb.places"
private const val WEEKDAYS = 7
private const val HOURS = 24
private const val MOST = 1L shl 20
private const val COPY_AGAIN = "copy or export it again"

// GGUF's numbers of the types of tensors.
private const val F32 = 0
private const val F16 = 1

/**
 * What decides the tensors of a sequence model.
 *
 * @property candidates B.
 * @property length L, the past events that it sees.
 * @property width d, a multiple of `heads`.
 * @property hourBucket Hours per bucket of the day; 0 for a model that sees behaviors only.
 * @property places How many places it knows; others share one embedding.
 */
internal class SequenceShape(
    val architecture: String,
    val candidates: Int,
    val length: Int,
    val width: Int,
    val blocks: Int,
    val heads: Int,
    val hourBucket: Int,
    val places: Int
) {
    /** Numbers of hour bucket, weekday and place, 0 for none included; of places, 1 is any that is not known. */
    val contexts: List<Int>
        get() = listOf(HOURS / hourBucket + 1, WEEKDAYS + 1, places + 2)

    /** Shapes by name; matrices are [out, in]. */
    fun tensors(): Map<String, List<Int>> {
        val sasrec = architecture == SASREC
        val found = LinkedHashMap<String, List<Int>>()
        found["token_embd.weight"] = listOf(candidates + 1, width)
        found["position_embd.weight"] = listOf(length + 1, width)
        if (hourBucket > 0) {
            for (seen in if (sasrec) listOf("event", "target") else listOf("event")) {
                for ((i, kind) in CONTEXTS.withIndex()) found["${seen}_$kind.weight"] = listOf(contexts[i], width)
            }
        }
        val inner = if (sasrec) width else 4 * width
        val matrices = listOf(
            Pair("attn_qkv", listOf(3 * width, width)), Pair("attn_output", listOf(width, width)),
            Pair("ffn_up", listOf(inner, width)), Pair("ffn_down", listOf(width, inner))
        )
        for (block in 0 until blocks) {
            for ((name, shape) in matrices) {
                found["blk.$block.$name.weight"] = shape
                found["blk.$block.$name.bias"] = shape.take(1)
            }
            for (name in listOf("attn_norm", "ffn_norm")) vector(found, "blk.$block.$name")
        }
        vector(found, if (sasrec) "output_norm" else "token_embd_norm")
        if (!sasrec) {
            found["output_map.weight"] = listOf(width, width)
            found["output_map.bias"] = listOf(width)
            found["output.bias"] = listOf(candidates)
        }
        return found
    }

    private fun vector(found: MutableMap<String, List<Int>>, name: String) {
        for (end in listOf("weight", "bias")) found["$name.$end"] = listOf(width)
    }
}

/**
 * A sequence model, SASRec or BERT4Rec over events, as Python's bundle/sequence_file.py describes its GGUF file.
 *
 * @property labels By code.
 * @property places Hashes of the places that it knows, by number.
 * @property tensors Weights by name, row by row.
 */
internal class SequenceFile private constructor(
    val shape: SequenceShape,
    val labels: List<String>,
    val places: LongArray,
    val tensors: Map<String, DoubleArray>
) {
    /**
     * Compare with the manifest of the bundle: another model's would give answers, and wrong ones.
     *
     * @throws EdgebException a field is not this model's.
     */
    fun check(manifest: BundleManifest, source: ModelSource) {
        val layout = manifest.layout
        val found = listOf(
            Pair("architecture", manifest.architecture == shape.architecture),
            Pair("candidates.labels", manifest.candidates.labels == labels),
            Pair("bos_id", manifest.bosId == shape.candidates),
            Pair("layout.name", layout.name == "stream"),
            Pair("layout.chat", layout.chat == null),
            Pair("layout.history_length", layout.historyLength <= shape.length)
        )
        val wrong = found.firstOrNull { !it.second } ?: return
        throw EdgebException(
            "$source: manifest field '${wrong.first}' is not the model's", "export the bundle again", ErrorCode.DAMAGED
        )
    }

    companion object {
        /**
         * Read sizes, labels and all weights.
         *
         * @throws EdgebException cut short, or with sizes, names or values that no such model has.
         */
        fun read(source: ModelSource): SequenceFile = GgufFile(source).use { file ->
            val entries = HashMap<String, GgufEntry>()
            file.metadata { entry ->
                entries[entry.key] = entry
                true
            }
            fun entry(key: String) = entries[key] ?: throw file.damaged("the metadata key '$key' is missing")
            val architecture = file.text(entry(KEY_ARCHITECTURE))
            if (architecture !in SEQUENCE_ARCHITECTURES) {
                throw EdgebException(
                    "$source is no sequence model, but '$architecture'", "export it again", ErrorCode.NOT_A_BUNDLE
                )
            }
            if (file.text(entry(KEY_TOKENIZER)) != TOKENIZER) throw file.damaged("its tokenizer is not '$TOKENIZER'")
            fun size(end: String, least: Long): Int {
                val found = file.number(entry("$architecture.$end"))
                if (found < least || found > MOST) throw file.damaged("'$architecture.$end' is $found")
                return found.toInt()
            }
            val hashes = entries[KEY_PLACES]?.let { file.raw(it) } ?: ByteArray(0)
            if (hashes.size % 8 != 0) throw file.damaged("'$KEY_PLACES' has ${hashes.size} bytes")
            val shape = SequenceShape(
                architecture, size("vocab_size", 1), size("context_length", 1), size("embedding_length", 1),
                size("block_count", 1), size("attention.head_count", 1), size("hour_bucket", 0), hashes.size / 8
            )
            if (shape.width % shape.heads != 0) throw file.damaged("a width of ${shape.width} has ${shape.heads} heads")
            if (shape.hourBucket > 0 && HOURS % shape.hourBucket != 0) {
                throw file.damaged("hour_bucket is ${shape.hourBucket}")
            }
            val labels = file.texts(entry(KEY_LABELS))
            if (labels.size != shape.candidates) {
                throw file.damaged("'$KEY_LABELS' does not list ${shape.candidates} labels")
            }
            val bytes = ByteBuffer.wrap(hashes).order(ByteOrder.LITTLE_ENDIAN)
            SequenceFile(shape, labels, LongArray(shape.places) { bytes.getLong() }, weights(source, file, shape))
        }

        private fun weights(source: ModelSource, file: GgufFile, shape: SequenceShape): Map<String, DoubleArray> {
            val table = file.tensors()
            val known = table.listed.associateBy { it.name }
            // The number of blocks is not believed before the names are there.
            if (shape.blocks > known.size) {
                throw file.damaged("${shape.blocks} blocks have no more than ${known.size} tensors")
            }
            val wanted = shape.tensors()
            for (name in known.keys) if (name !in wanted) throw file.damaged("the tensor '$name' is not of this model")
            var all = 0L
            for ((name, size) in wanted) {
                val tensor = known[name] ?: throw file.damaged("the tensor '$name' is missing")
                // Files have the fastest dimension first.
                if (tensor.shape != size.reversed().map { it.toLong() } || (tensor.kind != F32 && tensor.kind != F16)) {
                    throw file.damaged("the tensor '$name' has shape ${tensor.shape} and type ${tensor.kind}")
                }
                val bytes = bytes(tensor)
                if (bytes > minOf(file.size - table.dataStart - tensor.offset, Int.MAX_VALUE.toLong())) {
                    throw EdgebException(
                        "$source is cut short: it ends inside the tensor '$name'", COPY_AGAIN, ErrorCode.DAMAGED
                    )
                }
                all += bytes
            }
            // Tensors that share bytes would make large arrays of a small file.
            if (all > file.size - table.dataStart) throw file.damaged("its tensors overlap")
            return wanted.mapValues { (name, _) ->
                val tensor = known.getValue(name)
                val bytes = bytes(tensor).toInt()
                val content = ByteBuffer.wrap(file.bytes(table.dataStart + tensor.offset, bytes))
                    .order(ByteOrder.LITTLE_ENDIAN)
                val values = DoubleArray(bytes / width(tensor)) {
                    if (tensor.kind == F32) content.getFloat().toDouble() else half(content.getShort().toInt())
                }
                if (values.any { it.isNaN() || it.isInfinite() }) {
                    throw file.damaged("the tensor '$name' holds a value that is not finite")
                }
                values
            }
        }

        private fun width(tensor: GgufTensor): Int = if (tensor.kind == F32) 4 else 2

        private fun bytes(tensor: GgufTensor): Long =
            tensor.shape.fold(1L) { product, each -> product * each } * width(tensor)

        /** A half-precision number. */
        private fun half(bits: Int): Double {
            val exponent = (bits shr 10) and 0x1f
            val fraction = (bits and 0x3ff) / 1024.0
            val size = when (exponent) {
                0 -> fraction * Math.pow(2.0, -14.0)
                0x1f -> if (fraction == 0.0) Double.POSITIVE_INFINITY else Double.NaN
                else -> (1 + fraction) * Math.pow(2.0, exponent - 15.0)
            }
            return if (bits and 0x8000 != 0) -size else size
        }
    }
}
