package dev.edgeb.core

import java.nio.ByteBuffer
import java.nio.IntBuffer

/** What to read of a token's row of logits. */
internal class RowReading(val tokens: IntArray, val scoring: Scoring)

/**
 * Evaluates tokens with a LiteRT model: plans the calls, makes what they take, and keeps what they give in a cache of
 * its own. Knows slots, positions and what sees what; prompts and label tries are the backend's.
 */
internal class LiteRtEvaluator(private val graph: LiteRtGraph, private val model: LiteRtModel) {
    /** The signatures of one size and kind, and the memory that they read and write. */
    private inner class Bound(size: Int, val first: Boolean) {
        private val tokens = array(graph.tokens(size))
        private val embeddings = array(graph.embeddings(size))
        private val masks = graph.attention.map { array(graph.mask(size, it, first)) }
        private val cosines = graph.attention.map { array(graph.cosines(size, it)) }
        private val sines = graph.attention.map { array(graph.sines(size, it)) }
        private val added = graph.added(size).map { array(it) }
        private val inputs = listOf(embeddings) + masks + cosines + sines + (if (first) emptyList() else cache.arrays)

        /** Logits [N, V], of padding as well; null of a signature that gives none. */
        val logits = if (first) null else array(graph.logits(size))
        val ids: IntBuffer = tokens.memory.asIntBuffer()
        val masksOf = masks.map { it.memory.asFloatBuffer() }
        val cosinesOf = cosines.map { it.memory.asFloatBuffer() }
        val sinesOf = sines.map { it.memory.asFloatBuffer() }
        val new = added.map { it.memory.asFloatBuffer() }
        val embed = model.bind(graph.embedName(size), listOf(tokens), listOf(embeddings))
        val run = model.bind(graph.evaluateName(size, first), inputs, added + listOfNotNull(logits))

        init {
            // The same in every call.
            if (first) for ((k, kind) in graph.attention.withIndex()) writeFirstMask(masksOf[k], size, kind.window)
        }
    }

    val cache = SlotCache(graph) { array(it) }

    /** Rotary position of what each slot holds. */
    private val positions = IntArray(graph.cache)
    private val planner = CallPlanner.of(graph)

    // A position is below the number of slots, since whatever a token sees has a slot as well.
    private val rotations = graph.attention.map { Rotations(it.frequencies, graph.cache) }

    // Made when first needed: logits of a large size take much memory, and many bundles are never asked for them.
    private val bound = HashMap<Pair<Int, Boolean>, Bound>()
    private var nanos = 0L

    /** Time inside LiteRT. */
    val decodeMs: Double
        get() = nanos / 1e6

    /**
     * How many more tokens the calls for a pass could hold.
     *
     * @param silent As for [evaluate].
     * @param position Rotary position of the first token.
     */
    fun room(count: Int, silent: Int, position: Int): Int =
        plan(count, silent, position).takeLast(1).map { it.size - (it.stop - it.start) }.sum()

    /** A prompt from its beginning: each of the silent tokens sees the slots up to its own. */
    private fun plan(count: Int, silent: Int, position: Int) = planner.plan(count, if (position == 0) silent else 0)

    /**
     * Evaluate a pass of new tokens, at least one, and put them into their slots.
     *
     * @param tokens The tokens, each after those that it sees.
     * @param silent How many of them, the first ones, need no logits; fewer than there are.
     * @param reading What to read of the row of each of the others; null reads nothing.
     * @return Log-probabilities of the tokens read, per row.
     */
    fun evaluate(tokens: LiteRtTokens, silent: Int, reading: ((Int) -> RowReading)?): List<DoubleArray> =
        run(plan(tokens.size, silent, tokens.positions[0]), tokens, silent, reading)

    /** As [evaluate], by given calls, which together hold the tokens, in order. */
    fun run(
        calls: List<Call>,
        tokens: LiteRtTokens,
        silent: Int,
        reading: ((Int) -> RowReading)?
    ): List<DoubleArray> {
        for (i in 0 until tokens.size) positions[tokens.slots[i]] = tokens.positions[i]
        val found = ArrayList<DoubleArray>()
        for (call in calls) {
            val logits = run(call, tokens.part(call.start, call.stop))
            if (logits == null || reading == null) continue
            val rows = (maxOf(silent, call.start) until call.stop).toList()
            found.addAll(read(logits, rows.map { it - call.start }, rows.map { reading(it - silent) }))
        }
        return found
    }

    /** The cache of a prompt was restored: its first slots hold the first positions. */
    fun restored(count: Int) {
        for (slot in 0 until count) positions[slot] = slot
    }

    /** Run one call; its logits, of the padding as well, or null of a call that gives none. */
    private fun run(call: Call, tokens: LiteRtTokens): ByteBuffer? {
        val at = bound.getOrPut(Pair(call.size, call.first)) { Bound(call.size, call.first) }
        for (i in 0 until call.size) at.ids.put(i, if (i < tokens.size) tokens.ids[i] else 0)
        for ((k, kind) in graph.attention.withIndex()) {
            rotations[k].write(at.cosinesOf[k], at.sinesOf[k], call.size, tokens.positions)
            if (!at.first) writeMask(at.masksOf[k], call.size, graph.cache, tokens, positions, kind.window)
        }
        nanos += model.run(at.embed) + model.run(at.run)
        cache.store(at.new, call.size, tokens.slots)
        return at.logits?.memory
    }

    private fun read(logits: ByteBuffer, rows: List<Int>, readings: List<RowReading>): List<DoubleArray> {
        if (rows.isEmpty()) return emptyList()
        val starts = IntArray(rows.size + 1)
        for ((i, reading) in readings.withIndex()) starts[i + 1] = starts[i] + reading.tokens.size
        val values = FloatArray(starts[rows.size])
        val totals = if (readings[0].scoring == Scoring.EXACT) DoubleArray(rows.size) else null
        val tokens = joined(readings.map { it.tokens })
        model.readRows(logits, graph.vocabulary, rows.toIntArray(), starts, tokens, values, totals)
        return rows.indices.map { logProbs(values, starts[it], starts[it + 1], totals?.get(it)) }
    }

    private fun array(tensor: LiteRtTensor) = LiteRtArray(tensor, model.memory(4 * tensor.size))
}
