package dev.edgeb.core

private const val KEPT_SEGMENTS = 20_000

/**
 * Token ids of a layout's prompts and labels, for one tokenizer and candidate set.
 *
 * A layout with chat turns begins with them instead of `bosId`, and ends its labels with their end instead of `eosId`.
 *
 * Segments repeat endlessly (a day and hour, a place, a label), so their ids are kept; the cache is emptied when it
 * holds 20,000 of them. Not for several threads at once.
 */
internal class PromptEncoder(
    private val tokenize: (String) -> IntArray,
    private val layout: PromptLayout,
    private val candidates: CandidateSet,
    bosId: Int?,
    eosId: Int
) {
    private val cache = HashMap<String, IntArray>()

    private val chat: ChatTurns? = layout.chat
    private val start: IntArray =
        if (chat != null) chat.opening.toIntArray() else if (bosId == null) IntArray(0) else intArrayOf(bosId)
    private val reply: IntArray = chat?.reply?.toIntArray() ?: IntArray(0)

    // The assistant's turn begins after the static part, or after the question.
    private val replyEarly: Boolean = layout.name == "stream"

    val staticIds: IntArray =
        start + join(layout.static(candidates.labels)) + (if (replyEarly) reply else IntArray(0))
    private val terminatorIds: IntArray =
        layout.terminator.let { if (it == null) intArrayOf(chat?.endId ?: eosId) else segment(it) }
    val trie: LabelTrie = LabelTrie.of(candidates.labels.map { labelIds(it) })

    /** Ids before the history's lines. */
    val leadIds: IntArray = staticIds + join(layout.before())

    /** Ids of an answer: the label and its terminator. */
    fun labelIds(label: String): IntArray = segment(layout.answer(label)) + terminatorIds

    /** Ids of one past event, the same wherever it stands. */
    fun lineIds(event: BehaviorEvent): IntArray = join(layout.line(event))

    /** Ids after the history's lines: the question. */
    fun questionIds(moment: Moment, place: String): IntArray =
        join(layout.after(moment, place, candidates.labels)) + (if (replyEarly) IntArray(0) else reply)

    /** Ids of the whole prompt, static part first, over the last L events of `history`. */
    fun promptIds(history: List<BehaviorEvent>, moment: Moment, place: String): IntArray {
        val lines = history.takeLast(layout.historyLength).map { lineIds(it) }
        return joined(listOf(leadIds) + lines + listOf(questionIds(moment, place)))
    }

    private fun segment(text: String): IntArray {
        if (cache.size >= KEPT_SEGMENTS) cache.clear()
        return cache.getOrPut(text) { tokenize(text) }
    }

    private fun join(segments: List<String>): IntArray = joined(segments.map { segment(it) })
}

/** All ids one after another. */
internal fun joined(parts: List<IntArray>): IntArray {
    val all = IntArray(parts.map { it.size }.sum())
    var at = 0
    for (part in parts) {
        part.copyInto(all, at)
        at += part.size
    }
    return all
}
