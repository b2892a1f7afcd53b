package dev.edgeb.core

import java.text.Normalizer

internal const val MAX_PLACE_CHARS = 48
internal const val MAX_LABEL_CHARS = 200
internal const val UNKNOWN_PLACE = "unknown"
private const val PLACE_PUNCTUATION = "-_.&/+"
private const val SPACE = 0x20

// Marks that only steer layout and that nobody sees: soft hyphen, Arabic letter mark, zero-width space, direction marks,
// embeddings and isolates, word joiner, byte order mark.
private const val INVISIBLE =
    "\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"

/** One thing a user did: where, when (local time) and what. */
public data class BehaviorEvent(val place: String, val time: Moment, val behavior: String)

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
    val name = words(kept.toString())
    val cut = name.substring(0, name.offsetByCodePoints(0, minOf(MAX_PLACE_CHARS, lengthInCodePoints(name))))
    val place = cut.trimEnd(' ')
    return if (place == "") UNKNOWN_PLACE else place
}

/**
 * Normalize a behavior label: NFC, invisible marks dropped, spaces of any kind made one, none outside.
 *
 * Joiners (U+200C, U+200D) stay where they shape a word or an emoji: behind a letter, mark, number or symbol that another
 * one follows, and behind a combining mark.
 *
 * @throws EdgebException the label is empty, longer than 200 characters or holds a control character.
 */
internal fun cleanLabel(text: String): String {
    val visible = codePoints(text).filter { !isInvisible(it) }.map { if (isSpaceSeparator(it)) SPACE else it }
    val trimmed = visible.dropWhile { isSpace(it) }.dropLastWhile { isSpace(it) }
    val label = words(withJoiners(nfc(words(text(trimmed)))))
    if (label == "") {
        throw EdgebException("a behavior label is empty", "give the behavior a name", ErrorCode.UNKNOWN_LABEL)
    }
    val bad = codePoints(label).firstOrNull { isControl(it) && !isJoiner(it) }
    if (bad != null) {
        throw EdgebException(
            "behavior label '$label' holds the control character U+${Integer.toHexString(bad)}",
            "labels are one line of plain text", ErrorCode.UNKNOWN_LABEL
        )
    }
    if (lengthInCodePoints(label) > MAX_LABEL_CHARS) {
        throw EdgebException(
            "behavior label '${label.take(40)}…' is too long", "use at most $MAX_LABEL_CHARS characters",
            ErrorCode.UNKNOWN_LABEL
        )
    }
    return label
}

/** The label as candidates are written; null where it cannot be one. */
public fun cleanLabelOrNull(text: String): String? =
    try {
        cleanLabel(text)
    } catch (error: EdgebException) {
        null
    }

/** Of every run of joiners the first one, where it shapes what is around it. */
private fun withJoiners(text: String): String {
    val points = codePoints(text)
    val made = StringBuilder()
    var at = 0
    while (at < points.size) {
        val start = at
        while (at < points.size && isJoiner(points[at])) at++
        if (at > start && joins(points.getOrNull(start - 1), points.getOrNull(at))) made.appendCodePoint(points[start])
        if (at < points.size) made.appendCodePoint(points[at++])
    }
    return made.toString()
}

private fun joins(before: Int?, after: Int?): Boolean =
    before != null && (isMark(before) || after != null && isShaped(before) && isShaped(after))

private fun words(text: String): String = text.split(' ').filter { it != "" }.joinToString(" ")

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
    isMark(point) || when (Character.getType(point).toByte()) {
        Character.UPPERCASE_LETTER, Character.LOWERCASE_LETTER, Character.TITLECASE_LETTER,
        Character.MODIFIER_LETTER, Character.OTHER_LETTER, Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER,
        Character.OTHER_NUMBER -> true
        else -> false
    }

/** General categories M*. */
private fun isMark(point: Int): Boolean =
    when (Character.getType(point).toByte()) {
        Character.NON_SPACING_MARK, Character.ENCLOSING_MARK, Character.COMBINING_SPACING_MARK -> true
        else -> false
    }

/** General categories L*, M*, N* and S*. */
private fun isShaped(point: Int): Boolean =
    isLetterMarkOrNumber(point) || when (Character.getType(point).toByte()) {
        Character.MATH_SYMBOL, Character.CURRENCY_SYMBOL, Character.MODIFIER_SYMBOL, Character.OTHER_SYMBOL -> true
        else -> false
    }

private fun isJoiner(point: Int): Boolean = point == 0x200c || point == 0x200d

private fun isInvisible(point: Int): Boolean = point <= 0xffff && INVISIBLE.indexOf(point.toChar()) >= 0

/** General category Zs. */
private fun isSpaceSeparator(point: Int): Boolean = Character.getType(point).toByte() == Character.SPACE_SEPARATOR

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
