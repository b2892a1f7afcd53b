package dev.edgeb.core

import java.io.File
import java.io.IOException
import java.security.DigestInputStream

private const val EXPORT_HINT = "export it again with --npu"
private const val COPY_HINT = "copy or export it again"
private const val CHUNK = 1 shl 20

// Qualcomm's libraries hold the name of their build as text.
private val BUILD = Regex("v(\\d+\\.\\d+\\.\\d+)\\.\\d{12}")
private const val BUILD_BYTES = 64

/** A bundle's contexts, wherever they come from, read and checked. */
internal class NpuFiles(private val from: NpuContexts, private val model: ModelSource) {
    /** What `npu.json` says. @throws EdgebException there is none, it is damaged, or of another bundle. */
    fun list(bundleSha256: String): NpuFolder {
        val file = fetched(NPU_FILE)
        if (!file.isFile) {
            throw EdgebException(
                "$model has no contexts for an NPU: there is no $file", EXPORT_HINT, ErrorCode.ACCELERATOR_REFUSED
            )
        }
        val found = NpuFolder.of(reading(file) { it.readText() }, file.path)
        if (found.bundleSha256 != bundleSha256) {
            throw EdgebException(
                "$file was compiled from another bundle than $model", EXPORT_HINT, ErrorCode.ACCELERATOR_REFUSED
            )
        }
        return found
    }

    /** A context's file, once every byte of it has been checked. @throws EdgebException it is missing or changed. */
    fun context(context: NpuContext): File {
        val file = fetched(context.file)
        if (!file.isFile) throw EdgebException("there is no $file", COPY_HINT, ErrorCode.ACCELERATOR_REFUSED)
        if (file.length() < context.bytes) {
            throw EdgebException(
                "$file is cut short: ${file.length()} of ${context.bytes} bytes", COPY_HINT, ErrorCode.DAMAGED
            )
        }
        if (file.length() != context.bytes || reading(file, ::hashOf) != context.sha256) {
            throw EdgebException("$file does not match its hash", DAMAGED_HINT, ErrorCode.DAMAGED)
        }
        return file
    }

    private fun fetched(name: String): File = try {
        from.file(name)
    } catch (error: IOException) {
        throw EdgebException("cannot get $name for $model: ${error.message}", COPY_HINT, ErrorCode.UNREADABLE)
    }
}

/**
 * Version of QNN of the run time that an app packages.
 *
 * @param libraries Folder of Qualcomm's and LiteRT's libraries; null where the app has none.
 * @throws EdgebException a library that the chip needs is missing, or the run time does not say its version.
 */
internal fun runTimeVersion(libraries: File?, chip: NpuChip): String {
    val missing = chip.libraries.filter { libraries == null || !File(libraries, it).isFile }
    if (missing.isNotEmpty()) {
        throw EdgebException(
            "the app packages no ${missing.joinToString()}",
            "depend on litert-npu-runtime-qualcomm and qnn-runtime, and have libraries extracted (docs/android.md)",
            ErrorCode.ENGINE_MISSING
        )
    }
    val file = File(libraries, NpuChip.RUN_TIME)
    return reading(file, ::buildOf) ?: throw EdgebException(
        "$file does not say its version", "package com.qualcomm.qti:qnn-runtime", ErrorCode.ACCELERATOR_REFUSED
    )
}

/** The version in a library's text; null where there is none. */
private fun buildOf(library: File): String? {
    var found: String? = null
    library.inputStream().use { stream ->
        val chunk = ByteArray(CHUNK)
        var text = ""
        var count = stream.read(chunk)
        while (count >= 0 && found == null) {
            // What stands across two chunks is in the next one's text.
            text = text.takeLast(BUILD_BYTES) + String(chunk, 0, count, Charsets.ISO_8859_1)
            found = BUILD.find(text)?.groupValues?.get(1)
            count = stream.read(chunk)
        }
    }
    return found
}

private fun hashOf(file: File): String {
    val digest = sha256()
    DigestInputStream(file.inputStream(), digest).use { stream ->
        val chunk = ByteArray(CHUNK)
        while (stream.read(chunk) >= 0) Unit
    }
    return hex(digest.digest())
}

private fun <T> reading(file: File, work: (File) -> T): T = try {
    work(file)
} catch (error: IOException) {
    throw EdgebException("cannot read $file: ${error.message}", COPY_HINT, ErrorCode.UNREADABLE)
}
