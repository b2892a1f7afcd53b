package dev.edgeb.usage

import android.app.AppOpsManager
import android.app.usage.UsageEvents
import android.app.usage.UsageStatsManager
import android.content.Context
import android.content.Intent
import android.os.Process
import android.provider.Settings
import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.EventSource
import dev.edgeb.core.Moment
import dev.edgeb.usage.logic.AppChange
import dev.edgeb.usage.logic.AppUses

private const val MINUTE = 60_000L

/**
 * Which apps were used, as behaviors, where the user gave usage access in the system's settings.
 *
 * @param behaviors A behavior of the model for each app's package that counts.
 */
class UsageSource(context: Context, behaviors: Map<String, String>) : EventSource {
    private val app = context.applicationContext
    private val uses = AppUses(behaviors)

    @Suppress("DEPRECATION")
    override val isAllowed: Boolean
        get() {
            val rights = app.getSystemService(Context.APP_OPS_SERVICE) as AppOpsManager
            val mode = rights.checkOpNoThrow(AppOpsManager.OPSTR_GET_USAGE_STATS, Process.myUid(), app.packageName)
            return mode == AppOpsManager.MODE_ALLOWED
        }

    override fun read(since: Moment, until: Moment): List<BehaviorEvent> {
        val now = System.currentTimeMillis()
        // A moment has no zone: its distance from now is what counts.
        val begin = now - (until.minutes - since.minutes) * MINUTE
        val stats = app.getSystemService(Context.USAGE_STATS_SERVICE) as UsageStatsManager
        val events = stats.queryEvents(begin, now) ?: return emptyList()
        val changes = ArrayList<AppChange>()
        val event = UsageEvents.Event()
        while (events.hasNextEvent()) {
            events.getNextEvent(event)
            val name = event.packageName ?: continue
            when (event.eventType) {
                FOREGROUND -> changes.add(AppChange(name, event.timeStamp, true))
                BACKGROUND -> changes.add(AppChange(name, event.timeStamp, false))
            }
        }
        return uses.events(changes, now) { Moment.at(it) }.filter { it.time > since }
    }

    companion object {
        // MOVE_TO_FOREGROUND and MOVE_TO_BACKGROUND; ACTIVITY_RESUMED and ACTIVITY_PAUSED since API 29.
        private const val FOREGROUND = 1
        private const val BACKGROUND = 2

        /** The system's screen on which the user gives or takes usage access. */
        fun settings(): Intent = Intent(Settings.ACTION_USAGE_ACCESS_SETTINGS)
    }
}
