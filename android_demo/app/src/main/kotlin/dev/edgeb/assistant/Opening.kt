package dev.edgeb.assistant

import android.content.ActivityNotFoundException
import android.content.Context
import android.content.Intent
import android.net.Uri
import dev.edgeb.assistant.logic.Action

/** Opens what the user is about to do. */
object Opening {
    /** Whether something took it: an app may have been removed, or refuse. */
    fun open(context: Context, action: Action): Boolean {
        val asked = Intent(action.action)
        if (action.category != "") asked.addCategory(action.category)
        if (action.data != "") asked.data = Uri.parse(action.data)
        if (action.app != "") asked.setPackage(action.app)
        asked.addFlags(Intent.FLAG_ACTIVITY_NEW_TASK)
        return try {
            context.startActivity(asked)
            true
        } catch (error: ActivityNotFoundException) {
            false
        } catch (error: SecurityException) {
            false
        }
    }
}
