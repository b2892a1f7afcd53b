package dev.edgeb.core

private const val MOST = 2.0
private const val SAME_BALANCE = 1e-9

/**
 * How far rare behaviors are raised: candidate scores minus τ times the log of a candidate's share of training events,
 * before calibration (docs/integrate.md). Probabilities are calibrated at 0 and at the fitted τ alone.
 */
public class Balance private constructor(internal val tau: Double?) {
    override fun toString(): String = if (tau == null) "fitted" else "$tau"

    public companion object {
        /** τ = 0: what is right most often. */
        @JvmField
        public val NONE: Balance = Balance(0.0)

        /** The τ that export fitted for the source that answers. */
        @JvmField
        public val FITTED: Balance = Balance(null)

        /** A τ from 0 to 2. @throws EdgebException it is none. */
        @JvmStatic
        public fun of(tau: Double): Balance {
            if (!(tau >= 0 && tau <= MOST)) {
                throw EdgebException(
                    "balance is $tau", "use a number from 0 (right most often) to $MOST", ErrorCode.INVALID_ARGUMENT
                )
            }
            return Balance(tau)
        }

        /**
         * -τ · log share of every candidate, finite: shares are smoothed as those that habits fall back on.
         *
         * @throws EdgebException there are no training counts to balance by.
         */
        internal fun offsets(tau: Double, counts: List<Long>): DoubleArray {
            if (tau != 0.0 && counts.all { it == 0L }) {
                throw EdgebException(
                    "balance is $tau, but the training counts are unknown", "use Balance.NONE", ErrorCode.NOT_IN_BUNDLE
                )
            }
            val shares = smoothedShares(counts)
            return DoubleArray(shares.size) { -tau * Math.log(shares[it]) }
        }
    }
}

/** τ per source, and the calibrations of scores that are balanced by it: what a manifest's `balance` holds. */
internal class FittedBalance private constructor(
    private val fitted: Map<Source, Double>,
    private val calibrations: Map<Source, Calibration>?
) {
    fun tau(source: Source): Double = fitted.getValue(source)

    /** The calibration at `tau`; null unless that is the fitted one. */
    fun calibration(source: Source, tau: Double): Calibration? =
        if (Math.abs(tau(source) - tau) < SAME_BALANCE) calibrations?.getValue(source) else null

    /** Where precision and coverage can be asked for. */
    fun hint(source: Source): String =
        if (calibrations == null) "use Balance.NONE" else "use Balance.NONE, or the fitted ${tau(source)}"

    companion object {
        fun of(value: Any?, sources: List<Source>, groups: List<String>, where: String): FittedBalance {
            val found = Fields(value, listOf("fitted", "calibration", "measured"), where)
            found.map("measured")
            val held = Fields(found.any("fitted"), sources.map { it.text }, "$where.fitted")
            return FittedBalance(
                sources.associate { it to held.number(it.text, 0.0, MOST) },
                found.mapOrNull("calibration")?.let { Calibration.all(it, sources, groups, "$where.calibration") }
            )
        }
    }
}
