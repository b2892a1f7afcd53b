package dev.edgeb.assistant.logic

import dev.edgeb.core.EdgebException
import dev.edgeb.core.ErrorCode
import dev.edgeb.core.Explanation
import dev.edgeb.core.Moment
import java.io.IOException

/** What the user sees. */
sealed class State {
    /** The model is being opened. */
    object Opening : State()

    /** A file is being copied in. @property size Its bytes where known; else null. */
    data class Importing(val bytes: Long, val size: Long? = null) : State()

    /** A copied file is being checked. */
    object Checking : State()

    /** No model was imported yet; the last try may have failed. @property sample Whether the app has one of its own. */
    data class NoModel(val problem: Problem?, val sample: Boolean = false) : State()

    /** There is a model, and it does not open. */
    data class Broken(val problem: Problem, val sample: Boolean = false) : State()

    /** The assistant works; the last thing asked of it may have failed. */
    data class Ready(val day: Day, val problem: Problem?, val note: Note? = null) : State()
}

/**
 * Everything of the assistant's screen.
 *
 * @property suggestions What may come next.
 * @property likely The likely set; null where none was asked for.
 * @property why Why the first candidate is the first; null where it was dismissed.
 * @property page The day that is listed.
 * @property aside Events of behaviors that the model does not know.
 * @property isSample Whether there are sample events in the log.
 * @property offersSample Whether the log is empty and can be filled with the sample.
 */
data class Day(
    val model: ModelFacts,
    val modelBytes: Long,
    val modelHash: String?,
    val settings: Settings,
    val places: List<String>,
    val suggestions: Suggestions,
    val likely: List<String>?,
    val why: Explanation?,
    val cost: Cost?,
    val page: Page,
    val aside: Aside,
    val canUndo: Boolean,
    val isSample: Boolean,
    val offersSample: Boolean
)

/**
 * A day of the log.
 *
 * @property entries Newest first.
 * @property before The day before it that has events; null where there is none.
 * @property after The day after it that has events, or today; null where this is today.
 * @property zone The zone that the phone is in: others are named.
 */
data class Page(val day: Moment, val entries: List<Entry>, val before: Moment?, val after: Moment?, val zone: String) {
    val isToday: Boolean
        get() = after == null
}

/** What the model does not know of the log: it stays there for one that does. */
data class Aside(val events: Int, val labels: List<String>)

/**
 * What the last prediction cost, for when it was made, and what it was made by.
 *
 * @property calibrated Whether probabilities were fitted to how often they come true.
 * @property engine The program that ran the model, and on what; null where no model ran.
 */
data class Cost(
    val milliseconds: Double,
    val tokens: Int,
    val source: String,
    val asked: Moment,
    val balance: Double = 0.0,
    val calibrated: Boolean = false,
    val engine: String? = null,
    val accelerator: String? = null
)

/** What went well and is worth a word. */
sealed class Note {
    /** A log was read: so many events are new, so many of all are of behaviors that the model does not know. */
    data class Imported(val added: Int, val aside: Int) : Note()

    /** Another model was taken: so many events were carried over, the others set aside. */
    data class Carried(val events: Int, val aside: Aside) : Note()

    /** What was under way was ended. */
    object Cancelled : Note()
}

/** The user does not want it any more. */
class CancelledException : IOException("cancelled")

/** What went wrong, for the screen to put into words. */
sealed class Problem {
    data class Input(val message: String, val hint: String) : Problem()

    data class OfFile(val message: String) : Problem()

    data class Space(val needed: Long, val free: Long) : Problem()

    object Empty : Problem()

    data class Log(val putAside: String) : Problem()

    data class Native(val message: String) : Problem()

    object Memory : Problem()

    /** None: the user does not want it any more. */
    object Cancelled : Problem()

    companion object {
        /** The problem behind an error; null for one that is a bug. */
        fun of(error: Throwable): Problem? = when (error) {
            is CancelledException -> Cancelled
            is EdgebException ->
                if (error.code == ErrorCode.CANCELLED) Cancelled else Input(error.message ?: "", error.hint)
            is NoSpaceException -> Space(error.needed, error.free)
            is EmptyFileException -> Empty
            is IOException, is SecurityException -> OfFile(error.message ?: error.javaClass.simpleName)
            is LinkageError -> Native(error.message ?: error.cause?.message ?: error.javaClass.simpleName)
            is OutOfMemoryError -> Memory
            else -> null
        }
    }
}
