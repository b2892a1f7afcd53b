package dev.edgeb.core

import java.text.Normalizer

internal const val MAX_PLACE_CHARS = 48
internal const val MAX_LABEL_CHARS = 100
internal const val UNKNOWN_PLACE = "unknown"
private const val PLACE_PUNCTUATION = "-_.&/+"
private const val SPACE = 0x20

/** One thing a user did: where, when (local time) and what. */
data class BehaviorEvent(val place: String, val time: Moment, val behavior: String)

/**
 * Reduce a place name to letters, digits, single spaces and `-_.&/+`, at most 48 characters.
 *
 * Brackets, commas, quotes, newlines and control characters are what gives a prompt its structure, so a place name
 * cannot contain them; an empty result becomes "unknown".
 */
internal fun cleanPlace(text: String): String {
    val kept = StringBuilder()
    for (c in codePoints(nfc(text))) {
        kept.appendCodePoint(if (isLetterMarkOrNumber(c) || isPlacePunctuation(c)) c else SPACE)
    }
    val words = kept.toString().split(' ').filter { it != "" }.joinToString(" ")
    val cut = words.substring(0, words.offsetByCodePoints(0, minOf(MAX_PLACE_CHARS, lengthInCodePoints(words))))
    val place = cut.trimEnd(' ')
    return if (place == "") UNKNOWN_PLACE else place
}

/**
 * Normalize a behavior label: NFC, outer space trimmed, inner space runs made one space.
 *
 * @throws EdgebException the label is empty, longer than 100 characters or holds a control character.
 */
internal fun cleanLabel(text: String): String {
    val points = codePoints(nfc(text)).dropWhile { isSpace(it) }.dropLastWhile { isSpace(it) }
    val label = text(points).split(' ').filter { it != "" }.joinToString(" ")
    if (label == "") {
        throw EdgebException("a behavior label is empty", "give the behavior a name")
    }
    val bad = codePoints(label).firstOrNull { isControl(it) }
    if (bad != null) {
        throw EdgebException(
            "behavior label '$label' holds the control character U+${Integer.toHexString(bad)}",
            "labels are one line of plain text"
        )
    }
    if (lengthInCodePoints(label) > MAX_LABEL_CHARS) {
        throw EdgebException(
            "behavior label '${label.take(40)}…' is too long", "use at most $MAX_LABEL_CHARS characters"
        )
    }
    return label
}

internal fun codePoints(text: String): List<Int> {
    val found = ArrayList<Int>(text.length)
    var at = 0
    while (at < text.length) {
        val point = text.codePointAt(at)
        found.add(point)
        at += Character.charCount(point)
    }
    return found
}

private fun text(points: List<Int>): String {
    val made = StringBuilder()
    for (point in points) made.appendCodePoint(point)
    return made.toString()
}

private fun nfc(text: String): String = Normalizer.normalize(text, Normalizer.Form.NFC)

private fun lengthInCodePoints(text: String): Int = text.codePointCount(0, text.length)

private fun isPlacePunctuation(point: Int): Boolean = point < 128 && PLACE_PUNCTUATION.indexOf(point.toChar()) >= 0

/** General categories L*, M* and N*. */
private fun isLetterMarkOrNumber(point: Int): Boolean =
    when (Character.getType(point).toByte()) {
        Character.UPPERCASE_LETTER, Character.LOWERCASE_LETTER, Character.TITLECASE_LETTER,
        Character.MODIFIER_LETTER, Character.OTHER_LETTER, Character.NON_SPACING_MARK, Character.ENCLOSING_MARK,
        Character.COMBINING_SPACING_MARK, Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER,
        Character.OTHER_NUMBER -> true
        else -> false
    }

/** General categories Cc, Cf, Zl, Zp and Cs. */
private fun isControl(point: Int): Boolean =
    when (Character.getType(point).toByte()) {
        Character.CONTROL, Character.FORMAT, Character.LINE_SEPARATOR, Character.PARAGRAPH_SEPARATOR,
        Character.SURROGATE -> true
        else -> false
    }

/** What Python's str.strip takes off. */
private fun isSpace(point: Int): Boolean =
    point in 9..13 || point in 28..32 || point == 0x85 || Character.isSpaceChar(point)
