package dev.edgeb.assistant.logic

import dev.edgeb.core.EventSource
import dev.edgeb.core.Moment
import java.io.ByteArrayInputStream
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** A process may be killed between any two of its writes: then some files are of before and some of after. */
class CrashTest {
    @get:Rule
    val folder = TemporaryFolder()

    private class Saved(val bytes: List<Byte>, val modified: Long)

    private val quiet = object : ImportListener {
        override fun onChecking() = Unit

        override fun onCopied(bytes: Long) = Unit
    }

    private fun assistant() = Assistant(folder.root, CountingEngines(), object : Clock {
        override fun now(): Moment = Moment.parse("2024-03-18T20:00")
    })

    private fun Assistant.bring(labels: String) =
        importModel(ByteArrayInputStream("labels $labels".toByteArray()), null, "mine.gguf", quiet)

    private fun files(): Map<String, Saved> =
        folder.root.listFiles()!!.associate { it.name to Saved(it.readBytes().toList(), it.lastModified()) }

    private fun put(files: Map<String, Saved>) {
        for (file in folder.root.listFiles()!!) file.delete()
        for ((name, saved) in files) {
            val file = File(folder.root, name)
            file.writeBytes(saved.bytes.toByteArray())
            file.setLastModified(saved.modified)
        }
    }

    private fun log(files: Map<String, Saved>): String =
        files["timeline.csv"]?.let { String(it.bytes.toByteArray(), Charsets.UTF_8) } ?: Timeline().toCsv()

    @Test
    fun whatWasWrittenBeforeIsEnough() {
        val first = assistant()
        first.bring("News Music Maps")
        for (at in listOf("2024-03-17T08:00", "2024-03-18T09:00")) first.add(event(at, "News"))
        first.add(event("2024-03-18T10:00", "Music"))
        first.save()
        first.close()
        val before = files()
        val last = Entry(event("2024-03-18T10:00", "Music"))
        val actions = listOf(
            named("add") { add(event("2024-03-18T19:00", "Maps", "work")) },
            named("accept") { accept("Maps", "gym") },
            named("add to the past") { add(event("2024-03-16T19:00", "Maps")) },
            named("edit") { edit(last, event("2024-03-18T07:00", "Maps")) },
            named("remove") { remove(last) },
            named("undo") {
                remove(last)
                undo()
            },
            named("dismiss") { dismiss("News") },
            named("wish") { setWish(Wish(fitted = true)) },
            named("delete") { deleteLog() },
            named("another model") { bring("Music Maps Mail") },
            named("a log") { importLog(ByteArrayInputStream(LOG.toByteArray()), quiet) },
            named("another source") {
                observe(object : EventSource {
                    override val isAllowed = true

                    override fun read(since: Moment, until: Moment) = listOf(event("2024-03-18T19:30", "Maps", ""))
                })
            }
        )
        var tried = 0
        for ((name, action) in actions) {
            put(before)
            val assistant = assistant()
            assistant.open()
            assistant.action()
            assistant.save()
            assistant.close()
            val after = files()
            val changed = (before.keys + after.keys).filter { before[it]?.bytes != after[it]?.bytes }
            for (subset in 0 until (1 shl changed.size)) {
                val done = changed.filterIndexed { i, _ -> subset shr i and 1 == 1 }
                val mixed = before - done + after.filterKeys { it in done }
                put(mixed + ("timeline.csv.partial" to Saved("half a li".toByteArray().toList(), 0)))
                checkOpens("$name, after $done", setOf(log(before), log(after)))
                tried++
            }
        }
        assertTrue("$tried", tried > 20)
    }

    private companion object {
        const val LOG = "timestamp,place,behavior\n2024-03-15T08:00,home,Music\n2024-03-18T19:00,home,News\n"
    }

    private fun named(name: String, action: Assistant.() -> Unit) = Pair(name, action)

    private fun checkOpens(what: String, logs: Set<String>) {
        val assistant = assistant()
        val state = assistant.attempt { open() } as State.Ready
        assertNull(what, state.problem)
        assertTrue(what, assistant.logAsCsv() in logs)
        assertFalse(what, File(folder.root, "timeline.csv.partial").exists())
        // The session is of this log: this model ranks first what was done last.
        val known = Timeline.fromCsv(assistant.logAsCsv()).events.filter { it.behavior in state.day.model.labels }
        val expected = known.lastOrNull()?.behavior ?: state.day.model.labels[0]
        assertEquals(what, expected, assistant.ranked()[0].behavior)
    }
}
