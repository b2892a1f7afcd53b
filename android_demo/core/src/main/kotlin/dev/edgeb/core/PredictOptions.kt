package dev.edgeb.core

/**
 * How a prediction is wanted: `PredictOptions { source = Source.HABITS; precision = 0.8 }`, from Java by a `Builder`.
 *
 * @property source Which distribution ranks the candidates; null takes the bundle's default.
 * @property scoring What a probability means.
 * @property only Labels to rank; null for all.
 * @property exclude Labels to leave out.
 * @property calibrated Calibrate the probabilities where the bundle can; false gives the source's own.
 * @property exhaustive Expand the whole trie, so that every probability is exact.
 * @property precision Also decide whether to suggest the first candidate; a level of the manifest's calibration.
 * @property coverage Also name the candidates that hold the truth this often; a level of the manifest's calibration.
 * @property balance How far to raise rare behaviors. Other than at 0 and at the fitted τ, probabilities are raw, and
 *   precision and coverage are refused.
 * @property cancel Ends the call from another thread; null where nobody will.
 */
public class PredictOptions private constructor(from: Builder) {
    public val source: Source? = from.source
    public val scoring: Scoring = from.scoring
    public val only: List<String>? = from.only
    public val exclude: List<String> = from.exclude
    public val calibrated: Boolean = from.calibrated
    public val exhaustive: Boolean = from.exhaustive
    public val precision: Double? = from.precision
    public val coverage: Double? = from.coverage
    public val balance: Balance = from.balance
    public val cancel: CancelSignal? = from.cancel

    /** These options with some changed. */
    public fun with(change: Builder.() -> Unit): PredictOptions {
        val builder = Builder()
        builder.source = source
        builder.scoring = scoring
        builder.only = only
        builder.exclude = exclude
        builder.calibrated = calibrated
        builder.exhaustive = exhaustive
        builder.precision = precision
        builder.coverage = coverage
        builder.balance = balance
        builder.cancel = cancel
        builder.change()
        return builder.build()
    }

    /** Collects options; its properties are those of `PredictOptions`. */
    public class Builder {
        public var source: Source? = null
        public var scoring: Scoring = Scoring.EXACT
        public var only: List<String>? = null
        public var exclude: List<String> = emptyList()
        public var calibrated: Boolean = true
        public var exhaustive: Boolean = false
        public var precision: Double? = null
        public var coverage: Double? = null
        public var balance: Balance = Balance.NONE
        public var cancel: CancelSignal? = null

        /** @throws EdgebException options that contradict each other. */
        public fun build(): PredictOptions {
            if (precision != null || coverage != null) {
                if (!calibrated) {
                    throw EdgebException(
                        "precision and coverage were measured on calibrated values", "do not ask for raw ones",
                        ErrorCode.INVALID_ARGUMENT
                    )
                }
                if (only != null || exclude.isNotEmpty()) {
                    throw EdgebException(
                        "precision and coverage were measured over all candidates", "leave out only and exclude",
                        ErrorCode.INVALID_ARGUMENT
                    )
                }
            }
            return PredictOptions(this)
        }
    }

    public companion object {
        /** The bundle's default source, exact scoring, all candidates, calibrated. */
        @JvmField
        public val DEFAULT: PredictOptions = Builder().build()

        /** @throws EdgebException options that contradict each other. */
        public operator fun invoke(set: Builder.() -> Unit): PredictOptions {
            val builder = Builder()
            builder.set()
            return builder.build()
        }
    }
}
