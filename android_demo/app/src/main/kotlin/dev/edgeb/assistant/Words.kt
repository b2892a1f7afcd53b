package dev.edgeb.assistant

import android.content.Context
import android.text.format.DateFormat
import dev.edgeb.assistant.logic.Formats
import dev.edgeb.assistant.logic.Problem
import java.util.Locale

/** Numbers and times as this phone's user reads them. */
fun formatsOf(context: Context): Formats = Formats(Locale.getDefault(), DateFormat.is24HourFormat(context))

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
    }
}
