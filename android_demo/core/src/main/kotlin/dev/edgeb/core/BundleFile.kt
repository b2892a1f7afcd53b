package dev.edgeb.core

import java.io.Closeable
import java.io.File
import java.security.MessageDigest

/** Reads and verifies a bundle: a GGUF or a LiteRT file, told apart by its first bytes. */
public object BundleFile {
    /**
     * Read a bundle's manifest, without reading vocabulary or weights.
     *
     * @throws EdgebException not there, neither kind, cut short, no bundle, or a manifest this edgeb refuses.
     */
    @JvmStatic
    public fun read(source: ModelSource): BundleManifest = open(source).use { it.manifest }

    /** `read` of a file. */
    @JvmStatic
    public fun read(path: File): BundleManifest = read(ModelSource.file(path))

    /**
     * Check every byte of a bundle against its manifest's hashes and return the manifest.
     *
     * @throws EdgebException as `read`, or the file was truncated or changed since it was written.
     */
    @JvmStatic
    public fun verify(source: ModelSource): BundleManifest = open(source).use { file ->
        file.verify()
        file.manifest
    }

    /** `verify` of a file. */
    @JvmStatic
    public fun verify(path: File): BundleManifest = verify(ModelSource.file(path))

    /** Open a bundle of either kind. @throws EdgebException as `read`. */
    internal fun open(source: ModelSource): OpenBundle =
        if (LiteRtFile.isOne(source)) LiteRtFile(source) else GgufBundle(source)
}

/** A bundle's file opened for reading. */
internal interface OpenBundle : Closeable {
    val manifest: BundleManifest

    /** Bytes of the whole file. */
    val bytes: Long

    /** What people in general do; null where the bundle has no table. @throws EdgebException it is damaged. */
    fun population(): PopulationTable?

    /** Check every byte against the manifest's hashes. @throws EdgebException the file was changed. */
    fun verify()
}

internal fun sha256(): MessageDigest = MessageDigest.getInstance("SHA-256")

internal fun hex(bytes: ByteArray): String {
    val digits = "0123456789abcdef"
    val text = StringBuilder()
    for (byte in bytes) text.append(digits[(byte.toInt() shr 4) and 15]).append(digits[byte.toInt() and 15])
    return text.toString()
}
