package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.EdgebException
import dev.edgeb.core.EventOrder
import dev.edgeb.core.Moment
import java.io.File

private const val MINUTES_OF_DAY = 24 * 60L

/** The day that a moment is in. */
fun dayOf(moment: Moment): Long = Math.floor(moment.minutes.toDouble() / MINUTES_OF_DAY).toLong()

/** How an event came into the log. */
enum class Origin(val text: String) {
    ADDED("added"),
    ACCEPTED("accepted"),
    IMPORTED("imported"),
    SAMPLE("sample"),
    OBSERVED("observed");

    companion object {
        /** `ADDED` for a name that is none: the event counts, however it came. */
        fun of(text: String): Origin = values().firstOrNull { it.text == text } ?: ADDED
    }
}

/**
 * An event of the log.
 *
 * @property zone The zone whose clock its time was read from, like "Europe/Berlin"; empty where that is not known.
 */
data class Entry(val event: BehaviorEvent, val zone: String = "", val origin: Origin = Origin.ADDED) {
    /** Whether this one did not happen after `other`: by the clock on the wall where a zone is not known. */
    fun isUpTo(other: Entry): Boolean {
        val own = Zones.instant(event.time, zone)
        val others = Zones.instant(other.event.time, other.zone)
        return if (own != null && others != null) own <= others else event.time <= other.event.time
    }
}

/**
 * All events of the user, in the order in which they happened. Never changed in place.
 *
 * That is by time but where the phone's clock was set back: after daylight saving time, or on a flight west.
 */
class Timeline(val entries: List<Entry> = emptyList()) {
    val events: List<BehaviorEvent> = entries.map { it.event }

    /**
     * The timeline with what happens now: the last event, though the clock was set back. Where it showed a later time
     * before than zones explain, it was wrong then, and the event goes where its time belongs.
     */
    fun then(entry: Entry): Timeline {
        val last = events.lastOrNull()
        val isPossible = last == null || EventOrder.isPossible(last.time, entry.event.time)
        return if (isPossible) Timeline(entries + entry) else plus(entry)
    }

    /** The timeline with one more event, which may lie in the past. */
    fun plus(entry: Entry): Timeline {
        val at = entries.indexOfLast { it.isUpTo(entry) } + 1
        return Timeline(entries.subList(0, at) + entry + entries.subList(at, entries.size))
    }

    /** The timeline without the last entry that equals this one. */
    fun minus(entry: Entry): Timeline {
        val at = entries.lastIndexOf(entry)
        return Timeline(entries.filterIndexed { i, _ -> i != at })
    }

    /** The timeline without what came by one way. */
    fun without(origin: Origin): Timeline = Timeline(entries.filter { it.origin != origin })

    /** Both timelines' events, each in its own order; of events that both have, this one's. */
    fun merged(other: Timeline): Timeline {
        val known = events.toHashSet()
        val added = other.entries.filter { it.event !in known }
        val all = ArrayList<Entry>(entries.size + added.size)
        var at = 0
        for (entry in added) {
            while (at < entries.size && entries[at].isUpTo(entry)) all.add(entries[at++])
            all.add(entry)
        }
        all.addAll(entries.subList(at, entries.size))
        return Timeline(all)
    }

    /** @throws EdgebException naming the first event that no clock shows after the one before it. */
    fun checkOrder(what: String) {
        for (i in 1 until events.size) {
            val (earlier, later) = Pair(events[i - 1].time, events[i].time)
            if (!EventOrder.isPossible(earlier, later)) {
                throw EdgebException(
                    "$what, event ${i + 1}: $later comes after $earlier",
                    "list events oldest first; a clock goes back by ${EventOrder.MOST_BACK_HOURS} hours at most"
                )
            }
        }
    }

    /** Entries of the day that `moment` is in, newest first. */
    fun on(moment: Moment): List<Entry> = entries.filter { dayOf(it.event.time) == dayOf(moment) }.asReversed()

    /** The last day before that of `moment` that has events, at its beginning; null where there is none. */
    fun dayBefore(moment: Moment): Moment? =
        events.map { dayOf(it.time) }.filter { it < dayOf(moment) }.sorted().lastOrNull()?.let { beginning(it) }

    /** The first day after that of `moment` that has events, today at the latest; null after today. */
    fun dayAfter(moment: Moment, now: Moment): Moment? {
        val days = events.map { dayOf(it.time) } + dayOf(now)
        return days.filter { it > dayOf(moment) && it <= dayOf(now) }.sorted().firstOrNull()?.let { beginning(it) }
    }

