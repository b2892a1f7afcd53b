package dev.edgeb.core

import dev.edgeb.runtime.LiteRtJni
import dev.edgeb.runtime.LlamaJni
import java.io.File

private const val SCHEMA = 1L

/** The phone's code does not do what Python does: where, and what each says. */
internal class Difference(where: String, expected: Any?, found: Any?) :
    Exception("$where\n  expected: ${shown(expected)}\n  found:    ${shown(found)}")

/**
 * How closely numbers have to agree.
 *
 * @property probability Largest difference of a probability. Candidates whose probabilities differ by less may change
 *   places.
 * @property sameCpu The goldens were made by the same llama.cpp on the same CPU, so that the costs agree, too. Another
 *   CPU's rounding may lead the search to other nodes.
 */
internal class Tolerance(val probability: Double, val sameCpu: Boolean)

/** Counts what agrees; the first thing that does not ends the run. */
internal class Checks {
    var made = 0
        private set

    /** Largest difference that `near` has seen. */
    var largest = 0.0
        private set

    fun same(where: String, expected: Any?, found: Any?) {
        made++
        if (expected != found) throw Difference(where, expected, found)
    }

    fun near(where: String, expected: Double, found: Double, tolerance: Double) {
        made++
        largest = maxOf(largest, Math.abs(expected - found))
        if (!(Math.abs(expected - found) <= tolerance)) throw Difference("$where (to $tolerance)", expected, found)
    }

    /** `work` has to end in an EdgebException whose message matches. */
    fun refused(where: String, reason: Regex, work: () -> Unit) {
        made++
        try {
            work()
        } catch (error: EdgebException) {
            if (reason.containsMatchIn(error.message.orEmpty())) return
            throw Difference(where, "an error with '$reason'", error)
        }
        throw Difference(where, "an error with '$reason'", "none")
    }
}

/** One thread: what it adds up first does not depend on who is faster. */
internal val ONE_THREAD = LoadOptions { threads = 1 }

/**
 * Reproduces golden.json, which tests/android/goldens.py or litert_goldens.py wrote:
 * conformance FOLDER [TOLERANCE [BACKENDS [LITERT]]].
 *
 * TOLERANCE other than 0 is for another CPU than the goldens were made on. BACKENDS is the folder of llama.cpp's CPU
 * variants, - for none; LITERT is LiteRT's library, for goldens of its bundles. Exits with 1 at the first difference.
 */
fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    val given = if (arguments.size > 1) arguments[1].toDouble() else 0.0
    val tolerance = if (given > 0) Tolerance(given, false) else Tolerance(1e-5, true)
    val checks = Checks()
    val scratch = File.createTempFile("edgeb-conformance", "")
    try {
        // The goldens are read only, so that several runs may share them.
        scratch.delete()
        scratch.mkdirs()
        val golden = Json.parse(File(folder, "golden.json").readText(), "golden.json")
        val fields = Fields(
            golden,
            listOf(
                "schema", "places", "labels", "orders", "times", "bad_times", "litert", "bundles", "refused", "bench"
            ),
            "golden.json"
        )
        checks.same("schema", SCHEMA, fields.long("schema"))
        checkText(fields, checks)
        checkJson(checks)
        checkLiteRtVectors(fields.any("litert"), checks)
        checkNpu(Fields(fields.any("litert"), LITERT_FIELDS, "litert").any("accelerators"), scratch, checks)
        checkRefused(folder, fields, checks)
        checkLiteRtDamage(File(folder, "good.tflite"), File(scratch, "damaged.tflite"), checks)
        val llama = LlamaJni(if (arguments.size > 2 && arguments[2] != "-") File(arguments[2]) else null)
        val litert = if (arguments.size > 3) File(arguments[3]).let { LiteRtJni(it.path, it.parentFile) } else null
        val natives = NativeEngines(llama, litert)
        println("engine: ${litert?.version ?: llama.version}")
        println("CPU variant: ${cpuVariant() ?: "built in"}")
        checkNative(folder, llama, checks)
        for (bundle in listOf("stream.gguf", "sasrec.gguf", "stream.tflite").map { File(folder, it) }) {
            if (bundle.exists() && (bundle.extension == "gguf" || litert != null)) {
                checkSources(bundle, scratch, natives, checks)
            }
        }
        if (litert == null) checkCancelling(File(folder, "stream.gguf"), scratch, natives, checks)
        if (litert != null) {
            checkLiteRt(folder, scratch, natives, litert, checks)
            checkNpuLibrary(File(arguments[3]), File(folder, "stream.tflite"), scratch, checks)
        }
        for (bundle in fields.list("bundles")) {
            val before = checks.made
            val check = BundleCheck(folder, scratch, bundle, natives, tolerance, checks)
            check.run()
            println("${check.name}: ${checks.made - before} checks")
        }
        checkBench(folder, scratch, fields, natives, checks)
        println("largest difference of a probability: ${Math.round(checks.largest * 1e6) / 1e6}")
        println("all ${checks.made} checks agree")
    } catch (difference: Difference) {
        System.err.println("difference after ${checks.made} checks: ${difference.message}")
        scratch.deleteRecursively()
        System.exit(1)
    }
    scratch.deleteRecursively()
}

