package dev.edgeb.core

import java.io.Closeable
import java.io.File
import java.io.FileDescriptor
import java.io.FileInputStream
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.channels.FileChannel

/**
 * Where a bundle's bytes lie. Has to stay as it is while the bundle is open: weights are mapped, not copied.
 *
 * @property name What errors and benchmarks call the bundle.
 */
public sealed class ModelSource(public val name: String) {
    /** Open it for reading at any place. @throws EdgebException it cannot be read. */
    internal abstract fun open(): Bytes

    /** A file of its own. */
    public class InFile internal constructor(public val path: File, name: String) : ModelSource(name) {
        override fun open(): Bytes {
            if (path.isDirectory) {
                throw EdgebException(
                    "$path is a folder, not a GGUF file", "pass the .gguf or .tflite file that edgeb export wrote",
                    ErrorCode.NOT_A_BUNDLE
                )
            }
            return try {
                FileBytes(RandomAccessFile(path, "r"))
            } catch (error: IOException) {
                throw unreadable(error)
            }
        }

        override fun toString(): String = path.toString()
    }

    /**
     * A stretch of an open file, such as an asset that the package holds uncompressed. The descriptor stays the
     * caller's, and is no longer needed once `Predictor.load` has returned.
     *
     * @property start First byte.
     * @property length Bytes; -1 for all that follow.
     */
    public class InDescriptor internal constructor(
        public val descriptor: FileDescriptor,
        public val start: Long,
        public val length: Long,
        name: String
    ) : ModelSource(name) {
        override fun open(): Bytes = try {
            DescriptorBytes(FileInputStream(descriptor).channel, start, length)
        } catch (error: IOException) {
            throw unreadable(error)
        }

        override fun toString(): String = name
    }

    /** Memory, from its position to its limit. llama.cpp reads from direct memory only, and copies the weights. */
    public class InBuffer internal constructor(public val content: ByteBuffer, name: String) : ModelSource(name) {
        override fun open(): Bytes = BufferBytes(content)

        override fun toString(): String = name
    }

    internal fun unreadable(error: IOException) = EdgebException(
        "cannot read $this: ${error.message}", "pass a file that edgeb export wrote", ErrorCode.UNREADABLE
    )

    public companion object {
        /** A bundle's file. @param name What a benchmark calls it. */
        @JvmStatic
        @JvmOverloads
        public fun file(path: File, name: String = path.name): ModelSource = InFile(path, name)

        /**
         * A stretch of an open file: `start` and `length` are those of an AssetFileDescriptor, 0 and -1 a whole file's.
         *
         * @throws EdgebException a stretch that no file has.
         */
        @JvmStatic
        public fun descriptor(descriptor: FileDescriptor, start: Long, length: Long, name: String): ModelSource {
            if (start < 0 || length < -1) {
                throw EdgebException(
                    "$name: $length bytes from $start on are no part of a file", "pass 0 and -1 for a whole file"
                )
            }
            return InDescriptor(descriptor, start, length, name)
        }

        /** A buffer's bytes from its position to its limit. Nobody may write to them while the bundle is open. */
        @JvmStatic
        public fun buffer(content: ByteBuffer, name: String): ModelSource = InBuffer(content.slice(), name)
    }
}

/** Bytes that can be read at any place. Not for several threads at once. */
internal interface Bytes : Closeable {
    val size: Long

    /** Fill a part of `target`. @throws IOException the bytes end before. */
    fun read(at: Long, target: ByteArray, offset: Int, count: Int)
}

private class FileBytes(private val file: RandomAccessFile) : Bytes {
    override val size: Long = file.length()

    override fun read(at: Long, target: ByteArray, offset: Int, count: Int) {
        file.seek(at)
        file.readFully(target, offset, count)
    }

    override fun close() = file.close()
}

private class DescriptorBytes(private val file: FileChannel, private val start: Long, length: Long) : Bytes {
    override val size: Long = if (length < 0) file.size() - start else length

    override fun read(at: Long, target: ByteArray, offset: Int, count: Int) {
        val into = ByteBuffer.wrap(target, offset, count)
        while (into.hasRemaining()) {
            // At a place of its own: the descriptor's is the caller's.
            if (at + count > size || file.read(into, start + at + into.position() - offset) < 0) {
                throw IOException("it ends before byte ${at + count}")
            }
        }
    }

    // The descriptor is the caller's.
    override fun close() = Unit
}

private class BufferBytes(private val content: ByteBuffer) : Bytes {
    override val size: Long = content.remaining().toLong()

    override fun read(at: Long, target: ByteArray, offset: Int, count: Int) {
        if (at + count > size) throw IOException("it ends before byte ${at + count}")
        val from = content.duplicate()
        (from as Buffer).position(at.toInt())
        from.get(target, offset, count)
    }

    override fun close() = Unit
}
