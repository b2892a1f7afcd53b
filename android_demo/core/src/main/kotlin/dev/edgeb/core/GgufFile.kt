package dev.edgeb.core

import java.io.Closeable
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.CharacterCodingException
import java.security.MessageDigest

private const val WINDOW = 1 shl 16
private const val CHUNK = 1 shl 20
private const val DEFAULT_ALIGNMENT = 32L
private const val MAX_KEY = 65_535L
private const val MAX_TEXT = 64L shl 20
private const val MAX_DIMENSIONS = 4
private const val TYPE_UINT8 = 0L
private const val TYPE_UINT32 = 4
private const val TYPE_INT32 = 5
private const val TYPE_STRING = 8
private const val TYPE_ARRAY = 9
private val SIZES = mapOf(0 to 1, 1 to 1, 2 to 2, 3 to 2, 4 to 4, 5 to 4, 6 to 4, 7 to 1, 10 to 8, 11 to 8, 12 to 8)
private const val COPY_HINT = "copy or export it again"

/** One metadata key: its value's type number, and the bytes `start` (of the entry), `value` and `end`. */
internal class GgufEntry(val key: String, val kind: Int, val start: Long, val value: Long, val end: Long)

/** One tensor: its shape as stored, the fastest dimension first, its type's number, and its offset in the data. */
internal class GgufTensor(val name: String, val shape: List<Long>, val kind: Int, val offset: Long)

/** The bytes of the tensor table, where the aligned data section starts, and the tensors. */
internal class GgufTensors(val start: Long, val end: Long, val dataStart: Long, val listed: List<GgufTensor>)

/**
 * A GGUF file opened for reading its header.
 *
 * Every length is checked against the file before it is believed, so a damaged or hostile file ends in an
 * EdgebException. Long arrays are stepped over, not read. Knows nothing of bundles, models or tokenizers.
 */
internal class GgufFile(private val source: ModelSource) : Closeable {
    private val file = source.open()
    private val window = ByteArray(WINDOW)
    private var windowStart = 0L
    private var windowSize = 0
    private var at = 0L
    private val tensorCount: Long
    private val entryCount: Long
    private val firstEntry: Long
    val size: Long

    init {
        try {
            size = file.size
            val magic = "GGUF".toByteArray(Charsets.US_ASCII)
            if (size < magic.size || !bytes(0, magic.size).contentEquals(magic)) {
                throw EdgebException(
                    "$source is not a GGUF file", "pass the .gguf or .tflite file that edgeb export wrote",
                    ErrorCode.NOT_A_BUNDLE
                )
            }
            at = magic.size.toLong()
            val version = u32("version")
            if (version != 2L && version != 3L) {
                throw EdgebException(
                    "$source has GGUF version $version", "this edgeb reads versions 2 and 3; update it",
                    ErrorCode.UNSUPPORTED_VERSION
                )
            }
            tensorCount = u64("tensor count")
            entryCount = u64("metadata count")
            firstEntry = at
        } catch (error: Throwable) {
            file.close()
            throw error
        }
    }

    /** Visit metadata entries in file order until `visit` returns false. */
    fun metadata(visit: (GgufEntry) -> Boolean) {
        var next = firstEntry
        var number = 0L
        while (number < entryCount) {
            at = next
            val key = string("metadata key $number", MAX_KEY)
            val kind = u32("type of '$key'").toInt()
            val value = at
            skip(kind, key)
            val entry = GgufEntry(key, kind, next, value, at)
            next = at
            if (!visit(entry)) return
            number++
        }
    }

    /** A text value. @throws EdgebException it is of another type. */
    fun text(entry: GgufEntry): String {
        if (entry.kind != TYPE_STRING) throw damaged("'${entry.key}' is no text")
        at = entry.value
        return string("'${entry.key}'", MAX_TEXT)
    }

    /** A value of 32 bits. @throws EdgebException it is of another type. */
    fun number(entry: GgufEntry): Long {
        if (entry.kind != TYPE_UINT32 && entry.kind != TYPE_INT32) throw damaged("'${entry.key}' is no 32-bit number")
        at = entry.value
        val found = u32("'${entry.key}'")
        return if (entry.kind == TYPE_INT32) found.toInt().toLong() else found
    }

    /** A list of texts. @throws EdgebException it is of another type. */
    fun texts(entry: GgufEntry): List<String> {
        at = entry.value
        if (entry.kind != TYPE_ARRAY || u32("'${entry.key}'") != TYPE_STRING.toLong()) {
            throw damaged("'${entry.key}' is no list of texts")
        }
        val count = u64("'${entry.key}'")
        val found = ArrayList<String>()
        while (found.size < count) found.add(string("'${entry.key}'", MAX_TEXT))
        return found
    }

