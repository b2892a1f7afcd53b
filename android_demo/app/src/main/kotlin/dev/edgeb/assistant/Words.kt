package dev.edgeb.assistant

import android.content.Context
import android.text.format.DateFormat
import dev.edgeb.assistant.logic.Day
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.assistant.logic.Problem
import dev.edgeb.core.Reason
import java.util.Locale

/** Numbers and times as this phone's user reads them. */
fun formatsOf(context: Context): Formats = Formats(Locale.getDefault(), DateFormat.is24HourFormat(context))

/** Why the first candidate is the first, in the user's language; empty where nobody can say. */
fun whyOf(context: Context, day: Day): String {
    val why = day.why ?: return ""
    return context.getString(
        when (why.reason) {
            Reason.USUAL -> if (day.model.places) R.string.why_usual_here else R.string.why_usual
            Reason.FOLLOWS -> R.string.why_follows
            Reason.MODEL -> R.string.why_model
            null -> R.string.why_all
        }
    )
}

/** A problem in the user's language; what the library itself says of it is English. */
fun wordsOf(context: Context, problem: Problem): String {
    val formats = formatsOf(context)
    return when (problem) {
        is Problem.Input -> context.getString(R.string.problem, problem.message, problem.hint).trim()
        is Problem.OfFile -> context.getString(R.string.problem_file, problem.message)
        is Problem.Space ->
            context.getString(R.string.problem_space, formats.bytes(problem.needed), formats.bytes(problem.free))
        is Problem.Empty -> context.getString(R.string.problem_empty)
        is Problem.Log -> context.getString(R.string.problem_log, problem.putAside)
        is Problem.Native -> context.getString(R.string.problem_native, problem.message)
        is Problem.Memory -> context.getString(R.string.problem_memory)
        is Problem.Cancelled -> context.getString(R.string.cancelled)
    }
}
