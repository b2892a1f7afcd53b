package dev.edgeb.core

/**
 * The engine of sequence models: a forward pass in Kotlin, no llama.cpp.
 *
 * Tokens are those of `EventTokens`; what it counts as evaluated are positions, events and the start. It keeps no cache
 * but the ids of the prompt: every call evaluates its prompt whole.
 */
internal class SequenceBackend(file: SequenceFile) : Backend {
    private val shape = file.shape
    private val tokens = EventTokens(shape, file.labels, file.places)
    private val network = SequenceNetwork(shape, file.tensors)
    private var ahead: Ahead? = null
    private var logits = DoubleArray(0)
    private var nanos = 0L

    @Volatile
    private var interrupted = false

    override var held: IntArray = IntArray(0)
        private set

    override val vocabularySize: Int
        get() = tokens.size

    override val capacity: Int
        get() = tokens.capacity

    override val fingerprint: String
        get() = "kotlin, ${shape.architecture}"

    override val kind = EngineKind.KOTLIN

    override val version: String
        get() = "edgeb's Kotlin"

    override val accelerator = Accelerator.CPU

    override val decodeMs: Double
        get() = nanos / 1e6

    override fun tokenize(text: String): IntArray = tokens.encode(text)

    override fun prefill(ids: IntArray, ahead: Ahead?): Int {
        reusable(IntArray(0), ids, capacity)
        val (row, count) = evaluate(ids)
        logits = row
        held = ids.copyOf()
        this.ahead = ahead
        return count
    }

    override fun root(): DoubleArray = read(logits, 0)

    override fun branch(nodes: List<Int>): Pair<List<DoubleArray>, Int> {
        val trie = ahead!!.trie
        var count = 0
        val rows = nodes.map { node ->
            val (row, evaluated) = evaluate(held + trie.ancestors(node).map { trie.tokens[it] })
            count += evaluated
            read(row, node)
        }
        return Pair(rows, count)
    }

    override fun atHand(): Set<Int> = emptySet()

    override fun saveState() = ByteArray(0)

    override fun loadState(ids: IntArray, state: ByteArray): Boolean {
        held = IntArray(0)
        return false
    }

    override fun interrupt() {
        interrupted = true
    }

    override fun resume() {
        interrupted = false
    }

    override fun close() {}

    /** Logits of the candidates after some ids, and the positions evaluated. */
    private fun evaluate(ids: IntArray): Pair<DoubleArray, Int> {
        check()
        val started = System.nanoTime()
        val at = tokens.positions(ids)
        val events = at.behavior.count { it != tokens.start }
        if (events > shape.length || at.behavior.size > shape.length + 1) {
            throw EdgebException(
                "the prompt has $events events, the model takes ${shape.length}", "shorten the history",
                ErrorCode.PROMPT_TOO_LONG
            )
        }
        val row = network.logits(at) { check() }
        check()
        nanos += System.nanoTime() - started
        return Pair(row, at.behavior.size)
    }

    private fun check() {
        if (interrupted) throw EdgebException("the call was cancelled", "call again", ErrorCode.CANCELLED)
    }

    /** Log-probabilities of the tokens that are read of a node's row; what is no candidate has none. */
    private fun read(row: DoubleArray, node: Int): DoubleArray {
        val reading = ahead!!.reading
        val wanted = reading.tokens(node)
        val scores = DoubleArray(wanted.size) {
            if (wanted[it] < row.size) row[wanted[it]] else Double.NEGATIVE_INFINITY
        }
        if (reading.scoring == Scoring.MASKED) return logSoftmax(scores)
        val total = logSumExp(row)
        return DoubleArray(scores.size) { scores[it] - total }
    }
}
