package dev.edgeb.core

import java.io.Closeable

/** Reads of rows: the tokens wanted of each node's row, and whether the whole row's log-sum-exp is wanted. */
internal class Reading(val tokens: (Int) -> IntArray, val scoring: Scoring)

/**
 * A look ahead of a prompt: what is read after it, and along which label trie.
 *
 * @property likely A hint: trie nodes that will probably be asked for, evaluated with the prompt as far as they fit.
 * @property spare Further nodes, the likeliest first, which an engine evaluates where that takes no time.
 */
internal class Ahead(
    val trie: LabelTrie,
    val reading: Reading,
    val likely: List<Int> = emptyList(),
    val spare: List<Int> = emptyList()
)

/**
 * One engine with one held prompt, and a look ahead of it along a label trie.
 *
 * Tokens in, log-probabilities out. Knows neither labels nor how a prompt came about. Not for several threads at once.
 */
internal interface Backend : Closeable {
    /** Ids of the prompt in the cache. */
    val held: IntArray

    /** Width of a logit row. */
    val vocabularySize: Int

    /** Most tokens that the cache holds: the prompt and the trie nodes evaluated. */
    val capacity: Int

    /** Engine, version and cache format: what decides the bytes that `saveState` gives. */
    val fingerprint: String

    /** The program that evaluates. */
    val kind: EngineKind

    /** Its name and version. */
    val version: String

    /** What it runs on. */
    val accelerator: Accelerator

    /** Time inside the engine's evaluation since this was opened. */
    val decodeMs: Double

    /** Ids of plain text; no special token is added or parsed. */
    fun tokenize(text: String): IntArray

    /**
     * Make the cache hold exactly `ids`, paying only for what follows the common prefix with what it held.
     *
     * @param ahead What `root` and `branch` will read; null where nobody will.
     * @return Tokens evaluated, at least 1.
     * @throws EdgebException the prompt does not fit; the cache is unchanged.
     */
    fun prefill(ids: IntArray, ahead: Ahead? = null): Int

    /** Log-probabilities of the tokens wanted after the held prompt; right after a `prefill` with a look ahead only. */
    fun root(): DoubleArray

    /**
     * Evaluate nodes of the trie that `prefill` was given, each seeing the prompt and its own ancestors only.
     *
     * @return Per node the log-probabilities of its tokens, and the number of tokens evaluated.
     */
    fun branch(nodes: List<Int>): Pair<List<DoubleArray>, Int>

    /** Nodes whose rows `branch` reads without evaluating anything. */
    fun atHand(): Set<Int>

    /** Let a `prefill` or `branch` that runs, or the next one, end in an EdgebException. From any thread. */
    fun interrupt()

    /** Take `interrupt` back. */
    fun resume()

    /** The cache of the held prompt; empty where the engine keeps none. */
    fun saveState(): ByteArray

    /** Hold `ids` from saved bytes; false, and an empty cache, where the engine does not take them. */
    fun loadState(ids: IntArray, state: ByteArray): Boolean
}

/**
 * How many tokens of a prompt are held already; fewer than all, since the last one's logits are asked for.
 *
 * @throws EdgebException the prompt is empty or does not fit.
 */
internal fun reusable(held: IntArray, ids: IntArray, capacity: Int): Int {
    if (ids.size == 0 || ids.size > capacity) {
        throw EdgebException(
            "the prompt has ${ids.size} tokens, the context holds 1 to $capacity",
            "shorten the place names or the history", ErrorCode.PROMPT_TOO_LONG
        )
    }
    var common = 0
    while (common < held.size && common < ids.size - 1 && held[common] == ids[common]) common++
    return common
}

/** Log-probabilities of the tokens read: by the row's own log-sum-exp where there is one, else among themselves. */
internal fun logProbs(logits: FloatArray, start: Int, end: Int, total: Double?): DoubleArray {
    val row = DoubleArray(end - start) { logits[start + it].toDouble() }
    return if (total == null) logSoftmax(row) else DoubleArray(row.size) { row[it] - total }
}
