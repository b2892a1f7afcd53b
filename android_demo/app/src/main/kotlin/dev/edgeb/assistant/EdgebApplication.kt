package dev.edgeb.assistant

import android.app.Application
import android.content.ComponentCallbacks2
import android.os.Handler
import android.os.Looper
import dev.edgeb.assistant.logic.ActionTable
import dev.edgeb.assistant.logic.Assistant
import dev.edgeb.assistant.logic.Clock
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.NativeFactory
import dev.edgeb.assistant.logic.PredictorEngines
import dev.edgeb.assistant.logic.Sample
import dev.edgeb.core.EventSource
import dev.edgeb.core.LiteRtNative
import dev.edgeb.core.LlamaNative
import dev.edgeb.core.Moment
import dev.edgeb.runtime.LiteRtJni
import dev.edgeb.runtime.LlamaJni
import dev.edgeb.runtime.npuOptions
import java.io.File
import java.io.InputStream
import java.util.TimeZone
import java.util.concurrent.Executor
import java.util.concurrent.Executors

/**
 * The process: one assistant, one thread that it works on. Both outlive the screens.
 *
 * A host app extends it, and gives what accepting opens and where events come from.
 */
open class EdgebApplication : Application() {
    /** Made on first use; for the main thread only. */
    val controller: Controller by lazy(LazyThreadSafetyMode.NONE) { makeController() }

    /** What accepting a behavior can open. */
    open val actions: ActionTable by lazy {
        assets.open(ACTIONS).use { ActionTable.fromCsv(it.readBytes().toString(Charsets.UTF_8)) }
    }

    /** Where events come from beside the user's taps; none in the plain app. */
    open val sources: List<EventSource> by lazy { EventSources.of(this) }

    /** Add what other sources have seen. */
    fun readSources() {
        for (source in sources) controller.observe(source)
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        // Memory is given back before the system takes it by ending the process.
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) controller.release()
    }

    private fun makeController(): Controller {
        val native = object : NativeFactory {
            private val libraries = File(applicationInfo.nativeLibraryDir)

            override fun create(): LlamaNative = LlamaJni(libraries)

            override fun createLiteRt(): LiteRtNative? = LiteRtJni(npuLibraries = libraries)
        }
        val clock = object : Clock {
            override fun now(): Moment = Moment.at(System.currentTimeMillis())

            override fun zone(): String = TimeZone.getDefault().id
        }
        val handler = Handler(Looper.getMainLooper())
        val worker = Executors.newSingleThreadExecutor()
        val made = Controller(worker, Executor { handler.post(it) }) {
            // What is in noBackupFilesDir never leaves the phone in a backup.
            Assistant(noBackupFilesDir, PredictorEngines(native, cacheDir, npuOptions()), clock, sample(), it)
        }
        made.listen(WidgetUpdates(this, made), isScreen = false)
        return made
    }

    /** What the app brings along; null in one that was built without. */
    private fun sample(): Sample? {
        val there = assets.list("").orEmpty()
        if (SAMPLE !in there || SAMPLE_LOG !in there) return null
        return object : Sample {
            override val name = SAMPLE

            override fun model(): InputStream = assets.open(SAMPLE)

            override fun log(): InputStream = assets.open(SAMPLE_LOG)
        }
    }

    private companion object {
        const val SAMPLE = "sample.gguf"
        const val SAMPLE_LOG = "sample-day.csv"
        const val ACTIONS = "actions.csv"
    }
}
