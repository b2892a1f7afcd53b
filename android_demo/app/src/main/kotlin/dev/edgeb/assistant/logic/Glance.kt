package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import dev.edgeb.core.Reason

/** What of a state a home screen shows. */
sealed class Glance {
    /** Something is suggested. */
    data class Suggested(val behavior: String, val probability: Double, val asked: Moment, val why: Reason?) : Glance()

    /** Nothing is likely enough. */
    object Silent : Glance()

    /** There is no model that works. */
    object Begin : Glance()

    /** Something is under way. */
    object Wait : Glance()

    companion object {
        fun of(state: State): Glance = when (state) {
            is State.Ready -> of(state.day)
            is State.NoModel, is State.Broken -> Begin
            else -> Wait
        }

        private fun of(day: Day): Glance {
            val asked = day.cost?.asked ?: return Wait
            val top = day.suggestions.top ?: return Silent
            return Suggested(top.behavior, top.probability, asked, day.why?.reason)
        }
    }
}
