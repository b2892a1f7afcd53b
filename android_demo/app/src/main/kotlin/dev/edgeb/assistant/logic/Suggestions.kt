package dev.edgeb.assistant.logic

import dev.edgeb.core.Prediction
import dev.edgeb.core.Ranked
import dev.edgeb.core.cleanLabelOrNull

/** Most suggestions shown at once. */
const val MOST_SUGGESTIONS = 5

/** The least probability at which something is suggested, in steps of 5 %, as the slider has them. */
data class Threshold(val step: Int) {
    init {
        require(step in 0..STEPS) { "step is $step" }
    }

    val probability: Double
        get() = step.toDouble() / STEPS

    companion object {
        const val STEPS = 20
        val DEFAULT = Threshold(4)

        /** The nearest step; the default for what is no step at all. */
        fun ofText(text: String?): Threshold {
            val step = text?.toIntOrNull() ?: return DEFAULT
            return Threshold(step.coerceIn(0, STEPS))
        }
    }
}

/** Where a candidate stands now against where it stood before the last event. */
sealed class Move {
    /** Where it was, or nothing to compare with. */
    object Same : Move()

    /** It was not among those known then. */
    object New : Move()

    data class Up(val by: Int) : Move()

    data class Down(val by: Int) : Move()
}

/** One candidate as it is shown. @property suggested Whether the user's rule lets it be suggested. */
data class Suggestion(val behavior: String, val probability: Double, val suggested: Boolean, val move: Move)

/**
 * What is shown of a ranking.
 *
 * @property shown At most five, by falling probability, without what was dismissed.
 * @property dismissed How many of the ranking's first are not shown because they were dismissed.
 */
data class Suggestions(val shown: List<Suggestion>, val dismissed: Int) {
    /** What to suggest; null to stay silent. */
    val top: Suggestion?
        get() = shown.firstOrNull { it.suggested }

    /** What is shown below it. */
    val others: List<Suggestion>
        get() = shown.filter { it !== top }

    companion object {
        val NONE = Suggestions(emptyList(), 0)

        /**
         * Of a prediction. With a precision asked for, only the ranking's first can be suggested; else all that reach
         * the threshold are.
         *
         * @param before Labels by falling probability before the last event; empty where that is not known.
         */
        fun of(
            prediction: Prediction,
            threshold: Threshold,
            dismissed: Set<String>,
            before: List<String> = emptyList()
        ): Suggestions {
            val found = prediction.ranked.withIndex().filter { it.value.behavior !in dismissed }.take(MOST_SUGGESTIONS)
            val shown = found.map { (rank, one) ->
                val decided = prediction.suggest
                val suggested = if (decided == null) one.probability >= threshold.probability else rank == 0 && decided
                Suggestion(one.behavior, one.probability, suggested, move(one, rank, before))
            }
            val last = found.lastOrNull()?.index ?: prediction.ranked.size - 1
            return Suggestions(shown, prediction.ranked.take(last + 1).count { it.behavior in dismissed })
        }

        private fun move(one: Ranked, rank: Int, before: List<String>): Move {
            val was = before.indexOf(one.behavior)
            return when {
                before.isEmpty() || was == rank -> Move.Same
                was < 0 -> Move.New
                was > rank -> Move.Up(was - rank)
                else -> Move.Down(rank - was)
            }
        }
    }
}

/** The label that a typed text means: itself, or itself but for case, space and marks; null where there is none. */
fun labelOf(text: String, labels: List<String>): String? {
    val typed = cleanLabelOrNull(text) ?: return null
    return labels.firstOrNull { it == typed } ?: labels.firstOrNull { it.equals(typed, ignoreCase = true) }
}
