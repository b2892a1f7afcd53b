package dev.edgeb.assistant

import android.content.Context
import android.content.Intent
import dev.edgeb.core.EventSource

/** The plain app has what its user tells it, and asks for no permission. */
object EventSources {
    @Suppress("UNUSED_PARAMETER")
    fun of(context: Context): List<EventSource> = emptyList()

    /** The system's screen on which a source is allowed; null where there is none to allow. */
    fun settings(): Intent? = null
}
