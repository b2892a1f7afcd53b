package dev.edgeb.core

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

// Python computes cosines in float32, this library in double.
private const val ROTATION_TOLERANCE = 2e-7
internal val LITERT_FIELDS = listOf("numbers", "graphs", "masks", "first_masks", "rotations", "accelerators")

/** What surrounds LiteRT's calls, without LiteRT: plans, masks and rotations of tests/android/litert_cases.py. */
internal fun checkLiteRtVectors(vectors: Any?, checks: Checks) {
    val fields = Fields(vectors, LITERT_FIELDS, "litert")
    for (pair in fields.list("numbers")) {
        val (number, text) = pair as List<*>
        checks.same("Python's text of $text", text, pythonText((number as Number).toDouble()))
    }
    for (entry in fields.list("graphs")) {
        val known = Fields(entry, listOf("graph", "canonical", "plans", "npu", "probes"), "graphs")
        val graph = LiteRtGraph.of(known.any("graph"), "graph")
        checks.same("canonical graph", known.string("canonical"), graph.canonical())
        val planner = CallPlanner.of(graph)
        for (plan in known.list("plans")) {
            val (count, beginning, calls) = plan as List<*>
            val found = listed(planner.plan(int(count), int(beginning)))
            checks.same("calls for $count tokens, $beginning of them a beginning", calls, found)
        }
        val onNpu = CallPlanner.of(graph.inCallsOf(graph.sizes.last()))
        for (plan in known.list("npu")) {
            val (count, calls) = plan as List<*>
            checks.same("calls of one size for $count tokens", calls, listed(onNpu.plan(int(count), 0)))
        }
        for (plan in known.list("probes")) {
            val (count, calls) = plan as List<*>
            val found = probePlans(graph, int(count)).map { listed(it) }.toList()
            checks.same("calls for $count known rows", calls, found)
        }
    }
    for (mask in fields.list("masks")) checkMask(mask, checks)
    for (mask in fields.list("first_masks")) {
        val known = Fields(mask, listOf("size", "window", "seen"), "first mask")
        val size = known.int("size")
        val found = floats(size * size)
        writeFirstMask(found, size, known.intOrNull("window"))
        checkSeen("first mask of $size", known.list("seen"), found, size, checks)
    }
    checkRotations(fields.any("rotations"), checks)
}

private fun listed(calls: List<Call>) =
    calls.map { listOf(it.size.toLong(), it.first, it.start.toLong(), it.stop.toLong()) }

private fun checkMask(entry: Any?, checks: Checks) {
    val names = listOf("size", "cache", "positions", "slots", "first", "others", "held", "window", "seen")
    val known = Fields(entry, names, "mask")
    val size = known.int("size")
    val cache = known.int("cache")
    val slots = ints(known.any("slots"))
    val tokens = LiteRtTokens(
        IntArray(slots.size), ints(known.any("positions")), slots, ints(known.any("first")),
        known.list("others").map { ints(it) }
    )
    val mask = floats(size * (cache + size))
    writeMask(mask, size, cache, tokens, ints(known.any("held")), known.intOrNull("window"))
    checkSeen("mask of ${slots.toList()}", known.list("seen"), mask, cache + size, checks)
}

/** Which columns the rows of a mask see. */
private fun checkSeen(where: String, expected: List<Any?>, mask: FloatBuffer, width: Int, checks: Checks) {
    val found = List(mask.capacity() / width) { row ->
        (0 until width).filter { mask.get(row * width + it) == 0f }.map { it.toLong() }
    }
    checks.same(where, expected, found)
    for (i in 0 until mask.capacity()) checks.same("$where at $i", true, mask.get(i) == 0f || mask.get(i) == MASKED)
}

private fun checkRotations(entry: Any?, checks: Checks) {
    val known = Fields(entry, listOf("rope", "positions", "cosines", "sines"), "rotations")
    val rope = known.list("rope").map { it as Double }.toDoubleArray()
    val positions = ints(known.any("positions"))
    val rotations = Rotations(rope, positions.last() + 1)
    val width = 2 * rope.size
    // One row more than positions: padding has position 0's.
    val cosines = floats((positions.size + 1) * width)
    val sines = floats((positions.size + 1) * width)
    rotations.write(cosines, sines, positions.size + 1, positions)
    for ((name, found) in listOf(Pair("cosines", cosines), Pair("sines", sines))) {
        known.list(name).forEachIndexed { i, row ->
            (row as List<*>).forEachIndexed { k, expected ->
                val value = found.get(i * width + k).toDouble()
                checks.near("$name of ${positions[i]}", (expected as Number).toDouble(), value, ROTATION_TOLERANCE)
            }
        }
        for (k in 0 until width) checks.same("$name of padding", found.get(k), found.get(positions.size * width + k))
    }
}

/** A bundle with any one byte of its archive changed is refused, or is the same bundle: dates decide nothing. */
internal fun checkLiteRtDamage(good: File, damaged: File, checks: Checks) {
    val manifest = BundleFile.verify(good)
    val content = good.readBytes()
    for (at in 0 until content.size step 3) {
        val bytes = content.copyOf()
        bytes[at] = (bytes[at].toInt() xor (1 shl (at % 8))).toByte()
        damaged.writeBytes(bytes)
        try {
            val found = BundleFile.verify(damaged)
            checks.same("bundle with byte $at changed", manifest.tensorsSha256, found.tensorsSha256)
        } catch (refused: EdgebException) {
            continue
        }
    }
    for (end in 0 until content.size step 97) {
        damaged.writeBytes(content.copyOf(end))
        checks.refused("bundle cut at $end", Regex("cut short|not a GGUF")) { BundleFile.verify(damaged) }
    }
    damaged.delete()
}

private fun floats(count: Int) = ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder()).asFloatBuffer()

private fun int(value: Any?): Int = (value as Long).toInt()

private fun ints(value: Any?): IntArray = (value as List<*>).map { int(it) }.toIntArray()
