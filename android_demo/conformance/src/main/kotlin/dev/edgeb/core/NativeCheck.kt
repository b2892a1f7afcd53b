package dev.edgeb.core

import java.io.File

/** What the native side does with impossible arguments: an exception each time, and a living process after it. */
internal fun checkNative(folder: File, native: LlamaNative, checks: Checks) {
    val options = NativeOptions(256, 8, 1, true)
    checks.refused(
        "a file that is no model", Regex("cannot load")
    ) { native.open(File(folder, "bad-text.gguf"), options) }
    checks.refused(
        "no sequences", Regex("impossible")
    ) { native.open(File(folder, "plain.gguf"), options.copy(maxSequences = 0)) }
    val context = native.open(File(folder, "plain.gguf"), options)
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
    checks.refused("no sequence", impossible) { decode(one, intArrayOf(0), intArrayOf(0, 0), IntArray(0), row) }
    checks.refused(
        "arrays of two lengths", impossible
    ) { decode(one, IntArray(2), intArrayOf(0, 1), intArrayOf(0), row) }
    checks.refused("a batch too long", impossible) {
        decode(IntArray(257), IntArray(257) { it }, IntArray(258) { it }, IntArray(257), BooleanArray(257))
    }
    checks.refused("a copy to nowhere", impossible) { context.copySequence(0, 99, -1, -1) }
    checks.refused("saving nothing", impossible) { context.saveSequence(-1) }
    decode(intArrayOf(1, 2), intArrayOf(0, 1), intArrayOf(0, 1, 2), intArrayOf(0, 0), booleanArrayOf(false, true))
    checks.refused("a row that was not wanted", Regex("no logits")) { read(0, 0) }
    checks.refused("a row beyond the batch", Regex("no logits")) { read(2, 0) }
    checks.refused("a token beyond the vocabulary", impossible) { read(1, context.vocabularySize) }
    checkLogSumExp(context, checks)
    val state = context.saveSequence(0)
    checks.same("last position", 1, context.lastPosition(0))
    checks.same("state cut short", false, context.loadSequence(0, state.copyOf(state.size / 2)))
    checks.same("state of noise", false, context.loadSequence(0, ByteArray(64) { (it * 37).toByte() }))
    context.clear()
    checks.same("empty", -1, context.lastPosition(0))
    checks.same("state taken", true, context.loadSequence(0, state))
    checks.same("position restored", 1, context.lastPosition(0))
    context.shiftSequence(0, 0, -1, 5)
    checks.same("position shifted", 6, context.lastPosition(0))
    context.close()
    context.close()
    checks.refused("a closed model", Regex("closed")) { context.tokenize(ByteArray(0)) }
}

/** The native log-sum-exp against the sum in double. */
private fun checkLogSumExp(context: LlamaContext, checks: Checks) {
    val all = IntArray(context.vocabularySize) { it }
    val logits = FloatArray(all.size)
    val total = DoubleArray(1)
    context.readRows(intArrayOf(1), intArrayOf(0, all.size), all, logits, total)
    checks.near("log-sum-exp", logSumExp(DoubleArray(all.size) { logits[it].toDouble() }), total[0], 2e-6)
}
