package dev.edgeb.assistant

import android.app.Activity
import android.view.View
import android.widget.TextView
import dev.edgeb.assistant.logic.Problem
import dev.edgeb.assistant.logic.State

/** `part_status`: what is going on, what went wrong, and the button that brings a model. */
class StatusPanel(private val activity: Activity, onChoose: View.OnClickListener) {
    private val busy: View = activity.findViewById(R.id.busy)
    private val busyText = activity.findViewById(R.id.busy_text) as TextView
    private val title = activity.findViewById(R.id.status_title) as TextView
    private val problem = activity.findViewById(R.id.problem) as TextView
    private val text = activity.findViewById(R.id.status_text) as TextView
    private val choose: View = activity.findViewById(R.id.choose_model)

    init {
        choose.setOnClickListener(onChoose)
    }

    /** @param alwaysChoose Whether a model that works may be exchanged here. */
    fun show(state: State, alwaysChoose: Boolean) {
        set(busyText, workOf(state))
        busy.visibility = busyText.visibility
        set(title, titleOf(state))
        val found = problemOf(state)
        set(problem, if (found == null) null else wordsOf(activity, found))
        set(text, if (state is State.NoModel) activity.getString(R.string.missing_text) else null)
        val mayChoose = state is State.NoModel || state is State.Broken || (alwaysChoose && state is State.Ready)
        choose.visibility = if (mayChoose) View.VISIBLE else View.GONE
    }

    private fun workOf(state: State): String? = when (state) {
        is State.Opening -> activity.getString(R.string.opening)
        is State.Importing -> activity.getString(R.string.importing, formatsOf(activity).bytes(state.bytes))
        is State.Checking -> activity.getString(R.string.checking)
        else -> null
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

    private fun set(view: TextView, words: String?) {
        // Setting the same text again would be read aloud again.
        if (words != null && view.text.toString() != words) view.text = words
        view.visibility = if (words == null) View.GONE else View.VISIBLE
    }
}
