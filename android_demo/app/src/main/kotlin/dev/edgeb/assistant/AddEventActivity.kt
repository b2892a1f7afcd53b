package dev.edgeb.assistant

import android.app.Activity
import android.app.DatePickerDialog
import android.app.Dialog
import android.app.TimePickerDialog
import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.text.format.DateFormat
import android.view.View
import android.widget.ArrayAdapter
import android.widget.AutoCompleteTextView
import android.widget.Button
import android.widget.TextView
import dev.edgeb.assistant.logic.ModelFacts
import dev.edgeb.assistant.logic.labelOf
import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Moment

/** Asks for one event: a behavior of the list, a place, a time that has been. */
class AddEventActivity : Activity() {
    private lateinit var behavior: AutoCompleteTextView
    private lateinit var place: AutoCompleteTextView
    private lateinit var date: Button
    private lateinit var time: Button
    private lateinit var problem: TextView
    private lateinit var labels: List<String>
    private var at = Moment(0)
    private var dialog: Dialog? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_add_event)
        behavior = findViewById(R.id.behavior) as AutoCompleteTextView
        place = findViewById(R.id.event_place) as AutoCompleteTextView
        date = findViewById(R.id.date) as Button
        time = findViewById(R.id.time) as Button
        problem = findViewById(R.id.add_problem) as TextView
        labels = intent.getStringArrayListExtra(LABELS) ?: ArrayList<String>()
        val edited = intent.hasExtra(BEHAVIOR)
        if (edited) {
            setTitle(R.string.edit_title)
            (findViewById(R.id.add_heading) as TextView).setText(R.string.edit_title)
            (findViewById(R.id.save_event) as Button).setText(R.string.save_edited)
        }
        val begun = if (edited) Moment(intent.getLongExtra(MINUTES, 0)) else now()
        at = if (savedInstanceState == null) begun else Moment(savedInstanceState.getLong(MINUTES))
        if (savedInstanceState == null) place.setText(intent.getStringExtra(PLACE))
        if (savedInstanceState == null) behavior.setText(intent.getStringExtra(BEHAVIOR) ?: "")
        offer(behavior, labels.sorted())
        if (!intent.getBooleanExtra(HAS_PLACES, true)) {
            val heading: View = findViewById(R.id.event_place_heading)
            for (view in listOf(place, heading)) view.visibility = View.GONE
        }
        offer(place, intent.getStringArrayListExtra(PLACES) ?: ArrayList<String>())
        date.setOnClickListener { pickDate() }
        time.setOnClickListener { pickTime() }
        val cancel: View = findViewById(R.id.cancel)
        cancel.setOnClickListener { finish() }
        val add: View = findViewById(R.id.save_event)
        add.setOnClickListener { save() }
        showTime()
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putLong(MINUTES, at.minutes)
    }

    override fun onDestroy() {
        dialog?.dismiss()
        super.onDestroy()
    }

    private fun offer(field: AutoCompleteTextView, choices: List<String>) {
        field.setAdapter(ArrayAdapter(this, R.layout.item_choice, choices))
        field.setOnClickListener { field.showDropDown() }
        // The first tap only takes focus. The window has to be there before a list can open over it.
        field.setOnFocusChangeListener { _, focused ->
            if (focused) field.post { if (field.isFocused && field.isAttachedToWindow) field.showDropDown() }
        }
    }

    private fun pickDate() {
        val (year, month, day) = at.format().substring(0, 10).split("-").map { it.toInt() }
        show(
            DatePickerDialog(
                this, { _, y, m, d -> change(Moment.of(y, m + 1, d, at.hour, at.minute)) },
                year, month - 1, day
            )
        )
    }

    private fun pickTime() {
        val midnight = at.minutes - at.hour * 60 - at.minute
        show(
            TimePickerDialog(
                this, { _, hour, minute -> change(Moment(midnight + hour * 60 + minute)) },
                at.hour, at.minute, DateFormat.is24HourFormat(this)
            )
        )
    }

    private fun show(made: Dialog) {
        dialog = made
        made.show()
    }

    private fun change(to: Moment) {
        at = to
        showTime()
    }

    private fun showTime() {
        val formats = formatsOf(this)
        date.text = formats.day(at)
        date.contentDescription = getString(R.string.date_described, date.text)
        time.text = formats.clock(at)
        time.contentDescription = getString(R.string.time_described, time.text)
    }

    private fun save() {
        val label = labelOf(behavior.text.toString(), labels)
        if (label == null || at > now()) {
            problem.setText(if (label == null) R.string.behavior_unknown else R.string.time_ahead)
            problem.visibility = View.VISIBLE
            return
        }
        val made = Intent().putExtra(BEHAVIOR, label).putExtra(PLACE, place.text.toString())
            .putExtra(MINUTES, at.minutes)
        setResult(RESULT_OK, made)
        finish()
    }

    private fun now(): Moment = Moment.at(System.currentTimeMillis())

    companion object {
        private const val LABELS = "labels"
        private const val PLACES = "places"
        private const val HAS_PLACES = "has_places"
        private const val PLACE = "place"
        private const val BEHAVIOR = "behavior"
        private const val MINUTES = "minutes"

        /**
         * Ask for an event. What is needed travels along: the process may have died when the answer is given.
         *
         * @param edited What to put right; null asks for a new one.
         */
        fun intent(
            context: Context,
            model: ModelFacts,
            places: List<String>,
            place: String,
            edited: BehaviorEvent?
        ): Intent {
            val asked = Intent(context, AddEventActivity::class.java)
                .putStringArrayListExtra(LABELS, ArrayList(model.labels))
                .putExtra(HAS_PLACES, model.places)
                .putStringArrayListExtra(PLACES, ArrayList(places))
                .putExtra(PLACE, edited?.place ?: place)
            if (edited != null) asked.putExtra(BEHAVIOR, edited.behavior).putExtra(MINUTES, edited.time.minutes)
            return asked
        }

        /** The event of a result. */
        fun eventOf(result: Intent): BehaviorEvent = BehaviorEvent(
            result.getStringExtra(PLACE) ?: "",
            Moment(result.getLongExtra(MINUTES, 0)),
            result.getStringExtra(BEHAVIOR) ?: ""
        )
    }
}
