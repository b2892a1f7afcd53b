package dev.edgeb.core

/**
 * The caller's input or the device is at fault: what is wrong, and what to do about it.
 *
 * The one exception this library throws on purpose.
 */
class EdgebException @JvmOverloads constructor(message: String, val hint: String = "") : RuntimeException(message) {
    override fun toString(): String = if (hint == "") "$message" else "$message ($hint)"
}

/** A hint for an unknown name: the closest valid one, or the first valid names when nothing is close. */
internal fun nearest(name: String, known: Collection<String>, shown: Int = 8): String {
    val closest = known.sortedBy { distance(name, it) }.firstOrNull()
    if (closest != null && distance(name, closest) * 10 <= 3 * maxOf(name.length, closest.length)) {
        return "did you mean '$closest'?"
    }
    val more = if (known.size > shown) ", … (${known.size} in all)" else ""
    return "valid: " + known.sorted().take(shown).joinToString(", ") + more
}

/** Letters to insert, delete or exchange between two names, case aside. */
private fun distance(a: String, b: String): Int {
    var above = IntArray(b.length + 1) { it }
    for (i in 1..a.length) {
        val row = IntArray(b.length + 1)
        row[0] = i
        for (j in 1..b.length) {
            val exchanged = above[j - 1] + if (a[i - 1].equals(b[j - 1], ignoreCase = true)) 0 else 1
            row[j] = minOf(exchanged, above[j] + 1, row[j - 1] + 1)
        }
        above = row
    }
    return above[b.length]
}
