package dev.edgeb.runtime

import java.io.FileDescriptor
import java.nio.ByteBuffer

/** The functions of litert_jni.cpp. Handles come from the first two; each throws an EdgebException on failure. */
internal object NativeLiteRt {
    /** Empty folders are none. */
    external fun openRuntime(library: ByteArray, folder: ByteArray, npuFolder: ByteArray): Long

    /** One of path, descriptor and content; `start` and `length` are the descriptor's, `accelerator` an ordinal. */
    external fun open(
        runtime: Long,
        path: ByteArray?,
        descriptor: FileDescriptor?,
        start: Long,
        length: Long,
        content: ByteBuffer?,
        threads: Int,
        accelerator: Int
    ): Long

    external fun interrupt(handle: Long, wanted: Boolean)

    external fun free(handle: Long)

    external fun memory(handle: Long, bytes: Int): ByteBuffer

    /** The first `inputs` arrays go in, the others come out. */
    external fun bind(
        handle: Long,
        signature: ByteArray,
        inputs: Int,
        names: Array<ByteArray>,
        shapes: Array<IntArray>,
        whole: BooleanArray,
        memories: Array<ByteBuffer>
    ): Int

    external fun run(handle: Long, bound: Int): Long

    external fun readRows(
        handle: Long,
        memory: ByteBuffer,
        width: Int,
        rows: IntArray,
        starts: IntArray,
        tokens: IntArray,
        logits: FloatArray,
        logSumExp: DoubleArray?
    )
}
