package dev.edgeb.core

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder

// Not the magic of the Python side's files: those are hashed otherwise and hold another engine build's bytes.
private val MAGIC = byteArrayOf(69, 68, 71, 69, 66, 80, 72, 1) // EDGEBPH, version 1
private const val HASH_BYTES = 32
private const val HEAD_BYTES = 16

/** A JSON header and a blob of engine state. */
internal class State(val header: Any?, val blob: ByteArray)

/**
 * A file of engine state: hashed, and written as FILE.partial first.
 *
 * Damage is noticed before anything is handed to native code. Knows nothing of what header and blob mean.
 */
internal object StateFile {
    /** @throws EdgebException the file cannot be written; what was there before is kept. */
    fun write(path: File, header: Map<String, Any?>, blob: ByteArray) {
        val text = Json.write(header).toByteArray(Charsets.UTF_8)
        val head = ByteBuffer.allocate(HEAD_BYTES).order(ByteOrder.LITTLE_ENDIAN)
            .put(MAGIC).putLong(text.size.toLong()).array()
        val digest = sha256()
        for (part in listOf(head, text, blob)) digest.update(part)
        // Always the same name: what a process that died left is replaced, and can be found.
        val temporary = File(path.path + ".partial")
        try {
            FileOutputStream(temporary).use { file ->
                for (part in listOf(head, text, blob, digest.digest())) file.write(part)
                file.fd.sync()
            }
            if (!temporary.renameTo(path)) throw IOException("cannot rename $temporary")
        } catch (error: IOException) {
            throw EdgebException("cannot write $path: ${error.message}", "choose another place", ErrorCode.UNWRITABLE)
        } finally {
            temporary.delete()
        }
    }

    /** @throws EdgebException unreadable, not a state file of this version, cut short or changed. */
    fun read(path: File): State {
        val content = try {
            path.readBytes()
        } catch (error: IOException) {
            throw EdgebException("cannot read $path: ${error.message}", "check the path", ErrorCode.UNREADABLE)
        }
        if (content.size < MAGIC.size || !content.copyOf(MAGIC.size - 1).contentEquals(MAGIC.copyOf(MAGIC.size - 1))) {
            throw EdgebException(
                "$path is not a state file of edgeb", "pass a file written by Session.save", ErrorCode.NOT_A_BUNDLE
            )
        }
        if (content[MAGIC.size - 1] != MAGIC[MAGIC.size - 1]) {
            throw EdgebException(
                "$path was written by another version of edgeb", "start a new session", ErrorCode.UNSUPPORTED_VERSION
            )
        }
        val end = content.size - HASH_BYTES
        val whole = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN)
        val length = if (end < HEAD_BYTES) -1 else whole.getLong(MAGIC.size)
        val digest = sha256()
        digest.update(content, 0, maxOf(end, 0))
        val fits = length >= 0 && length <= end - HEAD_BYTES
        if (!fits || !digest.digest().contentEquals(content.copyOfRange(end, content.size))) {
            throw EdgebException("$path was changed or cut short", "the file is damaged: delete it", ErrorCode.DAMAGED)
        }
        val blobStart = HEAD_BYTES + length.toInt()
        val header = Json.parse(String(content, HEAD_BYTES, length.toInt(), Charsets.UTF_8), path.toString())
        return State(header, content.copyOfRange(blobStart, end))
    }
}
