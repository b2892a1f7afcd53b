package dev.edgeb.core

/** Log-softmax; an entry of minus infinity stays so. */
internal fun logSoftmax(scores: DoubleArray): DoubleArray {
    val total = logSumExp(scores)
    return DoubleArray(scores.size) { scores[it] - total }
}

internal fun logSumExp(scores: DoubleArray): Double {
    var top = Double.NEGATIVE_INFINITY
    for (score in scores) top = maxOf(top, score)
    var sum = 0.0
    for (score in scores) sum += Math.exp(score - top)
    return top + Math.log(sum)
}
