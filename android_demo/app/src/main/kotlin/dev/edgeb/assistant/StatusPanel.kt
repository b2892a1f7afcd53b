package dev.edgeb.assistant

import android.app.Activity
import android.view.View
import android.widget.TextView
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Note
import dev.edgeb.assistant.logic.Problem
import dev.edgeb.assistant.logic.Source
import dev.edgeb.assistant.logic.State

/**
 * `part_status`: what is going on, what went wrong, and the ways to begin.
 *
 * @param choose Asks the user for a file; what was chosen is given to `onChosen` with the same number.
 */
class StatusPanel(private val activity: Activity, private val controller: Controller, choose: (Int) -> Unit) {
    private val busy: View = activity.findViewById(R.id.busy)
    private val busyText = activity.findViewById(R.id.busy_text) as TextView
    private val cancel: View = activity.findViewById(R.id.cancel_work)
    private val title = activity.findViewById(R.id.status_title) as TextView
    private val problem = activity.findViewById(R.id.problem) as TextView
    private val note = activity.findViewById(R.id.status_note) as TextView
    private val text = activity.findViewById(R.id.status_text) as TextView
    private val sample: View = activity.findViewById(R.id.try_sample)
    private val log: View = activity.findViewById(R.id.import_log)
    private val model: View = activity.findViewById(R.id.choose_model)

    init {
        cancel.setOnClickListener { controller.cancel() }
        sample.setOnClickListener { controller.trySample() }
        log.setOnClickListener { choose(IMPORT_LOG) }
        model.setOnClickListener { choose(IMPORT_MODEL) }
    }

    /** A file was chosen. */
    fun onChosen(number: Int, source: Source) {
        if (number == IMPORT_MODEL) controller.importModel(source)
        if (number == IMPORT_LOG) controller.importLog(source)
    }

    /** @param alwaysChoose Whether a model that works may be exchanged here. */
    fun show(state: State, alwaysChoose: Boolean) {
        set(busyText, workOf(state))
        busy.visibility = busyText.visibility
        cancel.visibility = if (controller.cancellable) View.VISIBLE else View.GONE
        set(title, titleOf(state))
        val found = problemOf(state)
        set(problem, if (found == null) null else wordsOf(activity, found))
        set(note, if (state is State.Ready && state.note != null) noteOf(state.note) else null)
        set(text, if (state is State.NoModel) activity.getString(R.string.missing_text) else null)
        val lacksModel = state is State.NoModel || state is State.Broken
        show(sample, state is State.NoModel && state.sample || state is State.Broken && state.sample)
        show(log, state is State.NoModel && state.sample)
        show(model, lacksModel || (alwaysChoose && state is State.Ready))
    }

    private fun workOf(state: State): String? {
        val formats = formatsOf(activity)
        val measuring = controller.measuring
        return when {
            state is State.Opening -> activity.getString(R.string.opening)
            state is State.Importing && state.size != null ->
                activity.getString(R.string.importing_of, formats.bytes(state.bytes), formats.bytes(state.size))
            state is State.Importing -> activity.getString(R.string.importing, formats.bytes(state.bytes))
            state is State.Checking -> activity.getString(R.string.checking)
            measuring != null -> activity.getString(R.string.measuring, measuring.scenario)
            else -> null
        }
    }

    private fun titleOf(state: State): String? = when (state) {
        is State.NoModel -> activity.getString(R.string.missing_title)
        is State.Broken -> activity.getString(R.string.broken_title)
        else -> null
    }

    private fun problemOf(state: State): Problem? = when (state) {
        is State.NoModel -> state.problem
        is State.Broken -> state.problem
        is State.Ready -> state.problem
        else -> null
    }

    private fun noteOf(note: Note): String {
        val resources = activity.resources
        return when (note) {
            is Note.Imported -> {
                val added = resources.getQuantityString(R.plurals.imported, note.added, note.added)
                if (note.aside == 0) added
                else "$added ${resources.getQuantityString(R.plurals.imported_aside, note.aside, note.aside)}"
            }
            is Note.Carried -> {
                val carried = resources.getQuantityString(R.plurals.carried, note.events, note.events)
                val aside = note.aside.events
                if (aside == 0) carried
                else "$carried ${resources.getQuantityString(R.plurals.imported_aside, aside, aside)}"
            }
            is Note.Cancelled -> activity.getString(R.string.cancelled)
        }
    }

    private fun show(view: View, isShown: Boolean) {
        view.visibility = if (isShown) View.VISIBLE else View.GONE
    }

    private fun set(view: TextView, words: String?) {
        // Setting the same text again would be read aloud again.
        if (words != null && view.text.toString() != words) view.text = words
        view.visibility = if (words == null) View.GONE else View.VISIBLE
    }

    companion object {
        private const val IMPORT_MODEL = 1
        private const val IMPORT_LOG = 2

        /** Numbers that a screen may use for files of its own. */
        const val FIRST_FREE = 3

        /** Ask for a log where a screen has a button of its own for it. */
        const val LOG = IMPORT_LOG
    }
}
