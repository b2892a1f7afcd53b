package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.EventSource
import dev.edgeb.core.Moment
import java.io.ByteArrayInputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** Events that no tap brought: the sample, a file, another source. */
class SourcesTest : OnAssistant() {
    @Test
    fun theAppOpensAlive() {
        sample = weeks()
        val assistant = assistant()
        assertEquals(State.NoModel(null, true), assistant.attempt { open() })
        val day = ready(assistant.attempt { trySample(quiet) })
        assertTrue(day.isSample)
        // Moved by whole weeks, until now: a Monday's events on Mondays.
        assertEquals(listOf("2024-03-18T19:00"), day.page.entries.map { it.event.time.format() })
        assertEquals("2024-03-12T00:00", day.page.before!!.format())
        assertEquals("sample.gguf", engines.called)
        assertEquals("work", day.settings.place)
        // The user's own events stay when the sample goes.
        assistant.attempt { accept("News", "home") }
        val own = ready(assistant.attempt { dropSample() })
        assertEquals(listOf("News"), own.behaviors())
        assertNull(own.page.before)
        assertFalse(own.isSample)
        assertFalse(own.offersSample)
        assertTrue(ready(assistant.attempt { deleteLog() }).offersSample)
    }

    @Test
    fun aLogThatWasSavedComesBack() {
        sample = weeks()
        val first = assistant()
        first.attempt { trySample(quiet) }
        first.attempt { dropSample() }
        first.attempt { accept("Music", "gym") }
        val saved = first.logAsCsv()
        folder.root.listFiles()!!.forEach { it.delete() }
        // On a phone without a model the app's own takes it.
        val assistant = assistant()
        val state = assistant.attempt { importLog(ByteArrayInputStream(saved.toByteArray()), quiet) } as State.Ready
        assertEquals(Note.Imported(1, 0), state.note)
        assertEquals(listOf(Entry(BehaviorEvent("gym", time, "Music"), "", Origin.IMPORTED)), state.day.page.entries)
        // Twice the same log is once.
        val again = assistant.attempt { importLog(ByteArrayInputStream(saved.toByteArray()), quiet) } as State.Ready
        assertEquals(Note.Imported(0, 0), again.note)
        assertTrue(ready(assistant.attempt { undo() }).page.entries.isEmpty())
    }

    @Test
    fun anImportedLogWithUnknownLabelsIsCounted() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        val text = "behavior,timestamp,place,other\nNews,2024-03-18T08:00,home,1\nYoga,2024-03-18T09:00,gym,2\n"
        val state = assistant.attempt { importLog(ByteArrayInputStream(text.toByteArray()), quiet) } as State.Ready
        assertEquals(Note.Imported(2, 1), state.note)
        assertEquals(Aside(1, listOf("Yoga")), state.day.aside)
    }

    @Test
    fun aLogThatIsNoneChangesNothing() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { accept("News", "home") }
        val before = assistant.logAsCsv()
        val head = "timestamp,place,behavior\n"
        val texts = listOf(
            "", "GIF89a", "timestamp,place\n2024-03-18T08:00,home\n", head + "tomorrow,home,News\n",
            head + "2024-03-18T08:00,home\n", head + "2024-03-18T08:00,home,News\n2024-03-10T08:00,home,News\n",
            head + "2024-03-18T08:00,\"home,News\n"
        )
        for (text in texts) {
            val state = assistant.attempt { importLog(ByteArrayInputStream(text.toByteArray()), quiet) } as State.Ready
            assertTrue(text, state.problem is Problem.Input || state.problem === Problem.Empty)
            assertEquals(before, assistant.logAsCsv())
        }
        val latin = assistant.attempt { importLog(ByteArrayInputStream(byteArrayOf(-28, 10)), quiet) } as State.Ready
        assertTrue((latin.problem as Problem.Input).message.contains("UTF-8"))
    }

    @Test
    fun anotherSourceAddsWhatItHasSeenOnce() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { setPlace("work") }
        val seen = listOf(event("2024-03-18T19:00", "News", ""), event("2024-03-18T19:30", "Yoga", ""))
        val asked = ArrayList<Moment>()
        val source = object : EventSource {
            override var isAllowed = false

            override fun read(since: Moment, until: Moment): List<BehaviorEvent> {
                asked.add(since)
                return seen.filter { it.time > since }
            }
        }
        assertTrue(ready(assistant.attempt { observe(source) }).page.entries.isEmpty())
        source.isAllowed = true
        val predictions = engines.asked.size
        assistant.attempt { observe(source) }
        val page = ready(assistant.attempt { observe(source) }).page
        assertEquals(listOf(Entry(event("2024-03-18T19:00", "News", "work"), "", Origin.OBSERVED)), page.entries)
        assertEquals(listOf("2024-03-17T20:00", "2024-03-18T19:00"), asked.map { it.format() })
        // Nobody looks: what was seen is evaluated, once, and nothing is asked.
        val cancelled = CancelSignal()
        cancelled.cancel()
        ready(assistant.attempt { prepare(cancelled) })
        assertEquals(0, engines.prepared)
        for (time in 1..2) assistant.attempt { prepare(CancelSignal()) }
        assertEquals(1, engines.prepared)
        assertEquals(predictions, engines.asked.size)
        assertEquals("News", ready(assistant.attempt { tick() }).suggestions.shown[0].behavior)
        assistant.attempt { prepare(CancelSignal()) }
        assertEquals(1, engines.prepared)
    }
}
