package dev.edgeb.assistant

import android.app.Activity
import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.view.inputmethod.InputMethodManager
import android.widget.ArrayAdapter
import android.widget.AutoCompleteTextView
import android.widget.SeekBar
import android.widget.TextView
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.assistant.logic.State
import dev.edgeb.assistant.logic.Threshold

/** Screen 1: what may come next, and what was today. */
class AssistantActivity : Activity(), Controller.Listener {
    private lateinit var controller: Controller
    private lateinit var status: StatusPanel
    private lateinit var rows: DayRows
    private lateinit var ready: View
    private lateinit var place: AutoCompleteTextView
    private lateinit var note: TextView
    private lateinit var cost: TextView
    private lateinit var threshold: SeekBar
    private lateinit var thresholdLabel: TextView
    private lateinit var addEvent: View
    private lateinit var placeHeading: View
    private var shown: Day? = null

    // The place of the settings that the field was set to; what was typed since is the user's.
    private var committed: String? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_assistant)
        controller = (application as EdgebApplication).controller
        status = StatusPanel(this, View.OnClickListener { startActivityForResult(Documents.toOpen(), IMPORT) })
        rows = DayRows(this, controller) { place.text.toString() }
        committed = savedInstanceState?.getString(COMMITTED)
        ready = findViewById(R.id.ready)
        place = findViewById(R.id.place) as AutoCompleteTextView
        placeHeading = findViewById(R.id.place_heading)
        note = findViewById(R.id.note) as TextView
        cost = findViewById(R.id.cost) as TextView
        threshold = findViewById(R.id.threshold) as SeekBar
        thresholdLabel = findViewById(R.id.threshold_label) as TextView
        addEvent = findViewById(R.id.add_event)
        addEvent.setOnClickListener { askForEvent() }
        val askButton: View = findViewById(R.id.ask)
        askButton.setOnClickListener { ask() }
        val benchmark: View = findViewById(R.id.open_benchmark)
        benchmark.setOnClickListener { startActivity(Intent(this, BenchmarkActivity::class.java)) }
        place.setOnEditorActionListener { _, _, _ ->
            ask()
            true
        }
        place.setOnItemClickListener { _, _, _, _ -> ask() }
        threshold.setOnSeekBarChangeListener(ThresholdListener())
    }

    override fun onStart() {
        super.onStart()
        controller.listen(this)
        controller.start()
    }

    override fun onStop() {
        controller.unlisten(this)
        controller.save()
        super.onStop()
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putString(COMMITTED, committed)
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        super.onActivityResult(requestCode, resultCode, data)
        if (resultCode != RESULT_OK || data == null) return
        val uri = data.data
        if (requestCode == IMPORT && uri != null) controller.importModel(Documents.source(this, uri))
        if (requestCode == ADD) controller.add(AddEventActivity.eventOf(data))
    }

    override fun onChanged() {
        val state = controller.state
        status.show(state, alwaysChoose = false)
        ready.visibility = if (state is State.Ready) View.VISIBLE else View.GONE
        if (state is State.Ready) show(state.day)
    }

    private fun show(day: Day) {
        val formats = formatsOf(this)
        cost.text = costOf(day, formats)
        // An answer to an earlier step of the slider must not move it back.
        if (!controller.busy) {
            threshold.progress = day.settings.threshold.step
            showThreshold(day.settings.threshold)
        }
        if (day != shown) renew(day, formats)
        rows.enable(!controller.busy)
    }

    private fun renew(day: Day, formats: Formats) {
        if (day.settings.place != committed) place.setText(day.settings.place, false)
        committed = day.settings.place
        for (view in listOf(place, placeHeading)) view.visibility = if (day.model.places) View.VISIBLE else View.GONE
        if (day.places != shown?.places) place.setAdapter(ArrayAdapter(this, R.layout.item_choice, day.places))
        rows.show(day, formats)
        note.text = summaryOf(day, formats)
        shown = day
    }

    /** What TalkBack says of a new prediction. */
    private fun summaryOf(day: Day, formats: Formats): String {
        val least = formats.percent(day.settings.threshold.probability)
        val (found, hidden) = day.suggestions
        val first = found.firstOrNull() ?: return getString(R.string.nothing_above, least)
        val words = arrayListOf(getString(R.string.first, first.behavior, formats.percent(first.probability)))
        val more = found.size - 1
        if (more > 0) words.add(resources.getQuantityString(R.plurals.more, more, more))
        if (hidden > 0) words.add(resources.getQuantityString(R.plurals.hidden, hidden, hidden, least))
        return words.joinToString(" ")
    }

    private fun costOf(day: Day, formats: Formats): String {
        if (controller.busy) return getString(R.string.predicting)
        val paid = day.cost ?: return ""
        val time = formats.milliseconds(paid.milliseconds)
        return resources.getQuantityString(R.plurals.cost, paid.tokens, time, paid.tokens, paid.source)
    }

    private fun showThreshold(at: Threshold) {
        val words = getString(R.string.threshold, formatsOf(this).percent(at.probability))
        thresholdLabel.text = words
        threshold.contentDescription = words
    }

    private fun ask() {
        val keyboard = getSystemService(Context.INPUT_METHOD_SERVICE) as InputMethodManager
        keyboard.hideSoftInputFromWindow(place.windowToken, 0)
        place.dismissDropDown()
        controller.setPlace(place.text.toString())
    }

    private fun askForEvent() {
        val day = shown ?: return
        startActivityForResult(AddEventActivity.intent(this, day.model, day.places, place.text.toString()), ADD)
    }

    private inner class ThresholdListener : SeekBar.OnSeekBarChangeListener {
        // Not when the finger lifts: keyboards and TalkBack change it without one.
        override fun onProgressChanged(bar: SeekBar, progress: Int, fromUser: Boolean) {
            if (!fromUser) return
            showThreshold(Threshold(progress))
            controller.setThreshold(Threshold(progress))
        }

        override fun onStartTrackingTouch(bar: SeekBar) = Unit

        override fun onStopTrackingTouch(bar: SeekBar) = Unit
    }

    private companion object {
        const val IMPORT = 1
        const val ADD = 2
        const val COMMITTED = "committed"
    }
}
