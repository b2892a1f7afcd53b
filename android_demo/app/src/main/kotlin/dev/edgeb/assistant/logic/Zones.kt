package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import java.util.TimeZone

/** What a clock on the wall means by its zone. */
object Zones {
    private const val MINUTE = 60_000L

    /** Milliseconds since 1970 when a clock of `zone` showed `moment`; null for an unknown zone. */
    fun instant(moment: Moment, zone: String): Long? {
        val known = TimeZone.getTimeZone(zone)
        if (zone == "" || known.id != zone) return null
        val wall = moment.minutes * MINUTE
        // The offset of a time near by, then that of the time itself.
        val near = wall - known.getOffset(wall - known.rawOffset)
        return wall - known.getOffset(near)
    }

    /** Minutes that passed between what two clocks showed; null for an unknown zone. */
    fun minutesBetween(earlier: Moment, from: String, later: Moment, to: String): Long? {
        val begin = instant(earlier, from) ?: return null
        val end = instant(later, to) ?: return null
        return (end - begin) / MINUTE
    }

    /** A zone's town, as a person calls it: "New York" for "America/New_York". */
    fun town(zone: String): String = zone.substringAfterLast('/').replace('_', ' ')
}
