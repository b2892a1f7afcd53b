package dev.edgeb.assistant

import android.os.Bundle
import dev.edgeb.assistant.logic.Entry
import dev.edgeb.assistant.logic.Origin
import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Moment

/** Entries of the log as what a screen keeps when its process ends. */
object Entries {
    fun bundleOf(entry: Entry): Bundle {
        val made = Bundle()
        made.putString("place", entry.event.place)
        made.putLong("minutes", entry.event.time.minutes)
        made.putString("behavior", entry.event.behavior)
        made.putString("zone", entry.zone)
        made.putString("origin", entry.origin.text)
        return made
    }

    fun of(saved: Bundle): Entry {
        fun text(name: String): String = saved.getString(name) ?: ""
        val event = BehaviorEvent(text("place"), Moment(saved.getLong("minutes")), text("behavior"))
        return Entry(event, text("zone"), Origin.of(text("origin")))
    }
}
