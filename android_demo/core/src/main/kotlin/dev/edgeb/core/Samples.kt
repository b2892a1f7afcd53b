package dev.edgeb.core

import java.io.File
import java.io.IOException

/** One timed prediction: wall time, tokens the model was run on, the engine's part of the time where it is known. */
internal class Sample(val ms: Double, val tokens: Int, val decodeMs: Double?)

/** JSON-ready summary of samples, with the names of edge_behavior/bench/timing.py. */
internal fun summary(samples: List<Sample>): Map<String, Any?> {
    val times = samples.map { it.ms }
    val outside = samples.mapNotNull { sample -> sample.decodeMs?.let { sample.ms - it } }
    val found = LinkedHashMap<String, Any?>()
    found["p50_ms"] = percentile(times, 50.0)
    found["p95_ms"] = percentile(times, 95.0)
    found["mean_ms"] = rounded(times.average())
    found["tokens_per_prediction"] = rounded(samples.map { it.tokens }.average())
    found["predictions"] = samples.size
    if (outside.isNotEmpty()) {
        found["overhead_ms"] = mapOf("p50" to percentile(outside, 50.0), "p95" to percentile(outside, 95.0))
    }
    found["samples_ms"] = times.map { rounded(it) }
    return found
}

/** Percentile with linear interpolation. */
internal fun percentile(values: List<Double>, share: Double): Double {
    val sorted = values.sorted()
    val at = (sorted.size - 1) * share / 100
    val below = sorted[Math.floor(at).toInt()]
    val above = sorted[Math.ceil(at).toInt()]
    return rounded(below + (above - below) * (at - Math.floor(at)))
}

/** Peak resident memory of this process, mapped file pages included; null where the system does not say. */
internal fun peakRssBytes(): Long? =
    lines("/proc/self/status").firstOrNull { it.startsWith("VmHWM:") }
        ?.let { line -> line.split(' ', '\t').mapNotNull { it.toLongOrNull() }.firstOrNull() }?.times(1024)

/** What the numbers were measured on. */
internal fun machine(engine: Engine): Map<String, Any?> = mapOf(
    "system" to System.getProperty("os.name"),
    "processor" to processor(),
    "cores" to Runtime.getRuntime().availableProcessors(),
    "threads" to engine.threads,
    "virtual_machine" to "${System.getProperty("java.vm.name")} ${System.getProperty("java.vm.version")}",
    "engine" to engine.backend.fingerprint,
    "accelerator" to engine.backend.accelerator.text,
    "accelerator_refused" to engine.refused,
    "cpu_variant" to cpuVariant()
)

/** Which of llama.cpp's libraries per CPU generation this process loaded; null where they are not built so. */
internal fun cpuVariant(): String? =
    lines("/proc/self/maps").map { it.substringAfterLast('/') }.firstOrNull { it.startsWith("libggml-cpu-") }

private fun processor(): String {
    val named = lines("/proc/cpuinfo").firstOrNull { it.startsWith("model name") || it.startsWith("Hardware") }
    val name = named?.substringAfter(':')?.trim()
    val architecture = System.getProperty("os.arch").orEmpty()
    return if (name == null) architecture else "$name ($architecture)"
}

private fun lines(path: String): List<String> =
    try {
        File(path).readLines()
    } catch (error: IOException) {
        emptyList()
    }

private fun rounded(value: Double): Double = Math.round(value * 1000) / 1000.0
