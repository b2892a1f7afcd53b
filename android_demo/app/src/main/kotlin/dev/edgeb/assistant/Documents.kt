package dev.edgeb.assistant

import android.content.ContentResolver
import android.content.Intent
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
    fun source(resolver: ContentResolver, uri: Uri): Source = object : Source {
        override val size: Long?
            get() = sizeOf(resolver, uri)

        override fun open(): InputStream = resolver.openInputStream(uri) ?: throw IOException("$uri does not open")
    }

    /** The file that was chosen for writing. */
    fun target(resolver: ContentResolver, uri: Uri): Target = object : Target {
        override fun open(): OutputStream =
            resolver.openOutputStream(uri, "wt") ?: throw IOException("$uri does not open")
    }

    private fun sizeOf(resolver: ContentResolver, uri: Uri): Long? {
        val found = resolver.query(uri, arrayOf(OpenableColumns.SIZE), null, null, null) ?: return null
        return found.use { if (it.moveToFirst() && !it.isNull(0)) it.getLong(0) else null }
    }
}
