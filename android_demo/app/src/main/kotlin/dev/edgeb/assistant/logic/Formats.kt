package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import java.text.DateFormat
import java.text.NumberFormat
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

private const val MIB = 1024.0 * 1024.0

/** Numbers and times as a person reads them, in one locale. */
class Formats(private val locale: Locale, private val twentyFourHours: Boolean) {
    /** Like "48%"; what is small but not nothing is "<1%". */
    fun percent(probability: Double): String {
        val format = NumberFormat.getPercentInstance(locale)
        return if (probability > 0.0 && probability < 0.005) "<" + format.format(0.01) else format.format(probability)
    }

    /** Like "8.3 ms" or "1,204 ms". */
    fun milliseconds(value: Double): String = String.format(locale, if (value < 100) "%.1f ms" else "%,.0f ms", value)

    /** Like "393.7 MiB". */
    fun bytes(count: Long): String = String.format(locale, "%,.1f MiB", count / MIB)

    /** Like "18:05" or "6:05 PM". */
    fun clock(moment: Moment): String = pattern(moment, if (twentyFourHours) "HH:mm" else "h:mm a")

    /** A day, as the locale writes it. */
    fun day(moment: Moment): String = write(moment, DateFormat.getDateInstance(DateFormat.MEDIUM, locale))

    private fun pattern(moment: Moment, pattern: String): String = write(moment, SimpleDateFormat(pattern, locale))

    private fun write(moment: Moment, format: DateFormat): String {
        // A Moment has no zone: it is written in the one it is counted in.
        format.timeZone = TimeZone.getTimeZone("UTC")
        return format.format(Date(moment.minutes * 60_000))
    }

    companion object {
        /** A hash in groups of eight, so that people can compare it. */
        fun hash(sha256: String): String = sha256.chunked(8).joinToString(" ")
    }
}
