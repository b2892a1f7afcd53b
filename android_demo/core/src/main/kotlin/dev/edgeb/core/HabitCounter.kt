package dev.edgeb.core

// Behaviors that the population's contexts name.
private const val RECENT = 2
private const val LEAST_STRENGTH = 1e-3
private const val LARGEST = 1e9
private const val HOURS = 24
private val SETTINGS = listOf("hour_bucket", "half_life", "k_all", "k_hour", "k_place", "k_place_hour")

// Widest first: the order in which they are combined.
private val LEVELS = listOf("all", "hour", "place", "place_hour")

/** How habits are counted: see docs/integrate.md. `strengths` are those behind the counts of each level. */
internal class HabitsConfig(val hourBucket: Int, val halfLife: Double, val strengths: Map<String, Double>) {
    fun toJson(): Map<String, Any?> =
        mapOf("hour_bucket" to hourBucket.toLong(), "half_life" to halfLife) +
            LEVELS.map { "k_$it" to strengths.getValue(it) }

    companion object {
        val DEFAULT = HabitsConfig(2, 100.0, mapOf("all" to 160.0, "hour" to 40.0, "place" to 4.0, "place_hour" to 4.0))

        /** Read strictly what a manifest or a session holds. */
        fun of(value: Any?, where: String): HabitsConfig {
            val found = Fields(value, SETTINGS, where)
            val bucket = found.int("hour_bucket")
            if (bucket < 1 || HOURS % bucket != 0) {
                throw EdgebException("$where: hour_bucket is $bucket", "use a divisor of 24", ErrorCode.DAMAGED)
            }
            val halfLife = found.number("half_life", 0.0, LARGEST)
            if (halfLife != 0.0 && halfLife < 1) {
                throw EdgebException(
                    "$where: half_life is $halfLife", "use 0 (no decay) or at least 1 event", ErrorCode.DAMAGED
                )
            }
            val strengths = LEVELS.associate { it to found.number("k_$it", LEAST_STRENGTH, LARGEST) }
            return HabitsConfig(bucket, halfLife, strengths)
        }
    }
}

/** Where and when: a level names which of the two it looks at. */
private data class Context(val place: String?, val hour: Int?)

/** A decayed count, and the number of the event that last changed it. */
private class Count(val weight: Double, val at: Long)

/**
 * One user's decayed counts, and the distribution that follows from them: place and hour, place, hour, everything, each
 * falling back on the next wider one where it has seen little, and the widest on what people in general do after the
 * user's last two behaviors.
 *
 * Knows nothing of models. Not for several threads at once.
 *
 * @param counts Training events per candidate; all zero for "unknown", which counts as even.
 * @param places Whether places are known. Without, the two levels that name one stay empty: they would count twice what
 *   the other two count.
 * @param population What a user with few counts is taken to do; null falls back on the training shares.
 */
