package dev.edgeb.core

private const val ANCHOR_THRESHOLD = 0.01
private const val HEAD_THRESHOLD = 0.05

// Share of a prior spread evenly, so that a label training never saw keeps a chance.
private const val EVEN_SHARE = 0.01

/** Frequency groups of candidates, in the order that manifests name them. */
internal val GROUPS = listOf("head", "medium", "tail")

/**
 * The labels a model may answer with, in a fixed order, and how often each occurs in training.
 *
 * That labels differ by more than case and space is checked at export, not again here.
 *
 * @property labels Unique, cleaned labels; a candidate's index here is its code everywhere else.
 * @property counts Training events per label, same order; all zero when unknown.
 */
public data class CandidateSet(val labels: List<String>, val counts: List<Long>) {
    private val codes: Map<String, Int> = labels.withIndex().associate { it.value to it.index }

    init {
        for (label in labels) {
            if (cleanLabel(label) != label) throw EdgebException(
                "label '$label' has stray space or marks, or is not NFC", code = ErrorCode.DAMAGED
            )
        }
        if (codes.size < labels.size) throw EdgebException("a label is listed twice", code = ErrorCode.DAMAGED)
        if (labels.size < 2) throw EdgebException(
            "only ${labels.size} behavior label(s)", code = ErrorCode.DAMAGED
        )
        if (counts.size != labels.size) throw EdgebException(
            "${counts.size} counts for ${labels.size} labels", code = ErrorCode.DAMAGED
        )
    }

    /** Number of candidates. */
    val size: Int
        get() = labels.size

    /** Index of a label, compared as `cleanLabel` leaves it. @throws EdgebException the label is not a candidate. */
    internal fun code(label: String, where: String = ""): Int = codes[label] ?: codes[cleanLabelOrNull(label) ?: ""]
        ?: throw EdgebException(
            "${if (where == "") "" else "$where: "}'$label' is not in the candidate set", nearest(label, labels),
            ErrorCode.UNKNOWN_LABEL
        )

    /** The event with its behavior as the candidate is written. @throws EdgebException the label is not a candidate. */
    internal fun named(event: BehaviorEvent, where: String): BehaviorEvent {
        val label = labels[code(event.behavior, where)]
        return if (label == event.behavior) event else event.copy(behavior = label)
    }

    /** Fraction of training events per label; zeros when nothing was counted. */
    internal fun shares(): DoubleArray {
        val total = maxOf(counts.sum(), 1L).toDouble()
        return DoubleArray(size) { counts[it] / total }
    }

    /** Group of every candidate: head, medium or tail. */
    internal fun groups(): List<String> =
        shares().map { if (it > HEAD_THRESHOLD) "head" else if (it > ANCHOR_THRESHOLD) "medium" else "tail" }
}

/** Training shares with a hundredth spread evenly: what counters fall back on last. Counts of zero are even shares. */
internal fun smoothedShares(counts: List<Long>): DoubleArray {
    val total = counts.sum()
    val even = 1.0 / counts.size
    return DoubleArray(counts.size) {
        if (total == 0L) even else (1 - EVEN_SHARE) * counts[it] / total + EVEN_SHARE * even
    }
}
