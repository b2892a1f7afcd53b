package dev.edgeb.assistant

import android.content.Context
import android.content.Intent
import android.database.Cursor
import android.net.Uri
import android.provider.OpenableColumns
import dev.edgeb.assistant.logic.Source
import dev.edgeb.assistant.logic.Target
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream

/** Files of the system's picker, which needs no permission. */
object Documents {
    /** Ask for a file to read. */
    fun toOpen(): Intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*")

    /** Ask for a file to write. */
    fun toCreate(name: String, type: String): Intent =
        Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType(type)
            .putExtra(Intent.EXTRA_TITLE, name)

    /** The file that was chosen for reading. */
    fun source(context: Context, uri: Uri): Source {
        // The screen's own resolver would keep the screen.
        val resolver = context.applicationContext.contentResolver
        fun <T> told(column: String, read: (Cursor) -> T): T? {
            val found = resolver.query(uri, arrayOf(column), null, null, null) ?: return null
            return found.use { if (it.moveToFirst() && !it.isNull(0)) read(it) else null }
        }
        return object : Source {
            override val size: Long?
                get() = told(OpenableColumns.SIZE) { it.getLong(0) }

            override val name: String?
                get() = told(OpenableColumns.DISPLAY_NAME) { it.getString(0) }

            override fun open(): InputStream = resolver.openInputStream(uri) ?: throw IOException("$uri does not open")
        }
    }

    /** The file that was chosen for writing. */
    fun target(context: Context, uri: Uri): Target {
        val resolver = context.applicationContext.contentResolver
        return object : Target {
            override fun open(): OutputStream =
                resolver.openOutputStream(uri, "wt") ?: throw IOException("$uri does not open")
        }
    }
}
