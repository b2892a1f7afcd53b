package dev.edgeb.core

import java.io.File

private const val KEPT_SNAPSHOTS = 4

// The folder given is a host app's, and may hold files of its own.
private const val SUBFOLDER = "edgeb-prefix"
private val OURS = Regex("[0-9a-f]{32}\\.state(\\.partial)?")

/**
 * The static part of a bundle's prompt, evaluated once and kept on disk.
 *
 * A snapshot is keyed by model, prompt and engine. One that is damaged or belongs to something else is evaluated again
 * and replaced.
 *
 * @param parent Snapshots lie in a folder of their own in it, made when the first one is written.
 * @param model Hash of everything that decides the model's logits.
 */
internal class PrefixCache(parent: File, private val model: String) {
    private val folder = File(parent, SUBFOLDER)

    /** Make the backend hold `ids`: from the snapshot (true), else by evaluating them and writing one. */
    fun warm(backend: Backend, ids: IntArray): Boolean {
        val key = mapOf("model" to model, "ids" to ids.map { it.toLong() }, "engine" to backend.fingerprint)
        val name = hex(sha256().digest(Json.write(key).toByteArray(Charsets.UTF_8))).substring(0, 32)
        val path = File(folder, "$name.state")
        if (path.exists()) {
            try {
                val state = StateFile.read(path)
                if (state.header == key && backend.loadState(ids, state.blob)) return true
            } catch (error: EdgebException) {
                // Evaluated again below.
            }
        }
        backend.prefill(ids)
        val state = backend.saveState()
        if (state.size == 0) return false // an engine that keeps nothing
        try {
            folder.mkdirs()
            StateFile.write(path, key, state)
            limit()
        } catch (error: EdgebException) {
            // A disk that takes no snapshot is no reason to fail.
        }
        return false
    }

    /** Delete the oldest snapshots: those of bundles that were replaced are of no use. */
    private fun limit() {
        val files = folder.listFiles()?.filter { OURS.matches(it.name) } ?: return
        for (file in files.sortedBy { it.lastModified() }.dropLast(KEPT_SNAPSHOTS)) file.delete()
    }
}
