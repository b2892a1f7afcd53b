package dev.edgeb.assistant

import android.app.Activity
import android.view.View
import android.widget.LinearLayout
import android.widget.TextView
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Entry
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.assistant.logic.Origin
import dev.edgeb.assistant.logic.Page
import dev.edgeb.assistant.logic.Zones

/**
 * `part_day`: a day of the log, and the way to others.
 *
 * @param ask Asks for an event: a new one for null, else what the entry should have been.
 */
class DayPanel(private val activity: Activity, private val controller: Controller, ask: (Entry?) -> Unit) {
    private val edit = ask
    private val timeline = activity.findViewById(R.id.timeline) as LinearLayout
    private val title = activity.findViewById(R.id.day_title) as TextView
    private val before: View = activity.findViewById(R.id.day_before)
    private val after: View = activity.findViewById(R.id.day_after)
    private val undo: View = activity.findViewById(R.id.undo)
    private val empty: View = activity.findViewById(R.id.empty_day)
    private val fill: View = activity.findViewById(R.id.fill_sample)
    private val aside = activity.findViewById(R.id.aside) as TextView
    private var shown: Day? = null

    init {
        before.setOnClickListener { shown?.page?.before?.let { controller.showDay(it) } }
        after.setOnClickListener { shown?.page?.after?.let { controller.showDay(it) } }
        undo.setOnClickListener { controller.undo() }
        fill.setOnClickListener { controller.trySample() }
        val add: View = activity.findViewById(R.id.add_event)
        add.setOnClickListener { ask(null) }
    }

    fun show(day: Day, formats: Formats) {
        if (day.page != shown?.page || day.model.places != shown?.model?.places) list(day, formats)
        empty.visibility = if (day.page.entries.isEmpty() && day.page.isToday) View.VISIBLE else View.GONE
        fill.visibility = if (day.offersSample) View.VISIBLE else View.GONE
        val unknown = day.aside
        aside.text = activity.resources.getQuantityString(
            R.plurals.aside, unknown.events, unknown.events, unknown.labels.joinToString(", ")
        )
        aside.visibility = if (unknown.events > 0) View.VISIBLE else View.GONE
        shown = day
        val isFree = !controller.busy
        before.isEnabled = day.page.before != null
        after.isEnabled = day.page.after != null
        undo.isEnabled = isFree && day.canUndo
        fill.isEnabled = isFree
        for (i in 0 until timeline.childCount) {
            for (id in BUTTONS) {
                val button: View = timeline.getChildAt(i).findViewById(id)
                button.isEnabled = isFree
            }
        }
    }

    private fun list(day: Day, formats: Formats) {
        val page = day.page
        val date = formats.day(page.day)
        val words = if (page.isToday) activity.getString(R.string.today, date) else date
        if (title.text.toString() != words) title.text = words
        // Rows are filled anew and not exchanged: the place that keyboard and TalkBack are at stays.
        while (timeline.childCount > page.entries.size) timeline.removeViewAt(timeline.childCount - 1)
        while (timeline.childCount < page.entries.size) {
            timeline.addView(activity.layoutInflater.inflate(R.layout.item_event, timeline, false))
        }
        for (i in page.entries.indices) {
            showEvent(timeline.getChildAt(i), page.entries[i], page, formats, day.model.places)
        }
    }

    private fun showEvent(view: View, entry: Entry, page: Page, formats: Formats, places: Boolean) {
        val event = entry.event
        val time = timeOf(entry, page, formats)
        val about = arrayListOf(time)
        if (places) about.add(event.place)
        originOf(entry.origin)?.let { about.add(activity.getString(it)) }
        (view.findViewById(R.id.event_behavior) as TextView).text = event.behavior
        (view.findViewById(R.id.event_where) as TextView).text = about.joinToString(", ")
        describe(view, R.id.event, (listOf(event.behavior) + about).joinToString(", "))
        describe(view, R.id.edit, activity.getString(R.string.edit_event, event.behavior, time))
            .setOnClickListener { edit(entry) }
        describe(view, R.id.remove, activity.getString(R.string.remove_event, event.behavior, time))
            .setOnClickListener { controller.remove(entry) }
    }

    /** The clock's time where the user was, with the town where that is another than the phone is in now. */
    private fun timeOf(entry: Entry, page: Page, formats: Formats): String {
        val time = formats.clock(entry.event.time)
        if (entry.zone == "" || entry.zone == page.zone) return time
        return activity.getString(R.string.time_in_zone, time, Zones.town(entry.zone))
    }

    private fun originOf(origin: Origin): Int? = when (origin) {
        Origin.ADDED, Origin.IMPORTED -> null
        Origin.ACCEPTED -> R.string.origin_accepted
        Origin.SAMPLE -> R.string.origin_sample
        Origin.OBSERVED -> R.string.origin_observed
    }

    private fun describe(row: View, id: Int, words: String): View {
        val view: View = row.findViewById(id)
        view.contentDescription = words
        return view
    }

    private companion object {
        val BUTTONS = listOf(R.id.edit, R.id.remove)
    }
}
