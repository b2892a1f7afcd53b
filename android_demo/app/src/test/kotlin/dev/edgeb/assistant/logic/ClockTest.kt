package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.EventSource
import dev.edgeb.core.Moment
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Clocks that are wrong or set back, zones, midnight. */
class ClockTest : OnAssistant() {
    @Test
    fun aClockSetBackDoesNotStopIt() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { accept("Music", "home") }
        // A flight west: what happens now comes last, whatever the clock shows.
        time = Moment.parse("2024-03-18T18:00")
        val day = ready(assistant.attempt { accept("News", "home") })
        assertEquals("2024-03-18T18:00", day.cost!!.asked.format())
        assertEquals(listOf("News", "Music"), day.behaviors())
        assertEquals(listOf("Music", "News"), TimelineStore(File(folder.root, "timeline.csv")).load().events.map { it.behavior })
        // A clock that is wrong.
        time = Moment.parse("2010-01-01T00:00")
        assertEquals("2024-03-18T18:00", ready(assistant.attempt { accept("Music", "home") }).cost!!.asked.format())
    }

    @Test
    fun anEventFromAClockThatWasYearsAheadDoesNotStopIt() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        time = Moment.parse("2030-01-01T10:00")
        ready(assistant.attempt { add(event("2030-01-01T10:00", "News")) })
        // Set right, and "now" typed as it is shown.
        time = Moment.parse("2024-03-18T20:05")
        ready(assistant.attempt { add(event("2024-03-18T20:05", "Music")) })
        ready(assistant().attempt { open() })
        val saved = TimelineStore(File(folder.root, "timeline.csv")).load()
        assertEquals(listOf("Music", "News"), saved.events.map { it.behavior })
    }

    @Test
    fun anEventKeepsTheZoneOfItsClock() {
        zone = "Asia/Tokyo"
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { accept("News", "home") }
        zone = "Europe/Berlin"
        // Five hours later, by another clock.
        time = Moment.parse("2024-03-18T17:00")
        val page = ready(assistant.attempt { accept("Music", "home") }).page
        assertEquals(listOf("Europe/Berlin", "Asia/Tokyo"), page.entries.map { it.zone })
        assertEquals("Europe/Berlin", page.zone)
        // An event of the flight, typed in later, by either clock.
        val late = ready(assistant.attempt { add(event("2024-03-18T14:00", "Music")) }).page
        assertEquals(listOf("17:00", "14:00", "20:00"), late.entries.map { it.event.time.format().substring(11) })
        assertEquals(late.entries, ready(assistant().attempt { open() }).page.entries)
    }

    @Test
    fun answersFollowTheClock() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        val asked = engines.asked.size
        time = Moment.parse("2024-03-18T20:59")
        assistant.attempt { tick() }
        assistant.attempt { open() }
        assertEquals(asked, engines.asked.size)
        time = Moment.parse("2024-03-18T21:00")
        assertEquals("2024-03-18T21:00", ready(assistant.attempt { tick() }).cost!!.asked.format())
        // Another day at the same hour, and a clock set back.
        for (at in listOf("2024-03-19T21:00", "2024-03-19T20:30")) {
            time = Moment.parse(at)
            assertEquals(at, ready(assistant.attempt { tick() }).cost!!.asked.format())
        }
        assertEquals(asked + 3, engines.asked.size)
    }

    @Test
    fun anotherSourceIsReadOnWhateverTheClockDoes() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        val asked = ArrayList<Pair<String, String>>()
        var seen = emptyList<BehaviorEvent>()
        val source = object : EventSource {
            override val isAllowed = true

            override fun read(since: Moment, until: Moment): List<BehaviorEvent> {
                asked.add(Pair(since.format(), until.format()))
                return seen
            }
        }
        fun observe(at: String, from: String, vararg events: BehaviorEvent): List<String> {
            time = Moment.parse(at)
            zone = from
            seen = events.toList()
            return ready(assistant.attempt { observe(source) }).behaviors()
        }
        observe("2024-03-18T20:00", "Asia/Tokyo", event("2024-03-18T19:00", "News"))
        // Landed in Berlin, three hours after that event: eleven o'clock was nineteen in Tokyo.
        val landed = observe("2024-03-18T14:00", "Europe/Berlin", event("2024-03-18T13:30", "Music"))
        assertEquals(Pair("2024-03-18T11:00", "2024-03-18T14:00"), asked.last())
        assertEquals(listOf("Music", "News"), landed)
        // A clock that ran years ahead, and was put right: its own event is not waited for.
        observe("2030-01-01T10:00", "Europe/Berlin", event("2030-01-01T09:00", "Maps"))
        observe("2024-03-18T15:00", "Europe/Berlin", event("2024-03-18T14:30", "News"))
        assertEquals(Pair("2024-03-18T13:30", "2024-03-18T15:00"), asked.last())
        assertEquals(4, TimelineStore(File(folder.root, "timeline.csv")).load().entries.size)
        ready(assistant().attempt { open() })
    }

    @Test
    fun atMidnightTheDayIsAnother() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { accept("News", "home") }
        time = Moment.parse("2024-03-19T00:00")
        val page = ready(assistant.attempt { tick() }).page
        assertTrue(page.entries.isEmpty() && page.isToday)
        assertEquals("2024-03-18T00:00", page.before!!.format())
    }
}
