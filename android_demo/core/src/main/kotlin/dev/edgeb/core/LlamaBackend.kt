package dev.edgeb.core

// Logit rows of one decode, and sequences: llama.cpp reserves memory for so many rows of the whole vocabulary, and
// wants as many as there are sequences. One sequence is the prompt.
internal const val MAX_ROWS = 64

// Quantized weights are multiplied with so many tokens at once, and with those left over one by one (docs/operate.md).
private const val TOKENS_AT_ONCE = 4

// llama.cpp's numbers of F32 and F16 files.
private val UNQUANTIZED = setOf(0, 1)

/**
 * One held prompt in llama.cpp's cache, and a look ahead of it along a label trie.
 *
 * Sequence 0 holds the prompt. Every tip of the trie nodes to evaluate gets a sequence that shares the cells of the
 * prompt and of its evaluated ancestors, and a new node belongs to the sequences of the tips below it, so that one
 * decode computes what tree attention would. Knows tokens and log-probabilities, not labels or prompts.
 */
internal class LlamaBackend(
    private val context: LlamaContext,
    override val version: String,
    private val options: NativeOptions
) : Backend {
    private val quantized = context.fileType !in UNQUANTIZED
    private val maxRows = options.maxSequences

    // Evaluated trie nodes: a sequence that holds each, and the rows of the last decode.
    private val branches = HashMap<Int, Int>()
    private val rows = HashMap<Int, Int>()
    private var ahead: Ahead? = null
    private var rootRow = -1
    private var sequences = 0
    private var cells = 0
    private var nanos = 0L

    override var held: IntArray = IntArray(0)
        private set

    override val vocabularySize: Int
        get() = context.vocabularySize

    override val capacity: Int
        get() = options.contextSize

    override val fingerprint: String
        get() = "$version, ${if (options.exactCache) "f32" else "f16"} cache"

    override val kind = EngineKind.LLAMA_CPP

    override val accelerator = Accelerator.CPU

    override val decodeMs: Double
        get() = nanos / 1e6

    override fun tokenize(text: String): IntArray = context.tokenize(text.toByteArray(Charsets.UTF_8))

    override fun prefill(ids: IntArray, ahead: Ahead?): Int {
        val common = reusable(held, ids, capacity)
        release()
        this.ahead = ahead
        context.removeSequence(0, common, -1)
        held = held.copyOf(common)
        val added = ids.copyOfRange(common, ids.size)
        var plan = Plan(emptyList(), emptyMap(), hashSetOf())
        if (ahead != null && ahead.likely.isNotEmpty()) {
            plan = planOf(ahead.trie, ahead.likely)
            plan = plan.part(fitting(plan.tips, plan, added.size + 1))
        }
        val count = evaluate(added, ahead?.trie, plan)
        rootRow = added.size - 1
        return count
    }

    override fun root(): DoubleArray {
        check(rootRow >= 0) { "the row of the prompt's end is gone" }
        val reading = looking().reading
        return read(listOf(rootRow), listOf(reading.tokens(0)), reading.scoring)[0]
    }

    /** More nodes than one decode takes are evaluated in several. */
    override fun branch(nodes: List<Int>): Pair<List<DoubleArray>, Int> {
        val (trie, reading) = looking().let { Pair(it.trie, it.reading) }
        val found = HashMap<Int, DoubleArray>()
        collect(nodes, found, reading)
        val plan = planOf(trie, nodes.filter { it !in found })
        // A node that was evaluated only on the way to others has no logits any more.
        if (plan.wanted.any { it in branches }) release()
        var tips = plan.tips
        var tokens = 0
        while (tips.isNotEmpty()) {
            val taken = fitting(tips, plan, 0)
            tips = tips.drop(taken.size)
            tokens += evaluate(IntArray(0), trie, plan.part(taken))
            collect(plan.wanted.sorted(), found, reading)
            plan.wanted.removeAll(rows.keys)
        }
        return Pair(nodes.map { found.getValue(it) }, tokens)
    }

    override fun atHand(): Set<Int> = rows.keys.toHashSet()

    override fun saveState(): ByteArray {
        release()
        return context.saveSequence(0)
    }

    override fun loadState(ids: IntArray, state: ByteArray): Boolean {
        forget()
        if (!context.loadSequence(0, state) || context.lastPosition(0) != ids.size - 1) {
            context.clear()
            return false
        }
        held = ids
        return true
    }

    override fun interrupt() = context.interrupt(true)

    override fun resume() = context.interrupt(false)

    override fun close() = context.close()

    private fun looking(): Ahead = checkNotNull(ahead) { "the prompt was evaluated without a look ahead" }

    /** Read those of `nodes` whose rows the last decode has. */
    private fun collect(nodes: List<Int>, found: HashMap<Int, DoubleArray>, reading: Reading) {
        val ready = nodes.filter { it in rows }
        val read = read(ready.map { rows.getValue(it) }, ready.map { reading.tokens(it) }, reading.scoring)
        for (i in ready.indices) found[ready[i]] = read[i]
    }

    private fun read(wanted: List<Int>, tokens: List<IntArray>, scoring: Scoring): List<DoubleArray> {
        if (wanted.isEmpty()) return emptyList()
        val starts = IntArray(wanted.size + 1)
        for (i in tokens.indices) starts[i + 1] = starts[i] + tokens[i].size
        val logits = FloatArray(starts[wanted.size])
        val totals = if (scoring == Scoring.EXACT) DoubleArray(wanted.size) else null
        context.readRows(wanted.toIntArray(), starts, joined(tokens), logits, totals)
        return wanted.indices.map { logProbs(logits, starts[it], starts[it + 1], totals?.get(it)) }
    }

    /** As many of the first tips as one decode takes, beside `spare` other tokens. */
    private fun fitting(tips: List<Int>, plan: Plan, spare: Int): List<Int> {
        val taken = ArrayList<Int>()
        var steps: Set<Int> = emptySet()
        for (tip in tips) {
            val grown = steps + plan.paths.getValue(tip).filter { it !in branches }
            val fits = taken.size < maxRows - 1 - sequences &&
                held.size + spare + cells + grown.size <= capacity &&
                grown.count { it in plan.wanted } + (if (spare > 0) 1 else 0) <= maxRows
            if (!fits) break
            taken.add(tip)
            steps = grown
        }
        if (taken.isNotEmpty() || spare > 0) return taken
        if (branches.isNotEmpty()) {
            release()
            return fitting(tips, plan, spare)
        }
        throw EdgebException(
            "the prompt has ${held.size} tokens and a label ${plan.paths.getValue(tips[0]).size}, " +
                "the context holds $capacity",
            "shorten the place names or the history", ErrorCode.PROMPT_TOO_LONG
        )
    }

    /** One decode of new prompt ids and of the missing nodes on the way to the plan's tips; tokens evaluated. */
    private fun evaluate(added: IntArray, trie: LabelTrie?, plan: Plan): Int {
        val start = held.size
        val end = start + added.size
        val below = HashMap<Int, ArrayList<Int>>()
        val first = sequences + 1
        for (tip in plan.tips) {
            val path = plan.paths.getValue(tip)
            val known = path.filter { it in branches }
            sequences++
            val source = if (known.isEmpty()) 0 else branches.getValue(known.last())
            val stop = if (known.isEmpty()) start else end + known.size
            if (stop > 0) context.copySequence(source, sequences, -1, stop)
            for (step in path.drop(known.size)) below.getOrPut(step) { ArrayList() }.add(sequences)
        }
        val batch = BatchBuilder()
        val everywhere = listOf(0) + (first..sequences)
        for (i in added.indices) batch.add(added[i], start + i, everywhere, i == added.size - 1)
        val order = below.keys.sorted()
        for (node in order) {
            val depth = trie!!.depths[node]
            batch.add(trie.tokens[node], end + depth - 1, below.getValue(node), node in plan.wanted)
        }
        cells += order.size
        rows.clear()
        rootRow = -1
        val count = batch.size
        val padding = padding(count)
        for (i in 0 until padding) batch.add(0, end + i, listOf(sequences + 1), false)
        try {
            nanos += context.decode(batch.build())
        } catch (error: EdgebException) {
            if (error.code == ErrorCode.CANCELLED) {
                // Parts of the batch may be in the cache, behind what was there before.
                if (padding > 0) context.removeSequence(sequences + 1, -1, -1)
                release()
                context.removeSequence(0, held.size, -1)
            } else {
                // What the cache holds now is unknown: start over with the next prompt.
                forget()
            }
            throw error
        }
        if (padding > 0) context.removeSequence(sequences + 1, -1, -1)
        held += added
        for ((node, holders) in below) branches[node] = holders[0]
        for (i in order.indices) if (order[i] in plan.wanted) rows[order[i]] = added.size + i
        return count
    }

    /** Tokens that nobody needs, but with which the batch is done sooner; 0 where there is no room for them. */
    private fun padding(count: Int): Int {
        val padding = (TOKENS_AT_ONCE - count % TOKENS_AT_ONCE) % TOKENS_AT_ONCE
        if (!quantized || count <= TOKENS_AT_ONCE / 2 || padding > TOKENS_AT_ONCE / 2) return 0
        val fits = held.size + cells + count + padding <= capacity
        return if (fits && sequences + 1 < maxRows) padding else 0
    }

    private fun forget() {
        release()
        context.clear()
        held = IntArray(0)
    }

    /** Forget every evaluated trie node. */
    private fun release() {
        for (sequence in 1..sequences) context.removeSequence(sequence, -1, -1)
        branches.clear()
        rows.clear()
        sequences = 0
        cells = 0
    }
}

