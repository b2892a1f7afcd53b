package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.EdgebException
import dev.edgeb.core.Moment
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

fun event(time: String, behavior: String, place: String = "home") = BehaviorEvent(place, Moment.parse(time), behavior)

class TimelineTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val morning = event("2024-03-18T08:00", "News")
    private val noon = event("2024-03-18T12:30", "Music, loud", "work")
    private val evening = event("2024-03-18T19:40", "He said \"go\"\nnow")
    private val day = Timeline().plus(morning).plus(noon).plus(evening)

    @Test
    fun anEventOfThePastGoesToItsPlace() {
        val late = event("2024-03-18T09:00", "Maps")
        assertEquals(listOf(morning, late, noon, evening), day.plus(late).events)
        val earliest = event("2024-03-17T09:00", "Maps")
        assertEquals(earliest, day.plus(earliest).events[0])
    }

    @Test
    fun whatHappensNowComesLast() {
        val west = event("2024-03-18T16:40", "Maps")
        val after = day.then(west)
        assertEquals(listOf(morning, noon, evening, west), after.events)
        assertEquals(after.events, Timeline.fromCsv(after.toCsv()).events)
    }

    @Test
    fun eventsOfOneMinuteKeepTheirOrder() {
        val second = event("2024-03-18T12:30", "Maps")
        assertEquals(listOf(morning, noon, second, evening), day.plus(second).events)
    }

    @Test
    fun minusTakesOneOfTwoEqualEvents() {
        val twice = day.plus(noon)
        assertEquals(day.events, twice.minus(noon).events)
        assertEquals(listOf(morning, evening), day.minus(noon).events)
        assertEquals(day.events, day.minus(event("2024-03-18T12:30", "Nothing")).events)
    }

    @Test
    fun todayIsTheDayOfNowNewestFirst() {
        val yesterday = event("2024-03-17T23:59", "Alarm")
        val all = day.plus(yesterday)
        assertEquals(listOf(evening, noon, morning), all.today(Moment.parse("2024-03-18T23:59")))
        assertEquals(listOf(yesterday), all.today(Moment.parse("2024-03-17T00:00")))
        assertTrue(all.today(Moment.parse("2024-03-19T00:00")).isEmpty())
    }

    @Test
    fun placesAreThoseLastSeen() {
        assertEquals(listOf("home", "work"), day.places())
        assertEquals(listOf("home"), day.places(1))
    }

    @Test
    fun aClockThatIsWrongAsksForTheLastEventsTime() {
        assertEquals(evening.time, day.askable(Moment.parse("2024-03-17T17:39")))
        // What zones and daylight saving time explain.
        val back = Moment.parse("2024-03-17T17:40")
        assertEquals(back, day.askable(back))
        val later = Moment.parse("2024-03-18T20:00")
        assertEquals(later, day.askable(later))
        assertEquals(later, Timeline().askable(later))
    }

    @Test
    fun aSessionsWindowTellsWhatItHasSeen() {
        assertEquals(3, day.seenBy(day.events))
        assertEquals(2, day.seenBy(listOf(morning, noon)))
        assertEquals(3, day.seenBy(listOf(noon, evening)))
        assertNull(day.seenBy(listOf(morning, evening)))
        assertNull(day.seenBy(emptyList()))
        assertNull(Timeline().seenBy(listOf(noon)))
        // A session cleans places.
        assertEquals(2, day.seenBy(listOf(morning, noon.copy(place = "elsewhere"))))
    }

    @Test
    fun theFileComesBackAsItWas() {
        val file = File(folder.root, "timeline.csv")
        val store = TimelineStore(file)
        assertTrue(store.load().events.isEmpty())
        store.save(day)
        assertEquals(day.events, store.load().events)
        assertEquals(listOf("timeline.csv"), folder.root.list()!!.toList())
    }

    @Test
    fun aDamagedFileIsNamedByLineAndPutAside() {
        val file = File(folder.root, "timeline.csv")
        val store = TimelineStore(file)
        val head = "timestamp,place,behavior\r\n"
        val first = "2024-03-18T08:00,home,News\r\n"
        val texts = listOf(
            "" to "first line",
            "time,place\r\n" to "first line",
            "$head$first" + "2024-03-18T09:00,home\r\n" to "line 3",
            "$head\"2024" to "quote",
            "$head" + "tomorrow,home,News\r\n" to "tomorrow"
        )
        for ((text, word) in texts) {
            file.writeText(text)
            try {
                store.load()
                fail("read: $text")
            } catch (error: EdgebException) {
                assertTrue("${error.message} for $text", error.message!!.contains(word))
            }
        }
        assertEquals("timeline.csv.damaged", store.putAside())
        assertFalse(file.exists())
        store.deleteAside()
        assertEquals(0, folder.root.list()!!.size)
    }
}
