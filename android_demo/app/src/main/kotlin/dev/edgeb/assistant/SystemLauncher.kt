package dev.edgeb.assistant

import android.content.Context
import android.content.Intent
import android.net.Uri
import android.widget.Toast
import dev.edgeb.assistant.logic.Action
import dev.edgeb.assistant.logic.Launcher

/** Opens what the user is about to do in another app. */
class SystemLauncher(private val context: Context) : Launcher {
    override fun start(action: Action) {
        val asked = Intent(action.action)
        if (action.category != "") asked.addCategory(action.category)
        if (action.data != "") asked.data = Uri.parse(action.data)
        if (action.app != "") asked.setPackage(action.app)
        asked.addFlags(Intent.FLAG_ACTIVITY_NEW_TASK)
        context.startActivity(asked)
    }

    override fun onNothing(behavior: String) {
        Toast.makeText(context, context.getString(R.string.cannot_open, behavior), Toast.LENGTH_LONG).show()
    }
}
