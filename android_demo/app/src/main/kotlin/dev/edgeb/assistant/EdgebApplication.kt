package dev.edgeb.assistant

import android.app.Application
import android.content.ComponentCallbacks2
import android.os.Handler
import android.os.Looper
import dev.edgeb.assistant.logic.Assistant
import dev.edgeb.assistant.logic.Clock
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.NativeFactory
import dev.edgeb.assistant.logic.PredictorEngines
import dev.edgeb.core.LiteRtNative
import dev.edgeb.core.LlamaNative
import dev.edgeb.core.Moment
import dev.edgeb.runtime.LiteRtJni
import dev.edgeb.runtime.LlamaJni
import java.io.File
import java.util.concurrent.Executor
import java.util.concurrent.Executors

/** The process: one assistant, one thread that it works on. Both outlive the screens. */
class EdgebApplication : Application() {
    /** Made on first use; for the main thread only. */
    val controller: Controller by lazy(LazyThreadSafetyMode.NONE) { makeController() }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        // Memory is given back before the system takes it by ending the process.
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) controller.release()
    }

    private fun makeController(): Controller {
        val native = object : NativeFactory {
            override fun create(): LlamaNative = LlamaJni(File(applicationInfo.nativeLibraryDir))

            override fun createLiteRt(): LiteRtNative? = LiteRtJni()
        }
        val clock = object : Clock {
            override fun now(): Moment = Moment.at(System.currentTimeMillis())
        }
        // What is in noBackupFilesDir never leaves the phone in a backup.
        val assistant = Assistant(noBackupFilesDir, PredictorEngines(native, cacheDir), clock)
        val handler = Handler(Looper.getMainLooper())
        return Controller(assistant, Executors.newSingleThreadExecutor(), Executor { handler.post(it) })
    }
}
