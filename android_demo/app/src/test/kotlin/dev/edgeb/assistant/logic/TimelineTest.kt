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
    private val day = Timeline().plus(Entry(morning)).plus(Entry(noon)).plus(Entry(evening))

    @Test
    fun anEventOfThePastGoesToItsPlace() {
        val late = event("2024-03-18T09:00", "Maps")
        assertEquals(listOf(morning, late, noon, evening), day.plus(Entry(late)).events)
        val earliest = event("2024-03-17T09:00", "Maps")
        assertEquals(earliest, day.plus(Entry(earliest)).events[0])
    }

    @Test
    fun whatHappensNowComesLast() {
        val west = event("2024-03-18T16:40", "Maps")
        val after = day.then(Entry(west))
        assertEquals(listOf(morning, noon, evening, west), after.events)
        assertEquals(after.events, Timeline.fromCsv(after.toCsv()).events)
    }

    @Test
    fun eventsOfOneMinuteKeepTheirOrder() {
        val second = event("2024-03-18T12:30", "Maps")
        assertEquals(listOf(morning, noon, second, evening), day.plus(Entry(second)).events)
    }

    @Test
    fun minusTakesOneOfTwoEqualEvents() {
        val twice = day.plus(Entry(noon))
        assertEquals(day.events, twice.minus(Entry(noon)).events)
        assertEquals(listOf(morning, evening), day.minus(Entry(noon)).events)
        assertEquals(day.events, day.minus(Entry(event("2024-03-18T12:30", "Nothing"))).events)
    }

    @Test
    fun aDayIsListedNewestFirst() {
        val yesterday = event("2024-03-17T23:59", "Alarm")
        val all = day.plus(Entry(yesterday))
        assertEquals(listOf(evening, noon, morning), all.on(Moment.parse("2024-03-18T23:59")).map { it.event })
        assertEquals(listOf(yesterday), all.on(Moment.parse("2024-03-17T00:00")).map { it.event })
        assertTrue(all.on(Moment.parse("2024-03-19T00:00")).isEmpty())
    }

    @Test
    fun daysWithEventsAreTurnedLikePages() {
        val all = day.plus(Entry(event("2024-03-15T09:00", "Maps")))
        val now = Moment.parse("2024-03-20T10:00")
        assertEquals("2024-03-18T00:00", all.dayBefore(now)!!.format())
        assertEquals("2024-03-15T00:00", all.dayBefore(evening.time)!!.format())
        assertNull(all.dayBefore(Moment.parse("2024-03-15T23:59")))
        assertEquals("2024-03-18T00:00", all.dayAfter(Moment.parse("2024-03-15T09:00"), now)!!.format())
        // Today has a page, events or none.
        assertEquals("2024-03-20T00:00", all.dayAfter(evening.time, now)!!.format())
        assertNull(all.dayAfter(now, now))
    }

    @Test
    fun zonesOrderWhatWallClocksDoNot() {
        val tokyo = Entry(event("2024-03-18T20:00", "News"), "Asia/Tokyo")
        val berlin = Entry(event("2024-03-18T13:00", "Maps"), "Europe/Berlin")
        assertEquals(listOf(tokyo, berlin), Timeline().plus(berlin).plus(tokyo).entries)
        // Without a zone the clock on the wall counts; a zone that is none is none.
        val bare = Entry(event("2024-03-18T13:00", "Maps"), "Mars/Base")
        assertEquals(listOf(bare, tokyo), Timeline().plus(tokyo).plus(bare).entries)
        assertNull(Zones.instant(bare.event.time, "Mars/Base"))
        // 2024-03-31: clocks go from 2 to 3.
        val before = Zones.instant(Moment.parse("2024-03-31T01:59"), "Europe/Berlin")!!
        assertEquals(60_000L, Zones.instant(Moment.parse("2024-03-31T03:00"), "Europe/Berlin")!! - before)
        assertEquals("New York", Zones.town("America/New_York"))
    }

    @Test
    fun twoLogsBecomeOneWithoutDoubles() {
        val other = Timeline.of(listOf(event("2024-03-18T09:00", "Maps"), noon, event("2024-03-18T23:00", "Maps")))
        val merged = day.merged(other)
        assertEquals(listOf(morning, other.events[0], noon, evening, other.events[2]), merged.events)
        assertEquals(merged.entries, merged.merged(other).entries)
        assertEquals(other.entries, Timeline().merged(other).entries)
    }

    @Test
    fun aSampleEndsNowOnItsOwnWeekdays() {
        val log = Timeline.of((0 until 21).map { event("2024-01-${String.format("%02d", it + 1)}T10:00", "News") })
        for (now in listOf("2024-03-18T09:59", "2024-03-18T10:00", "2019-07-04T23:00", "2024-01-21T10:00")) {
            val moved = History.asOf(log, Moment.parse(now))
            assertTrue(moved.events.all { it.time <= Moment.parse(now) })
            assertTrue(moved.events.size in 14..21)
            assertTrue(Moment.parse(now).minutes - moved.events.last().time.minutes < 24 * 60)
            assertEquals(moved.events.indices.map { it % 7 }, moved.events.map { it.time.dayOfWeek })
            assertTrue(moved.entries.all { it.origin == Origin.SAMPLE })
        }
        assertTrue(History.asOf(Timeline(), Moment.parse("2024-03-18T09:59")).entries.isEmpty())
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
        val full = day.then(Entry(event("2024-03-18T20:00", "Maps"), "Asia/Tokyo", Origin.OBSERVED))
        store.save(full)
        assertEquals(full.entries, store.load().entries)
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
