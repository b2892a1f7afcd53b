package dev.edgeb.core

// The number of a place that is not known.
private const val OTHER_PLACE = 1
private const val LAST_HOUR = 23
private val CONTEXT = Regex("\\((${DAYS.joinToString("|")}) ([0-9]{1,2})(?:, ([^,]*))?,")

/**
 * A prompt as the network reads it: T positions, the start among them.
 *
 * @property behavior T candidate codes; B for the start.
 * @property event T times hour bucket, weekday and place of the position's event; 0 where there is none.
 * @property target The same of the event that comes after it.
 */
internal class Positions(val behavior: IntArray, val event: IntArray, val target: IntArray)

/**
 * Events as tokens: codes of the candidates, the start, then numbers of hour buckets, weekdays and places.
 *
 * An event is the numbers of its context, then its behavior; a question ends before the behavior. Texts of the `stream`
 * layout that hold no event have no tokens. The same as Python's runtime/sequence/tokens.py.
 */
internal class EventTokens(private val shape: SequenceShape, labels: List<String>, places: LongArray) {
    private val codes = labels.withIndex().associate { (code, label) -> Pair(" $label", code) }
    private val sizes = if (shape.hourBucket > 0) shape.contexts.map { it - 1 } else emptyList()
    private val numbers = places.indices.reversed().associate { Pair(places[it], it + OTHER_PLACE + 1) }

    /** Id of the start. */
    val start = shape.candidates

    // The token of each kind's number n is its base + n.
    private val bases = sizes.indices.map { start + sizes.take(it).sum() }

    /** Ids. */
    val size = start + 1 + sizes.sum()

    /** Tokens of the longest prompt, and of its answer. */
    val capacity = 1 + (shape.length + 1) * (1 + sizes.size)

    /** Ids of one segment. */
    fun encode(text: String): IntArray {
        val code = codes[text]
        if (code != null) return intArrayOf(code)
        val found = (if (shape.hourBucket > 0) CONTEXT.matchEntire(text) else null) ?: return IntArray(0)
        val hour = found.groupValues[2].toInt()
        if (hour > LAST_HOUR) return IntArray(0)
        val place = found.groups[3]?.value ?: UNKNOWN_PLACE
        val known = numbers[PopulationTable.textHash(place)] ?: OTHER_PLACE
        val own = listOf(hour / shape.hourBucket + 1, DAYS.indexOf(found.groupValues[1]) + 1, known)
        return IntArray(own.size) { bases[it] + own[it] }
    }

    /** What the network reads of a prompt; a context belongs to the behavior after it, and is the question before. */
    fun positions(ids: IntArray): Positions {
        val none = IntArray(CONTEXTS.size)
        val behaviors = ArrayList<Int>()
        val events = ArrayList<IntArray>()
        val targets = ArrayList<IntArray>()
        var pending = none.copyOf()
        for (token in ids) {
            if (token > start) {
                val kind = bases.indexOfLast { token > it }
                pending[kind] = token - bases[kind]
                continue
            }
            if (targets.size > 0) targets[targets.size - 1] = pending
            behaviors.add(token)
            events.add(if (token == start) none else pending)
            targets.add(none)
            pending = none.copyOf()
        }
        if (behaviors.size == 0) {
            behaviors.add(start)
            events.add(none)
            targets.add(none)
        }
        targets[targets.size - 1] = pending
        return Positions(behaviors.toIntArray(), joined(events), joined(targets))
    }
}
