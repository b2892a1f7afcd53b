package dev.edgeb.core

private val LICENSE_FIELDS = listOf("id", "name", "link", "author", "attribution", "texts")

/**
 * The license of the pretrained model that a bundle was made from. Show `lines` wherever the model is named.
 *
 * @property id As it is stated, like "apache-2.0" or "llama3.2"; null where only a text is at hand.
 * @property name Its name.
 * @property link Where its text is.
 * @property author Who made the model.
 * @property attribution Lines that its terms ask to be shown.
 * @property texts License, notice and use policy by file name.
 */
public class License private constructor(
    public val id: String?,
    public val name: String?,
    public val link: String?,
    public val author: String?,
    public val attribution: List<String>,
    public val texts: Map<String, String>
) {
    /** Identifier and name in one line; the names of its texts where neither is known. */
    public val title: String
        get() {
            if (id == null || id.equals("other", ignoreCase = true)) {
                return name ?: link ?: "see ${texts.keys.joinToString(", ")}"
            }
            return if (name == null || name == id) id else "$id ($name)"
        }

    /** Title, link, author and attribution, a line each. */
    public val lines: List<String>
        get() {
            val found = arrayListOf(title)
            if (link != null && link != title) found.add(link)
            if (author != null) found.add("made by $author")
            return found + attribution
        }

    internal companion object {
        /** @throws EdgebException a field that is missing, unknown or of another type. */
        fun of(value: Any?, where: String): License {
            val fields = Fields(value, LICENSE_FIELDS, where)
            return License(
                fields.stringOrNull("id"),
                fields.stringOrNull("name"),
                fields.stringOrNull("link"),
                fields.stringOrNull("author"),
                fields.list("attribution").map { text(it, "$where.attribution") },
                fields.map("texts").mapValues { text(it.value, "$where.texts") }
            )
        }

        private fun text(value: Any?, where: String): String =
            value as? String ?: throw EdgebException("an item of $where is not text", DAMAGED_HINT, ErrorCode.DAMAGED)
    }
}

/**
 * Which pretrained model a bundle was made from.
 *
 * @property name Hub name, or the name of its folder or file.
 * @property license Its license; null where it states none.
 * @property weightsSha256 Hash of its weight files.
 */
public class BaseModel internal constructor(
    public val name: String?,
    public val license: License?,
    public val weightsSha256: String?
) {
    internal companion object {
        /** @throws EdgebException a field that is missing, unknown or of another type. */
        fun of(value: Any?, where: String): BaseModel {
            val fields = Fields(value, listOf("name", "license", "weights_sha256"), where)
            val stated = if (fields.isNull("license")) null else License.of(fields.any("license"), "$where.license")
            return BaseModel(fields.stringOrNull("name"), stated, fields.stringOrNull("weights_sha256"))
        }
    }
}
