package dev.edgeb.core

// What a call costs before its first token, in tokens; edge_behavior/runtime/litert/calls.py says what it was fitted to.
private const val CALL_COST = 16.0

// Weights of a usual layer, in squares of the hidden size.
private const val LAYER_SQUARES = 14L

/**
 * One run of a signature of fixed size.
 *
 * @property size The signature's number of new tokens.
 * @property logits Whether it is one that gives logits.
 * @property start The first token it gets, counted within the pass.
 * @property stop The token after its last; it gets at most `size`.
 */
internal data class Call(val size: Int, val logits: Boolean, val start: Int, val stop: Int)

/**
 * Which signatures evaluate a number of new tokens: the cheapest calls. Knows no engine.
 *
 * A call takes the time of its signature's size, however few tokens it was given, and something for being a call.
 *
 * @param steps Cost of each signature that gives logits, by its size; at least one.
 * @param fills Cost of each that only fills the cache.
 */
internal class CallPlanner(steps: Map<Int, Double>, fills: Map<Int, Double>) {
    private val steps = Cover(steps)
    private val fills = Cover(fills)
    private val plans = HashMap<Pair<Int, Int>, List<Call>>()

    /** The cheapest calls for a pass of `count` tokens, in order; the first `silent` of them need no logits. */
    fun plan(count: Int, silent: Int): List<Call> = plans.getOrPut(Pair(count, silent)) { planned(count, silent) }

    private fun planned(count: Int, silent: Int): List<Call> {
        var split = 0
        var least = Double.POSITIVE_INFINITY
        for (filled in 0..silent) {
            val cost = fills.cost(filled) + steps.cost(count - filled)
            if (cost < least) {
                least = cost
                split = filled
            }
        }
        val calls = ArrayList<Call>()
        cover(calls, fills, 0, split, false)
        cover(calls, steps, split, count, true)
        return calls
    }

    private fun cover(calls: ArrayList<Call>, cover: Cover, from: Int, to: Int, logits: Boolean) {
        var start = from
        for (size in cover.sizes(to - from)) {
            val stop = minOf(start + size, to)
            calls.add(Call(size, logits, start, stop))
            start = stop
        }
    }

    companion object {
        /** For a graph on a CPU. */
        fun of(graph: LiteRtGraph): CallPlanner {
            val head = graph.vocabulary.toDouble() /
                (graph.vocabulary + LAYER_SQUARES * graph.layers * graph.hidden).toDouble()
            return CallPlanner(costs(graph.sizes, 1.0), costs(graph.fillSizes, 1 - head))
        }

        /** Costs in tokens, where the signatures do `share` of a token's work. */
        private fun costs(sizes: IntArray, share: Double): Map<Int, Double> =
            sizes.associate { it to CALL_COST + share * it }
    }
}

/** The cheapest sizes that together hold a number of tokens; costs nothing for no tokens. */
private class Cover(costs: Map<Int, Double>) {
    private val costs = costs.toSortedMap()

    // By number of tokens: the least cost, and one size of the sizes that have it.
    private val least = arrayListOf(0.0)
    private val size = arrayListOf(0)

    /** The least cost; infinite if there are no signatures. */
    fun cost(tokens: Int): Double {
        for (count in least.size..tokens) {
            var cheapest = Double.POSITIVE_INFINITY
            var best = 0
            for ((own, cost) in costs) {
                val found = cost + least[maxOf(0, count - own)]
                if (found < cheapest) {
                    cheapest = found
                    best = own
                }
            }
            least.add(cheapest)
            size.add(best)
        }
        return least[tokens]
    }

    /** The sizes that have it, largest first. */
    fun sizes(tokens: Int): List<Int> {
        cost(tokens)
        val found = ArrayList<Int>()
        var left = tokens
        while (left > 0) {
            found.add(size[left])
            left -= size[left]
        }
        return found.sortedDescending()
    }
}
