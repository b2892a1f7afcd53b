package dev.edgeb.core

private val FIELDS = listOf("accelerators", "ids", "tokens", "log_probs", "tolerance")
private const val MOST = 1L shl 31

/**
 * Known rows of a LiteRT bundle, to check an accelerator by: the counterpart of edge_behavior/bundle/litert_probe.py.
 *
 * An accelerator can compute nonsense while every call reports success.
 *
 * @property accelerators What the graph is made for beside the CPU.
 * @property ids Token ids of a prompt's beginning.
 * @property tokens Some tokens of the vocabulary.
 * @property logProbs The log-probability of each of `tokens` after each of `ids`, by the float32 model.
 * @property tolerance Largest difference that is no fault, nats.
 */
internal class LiteRtProbe private constructor(
    val accelerators: List<String>,
    val ids: IntArray,
    private val tokens: IntArray,
    private val logProbs: List<List<Double>>,
    val tolerance: Double
) {
    /**
     * How far an evaluator is from the known rows, by every signature: new tokens per call, largest difference in nats.
     * Overwrites the cache's first slots.
     */
    fun differences(graph: LiteRtGraph, evaluator: LiteRtEvaluator): Sequence<Pair<Int, Double>> {
        val order = IntArray(ids.size) { it }
        val pass = LiteRtTokens(ids, order, order, IntArray(ids.size) { it + 1 }, ids.map { IntArray(0) })
        val reading = { _: Int -> RowReading(tokens, Scoring.EXACT) }
        return probePlans(graph, ids.size).map { calls ->
            val silent = calls.filter { it.first }.map { it.stop - it.start }.sum()
            Pair(calls[0].size, farthest(evaluator.run(calls, pass, silent, reading), silent))
        }
    }

    /** The largest difference of rows after the ids from `first` on; infinite where one is not finite. */
    private fun farthest(rows: List<DoubleArray>, first: Int): Double {
        var off = 0.0
        for ((i, row) in rows.withIndex()) {
            for ((k, value) in row.withIndex()) {
                val here = Math.abs(value - logProbs[first + i][k])
                off = if (here < Double.POSITIVE_INFINITY) maxOf(off, here) else Double.POSITIVE_INFINITY
            }
        }
        return off
    }

    companion object {
        /** Read the object strictly. @throws EdgebException a field that is missing, unknown or has a bad value. */
        fun of(value: Any?, vocabulary: Int, where: String): LiteRtProbe {
            val fields = Fields(value, FIELDS, where)
            val accelerators = fields.list("accelerators").map {
                it as? String ?: throw damaged("$where: accelerators holds '$it'")
            }
            val ids = tokens(fields, "ids", vocabulary, where)
            val tokens = tokens(fields, "tokens", vocabulary, where)
            val rows = fields.list("log_probs").map { row ->
                (row as? List<*>).orEmpty().map { (it as? Number)?.toDouble() ?: Double.NaN }
            }
            val known = rows.size == ids.size && rows.all { row ->
                row.size == tokens.size && row.all { it <= 0.0 && it >= -MOST.toDouble() }
            }
            if (!known) throw damaged("$where: log_probs are none of ${ids.size} ids and ${tokens.size} tokens")
            val tolerance = fields.number("tolerance", 0.0, MOST.toDouble())
            return LiteRtProbe(accelerators, ids, tokens, rows, tolerance)
        }

        private fun tokens(fields: Fields, name: String, vocabulary: Int, where: String): IntArray {
            val found = fields.list(name)
                .map { (it as? Long)?.takeIf { id -> id in 0 until vocabulary }?.toInt() ?: -1 }
            if (found.isEmpty() || found.any { it < 0 }) throw damaged("$where: $name are not tokens of the model")
            return found.toIntArray()
        }

        private fun damaged(what: String) = EdgebException(what, DAMAGED_HINT, ErrorCode.DAMAGED)
    }
}

/** Calls that evaluate so many tokens, by every signature, in two calls at least, so that the cache is read. */
internal fun probePlans(graph: LiteRtGraph, count: Int): Sequence<List<Call>> {
    val half = (count + 1) / 2
    fun steps(size: Int, from: Int): List<Call> {
        val taken = minOf(size, half)
        return (from until count step taken).map { Call(size, false, it, minOf(it + taken, count)) }
    }
    val firsts = graph.firstSizes.asSequence().map { size ->
        val first = minOf(size, half)
        listOf(Call(size, true, 0, first)) + steps(graph.sizes.last(), first)
    }
    return graph.sizes.asSequence().map { steps(it, 0) } + firsts
}
