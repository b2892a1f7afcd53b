package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.EdgebException
import dev.edgeb.core.EventOrder
import dev.edgeb.core.Moment
import dev.edgeb.core.Prediction
import dev.edgeb.core.Ranked
import dev.edgeb.core.Scoring
import dev.edgeb.core.Source as Ranking
import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.InputStream
import java.io.OutputStream
import java.util.ArrayDeque
import java.util.concurrent.Executor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** A model whose file names its labels; it ranks first what was done last. */
class CountingEngines : Engines {
    val loads = ArrayList<String>()
    var open = 0
    var fresh = 0
    var restored = 0
    var observed = 0
    var fails: Throwable? = null
    var called = ""
    var measured = 0
    var places = true
    val asked = ArrayList<String?>()

    override fun load(model: File, verify: Boolean, name: String): Engine {
        fails?.let { throw it }
        val text = model.readText()
        if (!text.startsWith("labels ")) throw EdgebException("$model is not a bundle", "export one")
        called = name
        loads.add(if (verify) "verified" else "trusted")
        return CountingEngine(this, text.removePrefix("labels ").split(" "))
    }
}

class CountingEngine(private val all: CountingEngines, labels: List<String>) : Engine {
    override val facts = ModelFacts("qwen2", "Q4_0", "edgeb", labels, all.places)

    init {
        all.open++
    }

    override fun session(): EngineSession {
        all.fresh++
        return CountingSession(all, facts.labels, ArrayList())
    }

    override fun restore(file: File): EngineSession {
        val rows = Csv.rows(file.readText())
        if (rows[0] != facts.labels) throw EdgebException("belongs to another model")
        all.restored++
        val events = rows.drop(1).map { BehaviorEvent(it[0], Moment.parse(it[1]), it[2]) }
        return CountingSession(all, facts.labels, ArrayList(events))
    }

    override fun benchmark(listener: Benchmark.Listener): String {
        listener.onScenario("session")
        all.measured++
        return "{\"scenarios\": {}}"
    }

    override fun close() {
        all.open--
    }
}

class CountingSession(
    private val all: CountingEngines,
    private val labels: List<String>,
    override val events: ArrayList<BehaviorEvent>
) : EngineSession {
    override fun observe(event: BehaviorEvent) {
        if (event.behavior !in labels || !follows(event.time)) throw EdgebException("refused")
        all.observed++
        events.add(event)
    }

    override fun predict(moment: Moment, place: String?, topK: Int): Prediction {
        if (!follows(moment)) throw EdgebException("asked for the past")
        all.asked.add(place)
        val order = events.asReversed().map { it.behavior }.distinct() + labels
        val ranked = order.distinct().take(topK).mapIndexed { i, label -> Ranked(label, 0.6 / (1 shl i)) }
        return Prediction(ranked, Scoring.EXACT, Ranking.MODEL, events.size, 1.5, 1.0, 0.0, false, null, null)
    }

    private fun follows(moment: Moment): Boolean =
        events.isEmpty() || EventOrder.isPossible(events.last().time, moment)

    override fun save(file: File) {
        val rows = events.map { Csv.row(listOf(it.place, it.time.format(), it.behavior)) }
        file.writeText(Csv.row(labels) + rows.joinToString(""))
    }
}

class AssistantTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val engines = CountingEngines()
    private var time = Moment.parse("2024-03-18T20:00")
    private val quiet = object : ImportListener {
        override fun onChecking() = Unit

        override fun onCopied(bytes: Long) = Unit
    }

    private fun assistant(): Assistant = Assistant(folder.root, engines, object : Clock {
        override fun now(): Moment = time
    })

    private fun Assistant.bring(text: String): State =
        attempt { importModel(ByteArrayInputStream(text.toByteArray()), null, "mine.gguf", quiet) }

    private fun ready(state: State): Day = (state as State.Ready).also { assertNull(it.problem) }.day

    private fun names(): Set<String> = folder.root.list()!!.toSet()

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
        assertEquals(listOf("News", "Music"), day.suggestions.shown.map { it.behavior })
        assertEquals(1, day.suggestions.hidden)
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
        assertEquals(listOf("Music"), day.today.map { it.behavior })
        assertEquals("Music", day.suggestions.shown[0].behavior)
    }

    @Test
    fun anEventIsAddedWhereTheModelIsNotOpenYet() {
        assistant().bring("labels News Music")
        val day = ready(assistant().attempt { add(event("2024-03-18T10:00", "Music")) })
        assertEquals(listOf("Music"), day.today.map { it.behavior })
        assertEquals("Music", day.suggestions.shown[0].behavior)
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
    fun anAcceptedSuggestionIsAnEventOfNow() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assistant.attempt { setPlace("work") }
        // What the screen shows counts, asked about or not.
        val day = ready(assistant.attempt { accept("Music", " gym ") })
        assertEquals(listOf(BehaviorEvent("gym", time, "Music")), day.today)
        assertEquals("gym", day.settings.place)
        assertEquals("Music", day.suggestions.shown[0].behavior)
        assertEquals(1, day.cost!!.tokens)
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
        assertEquals(listOf(BehaviorEvent("unknown", time, "Music")), day.today)
        // What was said to the other model stays for the next one that asks.
        assertEquals("work", day.settings.place)
    }

    @Test
    fun aDismissedSuggestionReturnsAfterTheNextEvent() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assertEquals("Music", ready(assistant.attempt { dismiss("News") }).suggestions.shown[0].behavior)
        assistant.attempt { accept("Maps", "home") }
        val day = ready(assistant.attempt { setThreshold(Threshold(0)) })
        assertEquals(listOf("Maps", "News", "Music"), day.suggestions.shown.map { it.behavior })
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
        assertEquals(listOf("Maps", "News"), day.today.map { it.behavior })
        assertEquals("unknown", day.today[0].place)
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
        val day = ready(assistant.attempt { remove(event("2024-03-18T10:00", "Maps")) })
        assertTrue(day.today.isEmpty())
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
    fun anotherModelKeepsTheLogAndSkipsWhatItDoesNotKnow() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps")
        assistant.attempt { add(event("2024-03-18T10:00", "Maps")) }
        assistant.attempt { add(event("2024-03-18T11:00", "News")) }
        assistant.attempt { save() }
        val day = ready(assistant.bring("labels News Mail"))
        assertEquals(listOf("News", "Maps"), day.today.map { it.behavior })
        assertEquals("News", day.suggestions.shown[0].behavior)
        assistant.attempt { save() }
        val fresh = engines.fresh
        ready(assistant().attempt { open() })
        assertEquals(fresh, engines.fresh)
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
    fun aClockSetBackDoesNotStopIt() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { accept("Music", "home") }
        // A flight west: what happens now comes last, whatever the clock shows.
        time = Moment.parse("2024-03-18T18:00")
        val day = ready(assistant.attempt { accept("News", "home") })
        assertEquals("2024-03-18T18:00", day.cost!!.asked.format())
        assertEquals(listOf("News", "Music"), day.today.map { it.behavior })
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
            })
        })
        assertEquals(listOf("session"), heard)
        assertEquals("{\"scenarios\": {}}", assistant().benchmark)
    }

    @Test
    fun theScreensHearOfEveryStep() {
        val worker = ArrayDeque<Runnable>()
        val main = ArrayDeque<Runnable>()
        val controller = Controller(assistant(), Executor { worker.add(it) }, Executor { main.add(it) })
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
        assertEquals(listOf(State.Opening, State.NoModel(null), State.Importing(0), State.Checking), seen.take(4))
        assertEquals("Mail", (seen.last() as State.Ready).day.today[0].behavior)
        assertEquals("{\"scenarios\": {}}", controller.benchmark)
        assertNull(controller.measuring)
        assertEquals("timestamp,place,behavior\r\n2024-03-18T10:00,home,Mail\r\n", out.toString("UTF-8"))
        assertEquals(1, told)
        assertEquals(1, engines.measured)
    }

    @Test
    fun aSecondTapWhileTheFirstIsUnderWayIsNone() {
        val worker = ArrayDeque<Runnable>()
        val main = ArrayDeque<Runnable>()
        assistant().bring("labels News Music Maps")
        val controller = Controller(assistant(), Executor { worker.add(it) }, Executor { main.add(it) })
        controller.start()
        drain(worker, main)
        fun day(): Day = (controller.state as State.Ready).day
        for (tap in 1..2) controller.accept("Music", "home")
        drain(worker, main)
        assertEquals(1, day().today.size)
        for (time in listOf("2024-03-18T10:00", "2024-03-18T10:00")) controller.add(event(time, "News"))
        drain(worker, main)
        assertEquals(3, day().today.size)
        for (tap in 1..2) controller.remove(event("2024-03-18T10:00", "News"))
        drain(worker, main)
        assertEquals(listOf("Music", "News"), day().today.map { it.behavior })
        controller.accept("News", "home")
        controller.dismiss("Music")
        drain(worker, main)
        assertTrue("Music" in day().suggestions.shown.map { it.behavior })
    }

    @Test
    fun anAppThatFailsToGiveAFileIsNoBug() {
        val direct = Executor { it.run() }
        val controller = Controller(assistant(), direct, direct)
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

    private fun drain(worker: ArrayDeque<Runnable>, main: ArrayDeque<Runnable>) {
        while (worker.isNotEmpty() || main.isNotEmpty()) (if (main.isEmpty()) worker else main).remove().run()
    }
}
