package dev.edgeb.core

internal const val DAMAGED_HINT = "the file is damaged or was edited: copy or export it again"

/** A JSON object read strictly: a field that is missing, unknown or of another type is refused by name. */
internal class Fields(value: Any?, names: Collection<String>, private val where: String) {
    private val held: Map<*, *> = value as? Map<*, *> ?: throw EdgebException(
        "$where is not an object", DAMAGED_HINT, ErrorCode.DAMAGED
    )

    init {
        for (name in names) if (!held.containsKey(name)) throw EdgebException(
            "$where: field '$name' is missing", DAMAGED_HINT, ErrorCode.DAMAGED
        )
        for (name in held.keys) if (name !in names) throw EdgebException(
            "$where: unknown field '$name'", DAMAGED_HINT, ErrorCode.DAMAGED
        )
    }

    fun any(name: String): Any? = held[name]

    fun isNull(name: String): Boolean = held[name] == null

    fun string(name: String): String = held[name] as? String ?: throw wrong(name, "text")

    fun stringOrNull(name: String): String? = if (isNull(name)) null else string(name)

    fun boolean(name: String): Boolean = held[name] as? Boolean ?: throw wrong(name, "true or false")

    fun long(name: String): Long = held[name] as? Long ?: throw wrong(name, "a whole number")

    fun int(name: String): Int {
        val found = long(name)
        if (found !in Int.MIN_VALUE..Int.MAX_VALUE) throw wrong(name, "a usable number")
        return found.toInt()
    }

    fun intOrNull(name: String): Int? = if (isNull(name)) null else int(name)

    /** Any number from `low` to `high`. */
    fun number(name: String, low: Double, high: Double): Double {
        val found = (held[name] as? Number ?: throw wrong(name, "a number")).toDouble()
        if (!(found >= low && found <= high)) throw wrong(name, "a number from $low to $high")
        return found
    }

    fun list(name: String): List<Any?> = held[name] as? List<Any?> ?: throw wrong(name, "a list")

    fun map(name: String): Map<String, Any?> {
        val found = held[name] as? Map<*, *> ?: throw wrong(name, "an object")
        val copy = LinkedHashMap<String, Any?>()
        for ((key, value) in found) copy[key as String] = value
        return copy
    }

    fun mapOrNull(name: String): Map<String, Any?>? = if (isNull(name)) null else map(name)

    private fun wrong(name: String, wanted: String) =
        EdgebException(
            "$where: field '$name' is '${held[name].toString().take(40)}', not $wanted", DAMAGED_HINT, ErrorCode.DAMAGED
        )
}
