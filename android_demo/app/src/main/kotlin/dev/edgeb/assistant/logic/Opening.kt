package dev.edgeb.assistant.logic

/** Asks the system for what an action names. */
interface Launcher {
    /** Fails as the system does where nothing takes it, or where it may not be asked for. */
    fun start(action: Action)

    /** Tell the user that nothing opens it. */
    fun onNothing(behavior: String)
}

/** Accepting a suggestion, and opening what the host's table has for it. */
class Opening(private val controller: Controller, private val actions: ActionTable, private val launcher: Launcher) {
    fun isOffered(behavior: String): Boolean = actions.of(behavior) != null

    /** The event counts whether anything opens or not. A second tap while the first is under way is none. */
    fun accept(behavior: String, place: String) {
        val action = actions.of(behavior) ?: return
        if (!controller.accept(behavior, place)) return
        try {
            launcher.start(action)
        } catch (error: RuntimeException) {
            // An app that was removed or refuses, a file's address: what the system says to a table is no bug of ours.
            launcher.onNothing(behavior)
        }
    }
}
