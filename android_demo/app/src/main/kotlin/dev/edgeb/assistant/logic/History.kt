package dev.edgeb.assistant.logic

import dev.edgeb.core.EdgebException
import dev.edgeb.core.Moment
import java.io.ByteArrayOutputStream
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

private const val MINUTES_OF_WEEK = 7 * 24 * 60L
private const val CHUNK = 1 shl 16

/** A log that comes from a file. */
object History {
    /** More is no log of one person: some 400,000 events. */
    const val MOST_BYTES = 16 shl 20

    /**
     * Read a log, as "save my log" writes it and `edgeb predict --history` reads it.
     *
     * @param source Closed by the caller.
     * @param listener What it throws ends the reading.
     * @throws EdgebException no such file, too long, or newest first; an `IOException` where reading fails.
     */
    fun read(source: InputStream, listener: ImportListener): Timeline {
        val bytes = ByteArrayOutputStream()
        val chunk = ByteArray(CHUNK)
        while (true) {
            val count = source.read(chunk)
            if (count < 0) break
            bytes.write(chunk, 0, count)
            if (bytes.size() > MOST_BYTES) {
                throw EdgebException("the file is longer than ${MOST_BYTES shr 20} MiB", "choose a log of one person")
            }
            listener.onRead(bytes.size().toLong())
        }
        if (bytes.size() == 0) throw EmptyFileException()
        val found = Timeline.fromCsv(decoded(bytes.toByteArray()).removePrefix("\ufeff"), "the file")
        found.checkOrder("the file")
        return Timeline(found.entries.map { if (it.origin == Origin.SAMPLE) it else it.copy(origin = Origin.IMPORTED) })
    }

    /**
     * A sample log as if it went on until now: moved by whole weeks, so that its weekdays stay, and cut at `now`.
     *
     * @param log Some weeks.
     */
    fun asOf(log: Timeline, now: Moment): Timeline {
        val last = log.events.lastOrNull() ?: return log
        val weeks = Math.ceil((now.minutes - last.time.minutes).toDouble() / MINUTES_OF_WEEK).toLong()
        val moved = log.entries.map {
            val time = Moment(it.event.time.minutes + weeks * MINUTES_OF_WEEK)
            Entry(it.event.copy(time = time), "", Origin.SAMPLE)
        }
        return Timeline(moved.filter { it.event.time <= now })
    }

    private fun decoded(bytes: ByteArray): String {
        val decoder = Charsets.UTF_8.newDecoder()
            .onMalformedInput(CodingErrorAction.REPORT).onUnmappableCharacter(CodingErrorAction.REPORT)
        return try {
            decoder.decode(ByteBuffer.wrap(bytes)).toString()
        } catch (error: CharacterCodingException) {
            throw EdgebException("the file is no text in UTF-8", "choose a .csv that this app saved")
        }
    }
}