internal class HabitCounter(
    counts: List<Long>,
    private val config: HabitsConfig,
    private val places: Boolean,
    private val population: PopulationTable?
) {
    private val prior = smoothedShares(counts)
    private var recent = emptyList<Int>()
    private val rate = if (config.halfLife > 0) Math.log(2.0) / config.halfLife else 0.0
    private val levels = LEVELS.associate { it to LinkedHashMap<Context, LinkedHashMap<Int, Count>>() }

    /** Events observed. */
    var events = 0L
        private set

    /** Count one event. @param code Index in the candidate set. */
    fun observe(code: Int, moment: Moment, place: String) {
        events++
        recent = (recent + code).takeLast(RECENT)
        for ((level, context) in contexts(moment, place)) {
            val counts = levels.getValue(level).getOrPut(context) { LinkedHashMap() }
            val before = counts[code]
            val decayed = if (before == null) 0.0 else before.weight * Math.exp(rate * (before.at - events))
            counts[code] = Count(decayed + 1, events)
        }
    }

    /** Shares of the training events, what a counter without a population backs off to. */
    fun shares(): DoubleArray = prior.copyOf()

    /** Probabilities before the user's own counts: the population's after the last events, else the shares. */
    fun base(moment: Moment, place: String): DoubleArray = population?.probs(recent, moment, place) ?: shares()

    /**
     * Log-probabilities of what comes next at `moment` in `place`: they sum to one, none is minus infinity.
     *
     * @param p What the user's own counts are put on, and overwrite.
     */
    fun logProbs(moment: Moment, place: String, p: DoubleArray = base(moment, place)): DoubleArray {
        for ((level, context) in contexts(moment, place)) {
            val counts = levels.getValue(level)[context] ?: continue
            val k = config.strengths.getValue(level)
            var total = k
            for (b in p.indices) p[b] *= k
            for ((code, count) in counts) {
                val decayed = count.weight * Math.exp(rate * (count.at - events))
                p[code] += decayed
                total += decayed
            }
            for (b in p.indices) p[b] /= total
        }
        return DoubleArray(p.size) { Math.log(p[it]) }
    }

    /** JSON-ready state that `restore` reads. */
    fun toJson(): Map<String, Any?> = mapOf(
        "config" to config.toJson(),
        "size" to prior.size.toLong(),
        "events" to events,
        "recent" to recent.map { it.toLong() },
        "counts" to levels.mapValues { (_, contexts) ->
            contexts.map { (context, counts) ->
                listOf(
                    listOfNotNull(context.place, context.hour?.toLong()),
                    counts.map { (code, count) -> listOf(code.toLong(), count.weight, count.at) }
                )
            }
        }
    )

    private fun contexts(moment: Moment, place: String): List<Pair<String, Context>> {
        val cleaned = cleanPlace(place)
        val hour = moment.hour / config.hourBucket
        val used = if (places) LEVELS else LEVELS.filter { "place" !in it }
        return used.map { Pair(it, Context(if ("place" in it) cleaned else null, if ("hour" in it) hour else null)) }
    }

    private fun readLevel(level: String, rows: List<Any?>, where: String) {
        val held = levels.getValue(level)
        for (row in rows) {
            val (named, entries) = items(row, 2, where)
            val context = context(level, items(named, null, where), where)
            if (context in held) throw damaged(where, named)
            val counts = LinkedHashMap<Int, Count>()
            held[context] = counts
            for (entry in items(entries, null, where)) {
                val parts = items(entry, 3, where)
                val code = (parts[0] as? Long ?: -1).toInt()
                val weight = (parts[1] as? Number ?: 0).toDouble()
                val at = parts[2] as? Long ?: 0
                val fits = code in 0 until prior.size && code !in counts &&
                    weight >= 1 && weight <= events && at in 1..events
                if (!fits) throw damaged(where, entry)
                counts[code] = Count(weight, at)
            }
        }
    }

    private fun context(level: String, parts: List<Any?>, where: String): Context {
        val wantsPlace = "place" in level
        val wantsHour = "hour" in level
        val place = if (wantsPlace) parts.firstOrNull() as? String else null
        val hour = if (wantsHour) parts.lastOrNull() as? Long else null
        val fits = parts.size == (if (wantsPlace) 1 else 0) + (if (wantsHour) 1 else 0) &&
            (place != null) == wantsPlace && (hour != null) == wantsHour &&
            (hour == null || hour in 0 until HOURS / config.hourBucket)
        if (!fits) throw damaged(where, parts)
        return Context(place, hour?.toInt())
    }

    companion object {
        /** Rebuild a counter from `toJson`; it goes on exactly as the saved one would have. */
        fun restore(
            value: Any?, counts: List<Long>, where: String, places: Boolean, population: PopulationTable?
        ): HabitCounter {
            val found = Fields(value, listOf("config", "size", "events", "recent", "counts"), where)
            val config = HabitsConfig.of(found.any("config"), "$where.config")
            val counter = HabitCounter(counts, config, places, population)
            if (found.int("size") != counts.size) {
                throw EdgebException(
                    "$where counts ${found.int("size")} candidates, not ${counts.size}",
                    "use the bundle it was made with", ErrorCode.OTHER_BUNDLE
                )
            }
            counter.events = found.long("events")
            if (counter.events < 0 || counter.events > LARGEST) throw damaged(where, counter.events)
            val expected = minOf(counter.events, RECENT.toLong()).toInt()
            counter.recent = items(found.any("recent"), expected, where).map {
                val code = it as? Long ?: -1L
                if (code < 0 || code >= counts.size) throw damaged(where, it)
                code.toInt()
            }
            val held = Fields(found.any("counts"), LEVELS, "$where.counts")
            for (level in LEVELS) {
                counter.readLevel(level, held.list(level), "$where.counts.$level")
                if (!places && "place" in level && counter.levels.getValue(level).isNotEmpty()) {
                    throw EdgebException(
                        "$where.counts.$level counts places, the bundle has none", DAMAGED_HINT, ErrorCode.DAMAGED
                    )
                }
            }
            return counter
        }

        private fun items(value: Any?, size: Int?, where: String): List<Any?> {
            if (value !is List<*> || (size != null && value.size != size)) throw damaged(where, value)
            return value
        }

        private fun damaged(where: String, what: Any?) = EdgebException(
            "$where: bad entry ${what.toString().take(80)}", DAMAGED_HINT, ErrorCode.DAMAGED
        )
    }
}