/** Trie nodes to evaluate: the last of each path, the paths, and the nodes whose logits are wanted. */
private class Plan(val tips: List<Int>, val paths: Map<Int, List<Int>>, val wanted: HashSet<Int>) {
    fun part(tips: List<Int>) = Plan(tips, paths, wanted)
}

private fun planOf(trie: LabelTrie, nodes: List<Int>): Plan {
    val paths = nodes.associate { it to trie.ancestors(it) }
    val passed = HashSet<Int>()
    for (path in paths.values) passed.addAll(path.dropLast(1))
    return Plan(nodes.filter { it !in passed }, paths, nodes.toHashSet())
}

private class BatchBuilder {
    private val tokens = ArrayList<Int>()
    private val positions = ArrayList<Int>()
    private val starts = arrayListOf(0)
    private val sequences = ArrayList<Int>()
    private val wantsLogits = ArrayList<Boolean>()

    val size: Int
        get() = tokens.size

    fun add(token: Int, position: Int, into: List<Int>, wants: Boolean) {
        tokens.add(token)
        positions.add(position)
        sequences.addAll(into)
        starts.add(sequences.size)
        wantsLogits.add(wants)
    }

    fun build() = TokenBatch(
        tokens.toIntArray(), positions.toIntArray(), starts.toIntArray(), sequences.toIntArray(),
        wantsLogits.toBooleanArray()
    )
}
