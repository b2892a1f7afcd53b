package dev.edgeb.assistant.logic

import dev.edgeb.core.Benchmark
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.LiteRtNative
import dev.edgeb.core.LlamaNative
import dev.edgeb.core.Moment
import dev.edgeb.runtime.LlamaJni
import java.io.ByteArrayInputStream
import java.io.File

/**
 * The assistant on a real bundle, through JNI, over a day with a restart in it; run by tests/android/test_app.py.
 *
 * Arguments: an empty folder, a bundle, a history of events to live through, the time it is, the place. Prints what the
 * screens would show, a word and tab-separated fields a line.
 */
fun main(arguments: Array<String>) {
    val (folder, bundle, history, now, place) = arguments
    val day = OnBundle(File(folder), Moment.parse(now))
    val bytes = File(bundle).readBytes()
    day.bring("import", bytes)
    for (event in Timeline.fromCsv(File(history).readText()).events) day.assistant.attempt { add(event) }
    day.benchmark("imported")
    day.show("lived", day.assistant.attempt { setPlace(place) })
    day.assistant.attempt { save() }
    // The process dies here, the model open.
    day.assistant = day.fresh()
    day.show("restarted", day.assistant.attempt { open() })
    day.benchmark("restarted")
    bytes[bytes.size - 9] = (bytes[bytes.size - 9].toInt() xor 1).toByte()
    day.bring("damaged", bytes)
    day.show("damaged", day.assistant.attempt { open() })
    day.bring("newer", File(File(bundle).parentFile, "bad-newer.gguf").readBytes())
    day.show("newer", day.assistant.attempt { open() })
    day.assistant.attempt { deleteLog() }
    day.show("forgotten", day.assistant.attempt { setPlace(place) })
    day.assistant.attempt { close() }
}

private const val CALLED = "mine.gguf"

private class OnBundle(private val folder: File, private val now: Moment) {
    private val native = object : NativeFactory {
        override fun create(): LlamaNative = LlamaJni()

        override fun createLiteRt(): LiteRtNative? = null
    }
    private val quiet = object : ImportListener {
        override fun onChecking() = Unit

        override fun onCopied(bytes: Long) = Unit
    }
    var assistant = fresh()

    fun fresh(): Assistant = Assistant(folder, PredictorEngines(native, File(folder, "cache")), object : Clock {
        override fun now(): Moment = now
    })

    fun bring(word: String, bytes: ByteArray) {
        val state = assistant.attempt { importModel(ByteArrayInputStream(bytes), bytes.size.toLong(), CALLED, quiet) }
        val problem = (state as? State.Ready)?.problem ?: (state as? State.NoModel)?.problem
        println("$word\tproblem\t${(problem as? Problem.Input)?.message ?: problem}")
        if (problem is Problem.Input) println("$word\thint\t${problem.hint}")
        println("$word\tsha256\t${(state as? State.Ready)?.day?.modelHash}")
    }

    fun benchmark(word: String) {
        assistant.attempt {
            measure(object : Benchmark.Listener {
                override fun onScenario(name: String) = Unit
            }, CancelSignal())
        }
        println("$word\tbenchmark\t${assistant.benchmark}")
    }

    fun show(word: String, state: State) {
        val day = (state as State.Ready).day
        println("$word\ttoday\t${day.page.entries.size}")
        val why = day.why!!
        println("$word\twhy\t${why.behavior}\t${why.reason?.text}\t${why.probability}")
        for ((reason, p) in why.without) println("$word\twithout\t${reason.text}\t$p")
        println("$word\ttokens\t${day.cost!!.tokens}")
        for (one in assistant.ranked()) println("$word\tranked\t${one.probability}\t${one.behavior}")
    }
}
