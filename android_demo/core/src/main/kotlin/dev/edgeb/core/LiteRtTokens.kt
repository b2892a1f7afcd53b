package dev.edgeb.core

import java.nio.Buffer
import java.nio.FloatBuffer

/**
 * New tokens of one pass. Each sees the cache's first slots and, of those behind them, its own ancestors'.
 *
 * @property ids Token ids.
 * @property positions Rotary positions.
 * @property slots Where the cache keeps each; all different.
 * @property first How many of the cache's first slots each sees.
 * @property others The other slots that each sees. The tokens of a pass see of each other only those before them.
 */
internal class LiteRtTokens(
    val ids: IntArray,
    val positions: IntArray,
    val slots: IntArray,
    val first: IntArray,
    val others: List<IntArray>
) {
    val size: Int
        get() = ids.size

    /** Some of the tokens. */
    fun part(start: Int, stop: Int) = LiteRtTokens(
        ids.copyOfRange(start, stop), positions.copyOfRange(start, stop), slots.copyOfRange(start, stop),
        first.copyOfRange(start, stop), others.subList(start, stop)
    )
}

/**
 * Write the additive mask [N, C + N] of one call: rows without a token see themselves only.
 *
 * @param mask Where to, N rows of it; N is at least the number of tokens.
 * @param cache Slots C.
 * @param held Rotary position of what each slot holds; read where there is a window.
 * @param window How many positions a token sees, its own among them; null for all.
 */
internal fun writeMask(mask: FloatBuffer, size: Int, cache: Int, tokens: LiteRtTokens, held: IntArray, window: Int?) {
    val row = FloatArray(cache + size)
    val reach = window ?: Int.MAX_VALUE
    for (i in 0 until size) {
        row.fill(MASKED)
        if (i >= tokens.size) {
            row[cache + i] = 0f
        } else {
            val position = tokens.positions[i]
            for (slot in 0 until tokens.first[i]) if (position - held[slot] < reach) row[slot] = 0f
            for (slot in tokens.others[i]) if (position - held[slot] < reach) row[slot] = 0f
            for (k in tokens.slots.indices) {
                // What the call computes itself is not in the cache yet.
                row[cache + k] = row[tokens.slots[k]]
                row[tokens.slots[k]] = MASKED
            }
        }
        put(mask, i * row.size, row)
    }
}

/** Write the additive mask [N, N] of a prompt's beginning. */
internal fun writeFirstMask(mask: FloatBuffer, size: Int, window: Int?) {
    val reach = window ?: Int.MAX_VALUE
    for (i in 0 until size) put(mask, i * size, FloatArray(size) { if (it <= i && i - it < reach) 0f else MASKED })
}

/** Cosines and sines [positions, H] of every position, one after the other, as the graph's frequencies define them. */
internal class Rotations(frequencies: DoubleArray, private val positions: Int) {
    private val width = 2 * frequencies.size
    private val cosines = FloatArray(positions * width)
    private val sines = FloatArray(positions * width)

    init {
        val exact = FloatArray(frequencies.size) { frequencies[it].toFloat() }
        for (position in 0 until positions) {
            for (k in exact.indices) {
                val angle = (position.toFloat() * exact[k]).toDouble()
                val at = position * width + k
                cosines[at] = Math.cos(angle).toFloat()
                sines[at] = Math.sin(angle).toFloat()
                cosines[at + exact.size] = cosines[at]
                sines[at + exact.size] = sines[at]
            }
        }
    }

    /** Write those of some tokens; rows without a token have position 0's. */
    fun write(intoCosines: FloatBuffer, intoSines: FloatBuffer, size: Int, at: IntArray) {
        for (i in 0 until size) {
            val from = (if (i < at.size) at[i] else 0) * width
            put(intoCosines, i * width, cosines, from, width)
            put(intoSines, i * width, sines, from, width)
        }
    }
}

/** Copy an array into a buffer whose position nobody else uses. */
internal fun put(buffer: FloatBuffer, at: Int, values: FloatArray, from: Int = 0, count: Int = values.size) {
    // As a Buffer: Java 8 and 9 declare the method with different results.
    (buffer as Buffer).position(at)
    buffer.put(values, from, count)
}
