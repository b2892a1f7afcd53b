package dev.edgeb.assistant

import android.app.Activity
import android.view.View
import android.view.ViewGroup
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Ranked

private const val BAR_STEPS = 1000

/** The lists of suggestions and of today's events. */
class DayRows(private val activity: Activity, private val controller: Controller) {
    private val suggestions = activity.findViewById(R.id.suggestions) as LinearLayout
    private val timeline = activity.findViewById(R.id.timeline) as LinearLayout
    private val emptyDay: View = activity.findViewById(R.id.empty_day)
    private var shown: Day? = null

    fun show(day: Day, formats: Formats) {
        // A list that did not change keeps its views, and with them the place that TalkBack is at.
        if (day.suggestions != shown?.suggestions) {
            suggestions.removeAllViews()
            for (one in day.suggestions.shown) suggestions.addView(suggestion(one, formats))
        }
        if (day.today != shown?.today) {
            timeline.removeAllViews()
            for (event in day.today) timeline.addView(row(event, formats))
        }
        emptyDay.visibility = if (day.today.isEmpty()) View.VISIBLE else View.GONE
        shown = day
    }

    private fun suggestion(one: Ranked, formats: Formats): View {
        val view = inflate(R.layout.item_suggestion, suggestions)
        val percent = formats.percent(one.probability)
        (view.findViewById(R.id.suggestion_label) as TextView).text = one.behavior
        (view.findViewById(R.id.suggestion_percent) as TextView).text = percent
        (view.findViewById(R.id.suggestion_bar) as ProgressBar).progress = (one.probability * BAR_STEPS).toInt()
        describe(view, R.id.suggestion, activity.getString(R.string.suggestion_described, one.behavior, percent))
        describe(view, R.id.accept, activity.getString(R.string.accept, one.behavior))
            .setOnClickListener { controller.accept(one.behavior) }
        describe(view, R.id.dismiss, activity.getString(R.string.dismiss, one.behavior))
            .setOnClickListener { controller.dismiss(one.behavior) }
        return view
    }

    private fun row(event: BehaviorEvent, formats: Formats): View {
        val view = inflate(R.layout.item_event, timeline)
        val time = formats.clock(event.time)
        (view.findViewById(R.id.event_behavior) as TextView).text = event.behavior
        (view.findViewById(R.id.event_where) as TextView).text =
            activity.getString(R.string.event_where, time, event.place)
        describe(
            view, R.id.event, activity.getString(R.string.event_described, time, event.behavior, event.place)
        )
        describe(view, R.id.remove, activity.getString(R.string.remove_event, event.behavior, time))
            .setOnClickListener { controller.remove(event) }
        return view
    }

    private fun describe(row: View, id: Int, words: String): View {
        val view: View = row.findViewById(id)
        view.contentDescription = words
        return view
    }

    private fun inflate(layout: Int, into: ViewGroup): View = activity.layoutInflater.inflate(layout, into, false)
}
