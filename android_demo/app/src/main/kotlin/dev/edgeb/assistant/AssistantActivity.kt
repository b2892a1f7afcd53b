package dev.edgeb.assistant

import android.app.Activity
import android.content.BroadcastReceiver
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.Bundle
import android.view.View
import android.view.inputmethod.InputMethodManager
import android.widget.ArrayAdapter
import android.widget.AutoCompleteTextView
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Entry
import dev.edgeb.assistant.logic.Opening
import dev.edgeb.assistant.logic.State

/** Screen 1: what may come next, and a day of the log. */
class AssistantActivity : Activity(), Controller.Listener {
    private lateinit var controller: Controller
    private lateinit var status: StatusPanel
    private lateinit var next: NextPanel
    private lateinit var choices: ChoicePanel
    private lateinit var days: DayPanel
    private lateinit var ready: View
    private lateinit var place: AutoCompleteTextView
    private lateinit var placeHeading: View
    private lateinit var ask: View
    private var shown: Day? = null
    private var edited: Entry? = null

    // The place of the settings that the field was set to; what was typed since is the user's.
    private var committed: String? = null
    private val clock = object : BroadcastReceiver() {
        override fun onReceive(context: Context, intent: Intent) = controller.tick()
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_assistant)
        val app = application as EdgebApplication
        controller = app.controller
        status = StatusPanel(this, controller) { startActivityForResult(Documents.toOpen(), it) }
        val opening = Opening(controller, app.actions, SystemLauncher(this))
        next = NextPanel(this, controller, opening) { place.text.toString() }
        choices = ChoicePanel(this, controller)
        days = DayPanel(this, controller) { askForEvent(it) }
        committed = savedInstanceState?.getString(COMMITTED)
        edited = savedInstanceState?.getBundle(EDITED)?.let { Entries.of(it) }
        ready = findViewById(R.id.ready)
        place = findViewById(R.id.place) as AutoCompleteTextView
        placeHeading = findViewById(R.id.place_heading)
        ask = findViewById(R.id.ask)
        ask.setOnClickListener { ask() }
        val benchmark: View = findViewById(R.id.open_benchmark)
        benchmark.setOnClickListener { startActivity(Intent(this, BenchmarkActivity::class.java)) }
        place.setOnEditorActionListener { _, _, _ ->
            ask()
            true
        }
        place.setOnItemClickListener { _, _, _, _ -> ask() }
    }

    override fun onStart() {
        super.onStart()
        controller.listen(this)
        controller.start()
        // The system tells of every minute while somebody looks, and of a clock or zone that was set.
        val times = IntentFilter(Intent.ACTION_TIME_TICK)
        times.addAction(Intent.ACTION_TIME_CHANGED)
        times.addAction(Intent.ACTION_TIMEZONE_CHANGED)
        registerReceiver(clock, times)
        (application as EdgebApplication).readSources()
    }

    override fun onStop() {
        unregisterReceiver(clock)
        controller.unlisten(this)
        controller.save()
        super.onStop()
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putString(COMMITTED, committed)
        edited?.let { outState.putBundle(EDITED, Entries.bundleOf(it)) }
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        super.onActivityResult(requestCode, resultCode, data)
        if (resultCode != RESULT_OK || data == null) return
        val uri = data.data
        if (uri != null) status.onChosen(requestCode, Documents.source(this, uri))
        val old = edited
        if (requestCode == ADD) controller.add(AddEventActivity.eventOf(data))
        if (requestCode == EDIT && old != null) controller.edit(old, AddEventActivity.eventOf(data))
    }

    override fun onChanged() {
        val state = controller.state
        status.show(state, alwaysChoose = false)
        ready.visibility = if (state is State.Ready) View.VISIBLE else View.GONE
        if (state is State.Ready) show(state.day)
    }

    private fun show(day: Day) {
        val formats = formatsOf(this)
        if (day != shown) showPlace(day)
        next.show(day, formats)
        choices.show(day, formats)
        days.show(day, formats)
        shown = day
    }

    private fun showPlace(day: Day) {
        if (day.settings.place != committed) place.setText(day.settings.place, false)
        committed = day.settings.place
        for (view in listOf(place, placeHeading)) view.visibility = if (day.model.places) View.VISIBLE else View.GONE
        if (day.places != shown?.places) place.setAdapter(ArrayAdapter(this, R.layout.item_choice, day.places))
    }

    private fun ask() {
        val keyboard = getSystemService(Context.INPUT_METHOD_SERVICE) as InputMethodManager
        keyboard.hideSoftInputFromWindow(place.windowToken, 0)
        place.dismissDropDown()
        committed = place.text.toString().trim()
        controller.setPlace(place.text.toString())
    }

    /** @param entry What to put right; null to add. */
    private fun askForEvent(entry: Entry?) {
        val day = shown ?: return
        edited = entry
        val asked = AddEventActivity.intent(this, day.model, day.places, place.text.toString(), entry?.event)
        startActivityForResult(asked, if (entry == null) ADD else EDIT)
    }

    private companion object {
        const val ADD = 11
        const val EDIT = 12
        const val COMMITTED = "committed"
        const val EDITED = "edited"
    }
}
