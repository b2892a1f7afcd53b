package dev.edgeb.runtime

import dev.edgeb.core.LlamaContext
import dev.edgeb.core.LlamaNative
import dev.edgeb.core.NativeOptions
import java.io.File

/**
 * llama.cpp through JNI.
 *
 * @param backends Folder with llama.cpp's CPU variants where it was built with them (an app's nativeLibraryDir); null
 *   where it was not.
 */
class LlamaJni @JvmOverloads constructor(backends: File? = null) : LlamaNative {
    override val version: String
        get() = TODO()

    override fun open(model: File, options: NativeOptions): LlamaContext = TODO()
}
