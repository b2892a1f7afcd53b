package dev.edgeb.core

import java.io.Closeable
import java.nio.ByteBuffer

/**
 * How llama.cpp evaluates.
 *
 * @property contextSize Positions of the cache; a prompt and the trie nodes looked at must fit.
 * @property maxSequences Sequences of the cache, and most logit rows of one decode.
 * @property threads CPU threads.
 * @property exactCache F32 cache: slower, agrees with PyTorch to rounding; else F16.
 */
public data class NativeOptions(val contextSize: Int, val maxSequences: Int, val threads: Int, val exactCache: Boolean)

/** llama.cpp as this library needs it; `dev.edgeb.runtime.LlamaJni` is the one that runs. */
public interface LlamaNative {
    /** Engine and version: what decides the format of saved states. */
    public val version: String

    /**
     * Open a GGUF. A file's weights are mapped; those of a stretch of one, too, if it begins at a multiple of 32 bytes,
     * else they are copied, as those of a buffer are.
     *
     * @throws EdgebException with llama.cpp's own reason.
     */
    public fun open(model: ModelSource, options: NativeOptions): LlamaContext

    /** Open the vocabulary of a GGUF in direct memory, which is not read again. @throws EdgebException as `open`. */
    public fun openVocabulary(content: ByteBuffer): LlamaVocabulary
}

/** A loaded vocabulary. Every method throws an EdgebException where llama.cpp fails or it is closed. */
public interface LlamaVocabulary : Closeable {
    /** Tokens of the vocabulary. */
    public val vocabularySize: Int

    /** Ids of plain text; no special token is added or parsed. */
    public fun tokenize(utf8: ByteArray): IntArray
}

/** One batch of tokens to evaluate. Sequences of token i are `sequences[starts[i]]` until `starts[i + 1]`. */
public class TokenBatch(
    public val tokens: IntArray,
    public val positions: IntArray,
    public val starts: IntArray,
    public val sequences: IntArray,
    public val wantsLogits: BooleanArray
)

/**
 * A loaded model with one cache. Not for several threads at once.
 *
 * Every method throws an EdgebException where llama.cpp fails or the context is closed.
 */
public interface LlamaContext : LlamaVocabulary {
    /** llama.cpp's number of the file's weight format; -1 where the file does not say. */
    public val fileType: Int

    /**
     * Evaluate a batch, with no more rows than there are sequences. Returns nanoseconds spent inside llama.cpp.
     *
     * @throws EdgebException CANCELLED where it was interrupted: some of the batch may be in the cache then.
     */
    public fun decode(batch: TokenBatch): Long

    /** Whether a `decode` that runs, or the next one, is to end early. From any thread, until `close`. */
    public fun interrupt(wanted: Boolean)

    /**
     * Read logits of the last batch.
     *
     * @param rows Indices into that batch.
     * @param starts Tokens to read of row i are `tokens[starts[i]]` until `starts[i + 1]`.
     * @param logits Receives one logit per token.
     * @param logSumExp Receives, per row, the log-sum-exp over the vocabulary; null where nobody needs it.
     */
    public fun readRows(rows: IntArray, starts: IntArray, tokens: IntArray, logits: FloatArray, logSumExp: DoubleArray?)

    /**
     * Let sequence `to` share the cells of `from` at positions `start` (inclusive) to `end`; -1 is no limit. `to` holds
     * nothing from `start` on before.
     */
    public fun copySequence(from: Int, to: Int, start: Int, end: Int)

    /** Drop positions of a sequence; -1 is no limit. */
    public fun removeSequence(sequence: Int, start: Int, end: Int)

    /** Move positions of a sequence by `by`. */
    public fun shiftSequence(sequence: Int, start: Int, end: Int, by: Int)

    /** Largest position that a sequence holds; -1 where it is empty. */
    public fun lastPosition(sequence: Int): Int

    /** Empty the cache. */
    public fun clear()

    /** The cells of a sequence as bytes. */
    public fun saveSequence(sequence: Int): ByteArray

    /** Put saved bytes into a sequence; false, and an empty cache, where they are not what was saved. */
    public fun loadSequence(sequence: Int, state: ByteArray): Boolean
}
