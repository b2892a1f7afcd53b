package dev.edgeb.usage.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Moment

/** An app that came to the foreground or left it. @property millis Since 1970. */
data class AppChange(val app: String, val millis: Long, val isStart: Boolean)

/**
 * Turns uses of apps into behaviors. Knows no Android.
 *
 * @param behaviors A behavior for each app's package that counts; others are left out.
 * @param leastMillis Shorter uses are passing by: no behavior.
 * @param pauseMillis A behavior that goes on after a shorter pause is the same one.
 */
class AppUses(
    private val behaviors: Map<String, String>,
    private val leastMillis: Long = 10_000,
    private val pauseMillis: Long = 300_000
) {
    /**
     * The behaviors that began, oldest first, without places.
     *
     * @param changes In the order of their times.
     * @param now When it is: an app that has not left counts until then.
     * @param clock What the clock on the wall showed at a time.
     */
    fun events(changes: List<AppChange>, now: Long, clock: (Long) -> Moment): List<BehaviorEvent> {
        val found = ArrayList<BehaviorEvent>()
        var last: Use? = null
        for (use in uses(changes, now)) {
            val goesOn = last != null && last.behavior == use.behavior && use.from - last.to < pauseMillis
            if (!goesOn) found.add(BehaviorEvent("", clock(use.from), use.behavior))
            last = use
        }
        return found
    }

    private class Use(val behavior: String, val from: Long, val to: Long)

    private fun uses(changes: List<AppChange>, now: Long): List<Use> {
        val found = ArrayList<Use>()
        var open: AppChange? = null
        for (change in changes + AppChange("", now, true)) {
            val started = open
            // Another app in front ends the use as well: not every end is told of.
            if (started != null && (change.isStart || change.app == started.app)) {
                val behavior = behaviors[started.app]
                if (behavior != null) found.add(Use(behavior, started.millis, change.millis))
                open = null
            }
            // An app that shows another of its screens goes on.
            if (change.isStart) open = if (started?.app == change.app) started else change
        }
        return joined(found).filter { it.to - it.from >= leastMillis }
    }

    /** Uses of one app that begin where the last one ended are one. */
    private fun joined(uses: List<Use>): List<Use> {
        val found = ArrayList<Use>()
        for (use in uses) {
            val last = found.lastOrNull()
            if (last != null && last.behavior == use.behavior && use.from <= last.to) {
                found[found.size - 1] = Use(last.behavior, last.from, maxOf(last.to, use.to))
            } else {
                found.add(use)
            }
        }
        return found
    }
}
