package dev.edgeb.core

private const val SMALLEST = 1e-3
private const val LARGEST = 1e3
private const val SAME_LEVEL = 1e-9

/**
 * How one source's scores become probabilities, and the two decisions an assistant takes (docs/integrate.md).
 *
 *     p = softmax(score / temperature + bias[g(b)])
 *
 * over the candidates that are allowed.
 */
internal class Calibration private constructor(
    private val temperature: Double,
    private val offsets: DoubleArray,
    private val coverage: Map<Double, Double?>,
    private val precision: Map<Double, Double?>
) {
    fun scores(scores: DoubleArray) = DoubleArray(scores.size) { scores[it] / temperature + offsets[it] }

    /** Calibration after `affine`: still affine and rising in the model's log-probability. */
    fun after(affine: Affine) =
        Affine(DoubleArray(affine.slope.size) { affine.slope[it] / temperature }, scores(affine.offset))

    /** Least probability of a member of the likely set. @throws EdgebException a coverage that was not fitted. */
    fun leastLikely(level: Double): Double? = least(coverage, level, "coverage")

    /** Least probability at which to suggest the first; null for never. @throws EdgebException as above. */
    fun leastSuggested(level: Double): Double? = least(precision, level, "precision")

    private fun least(levels: Map<Double, Double?>, wanted: Double, what: String): Double? {
        val level = levels.keys.firstOrNull { Math.abs(it - wanted) < SAME_LEVEL }
            ?: throw EdgebException(
                "the bundle is not calibrated for a $what of $wanted",
                "it knows " + if (levels.isEmpty()) "none" else levels.keys.joinToString(", "), ErrorCode.NOT_IN_BUNDLE
            )
        return levels[level]
    }

    companion object {
        /** The calibration of every source, from what a manifest's `calibration` holds. */
        fun all(value: Any?, sources: List<Source>, groups: List<String>, where: String): Map<Source, Calibration> {
            val found = Fields(value, sources.map { it.text } + "measured", where)
            found.map("measured")
            return sources.associate { it to of(found.any(it.text), groups, "$where.${it.text}") }
        }

        private fun of(value: Any?, groups: List<String>, where: String): Calibration {
            val found = Fields(value, listOf("temperature", "bias", "coverage", "precision"), where)
            val bias = Fields(found.any("bias"), GROUPS, "$where.bias")
            val offsets = GROUPS.associate { it to bias.number(it, -LARGEST, LARGEST) }
            return Calibration(
                found.number("temperature", SMALLEST, LARGEST),
                DoubleArray(groups.size) { offsets.getValue(groups[it]) },
                levels(found.map("coverage"), false, "$where.coverage"),
                levels(found.map("precision"), true, "$where.precision")
            )
        }

        private fun levels(values: Map<String, Any?>, mayBeNull: Boolean, where: String): Map<Double, Double?> {
            val fields = Fields(values, values.keys, where)
            val found = LinkedHashMap<Double, Double?>()
            for (name in values.keys) {
                val level = name.toDoubleOrNull()
                if (level == null || !(level > 0 && level < 1)) {
                    throw EdgebException("$where: bad level '${name.take(40)}'", DAMAGED_HINT, ErrorCode.DAMAGED)
                }
                found[level] = if (mayBeNull && fields.isNull(name)) null else fields.number(name, 0.0, 1.0)
            }
            return found
        }
    }
}
