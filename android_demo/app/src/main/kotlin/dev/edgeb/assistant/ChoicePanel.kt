package dev.edgeb.assistant

import android.app.Activity
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.SeekBar
import android.widget.Spinner
import android.widget.TextView
import dev.edgeb.assistant.logic.Choice
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.assistant.logic.Menus
import dev.edgeb.assistant.logic.Threshold
import dev.edgeb.assistant.logic.Wish
import dev.edgeb.core.Source

/** `part_choices`: when to suggest, the likely set, the source, the balance. */
class ChoicePanel(private val activity: Activity, private val controller: Controller) {
    private val rule = Menu(R.id.rule) { formats, choice: Choice<Double?> -> ruleOf(choice, formats) }
    private val coverage = Menu(R.id.coverage) { formats, choice: Choice<Double?> ->
        choice.value?.let { activity.getString(R.string.coverage_of, formats.percent(it)) }
            ?: activity.getString(R.string.coverage_none)
    }
    private val source = Menu(R.id.source) { _, choice: Choice<Source?> -> sourceOf(choice.value) }
    private val balance = Menu(R.id.balance) { _, choice: Choice<Boolean> ->
        activity.getString(if (choice.value) R.string.balance_fitted else R.string.balance_none)
    }
    private val thresholdRow: View = activity.findViewById(R.id.threshold_row)
    private val threshold = activity.findViewById(R.id.threshold) as SeekBar
    private val thresholdLabel = activity.findViewById(R.id.threshold_label) as TextView
    private var wish = Wish()

    init {
        threshold.setOnSeekBarChangeListener(ThresholdListener())
        rule.onChosen = { controller.setWish(wish.copy(precision = it)) }
        coverage.onChosen = { controller.setWish(wish.copy(coverage = it)) }
        source.onChosen = { controller.setWish(wish.copy(source = it)) }
        balance.onChosen = { controller.setWish(wish.copy(fitted = it)) }
    }

    fun show(day: Day, formats: Formats) {
        // An answer to an earlier step must not move it back.
        if (controller.busy) return
        wish = day.settings.wish
        val menus = Menus.of(day.model.offers, day.model.defaultSource, wish)
        rule.show(menus.precisions, wish.precision, formats)
        coverage.show(menus.coverages, wish.coverage, formats)
        source.show(menus.sources, wish.source, formats)
        balance.show(menus.balances, wish.fitted, formats)
        thresholdRow.visibility = if (wish.precision == null) View.VISIBLE else View.GONE
        threshold.progress = day.settings.threshold.step
        showThreshold(day.settings.threshold)
    }

    private fun ruleOf(choice: Choice<Double?>, formats: Formats): String {
        val level = choice.value ?: return activity.getString(R.string.rule_threshold)
        val words = if (choice.isReached) R.string.rule_precision else R.string.rule_never
        return activity.getString(words, formats.percent(level))
    }

    private fun sourceOf(source: Source?): String = activity.getString(
        when (source) {
            null -> R.string.source_default
            Source.MODEL -> R.string.source_model
            Source.HABITS -> R.string.source_habits
            Source.FUSED -> R.string.source_fused
        }
    )

    private fun showThreshold(at: Threshold) {
        val words = activity.getString(R.string.threshold, formatsOf(activity).percent(at.probability))
        thresholdLabel.text = words
        threshold.contentDescription = words
    }

    /** A spinner over choices: what the user picks is told, what the program sets is not. */
    private inner class Menu<T>(id: Int, private val words: (Formats, Choice<T>) -> String) :
        AdapterView.OnItemSelectedListener {
        private val view = activity.findViewById(id) as Spinner
        private var choices = emptyList<Choice<T>>()
        private var chosen = -1
        var onChosen: (T) -> Unit = {}

        init {
            view.onItemSelectedListener = this
        }

        fun show(all: List<Choice<T>>, value: T, formats: Formats) {
            chosen = all.indexOfFirst { it.value == value }
            if (all != choices) {
                choices = all
                view.adapter = ArrayAdapter(activity, R.layout.item_choice, all.map { words(formats, it) })
            }
            view.setSelection(chosen)
            view.isEnabled = all.size > 1
        }

        override fun onItemSelected(parent: AdapterView<*>?, row: View?, position: Int, id: Long) {
            if (position == chosen) return
            chosen = position
            onChosen(choices[position].value)
        }

        override fun onNothingSelected(parent: AdapterView<*>?) = Unit
    }

    private inner class ThresholdListener : SeekBar.OnSeekBarChangeListener {
        override fun onProgressChanged(bar: SeekBar, progress: Int, fromUser: Boolean) {
            if (!fromUser) return
            showThreshold(Threshold(progress))
            controller.setThreshold(Threshold(progress))
        }

        override fun onStartTrackingTouch(bar: SeekBar) = Unit

        override fun onStopTrackingTouch(bar: SeekBar) = Unit
    }
}
