package dev.edgeb.core

import java.io.Closeable
import java.io.File
import java.nio.ByteBuffer

/** What evaluates a model. llama.cpp's bundles run on the CPU. */
enum class Accelerator(val text: String) {
    CPU("cpu"),
    GPU("gpu")
}

/**
 * How LiteRT evaluates.
 *
 * @property threads CPU threads.
 * @property accelerator What all of the model is to run on.
 */
data class LiteRtOptions(val threads: Int, val accelerator: Accelerator)

/** LiteRT as this library needs it; `dev.edgeb.runtime.LiteRtJni` is the one that runs. */
interface LiteRtNative {
    /** Engine and version. */
    val version: String

    /**
     * Compile a LiteRT file; what lies behind the model is ignored.
     *
     * @throws EdgebException LiteRT cannot load it, or the accelerator does not take all of it.
     */
    fun open(model: File, options: LiteRtOptions): LiteRtModel
}

/** Names, types and shapes of a signature's tensors are known to `LiteRtGraph` alone. */
class LiteRtTensor(val name: String, val shape: IntArray, val whole: Boolean = false) {
    /** Values of four bytes: int32 where `whole`, else float32. */
    val size: Int
        get() = shape.fold(1) { product, length -> product * length }
}

/** A tensor and memory of `LiteRtModel.memory` for it. */
class LiteRtArray(val tensor: LiteRtTensor, val memory: ByteBuffer)

/**
 * A compiled model. Not for several threads at once.
 *
 * Every method throws an EdgebException where LiteRT fails or the model is closed.
 */
interface LiteRtModel : Closeable {
    /** Zeroed direct memory in native byte order, which LiteRT uses in place; gone once the model is closed. */
    fun memory(bytes: Int): ByteBuffer

    /**
     * Prepare a signature to read and write these arrays.
     *
     * @param inputs Those that the signature does not take are left out.
     * @param outputs All that it gives.
     * @return The number `run` takes.
     * @throws EdgebException the file has no such signature, or one with other tensors.
     */
    fun bind(signature: String, inputs: List<LiteRtArray>, outputs: List<LiteRtArray>): Int

    /** Run a prepared signature once. Returns nanoseconds spent inside LiteRT. */
    fun run(bound: Int): Long

    /**
     * Read values of rows that a run wrote, as `LlamaContext.readRows` does.
     *
     * @param memory Rows of `width` float32, one behind the other.
     */
    fun readRows(
        memory: ByteBuffer,
        width: Int,
        rows: IntArray,
        starts: IntArray,
        tokens: IntArray,
        logits: FloatArray,
        logSumExp: DoubleArray?
    )
}
