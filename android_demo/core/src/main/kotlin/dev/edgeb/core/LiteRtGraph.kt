package dev.edgeb.core

import java.math.BigDecimal
import java.math.MathContext
import java.math.RoundingMode

// Added to attention scores: nothing is left of them in float32, and float16 can hold it.
internal const val MASKED = -30000.0f

private val FIELDS = listOf(
    "sizes", "first_sizes", "cache", "layers", "hidden", "kv_heads", "head_dim", "vocabulary", "rope", "sliding"
)
private const val MOST = Int.MAX_VALUE.toLong()

// Beyond so many layers, values of a tensor, or values of the cache, no phone runs it.
private const val MOST_LAYERS = 4096
private const val MOST_VALUES = 1L shl 28
private const val MOST_HELD = 1L shl 32
private const val FASTEST = 10.0

// A float64 is told apart by so many digits.
private const val MOST_DIGITS = 17
private val ROUNDED = listOf(RoundingMode.HALF_EVEN, RoundingMode.UP, RoundingMode.DOWN)

// Suffix of the tensors of layers that attend to a sliding window.
private const val LOCAL = "_local"

/**
 * Frequencies of one kind of layer, and how far it attends.
 *
 * @property suffix What the names of its tensors end in.
 * @property window How many positions a token sees, its own among them; null for all.
 * @property frequencies Radians per position; the angle of a token is position times frequency, in float32.
 */
internal class Attention(val suffix: String, val window: Int?, val frequencies: DoubleArray)

/**
 * What a host must know of a LiteRT bundle's graph: the counterpart of edge_behavior/bundle/litert_graph.py, and the
 * one place that knows names and shapes of its signatures' tensors.
 *
 * @property sizes New tokens of the `step` signatures, ascending.
 * @property firstSizes New tokens of the `first` signatures, ascending, or none. Every size has its `embed`.
 * @property cache Slots of the cache.
 * @property kvHeads Key and value heads per layer.
 * @property headDim Width of a head.
 * @property vocabulary Logits per row.
 * @property attention Kinds of layers: those that attend to the whole context, and those with a sliding window.
 */
