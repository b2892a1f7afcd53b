package dev.edgeb.assistant.logic

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

/**
 * What is shown of a ranking.
 *
 * @property shown At most five, by falling probability.
 * @property hidden How many of the first five are not shown because they are below the threshold.
 */
data class Suggestions(val shown: List<Ranked>, val hidden: Int) {
    companion object {
        /** The first five of a ranking that the user did not dismiss, without those below the threshold. */
        fun of(ranked: List<Ranked>, threshold: Threshold, dismissed: Set<String>): Suggestions {
            val first = ranked.filter { it.behavior !in dismissed }.take(MOST_SUGGESTIONS)
            val shown = first.filter { it.probability >= threshold.probability }
            return Suggestions(shown, first.size - shown.size)
        }
    }
}

/** The label that a typed text means: itself, or itself but for case, space and marks; null where there is none. */
fun labelOf(text: String, labels: List<String>): String? {
    val typed = cleanLabelOrNull(text) ?: return null
    return labels.firstOrNull { it == typed } ?: labels.firstOrNull { it.equals(typed, ignoreCase = true) }
}
