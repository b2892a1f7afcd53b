package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.CancelSignal
import java.io.ByteArrayInputStream
import java.io.File
import java.io.IOException
import java.io.InputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** Models that come in, open, break and are replaced. */
class ModelTest : OnAssistant() {
    @Test
    fun withoutAModelThereIsNone() {
        assertEquals(State.NoModel(null), assistant().attempt { open() })
    }

    @Test
    fun aBadFileIsRefusedAndNothingIsLeft() {
        val state = assistant().bring("GIF89a")
        assertEquals(State.NoModel(Problem.Input("mine.gguf is not a bundle", "export one")), state)
        assertTrue(names().isEmpty())
    }

    @Test
    fun aModelIsCalledAsItsFileWasAfterARestartToo() {
        assistant().bring("labels News")
        assertEquals("mine.gguf", engines.called)
        engines.called = ""
        ready(assistant().attempt { open() })
        assertEquals("mine.gguf", engines.called)
    }

    @Test
    fun anImportedModelIsVerifiedOnce() {
        val day = ready(assistant().bring("labels News Music Maps"))
        assertEquals(listOf("News", "Music", "Maps"), day.suggestions.shown.map { it.behavior })
        assertEquals(listOf(true, true, false), day.suggestions.shown.map { it.suggested })
        assertEquals(64, day.modelHash!!.length)
        ready(assistant().attempt { open() })
        assertEquals(listOf("verified", "trusted"), engines.loads)
        File(folder.root, "model.gguf").writeText("labels News Music Maps Mail")
        ready(assistant().attempt { open() })
        assertEquals("verified", engines.loads.last())
    }

