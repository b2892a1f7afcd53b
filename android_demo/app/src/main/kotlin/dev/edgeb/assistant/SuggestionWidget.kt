package dev.edgeb.assistant

import android.app.PendingIntent
import android.appwidget.AppWidgetManager
import android.appwidget.AppWidgetProvider
import android.content.ComponentName
import android.content.Context
import android.content.Intent
import android.os.Handler
import android.os.Looper
import android.widget.RemoteViews
import dev.edgeb.assistant.logic.Controller
import dev.edgeb.assistant.logic.Glance
import dev.edgeb.assistant.logic.State

/** The first suggestion on the home screen; a tap opens the assistant. */
class SuggestionWidget : AppWidgetProvider() {
    override fun onUpdate(context: Context, manager: AppWidgetManager, ids: IntArray) {
        val controller = (context.applicationContext as EdgebApplication).controller
        // What is known is shown at once; the answer follows through WidgetUpdates.
        show(context, controller.state)
        // Behind an import or a measurement the answer comes later than a receiver may take.
        if (controller.busy) return
        // The process stays until the answer is there, or as long as it may.
        val pending = goAsync()
        // Asked twice, both times on the main thread.
        var finished = false
        val finish = Runnable {
            if (!finished) pending.finish()
            finished = true
        }
        Handler(Looper.getMainLooper()).postDelayed(finish, LONGEST_MILLIS)
        controller.start()
        controller.save()
        controller.afterwards(finish)
    }

    companion object {
        // The system gives a receiver ten seconds in the foreground.
        private const val LONGEST_MILLIS = 8_000L

        /** What the widgets show; for the main thread only. */
        var shown: Glance? = null
            private set

        /** Show a state on all widgets. */
        fun show(context: Context, state: State) {
            val glance = Glance.of(state)
            shown = glance
            val manager = AppWidgetManager.getInstance(context) ?: return
            val ids = manager.getAppWidgetIds(ComponentName(context, SuggestionWidget::class.java))
            if (ids.isEmpty()) return
            val views = RemoteViews(context.packageName, R.layout.widget)
            views.setTextViewText(R.id.widget_title, titleOf(context, glance))
            views.setTextViewText(R.id.widget_text, textOf(context, glance, state))
            val open = Intent(context, AssistantActivity::class.java)
            views.setOnClickPendingIntent(
                R.id.widget, PendingIntent.getActivity(context, 0, open, PendingIntent.FLAG_IMMUTABLE)
            )
            manager.updateAppWidget(ids, views)
        }

        private fun titleOf(context: Context, glance: Glance): String = when (glance) {
            is Glance.Suggested -> glance.behavior
            is Glance.Silent -> context.getString(R.string.widget_silent)
            is Glance.Begin -> context.getString(R.string.missing_title)
            is Glance.Wait -> context.getString(R.string.opening)
        }

        private fun textOf(context: Context, glance: Glance, state: State): String {
            if (glance !is Glance.Suggested || state !is State.Ready) return ""
            val formats = formatsOf(context)
            val asOf = context.getString(R.string.as_of, formats.clock(glance.asked))
            return listOf(formats.percent(glance.probability), whyOf(context, state.day), asOf)
                .filter { it != "" }.joinToString(", ")
        }
    }
}

/** Brings the widgets up to date when what they show has changed. */
class WidgetUpdates(private val context: Context, private val controller: Controller) : Controller.Listener {
    override fun onChanged() {
        val glance = Glance.of(controller.state)
        // While the model opens, the last answer is better than none.
        if (glance == SuggestionWidget.shown || glance is Glance.Wait) return
        SuggestionWidget.show(context, controller.state)
    }
}
