package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import java.io.ByteArrayInputStream
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** The log of events: what is added, changed, taken back, and what is left on disk. */
class LogTest : OnAssistant() {
    @Test
    fun anAcceptedSuggestionIsAnEventOfNow() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assistant.attempt { setPlace("work") }
        // What the screen shows counts, asked about or not.
        val day = ready(assistant.attempt { accept("Music", " gym ") })
        assertEquals(listOf(Entry(BehaviorEvent("gym", time, "Music"), "", Origin.ACCEPTED)), day.page.entries)
        assertEquals("gym", day.settings.place)
        assertEquals("Music", day.suggestions.shown[0].behavior)
        assertEquals(1, day.cost!!.tokens)
    }

    @Test
    fun everythingIsThereAfterTheProcessDied() {
        val first = assistant()
        first.bring("labels News Music Maps")
        first.attempt { setThreshold(Threshold(9)) }
        first.attempt { add(event("2024-03-18T08:00", "News")) }
        first.attempt { save() }
        first.attempt { add(event("2024-03-18T09:00", "Maps", "")) }
        // No save, no close: the process is gone. The saved session lacks the last event.
        val seen = engines.observed
        val day = ready(assistant().attempt { open() })
        assertEquals(listOf("Maps", "News"), day.behaviors())
        assertEquals("unknown", day.page.entries[0].event.place)
        assertEquals(Threshold(9), day.settings.threshold)
        assertEquals("Maps", day.suggestions.shown[0].behavior)
        assertEquals(1, engines.restored)
        assertEquals(seen + 1, engines.observed)
    }

    @Test
    fun anEventOfThePastMakesTheSessionAnew() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assistant.attempt { add(event("2024-03-18T10:00", "News")) }
        val fresh = engines.fresh
        val day = ready(assistant.attempt { add(event("2024-03-18T09:00", "Maps")) })
        assertEquals(fresh + 1, engines.fresh)
        assertEquals("News", day.suggestions.shown[0].behavior)
    }

    @Test
    fun whatIsRemovedIsForgottenByTheSessionToo() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assistant.attempt { add(event("2024-03-18T10:00", "Maps")) }
        assistant.attempt { save() }
        val day = ready(assistant.attempt { remove(Entry(event("2024-03-18T10:00", "Maps"))) })
        assertTrue(day.page.entries.isEmpty())
        assertEquals("News", day.suggestions.shown[0].behavior)
        assertFalse("user.session" in names())
    }

    @Test
    fun deletingTheLogLeavesNoTraceOfIt() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assistant.attempt { add(event("2024-03-18T10:00", "Maps", "secret place")) }
        assistant.attempt { save() }
        val day = ready(assistant.attempt { deleteLog() })
        assertEquals("", day.settings.place)
        for (file in folder.root.listFiles()!!) assertFalse(file.name, file.readText().contains("secret"))
        assertEquals("News", day.suggestions.shown[0].behavior)
    }

    @Test
    fun aDamagedLogIsPutAsideAndSaid() {
        assistant().bring("labels News")
        File(folder.root, "timeline.csv").writeText("rubbish")
        val assistant = assistant()
        val state = assistant.attempt { open() } as State.Ready
        assertEquals(Problem.Log("timeline.csv.damaged"), state.problem)
        ready(assistant.attempt { add(event("2024-03-18T10:00", "News")) })
        assertEquals("rubbish", File(folder.root, "timeline.csv.damaged").readText())
    }

    @Test
    fun whatAWriteThatDiedLeftIsDeleted() {
        val left = listOf("timeline.csv", "user.session", "settings.properties", "benchmark.json")
        val forget = { for (name in left) File(folder.root, "$name.partial").writeText("secret place") }
        val assistant = assistant()
        assistant.bring("labels News")
        forget()
        assistant.attempt { deleteLog() }
        assertFalse(names().any { it.endsWith(".partial") })
        forget()
        ready(assistant().attempt { open() })
        assertFalse(names().any { it.endsWith(".partial") })
    }

    @Test
    fun whatFindsNoRoomIsNotTakenForKept() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assistant.attempt { accept("Music", "home") }
        val kept = assistant.logAsCsv()
        // Nothing can be written under the name that a log has before it has its own.
        val full = File(folder.root, "timeline.csv.partial/in")
        full.mkdirs()
        val other = { ByteArrayInputStream("timestamp,place,behavior\n2024-03-18T08:00,home,News\n".toByteArray()) }
        val entry = Entry(event("2024-03-18T20:00", "Music"), "", Origin.ACCEPTED)
        for (action in listOf<Assistant.() -> Unit>(
            { accept("Maps", "home") }, { importLog(other(), quiet) }, { remove(entry) }, { deleteLog() }
        )) {
            assertTrue((assistant.attempt(action) as State.Ready).problem is Problem.OfFile)
            assertEquals(kept, assistant.logAsCsv())
        }
        // Neither file nor model is ahead of the other.
        assertEquals("Music", ready(assistant.attempt { setPlace("work") }).suggestions.shown[0].behavior)
        full.parentFile.deleteRecursively()
        assertEquals(kept, TimelineStore(File(folder.root, "timeline.csv")).load().toCsv())
        assertEquals(listOf("Maps", "Music"), ready(assistant.attempt { accept("Maps", "home") }).behaviors())
    }

    @Test
    fun daysBeforeTodayAreSeenAndEditedAndUndone() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        for (at in listOf("2024-03-14T08:00", "2024-03-16T09:00", "2024-03-18T10:00")) {
            assistant.attempt { add(event(at, "News")) }
        }
        val today = ready(assistant.attempt { showDay(null) }).page
        assertTrue(today.isToday)
        assertEquals("2024-03-16T00:00", today.before!!.format())
        val earlier = ready(assistant.attempt { showDay(today.before) }).page
        assertEquals("2024-03-14T00:00", earlier.before!!.format())
        assertEquals("2024-03-18T00:00", earlier.after!!.format())
        val entry = earlier.entries.single()
        val edited = ready(assistant.attempt { edit(entry, event("2024-03-16T11:30", "Maps", "work")) }).page
        assertEquals(listOf(event("2024-03-16T11:30", "Maps", "work")), edited.entries.map { it.event })
        assertEquals(listOf(entry), ready(assistant.attempt { undo() }).page.entries)
        ready(assistant.attempt { remove(entry) })
        assertEquals(listOf(entry), ready(assistant.attempt { undo() }).page.entries)
        // Three events were added before; what was forgotten cannot be taken back.
        for (step in 1..3) assertTrue(ready(assistant.attempt { undo() }).canUndo == (step < 3))
        assistant.attempt { add(event("2024-03-18T10:00", "News")) }
        assertFalse(ready(assistant.attempt { deleteLog() }).canUndo)
    }

    @Test
    fun anEventMovedToAnotherDayKeepsTheOrder() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { add(event("2024-03-18T10:00", "News")) }
        assistant.attempt { add(event("2024-03-18T11:00", "Music")) }
        val entry = ready(assistant.attempt { showDay(null) }).page.entries[0]
        assistant.attempt { edit(entry, event("2024-03-17T11:00", "Music")) }
        assertEquals("News", ready(assistant.attempt { tick() }).suggestions.shown[0].behavior)
    }

    @Test
    fun whatDidNotChangeIsNotWritten() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { accept("News", "home") }
        assistant.attempt { save() }
        val saved = engines.saved
        val written = folder.root.listFiles()!!.associate { it.name to it.lastModified() }
        for (file in folder.root.listFiles()!!) file.setLastModified(1_000_000)
        val only = ready(assistant.attempt { showDay(null) })
        for (action in listOf<Assistant.() -> Unit>(
            { save() }, { open() }, { setPlace("home") }, { setThreshold(only.settings.threshold) },
            { setWish(only.settings.wish) }, { edit(only.page.entries[0], only.page.entries[0].event) }, { save() }
        )) assistant.attempt(action)
        assertEquals(saved, engines.saved)
        assertEquals(setOf(1_000_000L), folder.root.listFiles()!!.map { it.lastModified() }.toSet())
        assertEquals(written.keys, names())
        // A process that begins anew has nothing to write either.
        folder.root.listFiles()!!.first { it.name == "model.gguf" }.setLastModified(written.getValue("model.gguf"))
        val again = assistant()
        again.attempt { open() }
        again.attempt { save() }
        assertEquals(saved, engines.saved)
    }
}
