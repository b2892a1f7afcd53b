package dev.edgeb.core

// Costs in tokens; edge_behavior/runtime/litert/calls.py says what they were fitted to. A call before its first token:
private const val CALL_COST = 18.0

// Attention, in float32, takes so many times a multiply-add of the integer weights.
private const val FLOAT_COST = 5.5

// Weights of a usual layer, in squares of the hidden size.
private const val LAYER_SQUARES = 14L

/**
 * One run of a signature of fixed size.
 *
 * @property size The signature's number of new tokens.
 * @property first Whether it is one for the beginning of a prompt, which gives no logits.
 * @property start The first token it gets, counted within the pass.
 * @property stop The token after its last; it gets at most `size`.
 */
internal data class Call(val size: Int, val first: Boolean, val start: Int, val stop: Int)

/**
 * Which signatures evaluate a number of new tokens: the cheapest calls. Knows no engine.
 *
 * A call takes the time of its signature's size, however few tokens it was given, and something for being a call.
 *
 * @param steps Cost of each signature that gives logits, by its size; at least one.
 * @param firsts Cost of each for the beginning of a prompt.
 */
internal class CallPlanner(steps: Map<Int, Double>, firsts: Map<Int, Double>) {
    private val steps = steps.toSortedMap()
    private val firsts = firsts.toSortedMap()

    // By number of tokens: the least cost of steps, and one size of the sizes that have it.
    private val least = arrayListOf(0.0)
    private val sizes = arrayListOf(0)
    private val plans = HashMap<Pair<Int, Int>, List<Call>>()

    /**
     * The cheapest calls for a pass, in order.
     *
     * @param count Tokens of the pass.
     * @param beginning How many of them, the first ones, need no logits and follow on nothing.
     */
    fun plan(count: Int, beginning: Int): List<Call> =
        plans.getOrPut(Pair(count, beginning)) { planned(count, beginning) }

    private fun planned(count: Int, beginning: Int): List<Call> {
        var best = cost(count)
        var first = 0
        for ((size, own) in firsts) {
            val found = own + cost(count - minOf(size, beginning))
            if (beginning > 0 && found < best) {
                best = found
                first = size
            }
        }
        var start = minOf(first, beginning)
        val calls = ArrayList<Call>()
        if (first > 0) calls.add(Call(first, true, 0, start))
        for (size in cover(count - start)) {
            val stop = minOf(start + size, count)
            calls.add(Call(size, false, start, stop))
            start = stop
        }
        return calls
    }

    /** Sizes that together hold so many tokens at the least cost, largest first. */
    private fun cover(tokens: Int): List<Int> {
        val found = ArrayList<Int>()
        var left = tokens
        while (left > 0) {
            found.add(sizes[left])
            left -= sizes[left]
        }
        return found.sortedDescending()
    }

    private fun cost(tokens: Int): Double {
        for (count in least.size..tokens) {
            var cheapest = Double.POSITIVE_INFINITY
            var best = 0
            for ((size, own) in steps) {
                val found = own + least[maxOf(0, count - size)]
                if (found < cheapest) {
                    cheapest = found
                    best = size
                }
            }
            least.add(cheapest)
            sizes.add(best)
        }
        return least[tokens]
    }

    companion object {
        /** For a graph on a CPU. */
        fun of(graph: LiteRtGraph): CallPlanner {
            // Of a token's work, what its logits are, and attending to one slot.
            val vocabulary = graph.vocabulary.toDouble()
            val head = vocabulary / (vocabulary + (LAYER_SQUARES * graph.layers * graph.hidden).toDouble())
            val slot = (1 - head) * FLOAT_COST * 2 / (LAYER_SQUARES * graph.hidden).toDouble()
            val steps = graph.sizes.associate { size ->
                val attended = size.toDouble() * (graph.cache.toDouble() + size)
                size to CALL_COST + size + attended * slot
            }
            // About half of what it could attend to lies behind a token.
            val firsts = graph.firstSizes.associate { size ->
                size to CALL_COST + size * (1 - head) + size.toDouble() * size / 2 * slot
            }
            return CallPlanner(steps, firsts)
        }
    }
}
