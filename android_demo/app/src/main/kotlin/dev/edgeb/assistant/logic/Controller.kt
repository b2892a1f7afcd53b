package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.EventSource
import dev.edgeb.core.Moment
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import java.util.concurrent.Executor

/** A stream that is opened where it is used: not on the main thread. Another app answers, and may fail in any way. */
interface Source {
    /** Bytes of it where known; else null, or nothing that could be true. */
    val size: Long?

    /** What the user calls it where known; else null. */
    val name: String?

    fun open(): InputStream
}

/** Where to write to, opened like a `Source`. */
interface Target {
    fun open(): OutputStream
}

/**
 * Lets the assistant work on one thread and tells the screens on another. Its own methods belong to that other one.
 *
 * It outlives the screens: what is under way goes on without one.
 *
 * @param worker One thread: what is asked for is done in order.
 * @param main The thread of the screens.
 * @param make The assistant, which tells the listener when it predicts.
 */
class Controller(
    private val worker: Executor,
    private val main: Executor,
    make: (PredictionListener) -> Assistant
) : PredictionListener {
    /** Told whenever something below changed. */
    interface Listener {
        fun onChanged()
    }

    private val assistant by lazy(LazyThreadSafetyMode.NONE) { make(this) }
    private val listeners = ArrayList<Listener>()
    private val screens = ArrayList<Listener>()
    private var pending = 0
    private var job: Job? = null
    private var preparing: CancelSignal? = null

    var state: State = State.Opening
        private set

    /** What is being measured; null while nothing is. */
    var measuring: Measuring? = null
        private set

    /** JSON of the last measurement; null where there is none. */
    var benchmark: String? = null
        private set

    /** Whether a prediction is being computed. */
    var predicting = false
        private set

    /** Whether a task is under way or waiting. */
    val busy: Boolean
        get() = pending > 0

    /** Whether what is under way can be ended. */
    val cancellable: Boolean
        get() = job != null

    override fun onPredicting(active: Boolean) = tell { predicting = active }

    /** End the import or the measurement that is under way or waiting. */
    fun cancel() {
        job?.signal?.cancel()
    }

    /** @param isScreen Whether somebody looks as long as it listens. */
    fun listen(listener: Listener, isScreen: Boolean = true) {
        listeners.add(listener)
        if (isScreen) screens.add(listener)
        listener.onChanged()
    }

    fun unlisten(listener: Listener) {
        listeners.remove(listener)
        screens.remove(listener)
    }

    /** A screen came into view: open the model where it is not, and predict for now. */
    fun start() = submit {
        val found = benchmark
        main.execute { this@Controller.benchmark = found }
        open()
    }

    /** The clock has gone on, or was set. */
    fun tick() {
        if (!busy) submit { tick() }
    }

    fun importModel(source: Source) = submitJob { job ->
        val size = hint { source.size }?.takeIf { it > 0 }
        val listener = Progress(job, size)
        listener.onCopied(0)
        val stream = asked { source.open() }
        try {
            importModel(stream, size, hint { source.name }, listener)
        } finally {
            stream.close()
        }
    }

    /** Add the events of a file to the log. */
    fun importLog(source: Source) = submitJob { job ->
        val listener = Progress(job, null)
        val stream = asked { source.open() }
        try {
            importLog(stream, listener)
        } finally {
            stream.close()
        }
    }

    /** Take the app's own model and some weeks of a made-up person. */
    fun trySample() = submitJob { job -> trySample(Progress(job, null)) }

    fun dropSample() = submitIdle { dropSample() }

    /** Read another source, and prepare for the question that comes; nobody waits. */
    fun observe(source: EventSource) {
        val isWatched = screens.isNotEmpty()
        val made = CancelSignal()
        submit {
            observe(source)
            if (isWatched) tick() else prepare(made)
        }
        preparing = made
    }

    fun add(event: BehaviorEvent) = submit { add(event) }

    /** Add a suggestion as what the user does now, in `place`. Says whether that will be done. */
    fun accept(behavior: String, place: String): Boolean = submitIdle { accept(behavior, place) }

    fun dismiss(behavior: String) = submitIdle { dismiss(behavior) }

    fun restoreDismissed() = submitIdle { restoreDismissed() }

    fun remove(entry: Entry) = submitIdle { remove(entry) }

    fun edit(entry: Entry, event: BehaviorEvent) = submit { edit(entry, event) }

    fun undo() = submitIdle { undo() }

    /** List another day; null lists today. */
    fun showDay(day: Moment?) = submit { showDay(day) }

    fun deleteLog() = submit { deleteLog() }

    fun setPlace(place: String) = submit { setPlace(place) }

    fun setThreshold(threshold: Threshold) = submit { setThreshold(threshold) }

    fun setWish(wish: Wish) = submit { setWish(wish) }

    fun measure() {
        if (!busy) submitJob { job ->
            try {
                var done = 0
                measure(object : Benchmark.Listener {
                    override fun onScenario(name: String) {
                        val before = done++
                        tell { measuring = Measuring(name, before) }
                    }
                }, job.signal)
            } finally {
                val found = benchmark
                tell {
                    measuring = null
                    this@Controller.benchmark = found
                }
            }
        }
    }

    fun saveLog(target: Target, done: Runnable) = write(target, done) { logAsCsv() }

    fun saveBenchmark(target: Target, done: Runnable) = write(target, done) { benchmark ?: "" }

    /** Do this when everything that was asked for is done. */
    fun afterwards(done: Runnable) = worker.execute { main.execute(done) }

    /** The screen is gone: the process may be, too, any time from now. */
    fun save() = submit { save() }

    /** Memory is short and nobody looks. */
    fun release() = submit {
        save()
        close()
    }

    private fun write(target: Target, done: Runnable, text: Assistant.() -> String) = submit {
        val stream = asked { target.open() }
        try {
            stream.write(text().toByteArray(Charsets.UTF_8))
        } finally {
            stream.close()
        }
        main.execute(done)
    }

    /** Not while something is under way: a second tap is about a screen that is no longer true. */
    private fun submitIdle(action: Assistant.() -> Unit): Boolean {
        if (busy) return false
        submit(action)
        return true
    }

    /** Failures of another app arrive as RuntimeExceptions of many kinds; they are no bugs of this one. */
    private inline fun <T> asked(ask: () -> T): T = try {
        ask()
    } catch (error: RuntimeException) {
        throw IOException("the file's app failed: ${error.message ?: error.javaClass.simpleName}", error)
    }

    private inline fun <T> hint(ask: () -> T?): T? = try {
        ask()
    } catch (error: RuntimeException) {
        // The file may be read all the same.
        null
    }

    private fun submit(action: Assistant.() -> Unit) {
        // Somebody waits now.
        preparing?.cancel()
        preparing = null
        pending++
        changed()
        worker.execute {
            val found = assistant.attempt(action)
            tell {
                pending--
                state = found
            }
        }
    }

    /** What can be ended: one at a time. */
    private fun submitJob(action: Assistant.(Job) -> Unit) {
        if (job != null) return
        val made = Job()
        job = made
        submit {
            try {
                made.check()
                action(made)
            } finally {
                tell { job = null }
            }
        }
    }

    private fun tell(change: () -> Unit) {
        main.execute {
            change()
            changed()
        }
    }

    private fun changed() {
        for (listener in ArrayList(listeners)) listener.onChanged()
    }

    private class Job {
        val signal = CancelSignal()

        fun check() {
            if (signal.isCancelled) throw CancelledException()
        }
    }

    /** Tells of an import, and ends it where that was asked for. */
    private inner class Progress(private val job: Job, private val size: Long?) : ImportListener {
        private var told = -TELL_EVERY

        override fun onCopied(bytes: Long) {
            job.check()
            if (bytes - told < TELL_EVERY) return
            told = bytes
            tell { state = State.Importing(bytes, size) }
        }

        override fun onRead(bytes: Long) = job.check()

        override fun onChecking() {
            job.check()
            tell { state = State.Checking }
        }
    }

    private companion object {
        const val TELL_EVERY = 4L shl 20
    }
}

/** A scenario of the benchmark, and how many were measured before it. */
data class Measuring(val scenario: String, val done: Int)
