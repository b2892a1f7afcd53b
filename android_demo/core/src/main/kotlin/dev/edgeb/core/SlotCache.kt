package dev.edgeb.core

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/**
 * Keys and values of every layer in slots that the host chooses.
 *
 * @property arrays Memory of `graph.held()`, which a model's signatures read.
 */
internal class SlotCache(private val graph: LiteRtGraph, memory: (LiteRtTensor) -> LiteRtArray) {
    val arrays: List<LiteRtArray> = graph.held().map(memory)
    private val tensors = arrays.map { it.memory.asFloatBuffer() }

    /**
     * Copy new rows into slots.
     *
     * @param added Rows of `size` tokens as a call gave them, of `graph.added`.
     * @param slots Where the first ones belong; the others are padding.
     */
    fun store(added: List<FloatBuffer>, size: Int, slots: IntArray) {
        for ((tensor, new) in tensors.zip(added)) {
            for (head in 0 until graph.kvHeads) {
                var start = 0
                while (start < slots.size) {
                    // Slots that follow each other are copied at once.
                    var stop = start + 1
                    while (stop < slots.size && slots[stop] == slots[stop - 1] + 1) stop++
                    copy(new, head * size + start, tensor, head * graph.cache + slots[start], stop - start)
                    start = stop
                }
            }
        }
    }

    /** The first `count` slots: [2 · layers, G, count, H], little-endian float32. */
    fun toBytes(count: Int): ByteArray {
        val state = ByteBuffer.allocate(bytesOf(count)).order(ByteOrder.LITTLE_ENDIAN)
        val target = state.asFloatBuffer()
        each { tensor, head, number -> copy(tensor, head * graph.cache, target, number * count, count) }
        return state.array()
    }

    /** Read the first `count` slots; false, and nothing read, if the size is wrong. */
    fun fromBytes(state: ByteArray, count: Int): Boolean {
        if (count > graph.cache || state.size != bytesOf(count)) return false
        val source = ByteBuffer.wrap(state).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        each { tensor, head, number -> copy(source, number * count, tensor, head * graph.cache, count) }
        return true
    }

    private fun bytesOf(count: Int) = 4 * tensors.size * graph.kvHeads * count * graph.headDim

    private inline fun each(work: (FloatBuffer, Int, Int) -> Unit) {
        for ((i, tensor) in tensors.withIndex()) {
            for (head in 0 until graph.kvHeads) work(tensor, head, i * graph.kvHeads + head)
        }
    }

    /** Copy rows of a head; places and count are in rows. */
    private fun copy(from: FloatBuffer, at: Int, to: FloatBuffer, place: Int, count: Int) {
        val width = graph.headDim
        val rows = from.duplicate()
        (rows as Buffer).limit((at + count) * width).position(at * width)
        (to as Buffer).position(place * width)
        to.put(rows)
    }
}
