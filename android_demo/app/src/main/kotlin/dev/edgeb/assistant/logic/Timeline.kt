package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.EdgebException
import dev.edgeb.core.EventOrder
import dev.edgeb.core.Moment
import java.io.File

private const val MINUTES_OF_DAY = 24 * 60L

/**
 * All events of the user, in the order in which they happened. Never changed in place.
 *
 * That is by time but where the phone's clock was set back: after daylight saving time, or on a flight west.
 */
class Timeline(val events: List<BehaviorEvent> = emptyList()) {
    /**
     * The timeline with what happens now: the last event, though the clock was set back. Where it showed a later time
     * before than zones explain, it was wrong then, and the event goes where its time belongs.
     */
    fun then(event: BehaviorEvent): Timeline {
        val last = events.lastOrNull()
        val isPossible = last == null || EventOrder.isPossible(last.time, event.time)
        return if (isPossible) Timeline(events + event) else plus(event)
    }

    /** The timeline with one more event, which may lie in the past. */
    fun plus(event: BehaviorEvent): Timeline {
        val at = events.indexOfLast { it.time <= event.time } + 1
        return Timeline(events.subList(0, at) + event + events.subList(at, events.size))
    }

    /** The timeline without the last event that equals this one. */
    fun minus(event: BehaviorEvent): Timeline {
        val at = events.lastIndexOf(event)
        return Timeline(events.filterIndexed { i, _ -> i != at })
    }

    /** Events of the day that `now` is in, newest first. */
    fun today(now: Moment): List<BehaviorEvent> = events.filter { day(it.time) == day(now) }.asReversed()

    /** Places of the last events, the most recent first, each once. */
    fun places(most: Int = 20): List<String> = events.asReversed().map { it.place }.distinct().take(most)

    /** When to ask for: `now`, or the last event's time where the phone's clock is wrong by more than zones explain. */
    fun askable(now: Moment): Moment {
        val last = events.lastOrNull()
        return if (last != null && !EventOrder.isPossible(last.time, now)) last.time else now
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

    /** The history file that `edgeb predict --history` reads. */
    fun toCsv(): String =
        HEADER + events.joinToString("") { Csv.row(listOf(it.time.format(), it.place, it.behavior)) }

    companion object {
        private val FIELDS = listOf("timestamp", "place", "behavior")
        private val HEADER = Csv.row(FIELDS)

        /** @throws EdgebException naming the line that is no event. */
        fun fromCsv(text: String): Timeline {
            val rows = try {
                Csv.rows(text)
            } catch (error: IllegalArgumentException) {
                throw EdgebException("the log is damaged: ${error.message}")
            }
            if (rows.isEmpty() || rows[0] != FIELDS) {
                throw EdgebException("the log is damaged: its first line is missing")
            }
            val events = ArrayList<BehaviorEvent>()
            for (i in 1 until rows.size) {
                if (rows[i].size != FIELDS.size) throw EdgebException("the log is damaged in line ${i + 1}")
                events.add(BehaviorEvent(rows[i][1], Moment.parse(rows[i][0]), rows[i][2]))
            }
            return Timeline(events)
        }

        private fun day(moment: Moment): Long = moment.minutes / MINUTES_OF_DAY
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
