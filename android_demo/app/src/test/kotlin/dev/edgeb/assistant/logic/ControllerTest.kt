package dev.edgeb.assistant.logic

import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.InputStream
import java.io.OutputStream
import java.util.ArrayDeque
import java.util.concurrent.Executor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** The two threads: what screens hear, taps, other apps' failures, cancelling. */
class ControllerTest : OnAssistant() {
    private val worker = ArrayDeque<Runnable>()
    private val main = ArrayDeque<Runnable>()

    /** A controller whose work waits in two queues until they are drained. */
    private fun queued() = Controller(Executor { worker.add(it) }, Executor { main.add(it) }) { assistant(it) }

    @Test
    fun theScreensHearOfEveryStep() {
        val controller = queued()
        val seen = ArrayList<State>()
        controller.listen(object : Controller.Listener {
            override fun onChanged() {
                if (seen.isEmpty() || seen.last() != controller.state) seen.add(controller.state)
            }
        })
        controller.start()
        controller.importModel(object : Source {
            override val size: Long? = 16
            override val name: String? = "mine.gguf"

            override fun open(): InputStream = ByteArrayInputStream("labels News Mail".toByteArray())
        })
        // Not while the model is copied.
        controller.measure()
        drain(worker, main)
        controller.measure()
        val out = ByteArrayOutputStream()
        var told = 0
        controller.add(event("2024-03-18T10:00", "Mail"))
        controller.saveLog(object : Target {
            override fun open(): OutputStream = out
        }, Runnable { told++ })
        assertTrue(controller.busy)
        drain(worker, main)
        assertFalse(controller.busy)
        assertEquals(listOf(State.Opening, State.NoModel(null), State.Importing(0, 16), State.Checking), seen.take(4))
        assertEquals("Mail", (seen.last() as State.Ready).day.behaviors()[0])
        assertEquals("{\"scenarios\": {}}", controller.benchmark)
        assertNull(controller.measuring)
        assertEquals("timestamp,place,behavior,zone,origin\r\n2024-03-18T10:00,home,Mail,,added\r\n", out.toString("UTF-8"))
        assertEquals(1, told)
        assertEquals(1, engines.measured)
    }

    @Test
    fun aSecondTapWhileTheFirstIsUnderWayIsNone() {
        assistant().bring("labels News Music Maps")
        val controller = queued()
        controller.start()
        drain(worker, main)
        fun day(): Day = (controller.state as State.Ready).day
        for (tap in 1..2) controller.accept("Music", "home")
        drain(worker, main)
        assertEquals(1, day().page.entries.size)
        for (time in listOf("2024-03-18T10:00", "2024-03-18T10:00")) controller.add(event(time, "News"))
        drain(worker, main)
        assertEquals(3, day().page.entries.size)
        for (tap in 1..2) controller.remove(Entry(event("2024-03-18T10:00", "News")))
        drain(worker, main)
        assertEquals(listOf("Music", "News"), day().behaviors())
        controller.accept("News", "home")
        controller.dismiss("Music")
        drain(worker, main)
        assertTrue("Music" in day().suggestions.shown.map { it.behavior })
    }

    @Test
    fun anAppThatFailsToGiveAFileIsNoBug() {
        val direct = Executor { it.run() }
        val controller = Controller(direct, direct) { assistant(it) }
        val failures = listOf(
            IllegalArgumentException("no such document"), UnsupportedOperationException(), SecurityException("no")
        )
        for (failure in failures) {
            controller.importModel(object : Source {
                override val size: Long? = null
                override val name: String? = null

                override fun open(): InputStream = throw failure
            })
            val problem = (controller.state as State.NoModel).problem as Problem.OfFile
            assertTrue(problem.message, problem.message.startsWith("the file's app failed: "))
            controller.saveLog(object : Target {
                override fun open(): OutputStream = throw failure
            }, Runnable { throw AssertionError("nothing was saved") })
            assertTrue((controller.state as State.NoModel).problem is Problem.OfFile)
        }
        // Without size and name a file is read all the same; no file has a size of 0 and bytes.
        for (told in listOf<Long?>(0, -1, null)) {
            controller.importModel(object : Source {
                override val size: Long?
                    get() = told ?: throw failures[0]
                override val name: String?
                    get() = throw failures[0]

                override fun open(): InputStream = ByteArrayInputStream("labels News".toByteArray())
            })
            ready(controller.state)
        }
    }

    @Test
    fun aMeasurementIsCancelledInsideAScenario() {
        assistant().bring("labels News Music")
        val controller = queued()
        controller.start()
        drain(worker, main)
        controller.measure()
        drain(worker, main)
        val kept = controller.benchmark
        assertEquals(1, engines.measured)
        val shown = ArrayList<String?>()
        engines.onMeasuring = {
            while (main.isNotEmpty()) main.remove().run()
            shown.add(controller.measuring?.scenario)
            controller.cancel()
        }
        controller.measure()
        drain(worker, main)
        assertEquals(listOf<String?>("session"), shown)
        assertEquals(1, engines.measured)
        assertNull(controller.measuring)
        assertFalse(controller.busy || controller.cancellable)
        // The measurement before it stays, and the answer is still there.
        assertEquals(kept, controller.benchmark)
        val state = controller.state as State.Ready
        assertEquals(Note.Cancelled, state.note)
        assertNull(state.problem)
        assertEquals("News", state.day.suggestions.shown[0].behavior)
    }

    @Test
    fun anImportThatIsCancelledLeavesWhatThereWas() {
        assistant().bring("labels News Music")
        val controller = queued()
        controller.start()
        drain(worker, main)
        assertFalse(controller.cancellable)
        val source = object : Source {
            override val size: Long? = null
            override val name: String? = "other.gguf"

            override fun open(): InputStream {
                // Half-way: the user has thought better of it.
                controller.cancel()
                return ByteArrayInputStream("labels Mail Maps".toByteArray())
            }
        }
        controller.importModel(source)
        assertTrue(controller.cancellable)
        drain(worker, main)
        val state = controller.state as State.Ready
        assertEquals(Note.Cancelled, state.note)
        assertNull(state.problem)
        assertEquals(listOf("News", "Music"), state.day.model.labels)
        assertEquals("News", state.day.suggestions.shown[0].behavior)
        assertFalse(controller.cancellable)
        assertFalse("model.incoming" in names())
        // Before it began.
        controller.measure()
        controller.cancel()
        drain(worker, main)
        assertEquals(0, engines.measured)
        assertNull(controller.measuring)
        assertEquals(Note.Cancelled, (controller.state as State.Ready).note)
        controller.measure()
        drain(worker, main)
        assertEquals(1, engines.measured)
    }
}
