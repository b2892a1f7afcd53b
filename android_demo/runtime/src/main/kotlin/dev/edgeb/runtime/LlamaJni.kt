package dev.edgeb.runtime

import dev.edgeb.core.EdgebException
import dev.edgeb.core.LlamaContext
import dev.edgeb.core.LlamaNative
import dev.edgeb.core.LlamaVocabulary
import dev.edgeb.core.NativeOptions
import dev.edgeb.core.TokenBatch
import java.io.File

// llama.cpp's log callback is global to the process: one thing that captures it at a time.
private val CAPTURING = Any()

/**
 * llama.cpp through JNI.
 *
 * @param backends Folder with llama.cpp's CPU variants where it was built with them (an app's nativeLibraryDir, with
 *   the libraries extracted); null where it was not.
 */
class LlamaJni @JvmOverloads constructor(backends: File? = null) : LlamaNative {
    init {
        loadEdgeb()
        if (backends != null) {
            synchronized(CAPTURING) { NativeLlama.loadBackends(backends.path.toByteArray(Charsets.UTF_8)) }
        }
    }

    override val version: String
        get() = String(NativeLlama.version(), Charsets.UTF_8)

    override fun open(model: File, options: NativeOptions): LlamaContext {
        val path = model.path.toByteArray(Charsets.UTF_8)
        try {
            val handle = synchronized(CAPTURING) {
                NativeLlama.open(path, options.contextSize, options.maxSequences, options.threads, options.exactCache)
            }
            return JniContext(handle)
        } catch (error: EdgebException) {
            throw EdgebException("$model: ${error.message}", error.hint)
        }
    }

    override fun openVocabulary(file: File): LlamaVocabulary {
        val path = file.path.toByteArray(Charsets.UTF_8)
        return JniVocabulary(synchronized(CAPTURING) { NativeLlama.openVocabulary(path) })
    }
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
