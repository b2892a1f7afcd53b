package dev.edgeb.core

// What stops as soon as the wanted ranks are proven.
internal const val RANKS_ONLY = 1.0

// A candidate whose bound misses the last wanted rank by this little is expanded along, in log-probability: the bounds
// above it still fall when they are resolved, and another round costs more than a token.
internal const val MARGIN = 0.1

// Inner nodes of a small subtree are evaluated with its top, again to save rounds.
private const val LOOKAHEAD = 2

/** Candidate scores as `slope * log p(model) + offset`, slope at least 0. */
internal class Affine(val slope: DoubleArray, val offset: DoubleArray) {
    /** The same scores, each raised by a constant. */
    fun raised(by: DoubleArray) = Affine(slope, DoubleArray(offset.size) { offset[it] + by[it] })

    companion object {
        /** The model's log-probability itself. */
        fun ofModel(size: Int) = Affine(DoubleArray(size) { 1.0 }, DoubleArray(size))
    }
}

/** Probabilities that candidates are to be compared with: the best one, and every one. Null compares nothing. */
internal class Lines(val first: Double?, val each: Double?)

/**
 * What a search found.
 *
 * @property logProbs Log-probability of each candidate under the model; an upper bound where not `known`.
 * @property scores The affine scores of the same; minus infinity for candidates that are not allowed.
 * @property known Whether the candidate was expanded to its end.
 * @property logTotal Log of the sum of exp(scores) with the unexpanded part at its upper bound.
 * @property unexpanded Upper bound of the share of that sum held by candidates that are not known.
 */
internal class Found(
    val logProbs: DoubleArray,
    val scores: DoubleArray,
    val known: BooleanArray,
    val logTotal: Double,
    val unexpanded: Double
)

/** What a search reads: for every node asked for, the log-probability of the step to each of its live children. */
internal interface Rows {
    /** The children of the root. */
    fun root(): DoubleArray

    /** The children of other nodes; evaluates what is not at hand. */
    fun expand(nodes: List<Int>): List<DoubleArray>

    /** Nodes that `expand` has at hand already. */
    fun atHand(): Set<Int>
}

/**
 * Best-first search over the label trie: proves the top candidates before the whole trie is paid for.
 *
 * Every node's path probability bounds the probability of all candidates below it. A round expands the nodes that the
 * answer still depends on; the search ends when the wanted ranks are proven and what is to be compared with a
 * probability is known to be above or below it (docs/integrate.md). Made once per bundle and set of allowed candidates.
 */
internal class TrieSearch(private val trie: LabelTrie, private val scoring: Scoring, allowed: BooleanArray?) {
    private val allowed = allowed ?: BooleanArray(trie.leaves.size) { true }
    private val children = HashMap<Int, IntArray>()
    private val innerChildren = HashMap<Int, List<Int>>()
    private val tokens = HashMap<Int, IntArray>()
    private val choosing = BooleanArray(trie.size)
    private val live = BooleanArray(trie.size)

    init {
        for (b in trie.leaves.indices) if (this.allowed[b]) live[trie.leaves[b]] = true
        for (node in trie.size - 1 downTo 1) if (live[node]) live[trie.parents[node]] = true
        val found = HashMap<Int, ArrayList<Int>>()
        for (node in 1 until trie.size) if (live[node]) found.getOrPut(trie.parents[node]) { ArrayList() }.add(node)
        for ((node, below) in found) {
            children[node] = below.toIntArray()
            tokens[node] = IntArray(below.size) { trie.tokens[below[it]] }
            innerChildren[node] = below.filter { it in found }
            // A masked choice between one child is no choice: its row is never needed.
            choosing[node] = scoring == Scoring.EXACT || below.size > 1
        }
    }

    /** Token ids of a node's live children. */
    fun childTokens(node: Int): IntArray = tokens.getValue(node)

    /**
     * Search until the `topK` best candidates are proven.
     *
     * @param affine Scores to rank by.
     * @param topK How many ranks to prove; null expands everything.
     * @param tolerance Most probability that may stay unexpanded; 0 expands everything.
     * @param lines What the answer has to decide.
     */
    fun run(rows: Rows, affine: Affine, topK: Int?, tolerance: Double, lines: Lines?): Found {
        val state = SearchState(trie, live, allowed, affine, choosing)
        if (choosing[0]) read(state, 0, rows.root()) else state.evaluated[0] = true
        // Reading a row takes time by the length of the vocabulary, so of those at hand only what is wanted is read.
        val atHand = rows.atHand().filter { choosing[it] }.toHashSet()
        val everything = topK == null || tolerance <= 0
        while (true) {
            state.refresh()
            val chosen = if (topK == null || tolerance <= 0) state.pending() else state.choose(topK, tolerance, lines)
            if (chosen.isEmpty()) break
            val nodes = nextNodes(chosen, atHand, state, everything)
            val steps = rows.expand(nodes)
            for (i in nodes.indices) read(state, nodes[i], steps[i])
            atHand.removeAll(nodes)
        }
        return state.found()
    }

    /** Nodes to expand to know the `count` best of `scores`: the best one's first, parents before children. */
    fun likely(scores: DoubleArray, count: Int): List<Int> {
        val best = scores.indices.filter { allowed[it] }.sortedByDescending { scores[it] }.take(count)
        return best.flatMap { trie.ancestors(trie.leaves[it]) }.filter { choosing[it] }.distinct()
    }

    private fun nextNodes(chosen: List<Int>, atHand: Set<Int>, state: SearchState, everything: Boolean): List<Int> {
        val wanted = chosen.filter { it in atHand }
        if (wanted.isNotEmpty()) {
            return (wanted + wanted.flatMap { subtree(it) }.filter { it in atHand }).distinct().sorted()
        }
        // The next evaluation overwrites what is at hand.
        if (atHand.isNotEmpty()) return atHand.sorted()
        return withDescendants(chosen, state, everything)
    }

    private fun read(state: SearchState, node: Int, steps: DoubleArray) {
        val below = children.getValue(node)
        for (i in below.indices) state.edges[below[i]] = steps[i]
        state.evaluated[node] = true
    }

    /** The chosen nodes with what is worth evaluating in the same call, sorted. */
    private fun withDescendants(chosen: List<Int>, state: SearchState, everything: Boolean): List<Int> {
        val nodes = HashSet<Int>()
        for (top in chosen) {
            var below = subtree(top)
            val chain = innerChildren.getValue(top).size <= 1
            var take = everything || chain || below.size <= LOOKAHEAD
            nodes.add(top)
            if (take && !everything && chain) {
                // Down to the first choice, and beyond it if little is there.
                var node = top
                while (innerChildren.getValue(node).size == 1 && children.getValue(node).size == 1) {
                    node = innerChildren.getValue(node)[0]
                    nodes.add(node)
                }
                below = subtree(node)
                take = below.size <= LOOKAHEAD
            }
            if (take) nodes.addAll(below)
        }
        return nodes.filter { choosing[it] && !state.evaluated[it] }.sorted()
    }

    private fun subtree(top: Int): List<Int> {
        val found = ArrayList<Int>()
        val stack = ArrayList(innerChildren.getValue(top))
        while (stack.isNotEmpty()) {
            val node = stack.removeAt(stack.size - 1)
            found.add(node)
            stack.addAll(innerChildren.getValue(node))
        }
        return found
    }
}
