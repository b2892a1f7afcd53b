package dev.edgeb.core

/** What a suggestion rests on. */
public enum class Reason(public val text: String) {
    /** The user's own counts, here and at this hour. */
    USUAL("usual"),

    /** What people in general do after what the user just did. */
    FOLLOWS("follows"),

    /** The model that reads the last events. */
    MODEL("model")
}

/**
 * Why a behavior has the probability that it has.
 *
 * @property behavior The candidate explained.
 * @property reason The source whose removal lowers its probability most; null where no removal lowers it.
 * @property probability Its probability among the candidates that were ranked, which sum to one here.
 * @property without The same without each source that takes part.
 */
public class Explanation(
    public val behavior: String,
    public val reason: Reason?,
    public val probability: Double,
    public val without: Map<Reason, Double>
)

/**
 * The scores of a mix, whole and without each source that takes part in it, up to a constant each. A source without which
 * nothing is left leaves scores that are all equal.
 */
internal class Mix(val whole: DoubleArray, val without: Map<Reason, DoubleArray>) {
    /** Name the source whose removal lowers the candidate's probability most. */
    fun explain(candidate: Int, behavior: String): Explanation {
        val probability = share(whole, candidate)
        val left = without.mapValues { share(it.value, candidate) }
        var lowest: Reason? = null
        for ((reason, p) in left) {
            if (p < (if (lowest == null) probability else left.getValue(lowest))) lowest = reason
        }
        return Explanation(behavior, lowest, probability, left)
    }

    private fun share(scores: DoubleArray, candidate: Int): Double = Math.exp(scores[candidate] - logSumExp(scores))
}

/**
 * Explains the first candidate of predictions of one bundle.
 *
 * No model is run. Of candidates that a search has ranked, the scores are known up to a constant, so that a source can
 * be taken out of them; candidates that were not ranked are left out of what is compared. With `topK = null` and
 * `exhaustive` that is all of them.
 */
public class Explainer(predictor: Predictor) {
    private val engine = predictor.engine
    private val candidates = engine.manifest.candidates

    /**
     * Why `prediction` ranks its first candidate first.
     *
     * @param session The session that predicted, nothing observed since.
     * @param moment The time it was asked for.
     * @param place The place it was asked for; null where the bundle has none.
     * @throws EdgebException the predictor is closed, or a place is missing or too many.
     */
    public fun explain(session: Session, prediction: Prediction, moment: Moment, place: String?): Explanation {
        val where = engine.manifest.layout.placeOf(place)
        synchronized(engine.lock) {
            val codes = IntArray(prediction.ranked.size) { candidates.code(prediction.ranked[it].behavior) }
            val mix = mixOf(prediction, habitsOf(session.counter, moment, where))
            val found = Mix(picked(mix.whole, codes), mix.without.mapValues { picked(it.value, codes) })
            return found.explain(0, prediction.ranked[0].behavior)
        }
    }

    /** Log-probabilities of habits: as they are, without the user's own counts, and without other people's. */
    private class Habits(val whole: DoubleArray, val withoutOwn: DoubleArray, val withoutOthers: DoubleArray?)

    private fun habitsOf(counter: HabitCounter, moment: Moment, place: String): Habits {
        val base = counter.base(moment, place)
        return Habits(
            counter.logProbs(moment, place),
            DoubleArray(base.size) { Math.log(base[it]) },
            if (engine.population == null) null else counter.logProbs(moment, place, counter.shares())
        )
    }

    /** Scores of all candidates; those that were not ranked stay at minus infinity where the model takes part. */
    private fun mixOf(prediction: Prediction, habits: Habits): Mix {
        val source = prediction.source
        val calibration = if (prediction.calibrated) engine.fittedCalibration(source, prediction.balance) else null
        val raised = Balance.offsets(prediction.balance, candidates.counts)
        val scored = DoubleArray(candidates.size) { Double.NEGATIVE_INFINITY }
        for (one in prediction.ranked) scored[candidates.code(one.behavior)] = Math.log(one.probability)
        val without = LinkedHashMap<Reason, DoubleArray>()
        if (source == Source.MODEL) {
            without[Reason.MODEL] = DoubleArray(candidates.size)
            return Mix(scored, without)
        }
        val say = { logProbs: DoubleArray -> if (source == Source.FUSED) engine.fusion!!.affine(logProbs).offset else logProbs }
        val whole = say(habits.whole)
        val others = linkedMapOf(Reason.USUAL to habits.withoutOwn)
        if (habits.withoutOthers != null) others[Reason.FOLLOWS] = habits.withoutOthers
        for ((reason, logProbs) in others) {
            val rest = say(logProbs)
            val change = scaled(DoubleArray(rest.size) { rest[it] - whole[it] }, calibration)
            without[reason] = DoubleArray(rest.size) { scored[it] + change[it] }
        }
        if (source == Source.FUSED) {
            val alone = DoubleArray(whole.size) { whole[it] + raised[it] }
            without[Reason.MODEL] = calibration?.scores(alone) ?: alone
        }
        return Mix(scored, without)
    }

    /** A difference of scores after calibration, whose own offsets fall out of it. */
    private fun scaled(change: DoubleArray, calibration: Calibration?): DoubleArray {
        if (calibration == null) return change
        val nothing = calibration.scores(DoubleArray(change.size))
        val moved = calibration.scores(change)
        return DoubleArray(change.size) { moved[it] - nothing[it] }
    }

    private fun picked(values: DoubleArray, codes: IntArray) = DoubleArray(codes.size) { values[codes[it]] }
}
