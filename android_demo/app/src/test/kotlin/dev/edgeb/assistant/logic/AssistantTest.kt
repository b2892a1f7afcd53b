package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.EdgebException
import dev.edgeb.core.ErrorCode
import dev.edgeb.core.EventOrder
import dev.edgeb.core.EventSource
import dev.edgeb.core.Explanation
import dev.edgeb.core.Moment
import dev.edgeb.core.Prediction
import dev.edgeb.core.Ranked
import dev.edgeb.core.Reason
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
    val wishes = ArrayList<Wish>()
    var prepared = 0
    var saved = 0
    var offers = emptyList<Offer>()

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
    override val facts = ModelFacts("qwen2", "Q4_0", "edgeb", labels, all.places, offers = all.offers)

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

    override fun predict(moment: Moment, place: String?, topK: Int, wish: Wish): Prediction {
        if (!follows(moment)) throw EdgebException("asked for the past")
        all.asked.add(place)
        all.wishes.add(wish)
        val order = events.asReversed().map { it.behavior }.distinct() + labels
        val ranked = order.distinct().take(topK).mapIndexed { i, label -> Ranked(label, 0.6 / (1 shl i)) }
        return Prediction(ranked, Scoring.EXACT, Ranking.MODEL, events.size, 1.5, 1.0, 0.0, false, wish.precision?.let { true }, null)
    }

    override fun explain(made: Prediction, moment: Moment, place: String?) =
        Explanation(made.ranked[0].behavior, Reason.MODEL, made.ranked[0].probability, emptyMap())

    override fun prepare(cancel: CancelSignal) {
        if (cancel.isCancelled) throw EdgebException("the call was cancelled", "", ErrorCode.CANCELLED)
        all.prepared++
    }

    private fun follows(moment: Moment): Boolean =
        events.isEmpty() || EventOrder.isPossible(events.last().time, moment)

    override fun save(file: File) {
        all.saved++
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

    private var zone = ""
    private var sample: Sample? = null

    private fun assistant(listener: PredictionListener? = null): Assistant =
        Assistant(folder.root, engines, object : Clock {
            override fun now(): Moment = time

            override fun zone(): String = zone
        }, sample, listener)

    private fun Assistant.bring(text: String): State =
        attempt { importModel(ByteArrayInputStream(text.toByteArray()), null, "mine.gguf", quiet) }

    private fun ready(state: State): Day = (state as State.Ready).also { assertNull(it.problem) }.day

    private fun Day.behaviors(): List<String> = page.entries.map { it.event.behavior }

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
        assertEquals(listOf(Entry(BehaviorEvent("gym", time, "Music"), "", Origin.ACCEPTED)), day.page.entries)
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
        assertEquals(listOf(BehaviorEvent("unknown", time, "Music")), day.page.entries.map { it.event })
        // What was said to the other model stays for the next one that asks.
        assertEquals("work", day.settings.place)
    }

    @Test
    fun whatWasDismissedIsNotShownForAWhile() {
        val first = assistant()
        first.bring("labels News Music Maps")
        val shown = ready(first.attempt { dismiss("News") }).suggestions
        assertEquals(listOf("Music", "Maps"), shown.shown.map { it.behavior })
        assertEquals(1, shown.dismissed)
        // Its probability stays what it is, and so do the others'.
        assertEquals(listOf(0.3, 0.15), shown.shown.map { it.probability })
        assertEquals(listOf("News", "Music", "Maps"), first.ranked().map { it.behavior })
        first.attempt { accept("Maps", "home") }
        // Neither an event nor the end of the process brings it back.
        time = Moment.parse("2024-03-18T21:59")
        val assistant = assistant()
        val later = ready(assistant.attempt { open() }).suggestions
        assertEquals(listOf("Maps", "Music"), later.shown.map { it.behavior })
        time = Moment.parse("2024-03-18T22:00")
        assertEquals(listOf("Maps", "News", "Music"), ready(assistant.attempt { tick() }).suggestions.shown.map { it.behavior })
        assistant.attempt { dismiss("News") }
        val back = ready(assistant.attempt { restoreDismissed() }).suggestions
        assertEquals(listOf("Maps", "News", "Music"), back.shown.map { it.behavior })
        // What the user does is no longer unwanted.
        assistant.attempt { dismiss("News") }
        assertEquals("News", ready(assistant.attempt { accept("News", "home") }).suggestions.shown[0].behavior)
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
        val controller = Controller(Executor { worker.add(it) }, Executor { main.add(it) }) { assistant(it) }
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
        val worker = ArrayDeque<Runnable>()
        val main = ArrayDeque<Runnable>()
        assistant().bring("labels News Music Maps")
        val controller = Controller(Executor { worker.add(it) }, Executor { main.add(it) }) { assistant(it) }
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
    fun arrowsTellWhatMovedSinceTheLastEvent() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps Mail Chess Radio")
        val moves = ready(assistant.attempt { accept("Radio", "home") }).suggestions.shown.map { it.behavior to it.move }
        assertEquals(
            listOf("Radio" to Move.New, "News" to Move.Down(1), "Music" to Move.Down(1), "Maps" to Move.Down(1), "Mail" to Move.Down(1)),
            moves
        )
        val back = ready(assistant.attempt { undo() }).suggestions.shown
        assertTrue(back.all { it.move == Move.Same })
    }

    @Test
    fun oneSaysWhyAsLongAsTheFirstIsShown() {
        val assistant = assistant()
        val day = ready(assistant.bring("labels News Music"))
        assertEquals(Reason.MODEL, day.why!!.reason)
        assertNull(ready(assistant.attempt { dismiss("News") }).why)
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
    fun atMidnightTheDayIsAnother() {
        val assistant = assistant()
        assistant.bring("labels News Music")
        assistant.attempt { accept("News", "home") }
        time = Moment.parse("2024-03-19T00:00")
        val page = ready(assistant.attempt { tick() }).page
        assertTrue(page.entries.isEmpty() && page.isToday)
        assertEquals("2024-03-18T00:00", page.before!!.format())
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

    @Test
    fun predictingIsToldWhileAPredictionRunsAlone() {
        val told = ArrayList<Boolean>()
        val assistant = assistant(object : PredictionListener {
            override fun onPredicting(active: Boolean) {
                told.add(active)
            }
        })
        assistant.bring("labels News Music")
        assertEquals(listOf(true, false), told)
        assistant.attempt { save() }
        assistant.attempt { setThreshold(Threshold(3)) }
        assistant.attempt { showDay(null) }
        assertEquals(2, told.size)
        assistant.attempt { accept("News", "home") }
        assertEquals(listOf(true, false, true, false), told)
    }

    @Test
    fun aWishIsFulfilledAsFarAsTheModelOffersIt() {
        val offered = Levels(mapOf(0.5 to true, 0.9 to false), listOf(0.8))
        engines.offers = listOf(Offer(Ranking.MODEL, Levels()), Offer(Ranking.FUSED, offered, Levels()))
        val assistant = assistant()
        assistant.bring("labels News Music")
        val wish = Wish(Ranking.FUSED, false, 0.5, 0.8)
        val day = ready(assistant.attempt { setWish(wish) })
        assertEquals(wish, engines.wishes.last())
        // With a precision the decision is the model's, and for the first alone.
        assertEquals(listOf(true, false), day.suggestions.shown.map { it.suggested })
        // Raised, nothing is calibrated; another model has no fusion.
        assistant.attempt { setWish(wish.copy(fitted = true)) }
        assertEquals(Wish(Ranking.FUSED, true), engines.wishes.last())
        engines.offers = listOf(Offer(Ranking.MODEL, Levels()), Offer(Ranking.HABITS, offered))
        assertEquals(Wish(), ready(assistant.bring("labels News Music")).settings.wish)
        assertEquals(Wish(), engines.wishes.last())
    }

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

    @Test
    fun anImportThatIsCancelledLeavesWhatThereWas() {
        val worker = ArrayDeque<Runnable>()
        val main = ArrayDeque<Runnable>()
        assistant().bring("labels News Music")
        val controller = Controller(Executor { worker.add(it) }, Executor { main.add(it) }) { assistant(it) }
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

    private fun weeks(): Sample = object : Sample {
        override val name = "sample.gguf"

        override fun model(): InputStream = ByteArrayInputStream("labels News Music Maps".toByteArray())

        override fun log(): InputStream = ByteArrayInputStream(
            ("timestamp,place,behavior\n2023-01-03T08:00,home,News\n2023-01-09T19:00,work,Music\n" +
                "2023-01-10T21:00,home,Maps\n").toByteArray()
        )
    }

    private fun drain(worker: ArrayDeque<Runnable>, main: ArrayDeque<Runnable>) {
        while (worker.isNotEmpty() || main.isNotEmpty()) (if (main.isEmpty()) worker else main).remove().run()
    }
}
