package dev.edgeb.core

private const val MAX_DEPTH = 100
private const val ESCAPES = "\"\\/bfnrt"
private const val MEANINGS = "\"\\/\b\u000c\n\r\t"

/**
 * Strict JSON without a library: objects are maps, arrays lists, whole numbers Long, others Double.
 *
 * A manifest is small, and neither Android's org.json (absent from a desktop JVM) nor a dependency is worth it.
 */
internal object Json {
    /** @throws EdgebException not JSON; `where` names the text. */
    fun parse(text: String, where: String): Any? = Parser(text, where).document()

    /** Compact text, keys in the order of the map; characters beyond ASCII are escaped. */
    fun write(value: Any?): String {
        val out = StringBuilder()
        write(value, out)
        return out.toString()
    }

    private fun write(value: Any?, out: StringBuilder) {
        when (value) {
            null -> out.append("null")
            is Boolean, is Int, is Long -> out.append(value.toString())
            is Double -> {
                require(!value.isNaN() && !value.isInfinite()) { "JSON has no $value" }
                out.append(value.toString())
            }
            is String -> writeString(value, out)
            is Map<*, *> -> {
                out.append('{')
                var first = true
                for ((key, item) in value) {
                    if (!first) out.append(", ")
                    first = false
                    writeString(key as String, out)
                    out.append(": ")
                    write(item, out)
                }
                out.append('}')
            }
            is Iterable<*> -> {
                out.append('[')
                var first = true
                for (item in value) {
                    if (!first) out.append(", ")
                    first = false
                    write(item, out)
                }
                out.append(']')
            }
            else -> throw IllegalArgumentException("no JSON for ${value.javaClass}")
        }
    }

    private fun writeString(text: String, out: StringBuilder) {
        out.append('"')
        for (c in text) {
            val known = MEANINGS.indexOf(c)
            if (known >= 0 && c != '/') {
                out.append('\\').append(ESCAPES[known])
            } else if (c < ' ' || c > '~') {
                out.append("\\u").append(Integer.toHexString(0x10000 + (c - '\u0000')).substring(1))
            } else {
                out.append(c)
            }
        }
        out.append('"')
    }
}

private class Parser(private val text: String, private val where: String) {
    private var at = 0

    fun document(): Any? {
        val value = value(0)
        space()
        if (at < text.length) throw bad("more text")
        return value
    }

    private fun value(depth: Int): Any? {
        if (depth > MAX_DEPTH) throw bad("nested too deep")
        space()
        return when (peek()) {
            '{' -> objectAt(depth)
            '[' -> arrayAt(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun objectAt(depth: Int): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        at++
        space()
        if (peek() == '}') {
            at++
            return found
        }
        while (true) {
            space()
            if (peek() != '"') throw bad("a key is missing")
            val key = string()
            space()
            take(':')
            found[key] = value(depth + 1)
            space()
            if (peek() == ',') at++ else break
        }
        take('}')
        return found
    }

    private fun arrayAt(depth: Int): List<Any?> {
        val found = ArrayList<Any?>()
        at++
        space()
        if (peek() == ']') {
            at++
            return found
        }
        while (true) {
            found.add(value(depth + 1))
            space()
            if (peek() == ',') at++ else break
        }
        take(']')
        return found
    }

    private fun string(): String {
        at++
        val out = StringBuilder()
        while (true) {
            val c = peek()
            at++
            if (c == '"') return out.toString()
            if (c < ' ') throw bad("a control character in a string")
            if (c != '\\') {
                out.append(c)
                continue
            }
            val escaped = peek()
            at++
            val known = ESCAPES.indexOf(escaped)
            if (known < 0 && escaped != 'u') throw bad("\\$escaped")
            out.append(if (known >= 0) MEANINGS[known] else unit())
        }
    }

    private fun unit(): Char {
        if (at + 4 > text.length) throw bad("it is cut short")
        var unit = 0
        for (c in text.substring(at, at + 4)) {
            val digit = Character.digit(c, 16)
            if (digit < 0 || c > 'f') throw bad("\\u")
            unit = unit * 16 + digit
        }
        at += 4
        return unit.toChar()
    }

    private fun number(): Any {
        // By hand: on Android a regular expression copies the whole text for every number.
        val start = at
        if (isNext("-")) at++
        if (isNext("0")) at++ else digits(start)
        val end = at
        if (isNext(".")) {
            at++
            digits(start)
        }
        if (isNext("eE")) {
            at++
            if (isNext("+-")) at++
            digits(start)
        }
        val found = text.substring(start, at)
        return (if (at == end) found.toLongOrNull() else null) ?: found.toDouble()
    }

    private fun digits(start: Int) {
        val first = at
        while (isNext("0123456789")) at++
        if (at == first) throw bad("'${text.substring(start, minOf(start + 10, text.length))}'")
    }

    private fun isNext(any: String): Boolean = at < text.length && any.indexOf(text[at]) >= 0

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) throw bad("an unknown word")
        at += word.length
        return value
    }

    private fun peek(): Char = if (at < text.length) text[at] else throw bad("it is cut short")

    private fun take(c: Char) {
        if (peek() != c) throw bad("'$c' is missing")
        at++
    }

    private fun space() {
        while (at < text.length && (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')) at++
    }

    private fun bad(what: String) = EdgebException(
        "$where is not JSON ($what at character $at)", DAMAGED_HINT, ErrorCode.DAMAGED
    )
}
