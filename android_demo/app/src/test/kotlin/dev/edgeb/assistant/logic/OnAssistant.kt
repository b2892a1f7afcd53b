package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import java.io.ByteArrayInputStream
import java.io.InputStream
import java.util.ArrayDeque
import org.junit.Assert.assertNull
import org.junit.Rule
import org.junit.rules.TemporaryFolder

/** An assistant over a folder of its own, with a clock, a zone and a sample that a test sets. */
abstract class OnAssistant {
    @get:Rule
    val folder = TemporaryFolder()

    protected val engines = CountingEngines()
    protected var time = Moment.parse("2024-03-18T20:00")
    protected val quiet: ImportListener = object : ImportListener {
        override fun onChecking() = Unit

        override fun onCopied(bytes: Long) = Unit
    }

    protected var zone = ""
    protected var sample: Sample? = null

    protected fun assistant(listener: PredictionListener? = null): Assistant =
        Assistant(folder.root, engines, object : Clock {
            override fun now(): Moment = time

            override fun zone(): String = zone
        }, sample, listener)

    protected fun Assistant.bring(text: String): State =
        attempt { importModel(ByteArrayInputStream(text.toByteArray()), null, "mine.gguf", quiet) }

    protected fun ready(state: State): Day = (state as State.Ready).also { assertNull(it.problem) }.day

    protected fun Day.behaviors(): List<String> = page.entries.map { it.event.behavior }

    protected fun names(): Set<String> = folder.root.list()!!.toSet()

    protected fun weeks(): Sample = object : Sample {
        override val name = "sample.gguf"

        override fun model(): InputStream = ByteArrayInputStream("labels News Music Maps".toByteArray())

        override fun log(): InputStream = ByteArrayInputStream(
            ("timestamp,place,behavior\n2023-01-03T08:00,home,News\n2023-01-09T19:00,work,Music\n" +
                "2023-01-10T21:00,home,Maps\n").toByteArray()
        )
    }

    protected fun drain(worker: ArrayDeque<Runnable>, main: ArrayDeque<Runnable>) {
        while (worker.isNotEmpty() || main.isNotEmpty()) (if (main.isEmpty()) worker else main).remove().run()
    }
}
