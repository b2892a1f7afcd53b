package dev.edgeb.core

import java.io.File

/** One user's events and predictions on a loaded bundle; made by `Predictor.session`. */
class Session internal constructor() {
    /** Events the model sees, oldest first. */
    val events: List<BehaviorEvent>
        get() = TODO()

    /** Append what the user did. Nothing is evaluated until the next prediction. */
    fun observe(event: BehaviorEvent): Unit = TODO()

    /** Rank the candidates for the behavior at `moment` in `place`; see `Predictor.predict` for the arguments. */
    @JvmOverloads
    fun predict(
        moment: Moment,
        place: String,
        topK: Int? = 5,
        scoring: Scoring = Scoring.EXACT,
        only: List<String>? = null,
        exclude: List<String> = emptyList(),
        source: Source? = null,
        calibrated: Boolean = true,
        exhaustive: Boolean = false,
        precision: Double? = null,
        coverage: Double? = null
    ): Prediction = TODO()

    /** Evaluate the events observed so far, at a time when nobody waits. Returns the tokens evaluated. */
    fun prepare(): Int = TODO()

    /** Write window, habits and, where the cache still holds them, the evaluated events. */
    fun save(file: File): Unit = TODO()
}
