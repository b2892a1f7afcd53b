package dev.edgeb.assistant

import android.app.Activity
import android.content.res.Resources
import android.view.View
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Cost
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.assistant.logic.Move
import dev.edgeb.assistant.logic.Opening
import dev.edgeb.assistant.logic.Suggestion

private const val BAR_STEPS = 1000

/**
 * `part_next`: the suggestion as a card with its reason, or silence; the other candidates; what it cost.
 *
 * @param opening Accepts a behavior and opens something for it.
 * @param place Where the user is by the screen; asked for when a suggestion is accepted.
 */
class NextPanel(
    private val activity: Activity,
    private val controller: Controller,
    private val opening: Opening,
    private val place: () -> String
) {
    private val resources: Resources = activity.resources
    private val card: View = activity.findViewById(R.id.card)
    private val top: View = activity.findViewById(R.id.top)
    private val openTop: View = activity.findViewById(R.id.open_top)
    private val dismissed = activity.findViewById(R.id.show_dismissed) as TextView
    private val others = activity.findViewById(R.id.suggestions) as LinearLayout
    private val sampleRow: View = activity.findViewById(R.id.sample_row)
    private var shown: Day? = null

    init {
        dismissed.setOnClickListener { controller.restoreDismissed() }
        val drop: View = activity.findViewById(R.id.drop_sample)
        drop.setOnClickListener { controller.dropSample() }
    }

    fun show(day: Day, formats: Formats) {
        val isPredicting = controller.predicting
        set(R.id.cost, if (isPredicting) activity.getString(R.string.predicting) else costOf(day.cost, formats))
        if (day != shown) renew(day, formats)
        shown = day
        val isFree = !controller.busy
        for (id in TOP_BUTTONS) {
            val button: View = activity.findViewById(id)
            button.isEnabled = isFree
        }
        for (i in 0 until others.childCount) {
            for (id in ROW_BUTTONS) {
                val button: View = others.getChildAt(i).findViewById(id)
                button.isEnabled = isFree
            }
        }
    }

    private fun renew(day: Day, formats: Formats) {
        sampleRow.visibility = if (day.isSample) View.VISIBLE else View.GONE
        val first = day.suggestions.top
        card.visibility = if (first == null) View.GONE else View.VISIBLE
        if (first != null) showTop(first, day, formats)
        set(R.id.note, noteOf(day, formats))
        val rows = day.suggestions.others
        // Rows are filled anew and not exchanged: the place that keyboard and TalkBack are at stays.
        while (others.childCount > rows.size) others.removeViewAt(others.childCount - 1)
        while (others.childCount < rows.size) {
            others.addView(activity.layoutInflater.inflate(R.layout.item_suggestion, others, false))
        }
        for (i in rows.indices) showRow(others.getChildAt(i), rows[i], formats)
        val hidden = day.suggestions.dismissed
        dismissed.text = resources.getQuantityString(R.plurals.show_dismissed, hidden, hidden)
        dismissed.visibility = if (hidden > 0) View.VISIBLE else View.GONE
        set(R.id.likely, likelyOf(day, formats))
    }

    private fun showTop(one: Suggestion, day: Day, formats: Formats) {
        val percent = formats.percent(one.probability)
        val asked = day.cost?.asked
        val asOf = if (asked == null) "" else activity.getString(R.string.as_of, formats.clock(asked))
        val why = whyOf(activity, day)
        set(R.id.as_of, asOf)
        set(R.id.top_label, one.behavior)
        set(R.id.top_percent, listOf(percent, spokenOf(one.move)).filter { it != "" }.joinToString(", "))
        set(R.id.why, why)
        top.contentDescription =
            listOf(one.behavior, percent, why, asOf, spokenOf(one.move)).filter { it != "" }.joinToString(", ")
        describe(activity.findViewById(R.id.accept_top), activity.getString(R.string.accept, one.behavior))
            .setOnClickListener { controller.accept(one.behavior, place()) }
        describe(activity.findViewById(R.id.dismiss_top), activity.getString(R.string.dismiss, one.behavior))
            .setOnClickListener { controller.dismiss(one.behavior) }
        openTop.visibility = if (opening.isOffered(one.behavior)) View.VISIBLE else View.GONE
        describe(openTop, activity.getString(R.string.open_described, one.behavior))
            .setOnClickListener { opening.accept(one.behavior, place()) }
    }

    private fun showRow(view: View, one: Suggestion, formats: Formats) {
        val percent = formats.percent(one.probability)
        (view.findViewById(R.id.suggestion_label) as TextView).text = one.behavior
        (view.findViewById(R.id.suggestion_move) as TextView).text = markOf(one.move)
        (view.findViewById(R.id.suggestion_percent) as TextView).text = percent
        (view.findViewById(R.id.suggestion_bar) as ProgressBar).progress = (one.probability * BAR_STEPS).toInt()
        val words = listOf(activity.getString(R.string.suggestion_described, one.behavior, percent), spokenOf(one.move))
        describe(view, R.id.suggestion, words.filter { it != "" }.joinToString(", "))
        describe(view, R.id.accept, activity.getString(R.string.accept, one.behavior))
            .setOnClickListener { controller.accept(one.behavior, place()) }
        describe(view, R.id.dismiss, activity.getString(R.string.dismiss, one.behavior))
            .setOnClickListener { controller.dismiss(one.behavior) }
    }

    /** What TalkBack says of a new prediction, and why there is silence. */
    private fun noteOf(day: Day, formats: Formats): String {
        val first = day.suggestions.top
        if (first != null) {
            return activity.getString(R.string.first, first.behavior, formats.percent(first.probability))
        }
        if (day.cost == null) return ""
        val precision = day.settings.wish.precision
            ?: return activity.getString(R.string.nothing_above, formats.percent(day.settings.threshold.probability))
        return activity.getString(R.string.silent, formats.percent(precision))
    }

    private fun likelyOf(day: Day, formats: Formats): String {
        val coverage = day.settings.wish.coverage
        val likely = day.likely
        if (coverage == null || likely == null) return ""
        return activity.getString(R.string.likely, formats.percent(coverage), likely.joinToString(", "))
    }

    private fun costOf(paid: Cost?, formats: Formats): String {
        if (paid == null) return ""
        val time = formats.milliseconds(paid.milliseconds)
        val by = listOfNotNull(paid.source, paid.engine, paid.accelerator).joinToString(", ")
        val cost = resources.getQuantityString(R.plurals.cost, paid.tokens, time, paid.tokens, by)
        return if (paid.calibrated) cost else activity.getString(R.string.uncalibrated, cost)
    }

    private fun markOf(move: Move): String = when (move) {
        is Move.Same -> ""
        is Move.New -> activity.getString(R.string.move_new)
        is Move.Up -> activity.getString(R.string.move_up, move.by)
        is Move.Down -> activity.getString(R.string.move_down, move.by)
    }

    private fun spokenOf(move: Move): String = when (move) {
        is Move.Same -> ""
        is Move.New -> activity.getString(R.string.move_new)
        is Move.Up -> resources.getQuantityString(R.plurals.moved_up, move.by, move.by)
        is Move.Down -> resources.getQuantityString(R.plurals.moved_down, move.by, move.by)
    }

    private fun set(id: Int, words: String) {
        val view = activity.findViewById(id) as TextView
        // Setting the same text again would be read aloud again.
        if (view.text.toString() != words) view.text = words
        view.visibility = if (words == "") View.GONE else View.VISIBLE
    }

    private fun describe(row: View, id: Int, words: String): View = describe(row.findViewById(id), words)

    private fun describe(view: View, words: String): View {
        view.contentDescription = words
        return view
    }

    private companion object {
        val TOP_BUTTONS =
            listOf(R.id.accept_top, R.id.open_top, R.id.dismiss_top, R.id.show_dismissed, R.id.drop_sample)
        val ROW_BUTTONS = listOf(R.id.accept, R.id.dismiss)
    }
}
