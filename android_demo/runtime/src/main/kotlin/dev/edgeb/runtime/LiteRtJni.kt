package dev.edgeb.runtime

import dev.edgeb.core.EdgebException
import dev.edgeb.core.LiteRtArray
import dev.edgeb.core.LiteRtModel
import dev.edgeb.core.LiteRtNative
import dev.edgeb.core.LiteRtOptions
import dev.edgeb.core.ModelSource
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * LiteRT through JNI. Make one per process: LiteRT is opened with the first bundle, and stays.
 *
 * @param library LiteRT's library: a name that the app packages, or a path.
 * @param accelerators Folder with LiteRT's accelerators where the loader does not find them by name; null in an app.
 * @property npuLibraries Folder where the app's libraries lie as files, those for the NPU among them; null where the app
 *   does not use it.
 */
public class LiteRtJni @JvmOverloads constructor(
    library: String = "libLiteRt.so",
    accelerators: File? = null,
    override val npuLibraries: File? = null
) : LiteRtNative {
    private val runtime: Long by lazy {
        loadEdgeb()
        NativeLiteRt.openRuntime(
            utf8(library), utf8(accelerators?.path.orEmpty()), utf8(npuLibraries?.path.orEmpty())
        )
    }

    override val version: String = "LiteRT"

    override fun open(model: ModelSource, options: LiteRtOptions): LiteRtModel {
        val place = NativePlace.of(model)
        try {
            return JniModel(
                NativeLiteRt.open(
                    runtime, place.path, place.descriptor, place.start, place.length, place.content,
                    options.threads, options.accelerator.ordinal
                ),
                place.content
            )
        } catch (error: EdgebException) {
            throw EdgebException("$model: ${error.message}", error.hint, error.code)
        }
    }
}

/**
 * A compiled model behind a handle; 0 once it is closed, which the native side refuses.
 *
 * @param weights Memory that LiteRT reads them from, which must not go before.
 */
private class JniModel(private var handle: Long, private var weights: ByteBuffer?) : LiteRtModel {
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

    override fun interrupt(wanted: Boolean) = NativeLiteRt.interrupt(handle, wanted)

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
        weights = null
    }
}

internal fun utf8(text: String): ByteArray = text.toByteArray(Charsets.UTF_8)
