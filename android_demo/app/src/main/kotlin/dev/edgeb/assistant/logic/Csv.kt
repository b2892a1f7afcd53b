package dev.edgeb.assistant.logic

/** Rows of comma-separated text with quotes where they are needed, as Python's csv module writes and reads them. */
object Csv {
    fun row(fields: List<String>): String = fields.joinToString(",") { quoted(it) } + "\r\n"

    /** @throws IllegalArgumentException on a quote that is not closed. */
    fun rows(text: String): List<List<String>> {
        val rows = ArrayList<List<String>>()
        var row = ArrayList<String>()
        val field = StringBuilder()
        var inQuotes = false
        var i = 0
        while (i < text.length) {
            val c = text[i]
            if (inQuotes) {
                val doubled = c == '"' && i + 1 < text.length && text[i + 1] == '"'
                if (c != '"' || doubled) field.append(c) else inQuotes = false
                if (doubled) i++
            } else if (c == '"') {
                inQuotes = true
            } else if (c == ',') {
                row.add(field.toString())
                field.setLength(0)
            } else if (c == '\n') {
                row.add(field.toString())
                field.setLength(0)
                rows.add(row)
                row = ArrayList()
            } else if (c != '\r') {
                field.append(c)
            }
            i++
        }
        require(!inQuotes) { "a quote is not closed" }
        if (field.isNotEmpty() || row.isNotEmpty()) rows.add(row.also { it.add(field.toString()) })
        return rows
    }

    private fun quoted(field: String): String =
        if (field.any { it == ',' || it == '"' || it == '\n' || it == '\r' }) {
            "\"" + field.replace("\"", "\"\"") + "\""
        } else {
            field
        }
}
