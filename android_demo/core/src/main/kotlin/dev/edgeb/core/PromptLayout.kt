package dev.edgeb.core

internal const val STREAM_TERMINATOR = ")\n"
internal val DAYS = listOf("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
private val LAYOUTS = listOf("stream", "prefix", "instruct")
private val CANDIDATE_ORDERS = listOf("frequency", "alphabetical")
private val FIELDS = listOf("name", "list_candidates", "history_length", "task", "role")
// Each is written only where it is not the usual: bundles of before have places, no chat template, and one order.
private val OPTIONAL = listOf("places", "chat", "candidate_order")

// Python's order of strings, in which the model was trained. UTF-16 units would put emoji before some other characters.
private val BY_CODE_POINT = Comparator<String> { one, other ->
    val a = codePoints(one)
    val b = codePoints(other)
    val at = (0 until minOf(a.size, b.size)).firstOrNull { a[it] != b[it] }
    if (at == null) a.size.compareTo(b.size) else a[at].compareTo(b[at])
}

// The paper's Appendix D, Instruct1: the runtime uses the first of the three wordings.
private const val INSTRUCT_OPENING = "This user has done behaviors"
private const val PARTS = "Day of the week, the hour, and the place"
private const val PARTS_WITHOUT_PLACE = "Day of the week and the hour"
private const val INSTRUCT_REST =
    " in the previous. {parts} of the next behavior are {context}," +
        " respectively. Choose the answer from the following behavior candidate set: {candidates}. The answer is"

/**
 * What a backbone's chat template puts around a user's turn and the assistant's, as token ids.
 *
 * @property opening From the beginning to the user's text.
 * @property reply From the user's text to the assistant's.
 * @property endId The token that ends the assistant's turn.
 */
public data class ChatTurns(val opening: List<Int>, val reply: List<Int>, val endId: Int) {
    /** All of them. */
    internal val ids: List<Int>
        get() = opening + reply + endId

    internal companion object {
        /** Read a layout's `chat` strictly. */
        fun of(value: Any?, where: String): ChatTurns {
            val fields = Fields(value, listOf("opening", "reply", "end_id"), where)
            val turns = ChatTurns(ids(fields, "opening", where), ids(fields, "reply", where), fields.int("end_id"))
            if (turns.ids.any { it < 0 }) throw bad(where)
            return turns
        }

        private fun ids(fields: Fields, name: String, where: String): List<Int> = fields.list(name).map {
            val id = it as? Long
            if (id == null || id !in 0..Int.MAX_VALUE.toLong()) throw bad("$where.$name")
            id.toInt()
        }

        private fun bad(where: String) = EdgebException(
            "$where holds a number that is no token id", DAMAGED_HINT, ErrorCode.DAMAGED
        )
    }
}

/**
 * The text contract of training and phone: how events become a prompt.
 *
 * A prompt is a sequence of segments, each tokenized by itself (docs/train.md). Knows no tokenizer and no model; of a
 * chat template it carries the token ids, which text from a log can never produce.
 *
 * @property name `stream`, `prefix` or `instruct`.
 * @property listCandidates Name the candidates in the prompt.
 * @property historyLength L, the number of past events a prediction sees.
 * @property task Part 1 of the prompt, the task definition.
 * @property role Part 2, the role-playing instruction.
 * @property places Whether a context names its place. Without, no place is asked for and none is read from an event.
 * @property chat The backbone's chat template around the prompt, or null for the bare text.
 * @property candidateOrder How prompts list the candidates: `frequency`, in candidate order, or `alphabetical`, by code
 *   point.
 */
public data class PromptLayout @JvmOverloads constructor(
    val name: String,
    val listCandidates: Boolean,
    val historyLength: Int,
    val task: String,
    val role: String,
    val places: Boolean = true,
    val chat: ChatTurns? = null,
    val candidateOrder: String = "frequency"
) {
    init {
        if (name !in LAYOUTS) throw EdgebException(
            "unknown prompt layout '$name'", nearest(name, LAYOUTS), ErrorCode.DAMAGED
        )
        if (historyLength < 1) throw EdgebException(
            "history_length is $historyLength", "use at least 1", ErrorCode.DAMAGED
        )
        if (name == "instruct" && !listCandidates) {
            throw EdgebException("the instruct layout always lists its candidates", code = ErrorCode.DAMAGED)
        }
        if (candidateOrder !in CANDIDATE_ORDERS) {
            throw EdgebException(
                "unknown candidate order '$candidateOrder'", nearest(candidateOrder, CANDIDATE_ORDERS),
                ErrorCode.DAMAGED
            )
        }
    }

    /** Text that ends a label, or null where the end-of-sequence token does, or the one that ends a turn. */
    internal val terminator: String?
        get() = if (name == "stream") STREAM_TERMINATOR else null

    /** The text that follows a prompt when `label` is the next behavior, without its terminator. */
    internal fun answer(label: String): String =
        // An assistant's turn begins with no space.
        if (chat != null && name != "stream") label else " $label"

    /** The part of the prompt that is the same for every prediction of a bundle. */
    internal fun static(labels: List<String>): List<String> {
        val head = "Task: $task\nRole: $role\n"
        if (name == "instruct") return listOf(head)
        val candidates = if (listCandidates) "Candidates: ${listed(labels).joinToString("; ")}\n" else ""
        val history = "History (day hour, ${if (places) "place, " else ""}behavior):"
        // Here the user's turn ends, and some chat templates strip it.
        return listOf(head + candidates + history + (if (chat != null && name == "stream") "" else "\n"))
    }

    /**
     * The place that a caller gave as prompts and habits take it; "unknown" where the layout has none.
     *
     * @throws EdgebException no place where the layout has one, or one where it has none.
     */
    internal fun placeOf(place: String?): String {
        if (places) {
            val missing = "no place was given, and the prompts of this model name one"
            return cleanPlace(place ?: throw EdgebException(missing, "pass place", ErrorCode.INVALID_PLACE))
        }
        if (place != null) {
            throw EdgebException(
                "the place '${place.take(48)}' was given to a model without places", "leave place out",
                ErrorCode.INVALID_PLACE
            )
        }
        return UNKNOWN_PLACE
    }

    /** One past event: its context, its behavior, its end. The same three segments in every layout. */
    internal fun line(event: BehaviorEvent): List<String> =
        listOf(context(event.time, event.place), " ${event.behavior}", STREAM_TERMINATOR)

    /** What stands between the static part and the history's lines. */
    internal fun before(): List<String> = if (name == "instruct") listOf(INSTRUCT_OPENING + "\n") else emptyList()

    /** What follows the history's lines: the question. */
    internal fun after(moment: Moment, place: String, labels: List<String>): List<String> {
        val day = DAYS[moment.dayOfWeek]
        val hour = moment.hour
        if (name == "stream") return listOf(context(moment, place))
        if (name == "prefix") {
            val parts = if (places) "Day, hour and place" else "Day and hour"
            return listOf("$parts of the next behavior: $day $hour${where(place)}.\nThe answer is")
        }
        // The context first: a label may hold braces.
        val asked = INSTRUCT_REST.replace("{parts}", if (places) PARTS else PARTS_WITHOUT_PLACE)
            .replace("{context}", "$day, $hour${where(place)}")
        return listOf(asked.replace("{candidates}", listed(labels).joinToString(", ")))
    }

    /** The candidate labels, given in candidate order, in the order in which prompts list them. */
    private fun listed(labels: List<String>): List<String> =
        if (candidateOrder == "alphabetical") labels.sortedWith(BY_CODE_POINT) else labels

    private fun context(moment: Moment, place: String): String =
        "(${DAYS[moment.dayOfWeek]} ${moment.hour}${where(place)},"

    /** The end of a context: a comma and the place, or nothing. */
    private fun where(place: String): String = if (places) ", ${cleanPlace(place)}" else ""

    internal companion object {
        /** Read a manifest's `layout` strictly. */
        fun of(value: Any?, where: String): PromptLayout {
            val written = OPTIONAL.filter { (value as? Map<*, *>)?.containsKey(it) == true }
            val fields = Fields(value, FIELDS + written, where)
            return PromptLayout(
                fields.string("name"),
                fields.boolean("list_candidates"),
                fields.int("history_length"),
                fields.string("task"),
                fields.string("role"),
                "places" !in written || fields.boolean("places"),
                if ("chat" in written) ChatTurns.of(fields.any("chat"), "$where.chat") else null,
                if ("candidate_order" in written) fields.string("candidate_order") else CANDIDATE_ORDERS[0]
            )
        }
    }
}
