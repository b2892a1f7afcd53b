package dev.edgeb.runtime

import android.content.Context
import android.content.res.AssetFileDescriptor
import android.net.Uri
import android.os.Build
import dev.edgeb.core.EdgebException
import dev.edgeb.core.ErrorCode
import dev.edgeb.core.ModelSource
import dev.edgeb.core.NativeEngines
import dev.edgeb.core.NpuContexts
import dev.edgeb.core.NpuOptions
import java.io.Closeable
import java.io.File
import java.io.IOException

/** The engines of an Android app. Make them once per process, off the main thread: libraries are loaded. */
public fun nativeEngines(context: Context): NativeEngines {
    val libraries = File(context.applicationInfo.nativeLibraryDir)
    return NativeEngines(LlamaJni(libraries), LiteRtJni(npuLibraries = libraries))
}

/** This phone's NPU, for `LoadOptions.npu`. @param contexts See [NpuOptions.contexts]. */
@JvmOverloads
public fun npuOptions(contexts: NpuContexts? = null): NpuOptions {
    val chip = try {
        // Android 12 is the first that has it; this is also compiled against Android 6 (prove/apk.sh).
        Build::class.java.getField("SOC_MODEL").get(null) as String
    } catch (error: NoSuchFieldException) {
        ""
    }
    return NpuOptions(chip, contexts)
}

/**
 * A bundle that Android keeps for an app, opened for `Predictor.load`, which no longer needs it when it returns:
 * `OpenedModel.asset(context, "mine.gguf").use { Predictor.load(it.source, engines) }`.
 *
 * @property source What to load.
 */
public class OpenedModel private constructor(private val descriptor: AssetFileDescriptor, name: String) : Closeable {
    public val source: ModelSource =
        ModelSource.descriptor(descriptor.fileDescriptor, descriptor.startOffset, descriptor.length, name)

    override fun close(): Unit = descriptor.close()

    public companion object {
        /**
         * A bundle in the package's `assets`, stored uncompressed: `androidResources { noCompress += "gguf" }`.
         *
         * @throws EdgebException it is not there, or compressed.
         */
        @JvmStatic
        public fun asset(context: Context, path: String): OpenedModel = opened(path, "store it uncompressed") {
            context.assets.openFd(path)
        }

        /**
         * A document that the user chose, without copying it. It has to stay where it is while the predictor is open.
         *
         * @param name What errors and benchmarks call it.
         * @throws EdgebException the app that has it does not give it, or not as a file.
         */
        @JvmStatic
        public fun document(context: Context, uri: Uri, name: String): OpenedModel = opened(name, "copy it first") {
            context.contentResolver.openAssetFileDescriptor(uri, "r")
        }

        private inline fun opened(name: String, hint: String, open: () -> AssetFileDescriptor?): OpenedModel {
            val found = try {
                open()
            } catch (error: IOException) {
                throw EdgebException("cannot open $name: ${error.message}", hint, ErrorCode.UNREADABLE)
            } catch (error: SecurityException) {
                throw EdgebException("may not open $name: ${error.message}", hint, ErrorCode.UNREADABLE)
            }
            return OpenedModel(found ?: throw EdgebException("$name is gone", hint, ErrorCode.UNREADABLE), name)
        }
    }
}
