package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
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
 * @param worker One thread: what is asked for is done in order.
 * @param main The thread of the screens.
 */
class Controller(private val assistant: Assistant, private val worker: Executor, private val main: Executor) {
    /** Told whenever something below changed. */
    interface Listener {
        fun onChanged()
    }

    private val listeners = ArrayList<Listener>()
    private var pending = 0

    var state: State = State.Opening
        private set

    /** What is being measured; null while nothing is. */
    var measuring: String? = null
        private set

    /** JSON of the last measurement; null where there is none. */
    var benchmark: String? = null
        private set

    /** Whether a task is under way or waiting. */
    val busy: Boolean
        get() = pending > 0

    fun listen(listener: Listener) {
        listeners.add(listener)
        listener.onChanged()
    }

    fun unlisten(listener: Listener) {
        listeners.remove(listener)
    }

    /** A screen came into view: open the model where it is not, and predict for now. */
    fun start() = submit {
        val found = benchmark
        main.execute { this@Controller.benchmark = found }
        open()
    }

    fun importModel(source: Source) = submit {
        tell { state = State.Importing(0) }
        val stream = asked { source.open() }
        try {
            importModel(stream, hint { source.size }?.takeIf { it > 0 }, hint { source.name }, object : ImportListener {
                private var told = 0L

                override fun onCopied(bytes: Long) {
                    if (bytes - told >= TELL_EVERY) {
                        told = bytes
                        tell { state = State.Importing(bytes) }
                    }
                }

                override fun onChecking() = tell { state = State.Checking }
            })
        } finally {
            stream.close()
        }
    }

    fun add(event: BehaviorEvent) = submit { add(event) }

    /** Add a suggestion as what the user does now, in `place`. */
    fun accept(behavior: String, place: String) = submitIdle { accept(behavior, place) }

    fun dismiss(behavior: String) = submitIdle { dismiss(behavior) }

    fun remove(event: BehaviorEvent) = submitIdle { remove(event) }

    fun deleteLog() = submit { deleteLog() }

    fun setPlace(place: String) = submit { setPlace(place) }

    fun setThreshold(threshold: Threshold) = submit { setThreshold(threshold) }

    fun measure() = submitIdle {
        try {
            measure(object : Benchmark.Listener {
                override fun onScenario(name: String) = tell { measuring = name }
            })
        } finally {
            val found = benchmark
            tell {
                measuring = null
                this@Controller.benchmark = found
            }
        }
    }

    fun saveLog(target: Target, done: Runnable) = write(target, done) { logAsCsv() }

    fun saveBenchmark(target: Target, done: Runnable) = write(target, done) { benchmark ?: "" }

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
    private fun submitIdle(action: Assistant.() -> Unit) {
        if (!busy) submit(action)
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

    private fun tell(change: () -> Unit) {
        main.execute {
            change()
            changed()
        }
    }

    private fun changed() {
        for (listener in ArrayList(listeners)) listener.onChanged()
    }

    private companion object {
        const val TELL_EVERY = 4L shl 20
    }
}
