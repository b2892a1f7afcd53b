package dev.edgeb.runtime

import dev.edgeb.core.EdgebException
import dev.edgeb.core.LlamaContext
import dev.edgeb.core.LlamaNative
import dev.edgeb.core.LlamaVocabulary
import dev.edgeb.core.ModelSource
import dev.edgeb.core.NativeOptions
import dev.edgeb.core.TokenBatch
import java.io.File
import java.nio.ByteBuffer

// llama.cpp's log callback is global to the process: one thing that captures it at a time.
private val CAPTURING = Any()

/**
 * llama.cpp through JNI. Make one per process.
 *
 * On Android llama.cpp's log goes to logcat, tag `llama.cpp`.
 *
 * @param backends Folder with llama.cpp's CPU variants where the system's loader does not find them by name; null in an
 *   app, and where it was built without them.
 */
public class LlamaJni @JvmOverloads constructor(backends: File? = null) : LlamaNative {
    init {
        loadEdgeb()
        synchronized(CAPTURING) { NativeLlama.loadBackends(backends?.let { utf8(it.path) }) }
    }

    override val version: String
        get() = String(NativeLlama.version(), Charsets.UTF_8)

    override fun open(model: ModelSource, options: NativeOptions): LlamaContext {
        val place = NativePlace.of(model)
        try {
            val handle = synchronized(CAPTURING) {
                NativeLlama.open(
                    place.path, place.descriptor, place.start, place.content,
                    options.contextSize, options.maxSequences, options.threads, options.exactCache
                )
            }
            return JniContext(handle)
        } catch (error: EdgebException) {
            throw EdgebException("$model: ${error.message}", error.hint, error.code)
        }
    }

    override fun openVocabulary(content: ByteBuffer): LlamaVocabulary =
        JniVocabulary(synchronized(CAPTURING) { NativeLlama.openVocabulary(content) })
}

/** A vocabulary behind a handle; 0 once it is closed. */
private class JniVocabulary(private var handle: Long) : LlamaVocabulary {
    override val vocabularySize: Int = NativeLlama.vocabularySize(handle)

    override fun tokenize(utf8: ByteArray): IntArray = NativeLlama.tokenize(handle, utf8)

    override fun close() {
        if (handle != 0L) synchronized(CAPTURING) { NativeLlama.free(handle) }
        handle = 0
    }
}

/** A model behind a handle; 0 once it is closed, which the native side refuses. */
private class JniContext(private var handle: Long) : LlamaContext {
    override val vocabularySize: Int = NativeLlama.vocabularySize(handle)

    override val fileType: Int = NativeLlama.fileType(handle)

    override fun tokenize(utf8: ByteArray): IntArray = NativeLlama.tokenize(handle, utf8)

    override fun decode(batch: TokenBatch): Long =
        NativeLlama.decode(handle, batch.tokens, batch.positions, batch.starts, batch.sequences, batch.wantsLogits)

    override fun interrupt(wanted: Boolean) = NativeLlama.interrupt(handle, wanted)

    override fun readRows(
        rows: IntArray,
        starts: IntArray,
        tokens: IntArray,
        logits: FloatArray,
        logSumExp: DoubleArray?
    ) = NativeLlama.readRows(handle, rows, starts, tokens, logits, logSumExp)

    override fun copySequence(from: Int, to: Int, start: Int, end: Int) =
        NativeLlama.copySequence(handle, from, to, start, end)

    override fun removeSequence(sequence: Int, start: Int, end: Int) =
        NativeLlama.removeSequence(handle, sequence, start, end)

    override fun shiftSequence(sequence: Int, start: Int, end: Int, by: Int) =
        NativeLlama.shiftSequence(handle, sequence, start, end, by)

    override fun lastPosition(sequence: Int): Int = NativeLlama.lastPosition(handle, sequence)

    override fun clear() = NativeLlama.clear(handle)

    override fun saveSequence(sequence: Int): ByteArray = NativeLlama.saveSequence(handle, sequence)

    override fun loadSequence(sequence: Int, state: ByteArray): Boolean =
        synchronized(CAPTURING) { NativeLlama.loadSequence(handle, sequence, state) }

    override fun close() {
        if (handle != 0L) synchronized(CAPTURING) { NativeLlama.free(handle) }
        handle = 0
    }
}