    @Test
    fun aBadFileLeavesTheOldModelAtWork() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        val state = assistant.bring("GIF89a") as State.Ready
        assertTrue(state.problem is Problem.Input)
        assertEquals(listOf("News", "Music"), state.day.model.labels)
        assertEquals(1, engines.open)
        assertFalse("model.incoming" in names())
    }

    @Test
    fun aModelThatDoesNotOpenIsBrokenAndCanBeReplaced() {
        assistant().bring("labels News")
        engines.fails = UnsatisfiedLinkError("no edgeb_jni")
        val assistant = assistant()
        assertEquals(State.Broken(Problem.Native("no edgeb_jni")), assistant.attempt { open() })
        engines.fails = OutOfMemoryError()
        assertEquals(State.Broken(Problem.Memory), assistant.attempt { open() })
        engines.fails = null
        ready(assistant.bring("labels Music"))
    }

    @Test
    fun aModelThatDoesNotOpenStaysBrokenWhateverElseIsDone() {
        assistant().bring("labels News")
        engines.fails = UnsatisfiedLinkError("no edgeb_jni")
        val assistant = assistant()
        val broken = State.Broken(Problem.Native("no edgeb_jni"))
        assistant.attempt { open() }
        assertEquals(broken, assistant.attempt { save() })
        assertEquals(broken, assistant.attempt { logAsCsv() })
        assertEquals(broken, assistant.attempt { setThreshold(Threshold(3)) })
        assertEquals(broken, assistant.attempt { deleteLog() })
        // An import that fails, too, is told of once.
        assertEquals(State.Broken(Problem.Empty), assistant.bring(""))
        assertEquals(State.Broken(Problem.Native("no edgeb_jni")), assistant.bring("labels Music"))
        assertEquals(broken, assistant.attempt { save() })
        engines.fails = null
        ready(assistant.attempt { open() })
        assistant.attempt { close() }
        assertEquals(State.Opening, assistant.attempt { save() })
    }

    @Test
    fun anEventIsKeptWhereTheModelDoesNotOpen() {
        assistant().bring("labels News Music")
        engines.fails = OutOfMemoryError()
        val state = assistant().attempt { add(event("2024-03-18T10:00", "Music")) }
        assertEquals(State.Broken(Problem.Memory), state)
        engines.fails = null
        val day = ready(assistant().attempt { open() })
        assertEquals(listOf("Music"), day.behaviors())
        assertEquals("Music", day.suggestions.shown[0].behavior)
    }

    @Test
    fun anEventIsAddedWhereTheModelIsNotOpenYet() {
        assistant().bring("labels News Music")
        val day = ready(assistant().attempt { add(event("2024-03-18T10:00", "Music")) })
        assertEquals(listOf("Music"), day.behaviors())
        assertEquals("Music", day.suggestions.shown[0].behavior)
    }

    @Test
    fun aModelThatFindsNoRoomLeavesTheOldOneAtWork() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { accept("Music", "home") }
        val larger = ByteArrayInputStream("labels Mail".toByteArray())
        val state = assistant.attempt { importModel(larger, Long.MAX_VALUE, "larger.gguf", quiet) } as State.Ready
        assertEquals(Long.MAX_VALUE, (state.problem as Problem.Space).needed)
        // The disk is full in the middle of the copy.
        val full = object : InputStream() {
            override fun read(): Int = throw IOException("No space left on device")
        }
        val later = assistant.attempt { importModel(full, null, "larger.gguf", quiet) } as State.Ready
        assertEquals(Problem.OfFile("No space left on device"), later.problem)
        assertFalse("model.incoming" in names())
        assertEquals(listOf("News", "Music"), later.day.model.labels)
        assertEquals("Music", later.day.suggestions.shown[0].behavior)
    }

    @Test
    fun aBugIsNotHidden() {
        assistant().bring("labels News")
        engines.fails = IllegalStateException("bug")
        try {
            assistant().attempt { open() }
        } catch (error: IllegalStateException) {
            return
        }
        throw AssertionError("hidden")
    }

    @Test
    fun aModelWithoutPlacesIsAskedForNone() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { setPlace("work") }
        assertEquals("work", engines.asked.last())
        engines.places = false
        assertEquals(false, ready(assistant.bring("labels News Music")).model.places)
        val day = ready(assistant.attempt { accept("Music", "") })
        assertNull(engines.asked.last())
        assertEquals(listOf(BehaviorEvent("unknown", time, "Music")), day.page.entries.map { it.event })
        // What was said to the other model stays for the next one that asks.
        assertEquals("work", day.settings.place)
    }

    @Test
    fun anotherModelKeepsTheLogAndSkipsWhatItDoesNotKnow() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assistant.attempt { add(event("2024-03-18T10:00", "Maps")) }
        assistant.attempt { add(event("2024-03-18T11:00", "News")) }
        assistant.attempt { save() }
        val day = ready(assistant.bring("labels News Mail"))
        assertEquals(listOf("News", "Maps"), day.behaviors())
        assertEquals("News", day.suggestions.shown[0].behavior)
        assistant.attempt { save() }
        val fresh = engines.fresh
        ready(assistant().attempt { open() })
        assertEquals(fresh, engines.fresh)
    }

    @Test
    fun anotherModelCarriesOverWhatItKnowsAndSetsTheRestAside() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        for (label in listOf("Maps", "News", "Maps", "Music")) assistant.attempt { accept(label, "home") }
        val carried = assistant.bring("labels News Mail") as State.Ready
        assertEquals(Note.Carried(1, Aside(3, listOf("Maps", "Music"))), carried.note)
        assertEquals(Aside(3, listOf("Maps", "Music")), carried.day.aside)
        assertEquals(4, carried.day.page.entries.size)
        // Nothing is lost for one that knows them.
        val back = assistant.bring("labels News Music Maps") as State.Ready
        assertEquals(Aside(0, emptyList()), back.day.aside)
        assertEquals("Music", back.day.suggestions.shown[0].behavior)
    }

    @Test
    fun theMeasurementStays() {
        val assistant = assistant()
        assistant.bring("labels News")
        assertNull(assistant.benchmark)
        val heard = ArrayList<String>()
        ready(assistant.attempt {
            measure(object : Benchmark.Listener {
                override fun onScenario(name: String) {
                    heard.add(name)
                }
            }, CancelSignal())
        })
        assertEquals(listOf("session"), heard)
        assertEquals("{\"scenarios\": {}}", assistant().benchmark)
    }
}
