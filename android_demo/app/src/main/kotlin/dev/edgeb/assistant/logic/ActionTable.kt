package dev.edgeb.assistant.logic

import dev.edgeb.core.EdgebException
import dev.edgeb.core.cleanLabelOrNull

/** What to ask the system to open: the parts of an intent; empty where there is none. */
data class Action(val action: String, val category: String, val data: String, val app: String)

/** What accepting a behavior can open. */
class ActionTable(table: Map<String, Action> = emptyMap()) {
    private val held = table.mapKeys { cleanLabelOrNull(it.key) ?: it.key }

    /** Null where nothing is to be opened. */
    fun of(behavior: String): Action? = held[behavior]

    companion object {
        private val FIELDS = listOf("behavior", "action", "category", "data", "package")

        /** Read a table with these fields in any order. @throws EdgebException naming the line that is none. */
        fun fromCsv(text: String): ActionTable {
            val rows = try {
                Csv.rows(text)
            } catch (error: IllegalArgumentException) {
                throw EdgebException("the table of actions is damaged: ${error.message}")
            }
            val names = rows.firstOrNull().orEmpty()
            if (!names.containsAll(FIELDS)) {
                throw EdgebException("the table of actions lacks its first line", FIELDS.joinToString(","))
            }
            val found = LinkedHashMap<String, Action>()
            for (i in 1 until rows.size) {
                if (rows[i].size != names.size) throw EdgebException("the table of actions is damaged in line ${i + 1}")
                val (behavior, action, category, data, app) = FIELDS.map { rows[i][names.indexOf(it)].trim() }
                if (behavior == "" || action == "") {
                    throw EdgebException("the table of actions, line ${i + 1}: behavior or action is empty")
                }
                found[behavior] = Action(action, category, data, app)
            }
            return ActionTable(found)
        }
    }
}
