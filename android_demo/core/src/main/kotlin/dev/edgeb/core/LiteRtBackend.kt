package dev.edgeb.core

/**
 * A LiteRT bundle, evaluated by signatures of a fixed number of new tokens.
 *
 * The prompt fills the cache's first slots, in order; evaluated trie nodes lie behind it in any order, and a mask shows
 * each only the prompt and its own ancestors. So one call evaluates many paths of the label trie, and the rest of a
 * prompt with them. Knows tokens and log-probabilities, not labels or prompts.
 *
 * @param positions Slots to use, for the prompt and the trie nodes behind it; at most those of the graph's cache.
 */
internal class LiteRtBackend(
    private val graph: LiteRtGraph,
    private val model: LiteRtModel,
    private val tokenizer: LlamaVocabulary,
    override val version: String,
    override val accelerator: Accelerator,
    positions: Int
) : Backend {
    private val evaluator = LiteRtEvaluator(graph, model)
    private var prompt = IntArray(0)
    private var ahead: Ahead? = null
    private var root: DoubleArray? = null

    // Evaluated trie nodes: the slot of each, and what was read of the rows at hand.
    private val slots = HashMap<Int, Int>()
    private var rows: Map<Int, DoubleArray> = emptyMap()
    private var spare = emptyList<Int>()

    // Whether the fields above describe the cache: not during a change, nor after one that failed half-way.
    private var known = true

    override val held: IntArray
        get() = if (known) prompt else IntArray(0)

    override val vocabularySize: Int
        get() = graph.vocabulary

    override val kind = EngineKind.LITERT

    override val capacity: Int = minOf(positions, graph.cache)

    override val fingerprint: String
        get() = "$version on the ${accelerator.text}, f32 cache"

    override val decodeMs: Double
        get() = evaluator.decodeMs

    override fun tokenize(text: String): IntArray = tokenizer.tokenize(text.toByteArray(Charsets.UTF_8))

    override fun prefill(ids: IntArray, ahead: Ahead?): Int {
        val common = reusable(held, ids, capacity)
        val added = ids.copyOfRange(common, ids.size)
        added.firstOrNull { it !in 0 until graph.vocabulary }?.let {
            throw EdgebException(
                "the prompt has token $it, the model ${graph.vocabulary} tokens", "check the ids",
                ErrorCode.INVALID_ARGUMENT
            )
        }
        var hinted = emptyList<Int>()
        changing {
            dropNodes()
            prompt = prompt.copyOf(common)
            this.ahead = ahead
            // Parents come first, so that the first ones are complete paths.
            if (ahead != null && ahead.likely.isNotEmpty()) {
                spare = ahead.spare
                hinted = withAncestors(ahead.trie, ahead.likely).take(capacity - ids.size)
                hinted = filledUp(ahead.trie, hinted, added.size, capacity - ids.size)
            }
            val found = evaluate(added, hinted)
            prompt = ids
            root = found.firstOrNull()
            rows = hinted.indices.associate { hinted[it] to found[it + 1] }
        }
        return added.size + hinted.size
    }

    override fun root(): DoubleArray = checkNotNull(root) { "the row of the prompt's end was not read" }

    /** In several passes if the cache is small. */
    override fun branch(nodes: List<Int>): Pair<List<DoubleArray>, Int> {
        restoreOrder()
        val trie = checkNotNull(ahead) { "the prompt was evaluated without a look ahead" }.trie
        val deepest = nodes.map { trie.depths[it] }.sorted().lastOrNull() ?: 0
        if (prompt.size + deepest > capacity) {
            throw EdgebException(
                "the prompt has ${prompt.size} tokens and a label $deepest, the context holds $capacity",
                "shorten the place names or the history", ErrorCode.PROMPT_TOO_LONG
            )
        }
        val done = HashMap<Int, DoubleArray>()
        for (node in nodes) rows[node]?.let { done[node] = it }
        var missing = nodes.distinct().filter { it !in done }.sorted()
        var tokens = 0
        while (missing.isNotEmpty()) {
            val (taken, fitted) = fitting(trie, missing)
            if (taken == 0) {
                changing { dropNodes() }
                continue
            }
            var steps = fitted
            if (taken == missing.size) {
                val unused = capacity - prompt.size - (slots.keys + fitted).size
                steps = filledUp(trie, fitted, 0, unused + fitted.size)
            }
            changing {
                rows = emptyMap()
                val read = evaluate(IntArray(0), steps)
                val found = steps.indices.associate { steps[it] to read[it] }
                rows = found + done
                for (node in missing.take(taken)) done[node] = found.getValue(node)
            }
            missing = missing.drop(taken)
            tokens += steps.size
        }
        return Pair(nodes.map { done.getValue(it) }, tokens)
    }

    override fun atHand(): Set<Int> = if (known) rows.keys.toHashSet() else emptySet()

    /** See [LiteRtProbe.differences]; for a backend that has evaluated nothing. */
    fun differences(probe: LiteRtProbe): Sequence<Pair<Int, Double>> = probe.differences(graph, evaluator)

    override fun saveState(): ByteArray = evaluator.cache.toBytes(held.size)

    override fun loadState(ids: IntArray, state: ByteArray): Boolean {
        clear()
        changing {
            if (ids.size <= capacity && evaluator.cache.fromBytes(state, ids.size)) {
                evaluator.restored(ids.size)
                prompt = ids
            }
        }
        return prompt.isNotEmpty()
    }

    override fun interrupt() = model.interrupt(true)

    override fun resume() = model.interrupt(false)

    override fun close() {
        model.close()
        tokenizer.close()
    }

    /** Guard a change of the cache: if it fails, the next change begins with an empty cache. */
    private inline fun changing(change: () -> Unit) {
        restoreOrder()
        known = false
        change()
        known = true
    }

    /** Empty the cache if a change of it failed half-way. */
    private fun restoreOrder() {
        if (!known) clear()
    }

    private fun clear() {
        prompt = IntArray(0)
        ahead = null
        dropNodes()
        known = true
    }

    private fun dropNodes() {
        slots.clear()
        rows = emptyMap()
        spare = emptyList()
        root = null
    }

    /** How many of the missing nodes, the first ones, fit into the cache, and what is evaluated for them. */
    private fun fitting(trie: LabelTrie, missing: List<Int>): Pair<Int, List<Int>> {
        val room = capacity - prompt.size - slots.size
        val steps = HashSet<Int>()
        for ((taken, node) in missing.withIndex()) {
            // One whose logits are gone is evaluated again, into its slot.
            val more = trie.ancestors(node).filter { it == node || it !in slots }
            if ((steps + more).count { it !in slots } > room) return Pair(taken, steps.sorted())
            steps.addAll(more)
        }
        return Pair(missing.size, steps.sorted())
    }

    /**
     * Nodes to evaluate behind new tokens of the prompt, and spare ones that the same calls have room for.
     *
     * @param nodes Parents first, as the result.
     * @param most How many nodes the cache takes.
     */
    private fun filledUp(trie: LabelTrie, nodes: List<Int>, added: Int, most: Int): List<Int> {
        var room = minOf(evaluator.room(added + nodes.size, maxOf(0, added - 1), prompt.size), most - nodes.size)
        val filled = nodes.toHashSet()
        for (node in spare) {
            val way = trie.ancestors(node).filter { it !in slots && it !in filled }
            if (way.size <= room) {
                filled.addAll(way)
                room -= way.size
            }
        }
        return filled.sorted()
    }

    /** Evaluate new prompt ids and trie nodes, parents first; reads the last id's row, if any, and the nodes'. */
    private fun evaluate(added: IntArray, nodes: List<Int>): List<DoubleArray> {
        val start = prompt.size
        val end = start + added.size
        val looking = ahead
        val trie = looking?.trie
        val places = IntArray(added.size) { start + it }
        val tokens = LiteRtTokens(
            added + nodes.map { trie!!.tokens[it] },
            places + nodes.map { end + trie!!.depths[it] - 1 },
            places + nodes.map { node -> slots.getOrPut(node) { end + slots.size } },
            IntArray(added.size + nodes.size) { if (it < added.size) start + it + 1 else end },
            added.map { IntArray(0) } + nodes.map { node ->
                trie!!.ancestors(node).map { slots.getValue(it) }.toIntArray()
            }
        )
        val read = if (added.isEmpty()) nodes else listOf(0) + nodes
        val reading = looking?.reading?.let { asked ->
            { row: Int -> RowReading(asked.tokens(read[row]), asked.scoring) }
        }
        return evaluator.evaluate(tokens, maxOf(0, added.size - 1), reading)
    }
}

/** The nodes and all on the way to them; a trie's nodes are numbered breadth-first, so parents come first. */
private fun withAncestors(trie: LabelTrie, nodes: List<Int>): List<Int> =
    nodes.flatMap { trie.ancestors(it) }.distinct().sorted()
