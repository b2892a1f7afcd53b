package dev.edgeb.core

import java.io.File

// Beginning of a saved state: cells, positions and sizes, before the numbers.
private const val HEAD_OF_STATE = 96

/** What the native side does with impossible arguments: an exception each time, and a living process after it. */
internal fun checkNative(folder: File, native: LlamaNative, checks: Checks) {
    val options = NativeOptions(256, 8, 1, true)
    checks.refused(
        "a file that is no model", Regex("cannot load")
    ) { native.open(ModelSource.file(File(folder, "bad-text.gguf")), options) }
    checks.refused(
        "no sequences", Regex("impossible")
    ) { native.open(ModelSource.file(File(folder, "plain.gguf")), options.copy(maxSequences = 0)) }
    checks.refused(
        "more threads than llama.cpp has", Regex("impossible")
    ) { native.open(ModelSource.file(File(folder, "plain.gguf")), options.copy(threads = 513)) }
    val context = native.open(ModelSource.file(File(folder, "plain.gguf")), options)
    val one = intArrayOf(1)
    val row = booleanArrayOf(true)
    fun decode(tokens: IntArray, positions: IntArray, starts: IntArray, sequences: IntArray, wants: BooleanArray) {
        context.decode(TokenBatch(tokens, positions, starts, sequences, wants))
    }
    fun read(row: Int, token: Int) {
        context.readRows(intArrayOf(row), intArrayOf(0, 1), intArrayOf(token), FloatArray(1), DoubleArray(1))
    }
    val impossible = Regex("impossible|do not fit|does not exist")
    checks.refused("rows before a batch", Regex("no logits")) { read(0, 0) }
    checks.refused(
        "an empty batch", impossible
    ) { decode(IntArray(0), IntArray(0), intArrayOf(0), IntArray(0), BooleanArray(0)) }
    checks.refused(
        "a token too large", impossible
    ) { decode(intArrayOf(1 shl 30), intArrayOf(0), intArrayOf(0, 1), intArrayOf(0), row) }
    checks.refused(
        "a negative token", impossible
    ) { decode(intArrayOf(-1), intArrayOf(0), intArrayOf(0, 1), intArrayOf(0), row) }
    checks.refused(
        "a negative position", impossible
    ) { decode(one, intArrayOf(-1), intArrayOf(0, 1), intArrayOf(0), row) }
    checks.refused(
        "a sequence too large", impossible
    ) { decode(one, intArrayOf(0), intArrayOf(0, 1), intArrayOf(8), row) }
    checks.refused(
        "starts that run back", impossible
    ) { decode(one, intArrayOf(0), intArrayOf(1, 0), intArrayOf(0), row) }
    checks.refused(
        "starts beyond the sequences", impossible
    ) { decode(intArrayOf(1, 1), intArrayOf(0, 1), intArrayOf(0, 10_000_000, 1), intArrayOf(0), BooleanArray(2)) }
    checks.refused(
        "a sequence twice", impossible
    ) { decode(one, intArrayOf(0), intArrayOf(0, 2), intArrayOf(3, 3), row) }
    checks.refused(
        "a position beyond the cache", impossible
    ) { decode(one, intArrayOf(256), intArrayOf(0, 1), intArrayOf(0), row) }
    checks.refused("no sequence", impossible) { decode(one, intArrayOf(0), intArrayOf(0, 0), IntArray(0), row) }
    checks.refused(
        "arrays of two lengths", impossible
    ) { decode(one, IntArray(2), intArrayOf(0, 1), intArrayOf(0), row) }
    checks.refused("a batch too long", impossible) {
        decode(IntArray(257), IntArray(257) { it }, IntArray(258) { it }, IntArray(257), BooleanArray(257))
    }
    // As many rows as there are sequences are the most.
    fun decodeRows(count: Int) = decode(
        IntArray(count) { 1 }, IntArray(count) { it }, IntArray(count + 1) { it }, IntArray(count),
        BooleanArray(count) { true }
    )
    checks.refused("too many rows", impossible) { decodeRows(9) }
    decodeRows(8)
    checks.refused("positions that do not follow", Regex("could not evaluate")) { decodeRows(8) }
    checks.refused("rows of a batch that failed", Regex("no logits")) { read(0, 0) }
    context.clear()
    context.interrupt(true)
    checks.refused("a batch that is interrupted", Regex("was cancelled")) { decodeRows(8) }
    context.interrupt(false)
    context.clear()
    decodeRows(8)
    context.clear()
    checks.refused("a copy to nowhere", impossible) { context.copySequence(0, 99, -1, -1) }
    checks.refused("saving nothing", impossible) { context.saveSequence(-1) }
    decode(intArrayOf(1, 2), intArrayOf(0, 1), intArrayOf(0, 1, 2), intArrayOf(0, 0), booleanArrayOf(false, true))
    checks.refused("a row that was not wanted", Regex("no logits")) { read(0, 0) }
    checks.refused("a row beyond the batch", Regex("no logits")) { read(2, 0) }
    checks.refused("a token beyond the vocabulary", impossible) { read(1, context.vocabularySize) }
    for (starts in listOf(intArrayOf(0, 10_000_000, 1), intArrayOf(0, -1, 1), intArrayOf(1, 1, 1), intArrayOf(0, 1))) {
        checks.refused("a reading from ${starts.toList()}", impossible) {
            context.readRows(intArrayOf(1, 1), starts, intArrayOf(5), FloatArray(1), DoubleArray(2))
        }
    }
    checkLogSumExp(context, checks)
    checkCells(context, checks)
    val state = context.saveSequence(0)
    checks.same("last position", 1, context.lastPosition(0))
    checks.same("state cut short", false, context.loadSequence(0, state.copyOf(state.size / 2)))
    checks.same("state of noise", false, context.loadSequence(0, ByteArray(64) { (it * 37).toByte() }))
    context.clear()
    checks.same("empty", -1, context.lastPosition(0))
    checks.same("state taken", true, context.loadSequence(0, state))
    checks.same("position restored", 1, context.lastPosition(0))
    checkDamagedStates(context, state, checks)
    context.close()
    context.close()
    checks.refused("a closed model", Regex("closed")) { context.tokenize(ByteArray(0)) }
}

