package dev.edgeb.core

import java.io.Closeable
import java.io.File
import java.nio.ByteBuffer

/** What evaluates a model. llama.cpp's bundles run on the CPU. */
public enum class Accelerator(public val text: String) {
    CPU("cpu"),
    GPU("gpu"),

    /** Qualcomm's, with a context that was compiled for it; embeddings are looked up on the CPU. */
    NPU("npu")
}

/**
 * How LiteRT evaluates.
 *
 * @property threads CPU threads.
 * @property accelerator What all of the model is to run on.
 */
public data class LiteRtOptions(val threads: Int, val accelerator: Accelerator)

/** LiteRT as this library needs it; `dev.edgeb.runtime.LiteRtJni` is the one that runs. */
public interface LiteRtNative {
    /** Engine and version. */
    public val version: String

    /** Folder of LiteRT's and Qualcomm's libraries for the NPU; null where the app has none. */
    public val npuLibraries: File?

    /**
     * Compile a LiteRT file; what lies behind the model is ignored.
     *
     * @throws EdgebException LiteRT cannot load it, or the accelerator does not take all of it.
     */
    public fun open(model: ModelSource, options: LiteRtOptions): LiteRtModel
}

/** Names, types and shapes of a signature's tensors are known to `LiteRtGraph` alone. */
public class LiteRtTensor(public val name: String, public val shape: IntArray, public val whole: Boolean = false) {
    /** Values of four bytes: int32 where `whole`, else float32. */
    public val size: Int
        get() = shape.fold(1) { product, length -> product * length }
}

/** A tensor and memory of `LiteRtModel.memory` for it. */
public class LiteRtArray(public val tensor: LiteRtTensor, public val memory: ByteBuffer)

/**
 * A compiled model. Not for several threads at once.
 *
 * Every method throws an EdgebException where LiteRT fails or the model is closed.
 */
public interface LiteRtModel : Closeable {
    /** Zeroed direct memory in native byte order, which LiteRT uses in place; gone once the model is closed. */
    public fun memory(bytes: Int): ByteBuffer

    /**
     * Prepare a signature to read and write these arrays.
     *
     * @param inputs Those that the signature does not take are left out.
     * @param outputs All that it gives.
     * @return The number `run` takes.
     * @throws EdgebException the file has no such signature, or one with other tensors.
     */
    public fun bind(signature: String, inputs: List<LiteRtArray>, outputs: List<LiteRtArray>): Int

    /**
     * Run a prepared signature once. Returns nanoseconds spent inside LiteRT.
     *
     * @throws EdgebException CANCELLED where it was interrupted: what it wrote so far is of no use.
     */
    public fun run(bound: Int): Long

    /** Whether a `run` that is under way, or the next one, is to end early. From any thread, until `close`. */
    public fun interrupt(wanted: Boolean)

    /**
     * Read values of rows that a run wrote, as `LlamaContext.readRows` does.
     *
     * @param memory Rows of `width` float32, one behind the other.
     */
    public fun readRows(
        memory: ByteBuffer,
        width: Int,
        rows: IntArray,
        starts: IntArray,
        tokens: IntArray,
        logits: FloatArray,
        logSumExp: DoubleArray?
    )
}
