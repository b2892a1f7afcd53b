package dev.edgeb.assistant

import android.app.Activity
import android.view.View
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Ranked

private const val BAR_STEPS = 1000

/**
 * The lists of suggestions and of today's events.
 *
 * @param place Where the user is by the screen; asked for when a suggestion is accepted.
 */
class DayRows(
    private val activity: Activity,
    private val controller: Controller,
    private val place: () -> String
) {
    private val suggestions = activity.findViewById(R.id.suggestions) as LinearLayout
    private val timeline = activity.findViewById(R.id.timeline) as LinearLayout
    private val emptyDay: View = activity.findViewById(R.id.empty_day)
    private var shown: Day? = null

    fun show(day: Day, formats: Formats) {
        if (day.suggestions != shown?.suggestions) {
            val found = day.suggestions.shown
            keep(suggestions, R.layout.item_suggestion, found.size)
            for (i in found.indices) showSuggestion(suggestions.getChildAt(i), found[i], formats)
        }
        if (day.today != shown?.today || day.model.places != shown?.model?.places) {
            keep(timeline, R.layout.item_event, day.today.size)
            for (i in day.today.indices) showEvent(timeline.getChildAt(i), day.today[i], formats, day.model.places)
        }
        emptyDay.visibility = if (day.today.isEmpty()) View.VISIBLE else View.GONE
        shown = day
    }

    /** Whether the rows' buttons may be pressed. */
    fun enable(enabled: Boolean) {
        for (list in listOf(suggestions, timeline)) {
            for (i in 0 until list.childCount) {
                for (id in BUTTONS) {
                    val button: View? = list.getChildAt(i).findViewById(id)
                    button?.isEnabled = enabled
                }
            }
        }
    }

    /** Rows are filled anew and not exchanged: the place that keyboard and TalkBack are at stays. */
    private fun keep(list: LinearLayout, layout: Int, count: Int) {
        while (list.childCount > count) list.removeViewAt(list.childCount - 1)
        while (list.childCount < count) list.addView(activity.layoutInflater.inflate(layout, list, false))
    }

    private fun showSuggestion(view: View, one: Ranked, formats: Formats) {
        val percent = formats.percent(one.probability)
        (view.findViewById(R.id.suggestion_label) as TextView).text = one.behavior
        (view.findViewById(R.id.suggestion_percent) as TextView).text = percent
        (view.findViewById(R.id.suggestion_bar) as ProgressBar).progress = (one.probability * BAR_STEPS).toInt()
        describe(view, R.id.suggestion, activity.getString(R.string.suggestion_described, one.behavior, percent))
        describe(view, R.id.accept, activity.getString(R.string.accept, one.behavior))
            .setOnClickListener { controller.accept(one.behavior, place()) }
        describe(view, R.id.dismiss, activity.getString(R.string.dismiss, one.behavior))
            .setOnClickListener { controller.dismiss(one.behavior) }
    }

    private fun showEvent(view: View, event: BehaviorEvent, formats: Formats, places: Boolean) {
        val time = formats.clock(event.time)
        (view.findViewById(R.id.event_behavior) as TextView).text = event.behavior
        (view.findViewById(R.id.event_where) as TextView).text =
            if (places) activity.getString(R.string.event_where, time, event.place) else time
        val described = if (places) {
            activity.getString(R.string.event_described, time, event.behavior, event.place)
        } else {
            activity.getString(R.string.event_where, time, event.behavior)
        }
        describe(view, R.id.event, described)
        describe(view, R.id.remove, activity.getString(R.string.remove_event, event.behavior, time))
            .setOnClickListener { controller.remove(event) }
    }

    private fun describe(row: View, id: Int, words: String): View {
        val view: View = row.findViewById(id)
        view.contentDescription = words
        return view
    }

    private companion object {
        val BUTTONS = listOf(R.id.accept, R.id.dismiss, R.id.remove)
    }
}
