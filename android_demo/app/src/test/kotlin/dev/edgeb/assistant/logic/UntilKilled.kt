package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Moment
import java.io.ByteArrayInputStream
import java.io.File

/**
 * An assistant that writes everything it can write, again and again, until tests/android/test_app.py kills the process.
 *
 * Argument: its folder. Prints the problem, events and first candidate that it finds when it starts, and the number of
 * events whenever one more is kept.
 */
internal object UntilKilled {
    private val LABELS = listOf("News", "Music", "Maps")
    private val START = Moment.parse("2024-03-18T00:00")
    private val QUIET = object : ImportListener {
        override fun onChecking() = Unit

        override fun onCopied(bytes: Long) = Unit
    }

    @JvmStatic
    fun main(arguments: Array<String>) {
        var now = START
        val assistant = Assistant(File(arguments[0]), CountingEngines(), object : Clock {
            override fun now(): Moment = now
        })
        var state = assistant.attempt { open() }
        if (state is State.NoModel) state = assistant.attempt { bring(0) }
        val ready = state as State.Ready
        var events = Timeline.fromCsv(assistant.logAsCsv()).entries.size
        println("found\t${ready.problem}\t$events\t${assistant.ranked()[0].behavior}")
        while (true) {
            now = Moment(START.minutes + events)
            assistant.add(BehaviorEvent("home", now, LABELS[events % LABELS.size]))
            events++
            println("kept\t$events")
            assistant.save()
            assistant.setThreshold(Threshold(events % 10))
            if (events % 4 == 0) assistant.bring(events)
        }
    }

    /** Another model, of the same labels in another order. */
    private fun Assistant.bring(turn: Int) {
        val labels = LABELS.drop(turn % LABELS.size) + LABELS.take(turn % LABELS.size)
        importModel(ByteArrayInputStream("labels ${labels.joinToString(" ")}".toByteArray()), null, "mine.gguf", QUIET)
    }
}
