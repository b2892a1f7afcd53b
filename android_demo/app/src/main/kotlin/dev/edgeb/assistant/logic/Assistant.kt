package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.EdgebException
import dev.edgeb.core.Moment
import dev.edgeb.core.Prediction
import dev.edgeb.core.Ranked
import dev.edgeb.core.cleanLabelOrNull
import java.io.File
import java.io.InputStream

private const val UNKNOWN_PLACE = "unknown"

/** The clock on the wall. */
interface Clock {
    fun now(): Moment
}

/** Told how an import goes on. */
interface ImportListener : CopyListener {
    fun onChecking()
}

/**
 * The assistant without its screens: model, log, session and settings, all in one folder.
 *
 * The log is what counts; the session is made from it where the saved one does not fit. Not for several threads, and
 * not for the main one: calls take as long as the model does.
 */
class Assistant(private val folder: File, private val engines: Engines, private val clock: Clock) {
    private val model = ModelFile(folder)
    private val log = TimelineStore(File(folder, "timeline.csv"))
    private val settingsStore = SettingsStore(File(folder, "settings.properties"))
    private val sessionFile = File(folder, "user.session")
    private val benchmarkFile = File(folder, "benchmark.json")

    private var timeline: Timeline? = null
    private var settings: Settings? = null
    private var engine: Engine? = null
    private var session: EngineSession? = null
    private var last: Prediction? = null
    private var asked: Moment? = null
    private var known: Set<String> = emptySet()
    private var notice: Problem? = null
    private var broken: Problem? = null
    private val dismissed = LinkedHashSet<String>()

    /** JSON of the last measurement; null where there is none. */
    val benchmark: String?
        get() = if (benchmarkFile.isFile) benchmarkFile.readText() else null

    /** Do something and tell what is to be seen then, or what went wrong. Errors that are bugs are thrown on. */
    fun attempt(action: Assistant.() -> Unit): State {
        return try {
            action()
            state(null)
        } catch (error: Throwable) {
            state(Problem.of(error) ?: throw error)
        }
    }

    /** Open the model where there is one and it is not open, and predict for now. */
    fun open() {
        if (engine == null) {
            // What a crash in the middle of an import left behind.
            model.discard()
            deletePartials()
            if (model.exists) begin(loaded())
        }
        predict()
    }

    /**
     * Copy a model in, check it against its own hashes, and use it from now on. The old one stays where this fails.
     *
     * @param size Of the source, where known.
     * @param name Of the source, where known: what errors and the benchmark call it.
     */
    fun importModel(source: InputStream, size: Long?, name: String?, listener: ImportListener) {
        val copy = model.copy(source, size, listener)
        listener.onChecking()
        // Two open models may not fit into memory.
        close()
        val called = name ?: model.file.name
        val opened = try {
            engines.load(copy.file, verify = true, name = called)
        } catch (error: Throwable) {
            model.discard()
            reopen()
            throw if (error is EdgebException) renamed(error, copy.file, called) else error
        }
        try {
            model.accept(copy, called)
        } catch (error: Throwable) {
            opened.close()
            reopen()
            throw error
        }
        begin(opened)
        predict()
    }

    /** Add what the user did; it may lie in the past. */
    fun add(event: BehaviorEvent) {
        val place = event.place.trim()
        val clean = event.copy(place = if (place == "") UNKNOWN_PLACE else place)
        val longer = if (clean.time == clock.now()) timeline().then(clean) else timeline().plus(clean)
        log.save(longer)
        timeline = longer
        // A model without places asks for none: what was said to another one stays.
        if (engine?.facts?.places != false) change(settings().copy(place = clean.place))
        dismissed.clear()
        // The event is in the log by now, whether the model opens or not.
        if (engine == null) return open()
        if (longer.events.last() === clean) observe(session, clean) else rebuild()
        predict()
    }

    /** Add a suggestion as what the user does now, in `place`. */
    fun accept(behavior: String, place: String) {
        add(BehaviorEvent(place, timeline().askable(clock.now()), behavior))
    }

    /** Do not suggest this until something else happens. */
    fun dismiss(behavior: String) {
        dismissed.add(behavior)
        predict()
    }

    /** Take an event back, and what was learned from it. */
    fun remove(event: BehaviorEvent) {
        val shorter = timeline().minus(event)
        log.save(shorter)
        timeline = shorter
        rebuild()
        predict()
    }

    /** Forget all events. Model and benchmark stay. */
    fun deleteLog() {
        timeline = Timeline()
        log.save(Timeline())
        log.deleteAside()
        deletePartials()
        dismissed.clear()
        change(settings().copy(place = ""))
        rebuild()
        predict()
    }

    /** Say where the user is, and predict for there. */
    fun setPlace(place: String) {
        change(settings().copy(place = place.trim()))
        predict()
    }

