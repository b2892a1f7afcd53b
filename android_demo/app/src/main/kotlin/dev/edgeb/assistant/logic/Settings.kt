package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import dev.edgeb.core.Source
import java.io.File
import java.io.IOException
import java.io.StringReader
import java.io.StringWriter
import java.util.Properties

/**
 * What a prediction is asked for.
 *
 * @property source Null takes the model's default.
 * @property fitted Whether rare behaviors are raised by the fitted balance.
 * @property precision Suggest the first candidate where such suggestions are right this often; null goes by the
 *   threshold.
 * @property coverage Also name the candidates that hold the truth this often; null names none.
 */
data class Wish(
    val source: Source? = null,
    val fitted: Boolean = false,
    val precision: Double? = null,
    val coverage: Double? = null
) {
    /** The same without what `offers` cannot fulfil: another model may have been chosen since. */
    fun within(offers: List<Offer>, default: Source): Wish {
        val offer = offers.firstOrNull { it.source == source } ?: offers.firstOrNull { it.source == default }
        val raised = fitted && offer?.raised != null
        val levels = (if (raised) offer?.raised else offer?.plain) ?: Levels()
        return Wish(
            if (offers.any { it.source == source }) source else null,
            raised,
            if (levels.precisions.containsKey(precision)) precision else null,
            if (coverage in levels.coverages) coverage else null
        )
    }
}

/** What may be asked of a source at one balance: precisions and whether each is ever reached, and coverages. */
data class Levels(val precisions: Map<Double, Boolean> = emptyMap(), val coverages: List<Double> = emptyList())

/** A source that a model can answer from; `raised` is null where export fitted no balance for it. */
data class Offer(val source: Source, val plain: Levels, val raised: Levels? = null)

/**
 * What the user set.
 *
 * @property threshold Nothing below it is suggested.
 * @property place Where the user said to be last; empty where never said.
 * @property wish How predictions are asked for.
 * @property dismissed What is not to be shown for a while, and until when.
 */
data class Settings(
    val threshold: Threshold = Threshold.DEFAULT,
    val place: String = "",
    val wish: Wish = Wish(),
    val dismissed: Dismissals = Dismissals()
)

/** What the user does not want to see for a while. Never changed in place. */
data class Dismissals(val until: Map<String, Moment> = emptyMap()) {
    /** With one more, for a while from `now`. */
    fun plus(behavior: String, now: Moment) = Dismissals(until + (behavior to Moment(now.minutes + WHILE)))

    fun minus(behavior: String) = Dismissals(until - behavior)

    /** What is not to be shown at `now`. A clock that was set back does not make it longer. */
    fun at(now: Moment): Set<String> =
        until.filterValues { now < it && it.minutes - now.minutes <= WHILE }.keys.toSet()

    /** Without those that are over. */
    fun renewed(now: Moment): Dismissals {
        val left = at(now)
        return if (left.size == until.size) this else Dismissals(until.filterKeys { it in left })
    }

    companion object {
        /** Minutes. */
        const val WHILE = 120L
    }
}

/** The settings' file. */
class SettingsStore(val file: File) {
    /** What was saved; the defaults where nothing was or it cannot be read, since nothing is lost with them. */
    fun load(): Settings {
        val values = Properties()
        try {
            if (file.exists()) values.load(StringReader(file.readText()))
            return Settings(
                Threshold.ofText(values.getProperty(THRESHOLD)),
                values.getProperty(PLACE) ?: "",
                Wish(
                    Source.values().firstOrNull { it.text == values.getProperty(SOURCE) },
                    values.getProperty(FITTED) == "true",
                    values.getProperty(PRECISION)?.toDoubleOrNull(),
                    values.getProperty(COVERAGE)?.toDoubleOrNull()
                ),
                Dismissals(Csv.rows(values.getProperty(DISMISSED) ?: "").filter { it.size == 2 }.mapNotNull { row ->
                    row[1].toLongOrNull()?.let { row[0] to Moment(it) }
                }.toMap())
            )
        } catch (error: IOException) {
            return Settings()
        } catch (error: IllegalArgumentException) {
            return Settings()
        }
    }

    /** Replace what was saved. */
    fun save(settings: Settings) {
        val values = Properties()
        values.setProperty(THRESHOLD, settings.threshold.step.toString())
        values.setProperty(PLACE, settings.place)
        settings.wish.source?.let { values.setProperty(SOURCE, it.text) }
        values.setProperty(FITTED, settings.wish.fitted.toString())
        settings.wish.precision?.let { values.setProperty(PRECISION, it.toString()) }
        settings.wish.coverage?.let { values.setProperty(COVERAGE, it.toString()) }
        val rows = settings.dismissed.until.map { (behavior, until) ->
            Csv.row(listOf(behavior, until.minutes.toString()))
        }
        if (rows.isNotEmpty()) values.setProperty(DISMISSED, rows.joinToString(""))
        val text = StringWriter()
        values.store(text, null)
        AtomicFile.write(file, text.toString())
    }

    private companion object {
        const val THRESHOLD = "threshold"
        const val PLACE = "place"
        const val SOURCE = "source"
        const val FITTED = "fitted"
        const val PRECISION = "precision"
        const val COVERAGE = "coverage"
        const val DISMISSED = "dismissed"
    }
}
