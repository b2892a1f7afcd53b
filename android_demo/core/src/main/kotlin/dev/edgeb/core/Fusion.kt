package dev.edgeb.core

private const val LARGEST = 1e3

/**
 * Log-linear fusion of a model's distribution with a user's habits, with weights per frequency group (docs/integrate.md).
 *
 *     score_b = model[g(b)] · log p_model(b) + habits[g(b)] · log p_habits(b) + bias[g(b)]
 *
 * For given habits the score is affine and rising in the model's log-probability, so that it is searched as exactly.
 */
internal class Fusion private constructor(
    private val model: DoubleArray,
    private val habits: DoubleArray,
    private val bias: DoubleArray
) {
    /** Scores as an affine function of the model's log-probabilities, for the habits' log-probabilities. */
    fun affine(habitLogProbs: DoubleArray) =
        Affine(model, DoubleArray(model.size) { habits[it] * habitLogProbs[it] + bias[it] })

    companion object {
        /** Read strictly what a manifest holds. @param groups Group of every candidate. */
        fun of(value: Any?, groups: List<String>, where: String): Fusion {
            val found = Fields(value, GROUPS, where)
            val weights = GROUPS.associate { group ->
                val held = Fields(found.any(group), listOf("model", "habits", "bias"), "$where.$group")
                group to Triple(
                    held.number("model", 0.0, LARGEST),
                    held.number("habits", 0.0, LARGEST),
                    held.number("bias", -LARGEST, LARGEST)
                )
            }
            val rows = groups.map { weights.getValue(it) }
            return Fusion(
                DoubleArray(rows.size) { rows[it].first },
                DoubleArray(rows.size) { rows[it].second },
                DoubleArray(rows.size) { rows[it].third }
            )
        }
    }
}
