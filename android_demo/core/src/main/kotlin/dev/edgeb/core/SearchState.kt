package dev.edgeb.core

/** What a search knows so far: edges of evaluated nodes, and the bounds that follow. */
internal class SearchState(
    private val trie: LabelTrie,
    private val live: BooleanArray,
    private val allowed: BooleanArray,
    private val affine: Affine,
    private val needed: BooleanArray
) {
    /** Log-probability of the step to each node; 0 as long as nobody looked. */
    val edges = DoubleArray(trie.size)
    val evaluated = BooleanArray(trie.size)
    private val bounds = DoubleArray(trie.size)

    // First node on the way to each node that still has to be evaluated; 0 for none.
    private val open = IntArray(trie.size)
    private val size = trie.leaves.size
    private val logProbs = DoubleArray(size)
    private val scores = DoubleArray(size)
    private val known = BooleanArray(size)

    // Nodes that candidates wait for, and for each candidate the index of its node there; -1 for none.
    private var nodes: List<Int> = emptyList()
    private val owner = IntArray(size)

    fun refresh() {
        for (node in 1 until trie.size) {
            if (!live[node]) continue
            val above = trie.parents[node]
            bounds[node] = bounds[above] + edges[node]
            open[node] = if (open[above] > 0) open[above] else if (needed[node] && !evaluated[node]) node else 0
        }
        for (b in 0 until size) {
            logProbs[b] = bounds[trie.leaves[b]]
            scores[b] = if (allowed[b]) affine.slope[b] * logProbs[b] + affine.offset[b] else Double.NEGATIVE_INFINITY
            known[b] = open[trie.leaves[b]] == 0
        }
        val waiting = (0 until size).filter { allowed[it] && !known[it] }
        nodes = waiting.map { open[trie.leaves[it]] }.distinct().sorted()
        val index = nodes.withIndex().associate { it.value to it.index }
        owner.fill(-1)
        for (b in waiting) owner[b] = index.getValue(open[trie.leaves[b]])
    }

    fun pending(): List<Int> = nodes

    /** Nodes to expand next: those that may reach the wanted ranks or lines, and those that hold too much mass. */
    fun choose(topK: Int, tolerance: Double, lines: Lines?): List<Int> {
        if (nodes.isEmpty()) return nodes
        val top = top()
        val masses = masses(top)
        val knownMass = knownMass(top)
        val openMass = masses.sum()
        val ranked = scores.filterIndexed { b, _ -> allowed[b] }.sortedDescending()
        val rank = minOf(topK, ranked.size) - 1
        val proven = scores.filterIndexed { b, _ -> allowed[b] && known[b] }.sortedDescending()
        val best = DoubleArray(nodes.size) { Double.NEGATIVE_INFINITY }
        for (b in 0 until size) if (owner[b] >= 0) best[owner[b]] = maxOf(best[owner[b]], scores[b])
        val isProven = proven.size > rank && best.all { proven[rank] >= it }
        var spare = tolerance * (knownMass + openMass)
        val chosen = HashSet<Int>()
        // Before, hardly anything is known, and everything might be above a line.
        if (lines != null && isProven) {
            spare = minOf(spare, spare(lines, openMass, knownMass, top))
            chosen.addAll(mayReach(lines, best, knownMass, top))
        }
        var left = openMass
        for (i in masses.indices.sortedByDescending { masses[it] }) {
            if (left <= spare) break
            chosen.add(i)
            left -= masses[i]
        }
        if (!isProven) chosen.addAll(best.indices.filter { best[it] >= ranked[rank] - MARGIN })
        return chosen.sorted().map { nodes[it] }
    }

    fun found(): Found {
        refresh()
        val top = top()
        val openMass = masses(top).sum()
        val total = knownMass(top) + openMass
        return Found(logProbs, scores, known, top + Math.log(total), openMass / total)
    }

    /** Open mass at which the known candidates that may now be on either side of their line would be above it. */
    private fun spare(lines: Lines, openMass: Double, knownMass: Double, top: Double): Double {
        val weights = (0 until size).filter { allowed[it] && known[it] }.map { Math.exp(scores[it] - top) }
        val most = weights.sorted().last()
        var spare = Double.POSITIVE_INFINITY
        for ((line, compared) in listOf(Pair(lines.first, weights.filter { it == most }), Pair(lines.each, weights))) {
            if (line == null) continue
            // Not yet above, and not below even if nothing else were there.
            for (weight in compared) {
                if (weight < line * (knownMass + openMass) && weight >= line * knownMass) {
                    spare = minOf(spare, weight / line - knownMass)
                }
            }
        }
        return spare
    }

    /** Open nodes with a candidate that may be above the line for each. */
    private fun mayReach(lines: Lines, best: DoubleArray, knownMass: Double, top: Double): List<Int> {
        val line = lines.each ?: return emptyList()
        return best.indices.filter {
            val weight = Math.exp(best[it] - top)
            weight >= line * (knownMass + weight)
        }
    }

    private fun top(): Double {
        var top = Double.NEGATIVE_INFINITY
        for (score in scores) top = maxOf(top, score)
        return top
    }

    private fun knownMass(top: Double): Double {
        var mass = 0.0
        for (b in 0 until size) if (allowed[b] && known[b]) mass += Math.exp(scores[b] - top)
        return mass
    }

    /**
     * Upper bound of exp(score - top) summed below each open node.
     *
     * Below a node of probability P, scores a·log p + c sum to at most Σ exp(a·log P + c); and since the p there sum to
     * at most P, also (Jensen) to exp(max c)·P^a·m^max(0, 1-a) over its m candidates, with the smallest a.
     */
    private fun masses(top: Double): DoubleArray {
        val each = DoubleArray(nodes.size)
        val least = DoubleArray(nodes.size) { Double.POSITIVE_INFINITY }
        val most = DoubleArray(nodes.size) { Double.NEGATIVE_INFINITY }
        val members = IntArray(nodes.size)
        for (b in 0 until size) {
            val i = owner[b]
            if (i < 0) continue
            each[i] += Math.exp(scores[b] - top)
            least[i] = minOf(least[i], affine.slope[b])
            most[i] = maxOf(most[i], affine.offset[b])
            members[i]++
        }
        return DoubleArray(nodes.size) {
            val spread = maxOf(0.0, 1 - least[it]) * Math.log(members[it].toDouble())
            val together = most[it] + least[it] * bounds[nodes[it]] + spread
            minOf(each[it], Math.exp(together - top))
        }
    }
}
