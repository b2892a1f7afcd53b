package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.EdgebException
import dev.edgeb.core.EventOrder
import dev.edgeb.core.Explanation
import dev.edgeb.core.Moment
import dev.edgeb.core.Prediction
import dev.edgeb.core.cleanLabelOrNull
import java.io.File
import java.io.InputStream

/** What a model answered, and why. */
class Answer(val prediction: Prediction, val why: Explanation?, val cost: Cost)

/** The app's model: its file, and where it is open the session that was shown the log. */
class OpenModel(folder: File, private val engines: Engines) {
    private val store = ModelFile(folder)
    private val sessionFile = File(folder, "user.session")
    private var engine: Engine? = null
    private var session: EngineSession? = null
    private var labels: Set<String> = emptySet()
    private val known = HashMap<String, Boolean>()
    private var isSaved = true

    /** Why the model does not open; null where it was not tried or does. */
    var broken: Problem? = null
        private set

    val exists: Boolean
        get() = store.exists

    val isOpen: Boolean
        get() = engine != null

    /** Whether the open model was shown the log. */
    val hasSession: Boolean
        get() = session != null

    val facts: ModelFacts?
        get() = engine?.facts

    val bytes: Long
        get() = store.file.length()

    val sha256: String?
        get() = store.sha256

    /** What the file was called where it came from. */
    val name: String
        get() = store.name

    /** Open the file. A session is there after `begin`. */
    fun open() {
        try {
            taken(engines.load(store.file, verify = store.sha256 == null, name = store.name))
        } catch (error: Throwable) {
            broken = Problem.of(error)
            throw error
        }
    }

    /** Copy a file in, check and open it; the old one is opened again where this fails, if it opens. */
    fun import(source: InputStream, size: Long?, name: String?, listener: ImportListener) {
        val copy = store.copy(source, size, listener)
        val called = name ?: store.file.name
        try {
            listener.onChecking()
            // Two open models may not fit into memory.
            close()
            val opened = engines.load(copy.file, verify = true, name = called)
            try {
                store.accept(copy, called)
            } catch (error: Throwable) {
                opened.close()
                throw error
            }
            taken(opened)
        } catch (error: Throwable) {
            store.discard()
            reopen()
            throw if (error is EdgebException) renamed(error, copy.file, called) else error
        }
    }

    /** Take the saved session up where it fits the log, else make one of it. */
    fun begin(log: List<BehaviorEvent>) {
        val opened = engine ?: return
        session = null
        val restored = try {
            if (sessionFile.isFile) opened.restore(sessionFile) else null
        } catch (error: EdgebException) {
            // Damaged, or of another model: the log has everything.
            null
        }
        val events = log.filter { knows(it) }
        val seen = if (restored == null) null else Timeline.of(events).seenBy(restored.events)
        if (restored == null || seen == null) return rebuild(log)
        session = restored
        isSaved = seen == events.size
        for (event in events.subList(seen, events.size)) restored.observe(event)
    }

    /** Make the session anew. */
    fun rebuild(log: List<BehaviorEvent>) {
        sessionFile.delete()
        session = engine?.session()
        isSaved = log.none { knows(it) }
        for (event in log) observe(event)
    }

    /** Show the session an event; a log may hold behaviors that another model knew. */
    fun observe(event: BehaviorEvent) {
        val shown = session
        if (shown == null || !knows(event)) return
        shown.observe(event)
        isSaved = false
    }

    fun knows(event: BehaviorEvent): Boolean =
        known.getOrPut(event.behavior) { cleanLabelOrNull(event.behavior) in labels }

    /** @return null where no model is open. */
    fun predict(moment: Moment, place: String?, count: Int, wish: Wish): Answer? {
        val asked = session ?: return null
        val made = asked.predict(moment, place, count, wish)
        return Answer(
            made, asked.explain(made, moment, place),
            Cost(
                made.elapsedMs, made.tokensEvaluated, made.source.text, moment, made.balance, made.calibrated,
                made.engine?.text, made.accelerator?.text
            )
        )
    }

    /** Evaluate what was observed. */
    fun prepare(cancel: CancelSignal) {
        session?.prepare(cancel)
    }

    /** One JSON object; null where no model is open. */
    fun benchmark(listener: Benchmark.Listener, cancel: CancelSignal): String? = engine?.benchmark(listener, cancel)

    /** Write the session, if it is another than the one on disk. */
    fun save() {
        if (isSaved) return
        session?.save(sessionFile)
        isSaved = true
    }

    /** Free the memory. */
    fun close() {
        session = null
        broken = null
        engine?.close()
        engine = null
    }

    /** Delete what a crash left behind. */
    fun discard() {
        store.discard()
        AtomicFile.partial(sessionFile).delete()
    }

    private fun taken(opened: Engine) {
        engine = opened
        broken = null
        labels = opened.facts.labels.toSet()
        known.clear()
    }

    private fun reopen() {
        if (engine != null || !store.exists) return
        try {
            open()
        } catch (error: Throwable) {
            // The caller has an error to tell already; why this model does not open, the screen shows after it.
            if (Problem.of(error) == null) throw error
        }
    }

    /** The file's own name in place of that of its copy. */
    private fun renamed(error: EdgebException, copy: File, name: String) =
        EdgebException((error.message ?: "").replace(copy.path, name).replace(copy.name, name), error.hint, error.code)
}