internal class LiteRtGraph private constructor(
    val sizes: IntArray,
    val firstSizes: IntArray,
    val cache: Int,
    val layers: Int,
    val hidden: Int,
    val kvHeads: Int,
    val headDim: Int,
    val vocabulary: Int,
    val attention: List<Attention>
) {
    /** The signature that looks up embeddings. */
    fun embedName(size: Int) = "embed_$size"

    /** The signature that evaluates tokens: for the cache alone those of a prompt's beginning, for logits the others. */
    fun evaluateName(size: Int, first: Boolean) = if (first) "first_$size" else "step_$size"

    fun tokens(size: Int) = LiteRtTensor("tokens", intArrayOf(1, size), whole = true)

    fun embeddings(size: Int) = LiteRtTensor("embeddings", intArrayOf(1, size, hidden))

    fun cosines(size: Int, of: Attention) = LiteRtTensor("cos" + of.suffix, intArrayOf(1, size, headDim))

    fun sines(size: Int, of: Attention) = LiteRtTensor("sin" + of.suffix, intArrayOf(1, size, headDim))

    /** A prompt's beginning sees no cache. */
    fun mask(size: Int, of: Attention, first: Boolean): LiteRtTensor {
        val seen = if (first) size else cache + size
        return LiteRtTensor("mask" + of.suffix, intArrayOf(1, 1, size, seen))
    }

    /** Keys and values of every slot, in turn, layer by layer. */
    fun held(): List<LiteRtTensor> = byLayer("", cache)

    /** Keys and values of the new tokens, in the same order. */
    fun added(size: Int): List<LiteRtTensor> = byLayer("new_", size)

    fun logits(size: Int) = LiteRtTensor("logits", intArrayOf(1, size, vocabulary))

    /** As an NPU has it: calls of one size, all of them with the cache. */
    fun inCallsOf(size: Int) = LiteRtGraph(
        intArrayOf(size), IntArray(0), cache, layers, hidden, kvHeads, headDim, vocabulary, attention
    )

    private fun isPossible(): Boolean {
        val size = (sizes + firstSizes).map { it.toDouble() }.sorted().last()
        val slots = kvHeads.toDouble() * headDim * cache
        val largest = listOf(slots, size * (cache + size), size * vocabulary, size * hidden, size * headDim * kvHeads)
        return layers <= MOST_LAYERS && 2 * layers * slots <= MOST_HELD && largest.all { it <= MOST_VALUES }
    }

    private fun byLayer(prefix: String, length: Int) = List(2 * layers) {
        LiteRtTensor("$prefix${"kv"[it % 2]}_${it / 2}", intArrayOf(1, kvHeads, length, headDim))
    }

    /** The object as Python's `json.dumps` writes it with sorted keys: what the bundle's hash is of. */
    fun canonical(): String {
        val sliding = attention.getOrNull(1)
        val window = if (sliding == null) "null" else {
            "{\"rope\": ${listed(sliding.frequencies)}, \"window\": ${sliding.window}}"
        }
        return "{\"cache\": $cache, \"first_sizes\": ${firstSizes.toList()}, \"head_dim\": $headDim, " +
            "\"hidden\": $hidden, \"kv_heads\": $kvHeads, \"layers\": $layers, " +
            "\"rope\": ${listed(attention[0].frequencies)}, \"sizes\": ${sizes.toList()}, \"sliding\": $window, " +
            "\"vocabulary\": $vocabulary}"
    }

    private fun listed(numbers: DoubleArray) = numbers.joinToString(", ", "[", "]") { pythonText(it) }

    companion object {
        /** Read the object strictly. @throws EdgebException a field that is missing, unknown or has a bad value. */
        fun of(value: Any?, where: String): LiteRtGraph {
            val fields = Fields(value, FIELDS, where)
            val sizes = sizes(fields, "sizes", where)
            val firsts = sizes(fields, "first_sizes", where)
            if (sizes.isEmpty()) throw EdgebException("$where: 'sizes' is empty", DAMAGED_HINT, ErrorCode.DAMAGED)
            val headDim = count(fields, "head_dim", where)
            val attention = arrayListOf(Attention("", null, rope(fields, headDim, where)))
            if (!fields.isNull("sliding")) {
                val inner = "$where.sliding"
                val sliding = Fields(fields.any("sliding"), listOf("window", "rope"), inner)
                attention.add(Attention(LOCAL, count(sliding, "window", inner), rope(sliding, headDim, inner)))
            }
            val graph = LiteRtGraph(
                sizes, firsts, count(fields, "cache", where), count(fields, "layers", where),
                count(fields, "hidden", where), count(fields, "kv_heads", where), headDim,
                count(fields, "vocabulary", where), attention
            )
            if (!graph.isPossible()) throw EdgebException(
                "$where: its tensors are too large", DAMAGED_HINT, ErrorCode.DAMAGED
            )
            return graph
        }

        private fun count(fields: Fields, name: String, where: String): Int {
            val found = fields.long(name)
            if (found !in 1..MOST) throw EdgebException(
                "$where: field '$name' is $found", DAMAGED_HINT, ErrorCode.DAMAGED
            )
            return found.toInt()
        }

        private fun sizes(fields: Fields, name: String, where: String): IntArray {
            val found = fields.list(name)
            val sizes = found.map { (it as? Long)?.takeIf { size -> size in 1..MOST }?.toInt() ?: -1 }
            if (sizes.any { it < 1 } || sizes != sizes.distinct().sorted()) {
                throw EdgebException(
                    "$where.$name is ${found.toString().take(60)}, not ascending sizes", DAMAGED_HINT, ErrorCode.DAMAGED
                )
            }
            return sizes.toIntArray()
        }

        private fun rope(fields: Fields, headDim: Int, where: String): DoubleArray {
            val found = fields.list("rope").map { (it as? Number)?.toDouble() ?: Double.NaN }
            if (found.size != headDim / 2 || found.any { !(it in 0.0..FASTEST) }) {
                throw EdgebException("$where.rope has no ${headDim / 2} frequencies", DAMAGED_HINT, ErrorCode.DAMAGED)
            }
            return found.toDoubleArray()
        }
    }
}

/** A number as Python's `repr` has it: the shortest text that is read as the same number. */
internal fun pythonText(value: Double): String {
    if (value == 0.0) return if (1 / value < 0) "-0.0" else "0.0"
    val exact = BigDecimal(value)
    val found = (1..MOST_DIGITS).asSequence()
        // Nearest first; beside a power of two the farther one may be the only one that is read as the same number.
        .flatMap { digits -> ROUNDED.asSequence().map { exact.round(MathContext(digits, it)) } }
        .first { it.toDouble() == value }
        .stripTrailingZeros()
    val text = found.unscaledValue().abs().toString()
    // 0.TEXT times ten to this power.
    val point = text.length - found.scale()
    val sign = if (value < 0) "-" else ""
    if (point in -3..16) {
        return sign + when {
            point <= 0 -> "0." + "0".repeat(-point) + text
            point >= text.length -> text + "0".repeat(point - text.length) + ".0"
            else -> text.substring(0, point) + "." + text.substring(point)
        }
    }
    val power = point - 1
    val mantissa = if (text.length == 1) text else text.substring(0, 1) + "." + text.substring(1)
    return "$sign${mantissa}e${if (power < 0) "-" else "+"}${Math.abs(power).toString().padStart(2, '0')}"
}
