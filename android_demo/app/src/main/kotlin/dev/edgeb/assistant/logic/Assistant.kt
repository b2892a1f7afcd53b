package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.EdgebException
import dev.edgeb.core.ErrorCode
import dev.edgeb.core.EventSource
import dev.edgeb.core.Moment
import dev.edgeb.core.Ranked
import java.io.File
import java.io.InputStream

/**
 * The assistant without its screens: model, log, session and settings, all in one folder.
 *
 * The log is what counts; the session is made from it where the saved one does not fit. Not for several threads, and
 * not for the main one: calls take as long as the model does.
 *
 * @param sample Null where the app brings none.
 */
class Assistant(
    folder: File,
    engines: Engines,
    private val clock: Clock,
    private val sample: Sample? = null,
    private val listener: PredictionListener? = null
) {
    private val model = OpenModel(folder, engines)
    private val journal = Journal(folder)
    private val settingsStore = SettingsStore(File(folder, "settings.properties"))
    private val benchmarkFile = File(folder, "benchmark.json")
    private val home = "$folder/"

    private var settings: Settings? = null
    private var last: Answer? = null
    private var before: List<String> = emptyList()
    private var shownDay: Moment? = null
    private var note: Note? = null
    private var isPrepared = true

    /** JSON of the last measurement; null where there is none. */
    val benchmark: String?
        get() = if (benchmarkFile.isFile) benchmarkFile.readText() else null

    /** Do something and tell what is to be seen then, or what went wrong. Errors that are bugs are thrown on. */
    fun attempt(action: Assistant.() -> Unit): State {
        return try {
            action()
            state(null)
        } catch (error: Throwable) {
            val problem = Problem.of(error) ?: throw error
            if (problem === Problem.Cancelled) note = Note.Cancelled
            state(problem.takeIf { it !== Problem.Cancelled })
        }
    }

    /** Open the model where there is one and it is not open, and predict for now where the answer is of before. */
    fun open() {
        if (!model.isOpen) {
            // What a crash in the middle of an import left behind.
            deletePartials()
            if (model.exists) begin { model.open() }
        }
        tick()
    }

    /** Predict anew where the last answer is of another hour: answers depend on weekday and hour. */
    fun tick() {
        val asked = last?.cost?.asked
        if (asked == null || isDue(asked, timeline.askable(clock.now()))) predict()
    }

    /**
     * Copy a model in, check it against its own hashes, and use it from now on, with the log that there is. The old one
     * stays where this fails.
     *
     * @param size Of the source, where known.
     * @param name Of the source, where known: what errors and the benchmark call it.
     */
    fun importModel(source: InputStream, size: Long?, name: String?, listener: ImportListener) {
        val isFirst = !model.exists
        begin { model.import(source, size, name, listener) }
        if (!isFirst && timeline.entries.isNotEmpty()) {
            note = Note.Carried(timeline.entries.size - aside().events, aside())
        }
    }

    /** Take the app's own model where there is none that works, and fill an empty log with its weeks until now. */
    fun trySample(listener: ImportListener) {
        val brought = sample ?: return
        val weeks = brought.log().use { History.read(it, listener) }
        takeSampleModel(brought, listener)
        if (timeline.entries.isEmpty()) {
            change(History.asOf(weeks, clock.now()))
            val place = timeline.events.lastOrNull()?.place
            if (place != null) change(settings().copy(place = place))
        }
        predict()
    }

    /** Take the sample's events out of the log. */
    fun dropSample() {
        change(timeline.without(Origin.SAMPLE))
        predict()
    }

    /** Add the events of a file to the log, in place of the sample's; without a model, the app's own takes them. */
    fun importLog(source: InputStream, listener: ImportListener) {
        val found = History.read(source, listener)
        val own = timeline.without(Origin.SAMPLE)
        val merged = own.merged(found)
        if (!model.exists && sample != null) takeSampleModel(sample, listener)
        change(merged)
        note = Note.Imported(merged.entries.size - own.entries.size, aside().events)
        predict()
    }

    /** Add what the user did; it may lie in the past. */
    fun add(event: BehaviorEvent, origin: Origin = Origin.ADDED) {
        val place = event.place.trim()
        val clean = event.copy(place = if (place == "") UNKNOWN_PLACE else place)
        val entry = Entry(clean, clock.zone(), origin)
        val isNow = clean.time == clock.now()
        val longer = if (isNow) timeline.then(entry) else timeline.plus(entry)
        journal.change(longer)
        before = ranked().map { it.behavior }
        // A model without places asks for none: what was said to another one stays.
        val where = if (model.facts?.places == false) settings().place else clean.place
        change(settings().copy(place = where, dismissed = settings().dismissed.minus(clean.behavior)))
        // The event is in the log by now, whether the model opens or not.
        if (!model.isOpen) return open()
        if (longer.entries.last() === entry) model.observe(clean) else model.rebuild(longer.events)
        predict()
    }

    /** Add a suggestion as what the user does now, in `place`. */
    fun accept(behavior: String, place: String) {
        add(BehaviorEvent(place, timeline.askable(clock.now()), behavior), Origin.ACCEPTED)
    }

    /**
     * Add what another source has seen since it was last asked, and behaviors that the model knows alone. Nobody waits:
     * nothing is predicted until somebody looks.
     *
     * @return How many events were added.
     */
    fun observe(source: EventSource): Int {
        if (!source.isAllowed) return 0
        val now = clock.now()
        val since = timeline.last(Origin.OBSERVED, now, clock.zone()) ?: Moment(now.minutes - FIRST_LOOK)
        val found = source.read(since, now).filter { model.knows(it) && it.time > since && it.time <= now }
        val place = if (settings().place == "") UNKNOWN_PLACE else settings().place
        val entries = found.map {
            Entry(if (it.place == "") it.copy(place = place) else it, clock.zone(), Origin.OBSERVED)
        }
        val own = timeline.entries.size
        val longer = timeline.merged(Timeline(entries))
        if (longer.entries.size > own) {
            change(longer)
            last = null
            isPrepared = false
        }
        return longer.entries.size - own
    }

    /**
     * Evaluate what was observed and not asked about yet. For when nobody waits.
     *
     * @param cancel Somebody does, after all: the next prediction evaluates what is left.
     */
    fun prepare(cancel: CancelSignal) {
        if (isPrepared) return
        try {
            model.prepare(cancel)
            isPrepared = true
        } catch (error: EdgebException) {
            if (error.code != ErrorCode.CANCELLED) throw error
        }
    }

    /** Do not show this for a while; its probability stays what it is. */
    fun dismiss(behavior: String) {
        change(settings().copy(dismissed = settings().dismissed.renewed(clock.now()).plus(behavior, clock.now())))
        predict()
    }

    /** Show again what was dismissed. */
    fun restoreDismissed() {
        change(settings().copy(dismissed = Dismissals()))
        predict()
    }

    /** Take an event back, and what was learned from it. */
    fun remove(entry: Entry) {
        change(timeline.minus(entry))
        predict()
    }

    /** Put an event right. */
    fun edit(entry: Entry, event: BehaviorEvent) {
        val place = event.place.trim()
        val clean = event.copy(place = if (place == "") UNKNOWN_PLACE else place)
        change(timeline.minus(entry).plus(entry.copy(event = clean)))
        predict()
    }

    /** Take the last change of the log back. */
    fun undo() {
        if (!journal.undo()) return
        rebuild()
        predict()
    }

    /** List another day than today; null lists today, whichever that is. */
    fun showDay(day: Moment?) {
        shownDay = if (day == null || dayOf(day) == dayOf(clock.now())) null else day
    }

    /** Forget all events. Model and benchmark stay. */
    fun deleteLog() {
        journal.delete()
        deletePartials()
        shownDay = null
        change(settings().copy(place = "", dismissed = Dismissals()))
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

    /** Ask for predictions otherwise from now on. */
    fun setWish(wish: Wish) {
        change(settings().copy(wish = wish))
        predict()
    }

    /** Measure predictions; the result stays. The one before does, where it is cancelled. */
    fun measure(listener: Benchmark.Listener, cancel: CancelSignal) {
        val json = model.benchmark(listener, cancel) ?: return
        AtomicFile.write(benchmarkFile, json)
        predict()
    }

    /** The last prediction's candidates, whatever the threshold. */
    fun ranked(): List<Ranked> = last?.prediction?.ranked ?: emptyList()

    /** The log as a history file. */
    fun logAsCsv(): String = timeline.toCsv()

    /** Write what the model holds in memory, so that the next start need not evaluate it again. */
    fun save() = model.save()

    /** Free the model's memory; `open` takes it up again. */
    fun close() {
        last = null
        model.close()
    }

    private val timeline: Timeline
        get() = journal.timeline

    private fun takeSampleModel(brought: Sample, listener: ImportListener) {
        if (!model.isOpen) begin { brought.model().use { model.import(it, null, brought.name, listener) } }
    }

    /** Open a model, show it the log, and predict. */
    private fun begin(open: () -> Unit) {
        try {
            open()
        } finally {
            // After an import that failed, the old model may be open still, or again.
            if (model.isOpen && !model.hasSession) {
                last = null
                before = emptyList()
                model.begin(timeline.events)
                predict()
            }
        }
    }

    private fun change(to: Timeline) {
        val was = timeline
        journal.change(to)
        if (timeline !== was) rebuild()
    }

    private fun rebuild() {
        before = emptyList()
        model.rebuild(timeline.events)
    }

    /** What a process that died while it wrote left behind. */
    private fun deletePartials() {
        model.discard()
        for (file in listOf(journal.file, settingsStore.file, benchmarkFile)) AtomicFile.partial(file).delete()
    }

    private fun predict() {
        val facts = model.facts ?: return
        last = null
        val set = settings()
        val said = if (set.place == "") UNKNOWN_PLACE else set.place
        val moment = timeline.askable(clock.now())
        val count = minOf(MOST_SUGGESTIONS + set.dismissed.at(clock.now()).size, facts.labels.size)
        listener?.onPredicting(true)
        try {
            val wish = set.wish.within(facts.offers, facts.defaultSource)
            last = model.predict(moment, if (facts.places) said else null, count, wish)
            isPrepared = true
        } finally {
            listener?.onPredicting(false)
        }
    }

    private fun state(error: Problem?): State {
        val damaged = journal.damaged?.let { Problem.Log(it) }
        val problem = named(error ?: damaged ?: (if (model.isOpen) null else model.broken))
        val told = note
        note = null
        val facts = model.facts
        if (facts == null) {
            return when {
                !model.exists -> State.NoModel(problem, sample != null)
                problem == null -> State.Opening
                else -> State.Broken(problem, sample != null)
            }
        }
        // Reading the log may find it damaged.
        val day = viewOf(facts)
        return State.Ready(day, problem ?: journal.damaged?.let { Problem.Log(it) }, told)
    }

    private fun viewOf(facts: ModelFacts): Day {
        val set = settings()
        val now = clock.now()
        val dismissed = set.dismissed.at(now)
        val made = last
        val shown =
            if (made == null) Suggestions.NONE else Suggestions.of(made.prediction, set.threshold, dismissed, before)
        val day = shownDay ?: now
        val isFirst = made?.why != null && made.why.behavior == shown.shown.firstOrNull()?.behavior
        return Day(
            model = facts,
            modelBytes = model.bytes,
            modelHash = model.sha256,
            settings = set.copy(wish = set.wish.within(facts.offers, facts.defaultSource)),
            places = timeline.places(),
            suggestions = shown,
            likely = made?.prediction?.likely,
            why = if (isFirst) made?.why else null,
            cost = made?.cost,
            page = Page(day, timeline.on(day), timeline.dayBefore(day), timeline.dayAfter(day, now), clock.zone()),
            aside = aside(),
            canUndo = journal.canUndo,
            isSample = timeline.entries.any { it.origin == Origin.SAMPLE },
            offersSample = sample != null && timeline.entries.isEmpty() && model.name == sample.name
        )
    }

    private fun aside(): Aside {
        val unknown = timeline.events.filter { !model.knows(it) }
        return Aside(unknown.size, unknown.map { it.behavior }.distinct().sorted())
    }

    /** Without the folder, which says nothing to a user. */
    private fun named(problem: Problem?): Problem? =
        if (problem is Problem.Input) problem.copy(message = problem.message.replace(home, "")) else problem

    private fun settings(): Settings = settings ?: settingsStore.load().also { settings = it }

    private fun change(to: Settings) {
        if (to != settings()) settingsStore.save(to)
        settings = to
    }

    companion object {
        private const val UNKNOWN_PLACE = "unknown"

        // How far back another source is read when it is read for the first time, in minutes.
        private const val FIRST_LOOK = 24 * 60L

        /** Whether an answer for `asked` is none for `now`. */
        fun isDue(asked: Moment, now: Moment): Boolean = asked.hour != now.hour || dayOf(asked) != dayOf(now)
    }
}
