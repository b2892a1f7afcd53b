package dev.edgeb.core

import java.io.Closeable
import java.io.File

/**
 * How llama.cpp evaluates.
 *
 * @property contextSize Positions of the cache; a prompt and the trie nodes looked at must fit.
 * @property maxSequences Sequences of the cache, and most logit rows of one decode.
 * @property threads CPU threads.
 * @property exactCache F32 cache: slower, agrees with PyTorch to rounding; else F16.
 */
data class NativeOptions(val contextSize: Int, val maxSequences: Int, val threads: Int, val exactCache: Boolean)

/** llama.cpp as this library needs it; `dev.edgeb.runtime.LlamaJni` is the one that runs. */
interface LlamaNative {
    /** Engine and version: what decides the format of saved states. */
    val version: String

    /** Open a GGUF file. @throws EdgebException with llama.cpp's own reason. */
    fun open(model: File, options: NativeOptions): LlamaContext

    /** Open the vocabulary of a GGUF file, which is not read again. @throws EdgebException as `open`. */
    fun openVocabulary(file: File): LlamaVocabulary
}

/** A loaded vocabulary. Every method throws an EdgebException where llama.cpp fails or it is closed. */
interface LlamaVocabulary : Closeable {
    /** Tokens of the vocabulary. */
    val vocabularySize: Int

    /** Ids of plain text; no special token is added or parsed. */
    fun tokenize(utf8: ByteArray): IntArray
}

/** One batch of tokens to evaluate. Sequences of token i are `sequences[starts[i]]` until `starts[i + 1]`. */
class TokenBatch(
    val tokens: IntArray,
    val positions: IntArray,
    val starts: IntArray,
    val sequences: IntArray,
    val wantsLogits: BooleanArray
)

/**
 * A loaded model with one cache. Not for several threads at once.
 *
 * Every method throws an EdgebException where llama.cpp fails or the context is closed.
 */
interface LlamaContext : LlamaVocabulary {
    /** llama.cpp's number of the file's weight format; -1 where the file does not say. */
    val fileType: Int

    /** Evaluate a batch, with no more rows than there are sequences. Returns nanoseconds spent inside llama.cpp. */
    fun decode(batch: TokenBatch): Long

    /**
     * Read logits of the last batch.
     *
     * @param rows Indices into that batch.
     * @param starts Tokens to read of row i are `tokens[starts[i]]` until `starts[i + 1]`.
     * @param logits Receives one logit per token.
     * @param logSumExp Receives, per row, the log-sum-exp over the vocabulary; null where nobody needs it.
     */
    fun readRows(rows: IntArray, starts: IntArray, tokens: IntArray, logits: FloatArray, logSumExp: DoubleArray?)

    /**
     * Let sequence `to` share the cells of `from` at positions `start` (inclusive) to `end`; -1 is no limit. `to` holds
     * nothing from `start` on before.
     */
    fun copySequence(from: Int, to: Int, start: Int, end: Int)

    /** Drop positions of a sequence; -1 is no limit. */
    fun removeSequence(sequence: Int, start: Int, end: Int)

    /** Move positions of a sequence by `by`. */
    fun shiftSequence(sequence: Int, start: Int, end: Int, by: Int)

    /** Largest position that a sequence holds; -1 where it is empty. */
    fun lastPosition(sequence: Int): Int

    /** Empty the cache. */
    fun clear()

    /** The cells of a sequence as bytes. */
    fun saveSequence(sequence: Int): ByteArray

    /** Put saved bytes into a sequence; false, and an empty cache, where they are not what was saved. */
    fun loadSequence(sequence: Int, state: ByteArray): Boolean
}
