package dev.edgeb.assistant.logic

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.io.StringReader
import java.io.StringWriter
import java.security.MessageDigest
import java.util.Properties

private const val CHUNK = 1 shl 20

/** Told how far a copy is. */
interface CopyListener {
    fun onCopied(bytes: Long)
}

/** There is not enough room for a file. */
class NoSpaceException(val needed: Long, val free: Long) : IOException("$needed bytes needed, $free free")

/** The file chosen holds nothing. */
class EmptyFileException : IOException("the file is empty")

/**
 * The app's model: a file, and beside it a record that it was checked as it is.
 *
 * A new model is copied under another name first, so that the old one stays until the new one was found to be good.
 *
 * @param room Bytes that the folder still takes.
 */
class ModelFile(private val folder: File, private val room: () -> Long = { folder.usableSpace }) {
    val file = File(folder, "model.gguf")
    private val incoming = File(folder, "model.incoming")
    private val record = File(folder, "model.properties")

    val exists: Boolean
        get() = file.isFile

    /** SHA-256 of the file as it was imported, in hex; null where the file is not the one that was imported. */
    val sha256: String?
        get() {
            val values = read() ?: return null
            val sameSize = values.getProperty(BYTES) == "${file.length()}"
            val sameTime = values.getProperty(TIME) == "${file.lastModified()}"
            return if (sameSize && sameTime) values.getProperty(HASH) else null
        }

    /** What the file was called where it was imported from; its own name where that is not known. */
    val name: String
        get() = read()?.getProperty(NAME) ?: file.name

    /**
     * Copy a file in. It is not the app's model before `accept`.
     *
     * @param source Closed by the caller.
     * @param size Of the source where known; else null.
     * @return The copy and its SHA-256.
     * @throws NoSpaceException where it will not fit.
     * @throws IOException where reading or writing fails; nothing is left of the copy then.
     */
    fun copy(source: InputStream, size: Long?, listener: CopyListener? = null): Copy {
        folder.mkdirs()
        incoming.delete()
        checkRoom(size ?: 0, size ?: 0)
        val digest = MessageDigest.getInstance("SHA-256")
        var total = 0L
        var done = false
        try {
            FileOutputStream(incoming).use { out ->
                val chunk = ByteArray(CHUNK)
                while (true) {
                    val count = source.read(chunk)
                    if (count < 0) break
                    // Another app may take what was there at the beginning.
                    checkRoom(count.toLong(), size ?: total + count)
                    out.write(chunk, 0, count)
                    digest.update(chunk, 0, count)
                    total += count
                    listener?.onCopied(total)
                }
                out.fd.sync()
            }
            if (total == 0L) throw EmptyFileException()
            if (size != null && size != total) throw IOException("$total of $size bytes arrived")
            done = true
        } finally {
            if (!done) incoming.delete()
        }
        return Copy(incoming, hex(digest.digest()))
    }

    /** Make a checked copy the app's model. `name` is what it was called. */
    fun accept(copy: Copy, name: String) {
        // A record of the old file must not outlive it.
        record.delete()
        AtomicFile.rename(copy.file, file)
        val values = Properties()
        values.setProperty(BYTES, "${file.length()}")
        values.setProperty(TIME, "${file.lastModified()}")
        values.setProperty(HASH, copy.sha256)
        values.setProperty(NAME, name)
        val text = StringWriter()
        values.store(text, null)
        AtomicFile.write(record, text.toString())
    }

    /** Throw a copy away that was found to be bad, or one that a crash left behind. */
    fun discard() {
        incoming.delete()
    }

    private fun checkRoom(more: Long, whole: Long) {
        val free = room()
        if (more > free) throw NoSpaceException(whole, free)
    }

    private fun read(): Properties? {
        if (!record.isFile) return null
        val values = Properties()
        return try {
            values.load(StringReader(record.readText()))
            values
        } catch (error: IOException) {
            null
        } catch (error: IllegalArgumentException) {
            null
        }
    }

    /** A file that was copied in, and the hash of its bytes. */
    class Copy(val file: File, val sha256: String)

    private companion object {
        const val BYTES = "bytes"
        const val TIME = "modified"
        const val HASH = "sha256"
        const val NAME = "name"

        fun hex(bytes: ByteArray): String = bytes.joinToString("") { String.format("%02x", it) }
    }
}