    /** Places of the last events, the most recent first, each once. */
    fun places(most: Int = 20): List<String> = events.asReversed().map { it.place }.distinct().take(most)

    /** When to ask for: `now`, or the last event's time where the phone's clock is wrong by more than zones explain. */
    fun askable(now: Moment): Moment {
        val last = events.lastOrNull()
        return if (last != null && !EventOrder.isPossible(last.time, now)) last.time else now
    }

    /**
     * When the last event of one origin was, on a clock of `zone` that shows `now`: it may have been set back since, or
     * taken to another zone. What only a clock that was wrong has shown does not count. Null where there is none.
     */
    fun last(origin: Origin, now: Moment, zone: String): Moment? {
        val reader = Entry(BehaviorEvent("", now, ""), zone)
        val found = entries.lastOrNull { it.origin == origin && it.isUpTo(reader) } ?: return null
        val passed = Zones.minutesBetween(found.event.time, found.zone, now, zone)
        return if (passed == null) found.event.time else Moment(now.minutes - passed)
    }

    /**
     * How many events a session has seen that remembers `window`, the last ones it was shown.
     *
     * @return null where the window is no part of this timeline.
     */
    fun seenBy(window: List<BehaviorEvent>): Int? {
        if (window.isEmpty()) return null
        for (end in events.size downTo window.size) {
            val part = events.subList(end - window.size, end)
            // Not the places, which a session cleans.
            if (part.indices.all { part[it].time == window[it].time && part[it].behavior == window[it].behavior }) {
                return end
            }
        }
        return null
    }

    /** The history file that `edgeb predict --history` reads, with two fields more that it leaves alone. */
    fun toCsv(): String = HEADER + entries.joinToString("") {
        Csv.row(listOf(it.event.time.format(), it.event.place, it.event.behavior, it.zone, it.origin.text))
    }

    companion object {
        private val FIELDS = listOf("timestamp", "place", "behavior")
        private const val ZONE = "zone"
        private const val ORIGIN = "origin"
        private val HEADER = Csv.row(FIELDS + ZONE + ORIGIN)

        private fun beginning(day: Long) = Moment(day * MINUTES_OF_DAY)

        /** Events alone, of which no more is known. */
        fun of(events: List<BehaviorEvent>): Timeline = Timeline(events.map { Entry(it) })

        /**
         * Read a history file: the fields by name, in any order, others left alone.
         *
         * @param what Names the file in errors.
         * @throws EdgebException naming the line that is no event.
         */
        fun fromCsv(text: String, what: String = "the log"): Timeline {
            val rows = try {
                Csv.rows(text)
            } catch (error: IllegalArgumentException) {
                throw EdgebException("$what is damaged: ${error.message}")
            }
            val names = rows.firstOrNull().orEmpty().map { it.trim() }
            if (!names.containsAll(FIELDS)) {
                throw EdgebException(
                    "$what is damaged: its first line is missing", "it names the fields ${FIELDS.joinToString(", ")}"
                )
            }
            val (time, place, behavior) = FIELDS.map { names.indexOf(it) }
            val entries = ArrayList<Entry>()
            for (i in 1 until rows.size) {
                val row = rows[i]
                // An empty line.
                if (row.size == 1 && row[0] == "") continue
                if (row.size != names.size) throw EdgebException("$what is damaged in line ${i + 1}")
                val moment = try {
                    Moment.parse(row[time])
                } catch (error: EdgebException) {
                    throw EdgebException("$what, line ${i + 1}: ${error.message}", error.hint)
                }
                val zone = row.getOrElse(names.indexOf(ZONE)) { "" }
                val origin = Origin.of(row.getOrElse(names.indexOf(ORIGIN)) { "" })
                entries.add(Entry(BehaviorEvent(row[place], moment, row[behavior]), zone, origin))
            }
            return Timeline(entries)
        }
    }
}

/** The timeline's file. */
class TimelineStore(val file: File) {
    private val aside = File(file.path + ".damaged")

    /**
     * What was saved; nothing where there is no file.
     *
     * @throws EdgebException where the file is damaged.
     */
    fun load(): Timeline = if (file.exists()) Timeline.fromCsv(file.readText()) else Timeline()

    /** Replace what was saved. */
    fun save(timeline: Timeline) = AtomicFile.write(file, timeline.toCsv())

    /** Put a damaged file out of the way, where it can still be looked at. Returns its new name. */
    fun putAside(): String {
        AtomicFile.rename(file, aside)
        return aside.name
    }

    /** Delete what was put aside. */
    fun deleteAside() {
        aside.delete()
    }
}
