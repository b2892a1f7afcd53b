package dev.edgeb.core

/**
 * The label trie: all candidate labels as token paths that share their beginnings.
 *
 * Node 0 is the root (the end of the prompt). Nodes are sorted by depth, so a parent precedes its children, and
 * siblings are contiguous. Knows token ids only.
 *
 * @property tokens Token id per node; -1 for the root.
 * @property parents Parent node per node; -1 for the root.
 * @property depths Depth per node.
 * @property candidates Candidate index per node where a path ends there, else -1.
 * @property leaves Node where each candidate's path ends.
 * @property inner Nodes that have children, root first.
 */
internal class LabelTrie private constructor(
    val tokens: IntArray,
    val parents: IntArray,
    val depths: IntArray,
    val candidates: IntArray,
    val leaves: IntArray,
    val inner: IntArray
) {
    /** Number of nodes. */
    val size: Int
        get() = tokens.size

    /** Nodes from just below the root down to `node`. */
    fun ancestors(node: Int): List<Int> {
        val found = ArrayList<Int>()
        var at = node
        while (at > 0) {
            found.add(at)
            at = parents[at]
        }
        found.reverse()
        return found
    }

    companion object {
        /**
         * Build from one token path per candidate, in candidate order.
         *
         * @throws EdgebException a path is empty, equals another, or is a prefix of another.
         */
        fun of(paths: List<IntArray>): LabelTrie {
            if (paths.size == 0 || paths.any { it.size == 0 }) {
                throw EdgebException("a candidate has no tokens", DAMAGED_HINT, ErrorCode.DAMAGED)
            }
            val tokens = arrayListOf(-1)
            val parents = arrayListOf(-1)
            val depths = arrayListOf(0)
            val ends = arrayListOf(-1)
            val reached = IntArray(paths.size)
            // Sorted paths make the children of a node contiguous at every depth.
            val order = paths.indices.sortedWith(Comparator { a, b -> compare(paths[a], paths[b]) })
            for (depth in 0 until paths.map { it.size }.sorted().last()) {
                val children = HashMap<Pair<Int, Int>, Int>()
                for (i in order) {
                    if (depth >= paths[i].size) continue
                    val node = reached[i]
                    if (ends[node] >= 0) {
                        throw EdgebException(
                            "candidate ${ends[node]} is a token prefix of candidate $i", "rename one label",
                            ErrorCode.DAMAGED
                        )
                    }
                    reached[i] = children.getOrPut(Pair(node, paths[i][depth])) {
                        tokens.add(paths[i][depth])
                        parents.add(node)
                        depths.add(depth + 1)
                        ends.add(-1)
                        tokens.size - 1
                    }
                }
                for (i in paths.indices) {
                    if (paths[i].size != depth + 1) continue
                    if (ends[reached[i]] >= 0) {
                        throw EdgebException(
                            "candidates ${ends[reached[i]]} and $i have the same tokens", "rename one",
                            ErrorCode.DAMAGED
                        )
                    }
                    ends[reached[i]] = i
                }
            }
            val inner = parents.drop(1).distinct().sorted()
            return LabelTrie(
                tokens.toIntArray(), parents.toIntArray(), depths.toIntArray(), ends.toIntArray(), reached,
                inner.toIntArray()
            )
        }

        private fun compare(a: IntArray, b: IntArray): Int {
            for (i in 0 until minOf(a.size, b.size)) if (a[i] != b[i]) return a[i].compareTo(b[i])
            return a.size.compareTo(b.size)
        }
    }
}
