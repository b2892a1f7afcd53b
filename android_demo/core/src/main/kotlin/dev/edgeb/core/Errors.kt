package dev.edgeb.core

/** What kind of failure an `EdgebException` is, for a host app to act upon; its words are for a person. */
public enum class ErrorCode {
    /** An argument or option that no bundle takes. */
    INVALID_ARGUMENT,

    /** A behavior that is none of the bundle's labels, or cannot be one. */
    UNKNOWN_LABEL,

    /** No local time, or one further back than a clock can go. */
    INVALID_TIME,

    /** A place where the bundle has none, or none where it has places. */
    INVALID_PLACE,

    /** The prompt does not fit into the model's context. */
    PROMPT_TOO_LONG,

    /** The bundle lacks what was asked for: fusion, a calibration, a fitted balance. */
    NOT_IN_BUNDLE,

    /** The file is no bundle, or no session. */
    NOT_A_BUNDLE,

    /** The file was changed or cut short. */
    DAMAGED,

    /** The file was written by a version that this one does not read. */
    UNSUPPORTED_VERSION,

    /** The session belongs to another bundle. */
    OTHER_BUNDLE,

    /** The file cannot be read. */
    UNREADABLE,

    /** The file cannot be written: no space, or no permission. */
    UNWRITABLE,

    /** The bundle needs an engine that the app did not give, or did not package. */
    ENGINE_MISSING,

    /** The accelerator asked for does not take the bundle, or computes something else. */
    ACCELERATOR_REFUSED,

    /** llama.cpp or LiteRT failed. */
    ENGINE_FAILED,

    /** There is not enough memory. */
    OUT_OF_MEMORY,

    /** The predictor, model or vocabulary was closed. */
    CLOSED,

    /** The call was cancelled; see `CancelSignal`. */
    CANCELLED
}

/**
 * The caller's input or the device is at fault: what is wrong, and what to do about it.
 *
 * The one exception this library throws on purpose.
 *
 * @property hint What to do about it, in words; may be empty.
 * @property code What kind of failure it is.
 */
public class EdgebException @JvmOverloads constructor(
    message: String,
    public val hint: String = "",
    public val code: ErrorCode = ErrorCode.INVALID_ARGUMENT
) : RuntimeException(message) {
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
