package dev.edgeb.assistant.logic

import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/** Replaces files as a whole: after a crash either the old content is there or the new one. */
object AtomicFile {
    /** @throws IOException where the file cannot be written; the old one is then still there. */
    fun write(file: File, text: String) {
        val temporary = partial(file)
        try {
            FileOutputStream(temporary).use { out ->
                out.write(text.toByteArray(Charsets.UTF_8))
                out.fd.sync()
            }
            rename(temporary, file)
        } finally {
            temporary.delete()
        }
    }

    /** The name under which a file is written before it has its own; `Session.save` takes the same. */
    fun partial(file: File): File = File(file.path + ".partial")

    /** Put `from` in the place of `to`. */
    fun rename(from: File, to: File) {
        if (!from.renameTo(to)) throw IOException("${from.name} cannot be renamed to ${to.name}")
    }
}