    /** An array of bytes. @throws EdgebException it is of another type. */
    fun raw(entry: GgufEntry): ByteArray {
        at = entry.value
        if (entry.kind != TYPE_ARRAY || u32("'${entry.key}'") != TYPE_UINT8) {
            throw damaged("'${entry.key}' is no array of bytes")
        }
        val count = u64("'${entry.key}'")
        if (count > MAX_TEXT) throw damaged("'${entry.key}' has $count bytes")
        need(count, "'${entry.key}'")
        return bytes(at, count.toInt())
    }

    /** The tensor table, after a walk over all metadata. */
    fun tensors(): GgufTensors {
        var alignment = DEFAULT_ALIGNMENT
        var start = firstEntry
        metadata { entry ->
            start = entry.end
            if (entry.key == "general.alignment") {
                alignment = number(entry)
                if (alignment < 8 || alignment % 8 != 0L) throw damaged("tensor alignment $alignment")
            }
            true
        }
        at = start
        val listed = ArrayList<GgufTensor>()
        while (listed.size < tensorCount) {
            val name = string("name of tensor ${listed.size}", MAX_KEY)
            val dimensions = u32("tensor '$name'")
            if (dimensions > MAX_DIMENSIONS) throw damaged("tensor '$name' has $dimensions dimensions")
            val shape = List(dimensions.toInt()) { u64("tensor '$name'") }
            listed.add(GgufTensor(name, shape, u32("tensor '$name'").toInt(), u64("tensor '$name'")))
        }
        val end = at
        val dataStart = (end + alignment - 1) / alignment * alignment
        need(dataStart - end, "the start of the tensor data")
        return GgufTensors(start, end, dataStart, listed)
    }

    /** Feed the bytes `start` until `end` to a hash. */
    fun hash(start: Long, end: Long, digest: MessageDigest) {
        val chunk = ByteArray(minOf(CHUNK.toLong(), end - start).toInt())
        var next = start
        while (next < end) {
            val count = minOf(chunk.size.toLong(), end - next).toInt()
            fill(next, chunk, count)
            digest.update(chunk, 0, count)
            next += count
        }
    }

    /** Bytes of a short stretch of the file. */
    fun bytes(start: Long, count: Int): ByteArray {
        val found = ByteArray(count)
        fill(start, found, count)
        return found
    }

    override fun close() = file.close()

    fun damaged(what: String) = EdgebException("$source is damaged: $what", COPY_HINT, ErrorCode.DAMAGED)

    private fun skip(entryKind: Int, key: String) {
        var kind = entryKind
        var count = 1L
        if (kind == TYPE_ARRAY) {
            kind = u32("'$key'").toInt()
            count = u64("'$key'")
        }
        val size = SIZES[kind]
        if (kind == TYPE_STRING) {
            var number = 0L
            while (number < count) {
                step(u64("'$key'"), "'$key'")
                number++
            }
        } else if (size != null) {
            if (count > this.size / size) need(this.size, "'$key'")
            step(count * size, "'$key'")
        } else {
            throw damaged("'$key' has the unknown type $kind")
        }
    }

    private fun string(what: String, limit: Long): String {
        val length = u64(what)
        if (length > limit) throw damaged("$what has $length bytes")
        need(length, what)
        val raw = bytes(at, length.toInt())
        at += length
        try {
            val decoded: CharBuffer = Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(raw))
            return decoded.toString()
        } catch (error: CharacterCodingException) {
            throw damaged("$what is not UTF-8")
        }
    }

    private fun u32(what: String): Long = little(4, what)

    /** Counts and lengths beyond 63 bits cannot be of this file. */
    private fun u64(what: String): Long {
        val found = little(8, what)
        if (found < 0) throw damaged("$what is too large")
        return found
    }

    private fun little(width: Int, what: String): Long {
        need(width.toLong(), what)
        if (at < windowStart || at + width > windowStart + windowSize) {
            windowSize = minOf(WINDOW.toLong(), size - at).toInt()
            windowStart = at
            fill(at, window, windowSize)
        }
        val offset = (at - windowStart).toInt()
        at += width
        var found = 0L
        for (i in width - 1 downTo 0) found = (found shl 8) or (window[offset + i].toLong() and 0xff)
        return found
    }

    private fun step(count: Long, what: String) {
        need(count, what)
        at += count
    }

    private fun need(count: Long, what: String) {
        if (count > size - at) throw EdgebException(
            "$source is cut short: it ends inside $what", COPY_HINT, ErrorCode.DAMAGED
        )
    }

    private fun fill(start: Long, target: ByteArray, count: Int) {
        try {
            file.read(start, target, 0, count)
        } catch (error: IOException) {
            throw EdgebException("cannot read $source: ${error.message}", COPY_HINT, ErrorCode.UNREADABLE)
        }
    }
}
