package dev.edgeb.runtime

import java.io.FileDescriptor
import java.nio.ByteBuffer

/** The functions of llama_jni.cpp. Handles come from `open`; each throws an EdgebException on failure. */
internal object NativeLlama {
    /** Load the CPU's code: from a folder, else by the names of what was built; twice does no harm. */
    external fun loadBackends(folder: ByteArray?)

    /** One of path, descriptor and content; `start` is the descriptor's. */
    external fun open(
        path: ByteArray?,
        descriptor: FileDescriptor?,
        start: Long,
        content: ByteBuffer?,
        contextSize: Int,
        maxSequences: Int,
        threads: Int,
        exactCache: Boolean
    ): Long

    external fun openVocabulary(content: ByteBuffer): Long

    external fun interrupt(handle: Long, wanted: Boolean)

    external fun free(handle: Long)

    external fun vocabularySize(handle: Long): Int

    external fun fileType(handle: Long): Int

    external fun tokenize(handle: Long, utf8: ByteArray): IntArray

    external fun decode(
        handle: Long,
        tokens: IntArray,
        positions: IntArray,
        starts: IntArray,
        sequences: IntArray,
        wantsLogits: BooleanArray
    ): Long

    external fun readRows(
        handle: Long,
        rows: IntArray,
        starts: IntArray,
        tokens: IntArray,
        logits: FloatArray,
        logSumExp: DoubleArray?
    )

    external fun copySequence(handle: Long, from: Int, to: Int, start: Int, end: Int)

    external fun removeSequence(handle: Long, sequence: Int, start: Int, end: Int)

    external fun shiftSequence(handle: Long, sequence: Int, start: Int, end: Int, by: Int)

    external fun lastPosition(handle: Long, sequence: Int): Int

    external fun clear(handle: Long)

    external fun saveSequence(handle: Long, sequence: Int): ByteArray

    external fun loadSequence(handle: Long, sequence: Int, state: ByteArray): Boolean

    external fun version(): ByteArray
}
