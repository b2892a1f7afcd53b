package dev.edgeb.core

/** What p(y|x) means: see docs/integrate.md. */
enum class Scoring(val text: String) {
    /** Full-vocabulary token probabilities along a label and its terminator, renormalized over the candidates. */
    EXACT("exact"),

    /** Renormalized over the children at every node of the label trie, as grammar-constrained sampling does. */
    MASKED("masked")
}

/** Which distribution ranks the candidates. */
enum class Source(val text: String) {
    MODEL("model"),
    HABITS("habits"),
    FUSED("fused")
}

/** One candidate and its probability among the candidates asked for. */
data class Ranked(val behavior: String, val probability: Double)

/**
 * What a prediction says and what it cost.
 *
 * @property ranked Candidates by falling probability, `topK` of them. Their order is proven; where candidates were left
 *   unexpanded, probabilities are lower bounds that miss at most `unexpanded` in all.
 * @property tokensEvaluated Tokens the model was run on.
 * @property elapsedMs Wall time of the call.
 * @property decodeMs Part of it spent inside llama.cpp or LiteRT.
 * @property unexpanded Upper bound of the probability held by candidates that were not looked at to their end.
 * @property calibrated Whether the probabilities are calibrated; false for a bundle without calibration, too.
 * @property suggest Whether to suggest the first candidate at the precision asked for; null if none was.
 * @property likely The likely set at the coverage asked for, by falling probability; null if none was.
 * @property balance τ by which rare behaviors were raised, see `Balance`.
 * @property accelerator What the model ran on; null where it was not asked.
 */
data class Prediction(
    val ranked: List<Ranked>,
    val scoring: Scoring,
    val source: Source,
    val tokensEvaluated: Int,
    val elapsedMs: Double,
    val decodeMs: Double,
    val unexpanded: Double,
    val calibrated: Boolean,
    val suggest: Boolean?,
    val likely: List<String>?,
    val balance: Double = 0.0,
    val accelerator: Accelerator? = null
)

/** How a prediction is wanted: the arguments of `Predictor.predict`, checked. */
internal class Request(
    val topK: Int?,
    val scoring: Scoring,
    val source: Source?,
    val only: List<String>?,
    val exclude: List<String>,
    val exhaustive: Boolean,
    val calibrated: Boolean,
    val precision: Double?,
    val coverage: Double?,
    val balance: Balance
) {
    init {
        if (topK != null && topK < 1) throw EdgebException("topK is $topK", "ask for at least one candidate")
        if (precision != null || coverage != null) {
            if (!calibrated) {
                throw EdgebException(
                    "precision and coverage were measured on calibrated values", "do not ask for raw ones"
                )
            }
            if (only != null || exclude.isNotEmpty()) {
                throw EdgebException(
                    "precision and coverage were measured over all candidates", "leave out only and exclude"
                )
            }
        }
    }

    /** Which candidates to rank; null for all. @throws EdgebException a label that is no candidate, or none left. */
    fun allowed(candidates: CandidateSet): BooleanArray? {
        if (only == null && exclude.isEmpty()) return null
        val mask = BooleanArray(candidates.size) { only == null }
        for (label in only ?: emptyList()) mask[candidates.code(label, "only")] = true
        for (label in exclude) mask[candidates.code(label, "exclude")] = false
        if (mask.none { it }) {
            throw EdgebException("no candidate is left to rank", "name fewer labels in exclude or more in only")
        }
        return mask
    }
}
