package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.EdgebException
import dev.edgeb.core.Moment
import java.io.IOException

/** What the user sees. */
sealed class State {
    /** The model is being opened. */
    object Opening : State()

    /** A file is being copied in. */
    data class Importing(val bytes: Long) : State()

    /** A copied file is being checked. */
    object Checking : State()

    /** No model was imported yet; the last try may have failed. */
    data class NoModel(val problem: Problem?) : State()

    /** There is a model, and it does not open. */
    data class Broken(val problem: Problem) : State()

    /** The assistant works; the last thing asked of it may have failed. */
    data class Ready(val day: Day, val problem: Problem?) : State()
}

/** Everything of the assistant's screen. */
data class Day(
    val model: ModelFacts,
    val modelBytes: Long,
    val modelHash: String?,
    val settings: Settings,
    val places: List<String>,
    val today: List<BehaviorEvent>,
    val suggestions: Suggestions,
    val cost: Cost?
)

/** What the last prediction cost, and for when it was made. */
data class Cost(val milliseconds: Double, val tokens: Int, val source: String, val asked: Moment)

/** What went wrong, for the screen to put into words. */
sealed class Problem {
    data class Input(val message: String, val hint: String) : Problem()

    data class OfFile(val message: String) : Problem()

    data class Space(val needed: Long, val free: Long) : Problem()

    object Empty : Problem()

    data class Log(val putAside: String) : Problem()

    data class Native(val message: String) : Problem()

    object Memory : Problem()

    companion object {
        /** The problem behind an error; null for one that is a bug. */
        fun of(error: Throwable): Problem? = when (error) {
            is EdgebException -> Input(error.message ?: "", error.hint)
            is NoSpaceException -> Space(error.needed, error.free)
            is EmptyFileException -> Empty
            is IOException, is SecurityException -> OfFile(error.message ?: error.javaClass.simpleName)
            is LinkageError -> Native(error.message ?: error.cause?.message ?: error.javaClass.simpleName)
            is OutOfMemoryError -> Memory
            else -> null
        }
    }
}
