package dev.edgeb.assistant

import android.content.Context
import android.content.Intent
import dev.edgeb.core.EventSource
import dev.edgeb.usage.UsageSource

/** The app that also sees which apps were used, where the user allowed it. */
object EventSources {
    fun of(context: Context): List<EventSource> = listOf(UsageSource(context, BEHAVIORS))

    /** The system's screen on which a source is allowed; null where there is none to allow. */
    fun settings(): Intent? = UsageSource.settings()

    // Behaviors of the sample's model; a host app has a table of its own.
    private val BEHAVIORS = mapOf(
        "com.google.android.youtube" to "Short Video",
        "com.google.android.apps.messaging" to "Instant Messaging",
        "com.google.android.apps.maps" to "Map Navigation",
        "com.google.android.apps.youtube.music" to "Music",
        "com.google.android.apps.magazines" to "News",
        "com.google.android.dialer" to "Phone Call"
    )
}
