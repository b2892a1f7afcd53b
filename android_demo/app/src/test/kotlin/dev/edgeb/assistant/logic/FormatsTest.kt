package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import java.util.Locale
import java.util.TimeZone
import org.junit.Assert.assertEquals
import org.junit.Test

class FormatsTest {
    private val english = Formats(Locale.US, true)

    @Test
    fun percentagesSayWhenSomethingIsSmall() {
        assertEquals("48%", english.percent(0.483))
        assertEquals("<1%", english.percent(0.004))
        assertEquals("1%", english.percent(0.0051))
        assertEquals("0%", english.percent(0.0))
        assertEquals("100%", english.percent(1.0))
    }

    @Test
    fun numbersFollowTheLocale() {
        assertEquals("8.3 ms", english.milliseconds(8.25))
        assertEquals("1,204 ms", english.milliseconds(1203.6))
        assertEquals("8,3 ms", Formats(Locale.GERMANY, true).milliseconds(8.34))
        assertEquals("1.5 MiB", english.bytes(1_572_864))
    }

    @Test
    fun timesAreThoseOfTheClockWhateverTheZone() {
        val before = TimeZone.getDefault()
        try {
            TimeZone.setDefault(TimeZone.getTimeZone("Asia/Tokyo"))
            assertEquals("18:05", english.clock(Moment.parse("2024-03-18T18:05")))
            assertEquals("6:05 PM", Formats(Locale.US, false).clock(Moment.parse("2024-03-18T18:05")))
            assertEquals("Mar 18, 2024", english.day(Moment.parse("2024-03-18T23:59")))
        } finally {
            TimeZone.setDefault(before)
        }
    }

    @Test
    fun hashesAreGrouped() {
        assertEquals("01234567 89abcdef", Formats.hash("0123456789abcdef"))
    }
}
