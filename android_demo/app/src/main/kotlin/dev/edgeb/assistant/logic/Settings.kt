package dev.edgeb.assistant.logic

import java.io.File
import java.io.IOException
import java.io.StringReader
import java.io.StringWriter
import java.util.Properties

/**
 * What the user set.
 *
 * @property threshold Nothing below it is suggested.
 * @property place Where the user said to be last; empty where never said.
 */
data class Settings(val threshold: Threshold = Threshold.DEFAULT, val place: String = "")

/** The settings' file. */
class SettingsStore(val file: File) {
    /** What was saved; the defaults where nothing was or it cannot be read, since nothing is lost with them. */
    fun load(): Settings {
        val values = Properties()
        try {
            if (file.exists()) values.load(StringReader(file.readText()))
        } catch (error: IOException) {
            return Settings()
        } catch (error: IllegalArgumentException) {
            return Settings()
        }
        return Settings(Threshold.ofText(values.getProperty(THRESHOLD)), values.getProperty(PLACE) ?: "")
    }

    /** Replace what was saved. */
    fun save(settings: Settings) {
        val values = Properties()
        values.setProperty(THRESHOLD, settings.threshold.step.toString())
        values.setProperty(PLACE, settings.place)
        val text = StringWriter()
        values.store(text, null)
        AtomicFile.write(file, text.toString())
    }

    private companion object {
        const val THRESHOLD = "threshold"
        const val PLACE = "place"
    }
}
