package dev.edgeb.runtime

import dev.edgeb.core.Accelerator
import dev.edgeb.core.EdgebException
import dev.edgeb.core.LiteRtArray
import dev.edgeb.core.LiteRtModel
import dev.edgeb.core.LiteRtNative
import dev.edgeb.core.LiteRtOptions
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * LiteRT through JNI. Make one per process: LiteRT is opened with the first bundle, and stays.
 *
 * @param library LiteRT's library: a name that the app packages, or a path.
 * @param accelerators Folder with LiteRT's accelerators where the loader does not find them by name; null in an app.
 */
class LiteRtJni @JvmOverloads constructor(library: String = "libLiteRt.so", accelerators: File? = null) : LiteRtNative {
    private val runtime: Long by lazy {
        loadEdgeb()
        NativeLiteRt.openRuntime(utf8(library), utf8(accelerators?.path.orEmpty()))
    }

    override val version = "LiteRT"

    override fun open(model: File, options: LiteRtOptions): LiteRtModel {
        try {
            val onGpu = options.accelerator == Accelerator.GPU
            return JniModel(NativeLiteRt.open(runtime, utf8(model.path), options.threads, onGpu))
        } catch (error: EdgebException) {
            throw EdgebException("$model: ${error.message}", error.hint)
        }
    }
}

/** A compiled model behind a handle; 0 once it is closed, which the native side refuses. */
private class JniModel(private var handle: Long) : LiteRtModel {
    override fun memory(bytes: Int): ByteBuffer = NativeLiteRt.memory(handle, bytes).order(ByteOrder.nativeOrder())

    override fun bind(signature: String, inputs: List<LiteRtArray>, outputs: List<LiteRtArray>): Int {
        val arrays = inputs + outputs
        return NativeLiteRt.bind(
            handle, utf8(signature), inputs.size,
            Array(arrays.size) { utf8(arrays[it].tensor.name) },
            Array(arrays.size) { arrays[it].tensor.shape },
            BooleanArray(arrays.size) { arrays[it].tensor.whole },
            Array(arrays.size) { arrays[it].memory }
        )
    }

    override fun run(bound: Int): Long = NativeLiteRt.run(handle, bound)

    override fun readRows(
        memory: ByteBuffer,
        width: Int,
        rows: IntArray,
        starts: IntArray,
        tokens: IntArray,
        logits: FloatArray,
        logSumExp: DoubleArray?
    ) = NativeLiteRt.readRows(handle, memory, width, rows, starts, tokens, logits, logSumExp)

    override fun close() {
        if (handle != 0L) NativeLiteRt.free(handle)
        handle = 0
    }
}

private fun utf8(text: String): ByteArray = text.toByteArray(Charsets.UTF_8)