    /** Nothing below it is suggested from now on. */
    fun setThreshold(threshold: Threshold) = change(settings().copy(threshold = threshold))

    /** Measure predictions; the result stays. */
    fun measure(listener: Benchmark.Listener) {
        val opened = engine ?: return
        AtomicFile.write(benchmarkFile, opened.benchmark(listener))
        predict()
    }

    /** The last prediction's candidates, whatever the threshold. */
    fun ranked(): List<Ranked> = last?.ranked ?: emptyList()

    /** The log as a history file. */
    fun logAsCsv(): String = timeline().toCsv()

    /** Write what the model holds in memory, so that the next start need not evaluate it again. */
    fun save() {
        session?.save(sessionFile)
    }

    /** Free the model's memory; `open` takes it up again. */
    fun close() {
        session = null
        last = null
        broken = null
        engine?.close()
        engine = null
    }

    private fun loaded(): Engine {
        try {
            return engines.load(model.file, verify = model.sha256 == null, name = model.name)
        } catch (error: Throwable) {
            broken = Problem.of(error)
            throw error
        }
    }

    private fun reopen() {
        try {
            open()
        } catch (error: Throwable) {
            // The caller has an error to tell already; why this model does not open, the screen shows after it.
            if (Problem.of(error) == null) throw error
        }
    }

    /** What a process that died while it wrote left behind. */
    private fun deletePartials() {
        for (file in listOf(log.file, settingsStore.file, sessionFile, benchmarkFile)) AtomicFile.partial(file).delete()
    }

    private fun state(error: Problem?): State {
        val problem = named(error ?: notice ?: (if (engine == null) broken else null))
        notice = null
        val opened = engine
        if (opened == null) {
            return when {
                !model.exists -> State.NoModel(problem)
                problem == null -> State.Opening
                else -> State.Broken(problem)
            }
        }
        val set = settings()
        val made = last
        val at = asked
        val day = Day(
            model = opened.facts,
            modelBytes = model.file.length(),
            modelHash = model.sha256,
            settings = set,
            places = timeline().places(),
            today = timeline().today(clock.now()),
            suggestions = Suggestions.of(ranked(), set.threshold, dismissed),
            cost = if (made == null || at == null) null else costOf(made, at)
        )
        return State.Ready(day, problem)
    }

    private fun costOf(made: Prediction, at: Moment): Cost =
        Cost(made.elapsedMs, made.tokensEvaluated, made.source.text, at)

    /** Without the folder, which says nothing to a user. */
    private fun named(problem: Problem?): Problem? =
        if (problem is Problem.Input) problem.copy(message = problem.message.replace("$folder/", "")) else problem

    private fun predict() {
        val opened = session ?: return
        val facts = engine?.facts ?: return
        last = null
        val said = if (settings().place == "") UNKNOWN_PLACE else settings().place
        val place = if (facts.places) said else null
        val moment = timeline().askable(clock.now())
        last = opened.predict(moment, place, minOf(MOST_SUGGESTIONS + dismissed.size, facts.labels.size))
        asked = moment
    }

    /** The file's own name in place of that of its copy. */
    private fun renamed(error: EdgebException, copy: File, name: String) =
        EdgebException((error.message ?: "").replace(copy.path, name).replace(copy.name, name), error.hint, error.code)

    private fun begin(opened: Engine) {
        engine = opened
        broken = null
        session = null
        known = opened.facts.labels.toSet()
        val restored = try {
            if (sessionFile.isFile) opened.restore(sessionFile) else null
        } catch (error: EdgebException) {
            // Damaged, or of another model: the log has everything.
            null
        }
        val events = timeline().events.filter { isKnown(it) }
        val seen = if (restored == null) null else Timeline(events).seenBy(restored.events)
        if (restored == null || seen == null) {
            rebuild()
        } else {
            session = restored
            for (event in events.subList(seen, events.size)) restored.observe(event)
        }
    }

    private fun rebuild() {
        sessionFile.delete()
        val made = engine?.session()
        for (event in timeline().events) observe(made, event)
        session = made
    }

    private fun observe(into: EngineSession?, event: BehaviorEvent) {
        // A log may hold behaviors that another model knew.
        if (into != null && isKnown(event)) into.observe(event)
    }

    private fun isKnown(event: BehaviorEvent): Boolean = cleanLabelOrNull(event.behavior) in known

    private fun settings(): Settings = settings ?: settingsStore.load().also { settings = it }

    private fun change(to: Settings) {
        if (to != settings()) settingsStore.save(to)
        settings = to
    }

    private fun timeline(): Timeline = timeline ?: loadLog().also { timeline = it }

    private fun loadLog(): Timeline {
        return try {
            log.load()
        } catch (error: EdgebException) {
            notice = Problem.Log(log.putAside())
            Timeline()
        }
    }
}
