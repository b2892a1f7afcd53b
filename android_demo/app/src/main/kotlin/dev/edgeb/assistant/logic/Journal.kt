package dev.edgeb.assistant.logic

import dev.edgeb.core.EdgebException
import java.io.File

/** The user's log as it is on disk, and as it was before the last changes. */
class Journal(folder: File) {
    private val store = TimelineStore(File(folder, "timeline.csv"))
    private val before = ArrayList<Timeline>()
    private var held: Timeline? = null

    /** The file, for what a crash left beside it. */
    val file: File
        get() = store.file

    /** The name that a damaged file was put aside under since this was last asked; null where none was. */
    var damaged: String? = null
        get() = field.also { field = null }
        private set

    /** The log; read when it is first asked for. */
    val timeline: Timeline
        get() = held ?: load().also { held = it }

    /** Whether there is a change to take back. */
    val canUndo: Boolean
        get() = before.isNotEmpty()

    /**
     * Put another log in its place. Nothing is written where nothing changed.
     *
     * @throws EdgebException an order that no clock gives; nothing is changed.
     */
    fun change(to: Timeline) {
        val was = timeline
        if (to.entries == was.entries) return
        to.checkOrder("the log")
        write(to)
        before.add(was)
        if (before.size > MOST_UNDONE) before.removeAt(0)
    }

    /** Take the last change back; false where there is none. */
    fun undo(): Boolean {
        val was = before.lastOrNull() ?: return false
        write(was)
        before.removeAt(before.size - 1)
        return true
    }

    /** Forget everything, what could be taken back and what was put aside, too. */
    fun delete() {
        write(Timeline())
        before.clear()
        store.deleteAside()
    }

    private fun write(to: Timeline) {
        store.save(to)
        held = to
    }

    private fun load(): Timeline = try {
        store.load()
    } catch (error: EdgebException) {
        damaged = store.putAside()
        Timeline()
    }

    private companion object {
        const val MOST_UNDONE = 20
    }
}
