package dev.edgeb.core

private const val EPSILON = 1e-5
private const val TWO_OVER_ROOT_PI = 1.1283791670955126

// Where the error function is 1 in doubles.
private const val FLAT = 6.0

/**
 * SASRec and BERT4Rec: the logits after a prompt, whole, in doubles; the same as Python's runtime/sequence/network.py.
 *
 * Matrices [T, n] are row by row. Knows no tokens.
 */
internal class SequenceNetwork(private val shape: SequenceShape, private val tensors: Map<String, DoubleArray>) {
    private val width = shape.width

    /**
     * Logits of the behavior that the prompt asks for.
     *
     * @param check Called before every block; what it throws ends the pass.
     */
    fun logits(at: Positions, check: () -> Unit): DoubleArray =
        if (shape.architecture == SASREC) sasrec(at, check) else bert4rec(at, check)

    private fun sasrec(at: Positions, check: () -> Unit): DoubleArray {
        var x = embedded(at.behavior, at.event)
        if (shape.hourBucket > 0) addContexts(x, "target", at.target)
        for (block in 0 until shape.blocks) {
            check()
            val name = "blk.$block"
            val query = norm(x, "$name.attn_norm")
            val attended = sum(query, attention(query, x, name, causal = true))
            x = norm(attended, "$name.ffn_norm")
            val inner = linear(x, "$name.ffn_up") { maxOf(it, 0.0) }
            x = sum(x, linear(inner, "$name.ffn_down") { it })
        }
        return scores(norm(last(x), "output_norm"))
    }

    private fun bert4rec(at: Positions, check: () -> Unit): DoubleArray {
        // The mask stands where the question is; there is no start.
        val symbol = shape.candidates
        val kinds = CONTEXTS.size
        val shown = at.behavior.indices.filter { at.behavior[it] != symbol }
        val behavior = IntArray(shown.size + 1) { if (it < shown.size) at.behavior[shown[it]] else symbol }
        val asked = at.target.copyOfRange(at.target.size - kinds, at.target.size)
        val event = joined(shown.map { at.event.copyOfRange(it * kinds, (it + 1) * kinds) } + listOf(asked))
        var x = norm(embedded(behavior, event), "token_embd_norm")
        for (block in 0 until shape.blocks) {
            check()
            val name = "blk.$block"
            x = norm(sum(x, attention(x, x, name, causal = false)), "$name.attn_norm")
            val inner = linear(x, "$name.ffn_up") { gelu(it) }
            x = norm(sum(x, linear(inner, "$name.ffn_down") { it }), "$name.ffn_norm")
        }
        val found = scores(linear(last(x), "output_map") { gelu(it) })
        val bias = tensors.getValue("output.bias")
        return DoubleArray(found.size) { found[it] + bias[it] }
    }

    private fun embedded(behavior: IntArray, event: IntArray): DoubleArray {
        val items = tensors.getValue("token_embd.weight")
        val positions = tensors.getValue("position_embd.weight")
        val x = DoubleArray(behavior.size * width) {
            items[behavior[it / width] * width + it % width] + positions[it]
        }
        if (shape.hourBucket > 0) addContexts(x, "event", event)
        return x
    }

    /** Add the embeddings of hour bucket, weekday and place to every row. */
    private fun addContexts(x: DoubleArray, seen: String, numbers: IntArray) {
        for ((i, kind) in CONTEXTS.withIndex()) {
            val table = tensors.getValue("${seen}_$kind.weight")
            for (at in x.indices) x[at] += table[numbers[at / width * CONTEXTS.size + i] * width + at % width]
        }
    }

    /** softmax(QKᵀ/√d_h)V per head; `causal` hides the positions after each. */
    private fun attention(query: DoubleArray, key: DoubleArray, name: String, causal: Boolean): DoubleArray {
        val q = projected(query, name, 0)
        val k = projected(key, name, 1)
        val v = projected(key, name, 2)
        val count = query.size / width
        val part = width / shape.heads
        val mixed = DoubleArray(query.size)
        for (head in 0 until shape.heads) for (row in 0 until count) {
            val seen = if (causal) row + 1 else count
            val own = row * width + head * part
            val weights = logSoftmax(
                DoubleArray(seen) { dot(q, own, k, it * width + head * part, part) / Math.sqrt(part.toDouble()) }
            )
            for (other in 0 until seen) {
                val share = Math.exp(weights[other])
                for (i in 0 until part) mixed[own + i] += share * v[other * width + head * part + i]
            }
        }
        return linear(mixed, "$name.attn_output") { it }
    }

    /** Query, key or value: one third of a matrix of all. */
    private fun projected(x: DoubleArray, name: String, third: Int): DoubleArray = product(
        x, tensors.getValue("$name.attn_qkv.weight"), tensors.getValue("$name.attn_qkv.bias"), third * width, width
    ) { it }

    private inline fun linear(x: DoubleArray, name: String, crossinline after: (Double) -> Double): DoubleArray {
        val bias = tensors.getValue("$name.bias")
        return product(x, tensors.getValue("$name.weight"), bias, 0, bias.size, after)
    }

    /** Rows of x times `count` rows of a matrix from `first` on, and its bias. Inline: else every number is boxed. */
    private inline fun product(
        x: DoubleArray, weight: DoubleArray, bias: DoubleArray, first: Int, count: Int,
        crossinline after: (Double) -> Double
    ): DoubleArray {
        val inputs = weight.size / bias.size
        return DoubleArray(x.size / inputs * count) {
            val out = first + it % count
            after(dot(x, it / count * inputs, weight, out * inputs, inputs) + bias[out])
        }
    }

    /** A state's product with every behavior's vector. */
    private fun scores(state: DoubleArray): DoubleArray {
        val items = tensors.getValue("token_embd.weight")
        return DoubleArray(shape.candidates) { dot(state, 0, items, it * width, width) }
    }

    private fun norm(x: DoubleArray, name: String): DoubleArray {
        val weight = tensors.getValue("$name.weight")
        val bias = tensors.getValue("$name.bias")
        val found = DoubleArray(x.size)
        for (start in x.indices step width) {
            var mean = 0.0
            for (i in 0 until width) mean += x[start + i]
            mean /= width
            var spread = 0.0
            for (i in 0 until width) spread += (x[start + i] - mean) * (x[start + i] - mean)
            val scale = 1 / Math.sqrt(spread / width + EPSILON)
            for (i in 0 until width) found[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i]
        }
        return found
    }

    private fun last(x: DoubleArray): DoubleArray = x.copyOfRange(x.size - width, x.size)

    private fun sum(x: DoubleArray, y: DoubleArray) = DoubleArray(x.size) { x[it] + y[it] }

    private fun dot(x: DoubleArray, start: Int, y: DoubleArray, other: Int, count: Int): Double {
        var found = 0.0
        for (i in 0 until count) found += x[start + i] * y[other + i]
        return found
    }
}

internal fun gelu(x: Double): Double = x * (1 + erf(x / Math.sqrt(2.0))) / 2

/** The error function, by a series of positive terms. */
internal fun erf(x: Double): Double {
    val size = Math.abs(x)
    if (size >= FLAT) return Math.signum(x)
    var term = size
    var sum = size
    var n = 1
    while (term > sum * 1e-17) {
        term *= 2 * size * size / (2 * n + 1)
        sum += term
        n++
    }
    return Math.signum(x) * TWO_OVER_ROOT_PI * Math.exp(-size * size) * sum
}