private fun checkText(fields: Fields, checks: Checks) {
    for (pair in fields.list("places")) {
        val (raw, clean) = pair as List<*>
        checks.same("place '$raw'", clean, cleanPlace(raw as String))
    }
    for (pair in fields.list("labels")) {
        val (raw, clean) = pair as List<*>
        checks.same("label '$raw'", clean, cleanLabelOrNull(raw as String))
    }
    for (entry in fields.list("orders")) {
        val order = Fields(entry, listOf("times", "error"), "orders")
        val events = order.list("times").map { BehaviorEvent("home", Moment.parse(it as String), "Video") }
        val error = try {
            EventOrder.check(events)
            null
        } catch (refused: EdgebException) {
            refused.message
        }
        checks.same("order of ${order.list("times")}", order.any("error"), error)
    }
    for (entry in fields.list("times")) {
        val time = Fields(entry, listOf("text", "minutes", "weekday", "hour"), "times")
        val moment = Moment.parse(time.string("text"))
        checks.same("minutes of $moment", time.long("minutes"), moment.minutes)
        checks.same("text of $moment", time.string("text"), moment.format())
        checks.same("weekday of $moment", time.int("weekday"), moment.dayOfWeek)
        checks.same("hour of $moment", time.int("hour"), moment.hour)
    }
    for ((zone, shown) in listOf(
        Pair("UTC", "2024-03-31T00:59"),
        Pair("Asia/Kolkata", "2024-03-31T06:29"),
        Pair("Europe/Paris", "2024-03-31T01:59")
    )) {
        val moment = Moment.at(1_711_846_799_999, java.util.TimeZone.getTimeZone(zone))
        checks.same("clock in $zone", shown, moment.format())
    }
    for (text in fields.list("bad_times")) {
        checks.refused("time '$text'", Regex("not a local time|does not exist")) { Moment.parse(text as String) }
    }
}

private fun checkJson(checks: Checks) {
    val value = mapOf("a\n\u0000" to listOf(1L, -2.5e-7, true, null, "é 東 🎮 \" \\ /"), "b" to emptyMap<String, Any?>())
    checks.same("JSON there and back", value, Json.parse(Json.write(value), "json"))
    checks.same("JSON escapes", "🎮/\t", Json.parse("\"\\ud83c\\uDFAE\\/\\t\"", "json"))
    val numbers = listOf<Pair<String, Any>>(
        "0" to 0L, "-0" to 0L, "-12" to -12L, "9223372036854775807" to Long.MAX_VALUE,
        "-9223372036854775808" to Long.MIN_VALUE, "9223372036854775808" to 9223372036854775808.0, "0.5" to 0.5,
        "1.0" to 1.0, "-2.50e-3" to -0.0025, "1E+2" to 100.0, "0e0" to 0.0, "1e400" to Double.POSITIVE_INFINITY
    )
    for ((text, number) in numbers) {
        checks.same("JSON number $text", number, Json.parse(text, "json"))
        checks.same("JSON number $text in a list", listOf(number, number), Json.parse("[$text,$text ]", "json"))
    }
    val bad = listOf(
        "",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "nul",
        "01",
        "1.",
        "1.e5",
        ".5",
        "+1",
        "1e",
        "1e+",
        "-a",
        "--1",
        "1 2",
        "[1.]",
        "[00]",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "[1] 2",
        "NaN",
        "[".repeat(200),
        "{1:2}",
        "-"
    )
    for (text in bad) checks.refused("JSON $text", Regex("not JSON")) { Json.parse(text, "json") }
}

private fun checkRefused(folder: File, fields: Fields, checks: Checks) {
    for (entry in fields.list("refused")) {
        val (name, reason) = entry as List<*>
        checks.refused("$name", Regex(reason as String)) { BundleFile.verify(File(folder, name as String)) }
    }
    checks.refused("tensors that share bytes", Regex("tensors overlap")) {
        SequenceFile.read(ModelSource.file(File(folder, "overlapping.gguf")))
    }
    checks.refused("a manifest of another model", Regex("'layout.history_length' is not the model's")) {
        Predictor.load(File(folder, "mismatched.gguf"), NativeEngines.NONE)
    }
    checks.refused("a missing file", Regex("cannot read")) { BundleFile.verify(File(folder, "none.gguf")) }
    checks.refused("a folder", Regex("is a folder")) { BundleFile.verify(folder) }
}

/** The benchmark measures every scenario, and names its fields as `edgeb bench --json` does. */
private fun checkBench(folder: File, scratch: File, fields: Fields, natives: NativeEngines, checks: Checks) {
    val bench = Fields(fields.any("bench"), listOf("file", "result", "row", "scenarios", "own"), "bench")
    Predictor.load(File(folder, bench.string("file")), natives, ONE_THREAD).use { predictor ->
        val result = Json.parse(Benchmark(predictor, 3, scratch).run(), "the benchmark") as Map<*, *>
        checks.same("benchmark's fields", bench.list("result"), result.keys.toList())
        val rows = result["scenarios"] as Map<*, *>
        val known = bench.list("scenarios") + bench.list("own")
        for ((name, row) in rows) {
            checks.same("benchmark has '$name'", true, name in known)
            val wanted = if ("$name".startsWith("prefix")) bench.list("row") - "overhead_ms" else bench.list("row")
            checks.same("benchmark's fields of $name", wanted, (row as Map<*, *>).keys.toList())
            checks.same("benchmark's samples of $name", 3, (row["samples_ms"] as List<*>).size)
        }
        checks.same(
            "benchmark's scenarios",
            setOf("session", "session_top5", "session_full", "warm", "prefix_evaluate", "prefix_restore") +
                bench.list("own"),
            rows.keys
        )
    }
    checks.near("percentile", 2.9, percentile(listOf(3.0, 1.0, 2.0), 95.0), 1e-9)
}

private fun shown(value: Any?): String {
    val text = value.toString()
    return if (text.length > 2000) text.substring(0, 2000) + "…" else text
}
