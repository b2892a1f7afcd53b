package dev.edgeb.core

import java.io.Closeable
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.CRC32

private const val END_BYTES = 22
private const val LISTED_BYTES = 46
private const val LOCAL_BYTES = 30
private const val MOST_ENTRIES = 64
private const val MOST_ENTRY_BYTES = 1L shl 28
private const val LIST_SIGNATURE = 0x02014b50
private const val LOCAL_SIGNATURE = 0x04034b50
private val END_SIGNATURE = byteArrayOf(80, 75, 5, 6)

/** Where an entry's local header begins, and its content. */
internal class ZipEntryAt(val name: String, val header: Long, val start: Long, val bytes: Long, val crc: Long)

/** What is wrong with an archive. */
internal class BrokenArchive(message: String) : Exception(message)

/**
 * A ZIP archive at the end of a file, whose entries are stored uncompressed.
 *
 * Of the format's many forms it reads the one that edgeb writes: no comment, no encryption, offsets from the file's
 * beginning and below 2 GiB. Android's own ZipFile does not say where an entry lies, which is where the model ends.
 */
internal class ZipArchive(source: ModelSource) : Closeable {
    private val file = source.open()
    val size: Long = file.size

    /** Whether the file ends in an archive's end record. */
    val isThere: Boolean
        get() = size >= END_BYTES && bytes(size - END_BYTES, END_SIGNATURE.size).contentEquals(END_SIGNATURE)

    /** Bytes of a short stretch of the file. @throws IOException it ends before. */
    fun bytes(start: Long, count: Int): ByteArray {
        val found = ByteArray(count)
        file.read(start, found, 0, count)
        return found
    }

    /** The entries by name, in the archive's order. @throws BrokenArchive it is not as edgeb writes it. */
    fun entries(): Map<String, ZipEntryAt> {
        val end = little(bytes(size - END_BYTES, END_BYTES))
        val count = end.getShort(10).toInt() and 0xffff
        val length = unsigned(end, 12)
        val start = unsigned(end, 16)
        val whole = end.getInt(4) == 0 && end.getShort(8) == end.getShort(10) && end.getShort(20).toInt() == 0
        if (!whole || start + length != size - END_BYTES || count > MOST_ENTRIES) throw BrokenArchive("its end record")
        val list = little(bytes(start, length.toInt()))
        val found = LinkedHashMap<String, ZipEntryAt>()
        var at = 0
        for (number in 0 until count) {
            if (at + LISTED_BYTES > length || list.getInt(at) != LIST_SIGNATURE) throw brokenList()
            val entry = entry(list, at, start)
            if (found.put(entry.name, entry) != null) throw BrokenArchive("'${entry.name}', which is there twice")
            at += LISTED_BYTES + entry.name.length + short(list, at + 30) + short(list, at + 32)
        }
        if (at.toLong() != length) throw brokenList()
        return found
    }

    /** An entry's content. @throws BrokenArchive it was changed. */
    fun read(entry: ZipEntryAt): ByteArray {
        val content = bytes(entry.start, entry.bytes.toInt())
        val crc = CRC32()
        crc.update(content)
        if (crc.value != entry.crc) throw BrokenArchive("${entry.name}, whose checksum is wrong")
        return content
    }

    override fun close() = file.close()

    private fun entry(list: ByteBuffer, at: Int, listStart: Long): ZipEntryAt {
        val bytes = unsigned(list, at + 24)
        val header = unsigned(list, at + 42)
        val nameLength = short(list, at + 28)
        if (at + LISTED_BYTES + nameLength > list.capacity()) throw brokenList()
        val name = String(list.array(), at + LISTED_BYTES, nameLength, Charsets.US_ASCII)
        val isStored = short(list, at + 10) == 0 && unsigned(list, at + 20) == bytes && short(list, at + 8) and 1 == 0
        if (!isStored || bytes > MOST_ENTRY_BYTES) throw BrokenArchive("$name, which is compressed or too large")
        if (header > Int.MAX_VALUE) throw BrokenArchive("$name, which lies beyond 2 GiB")
        if (header + LOCAL_BYTES > listStart) throw BrokenArchive("the place of $name")
        val local = little(bytes(header, LOCAL_BYTES))
        val start = header + LOCAL_BYTES + short(local, 26) + short(local, 28)
        if (local.getInt(0) != LOCAL_SIGNATURE || start + bytes > listStart) throw BrokenArchive("the place of $name")
        return ZipEntryAt(name, header, start, bytes, unsigned(list, at + 16))
    }

    private fun brokenList() = BrokenArchive("its list of entries")

    private companion object {
        fun little(bytes: ByteArray): ByteBuffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)

        fun short(buffer: ByteBuffer, at: Int): Int = buffer.getShort(at).toInt() and 0xffff

        fun unsigned(buffer: ByteBuffer, at: Int): Long = buffer.getInt(at).toLong() and 0xffffffffL
    }
}