/** Sequences that share cells; starts and ends with two tokens in sequence 0. */
private fun checkCells(context: LlamaContext, checks: Checks) {
    context.copySequence(0, 1, -1, -1)
    checks.same("position copied", 1, context.lastPosition(1))
    checks.refused("a copy onto cells", Regex("impossible")) { context.copySequence(0, 1, 1, -1) }
    context.removeSequence(1, 1, -1)
    context.copySequence(0, 1, 1, -1)
    context.removeSequence(1, -1, -1)
    checks.same("no copy is left", -1, context.lastPosition(1))
    context.shiftSequence(0, 0, -1, 5)
    checks.same("position shifted", 6, context.lastPosition(0))
    for (by in listOf(250, Int.MAX_VALUE, Int.MIN_VALUE)) {
        checks.refused("a shift by $by", Regex("impossible")) { context.shiftSequence(0, 0, -1, by) }
    }
    context.shiftSequence(0, 0, -1, -5)
    checks.same("position shifted back", 1, context.lastPosition(0))
}

/** A state with a changed byte is refused or taken, and what follows works; starts and ends with `state` taken. */
private fun checkDamagedStates(context: LlamaContext, state: ByteArray, checks: Checks) {
    for (at in 0 until minOf(state.size, HEAD_OF_STATE)) {
        for (mask in listOf(1, 0x80, 0xff)) {
            val bytes = state.copyOf()
            bytes[at] = (bytes[at].toInt() xor mask).toByte()
            val taken = context.loadSequence(2, bytes)
            val last = context.lastPosition(2)
            checks.same("position after damage at $at", true, if (taken) last in 0..255 else last == -1)
            context.removeSequence(2, -1, -1)
            context.decode(
                TokenBatch(intArrayOf(1), intArrayOf(0), intArrayOf(0, 1), intArrayOf(2), booleanArrayOf(true))
            )
            context.clear()
        }
    }
    checks.same("a good state after damaged ones", true, context.loadSequence(0, state))
}

/** The native log-sum-exp against the sum in double. */
private fun checkLogSumExp(context: LlamaContext, checks: Checks) {
    val all = IntArray(context.vocabularySize) { it }
    val logits = FloatArray(all.size)
    val total = DoubleArray(1)
    context.readRows(intArrayOf(1), intArrayOf(0, all.size), all, logits, total)
    checks.near("log-sum-exp", logSumExp(DoubleArray(all.size) { logits[it].toDouble() }), total[0], 2e-6)
}
