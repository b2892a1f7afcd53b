package dev.edgeb.core

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FileDescriptor
import java.io.FileInputStream
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.channels.FileChannel

private val ASKED = Moment(0)

/** A bundle answers the same wherever its bytes lie, and what cannot be read is refused in words. */
internal fun checkSources(path: File, scratch: File, natives: NativeEngines, checks: Checks) {
    val name = path.name
    val expected = Predictor.load(path, natives, ONE_THREAD).use { asked(it) }
    fun same(where: String, source: ModelSource) {
        checks.same("$where manifest", BundleFile.read(path).tensorsSha256, BundleFile.verify(source).tensorsSha256)
        Predictor.load(source, natives, ONE_THREAD).use { predictor ->
            for ((i, one) in asked(predictor).withIndex()) {
                checks.same("$where rank ${i + 1}", expected[i].behavior, one.behavior)
                checks.near("$where rank ${i + 1}", expected[i].probability, one.probability, 1e-5)
            }
        }
    }
    val bytes = path.readBytes()
    FileInputStream(path).use { same("$name open", ModelSource.descriptor(it.fd, 0, -1, name)) }
    // As assets lie in a package: at any place, with something behind them.
    val inside = File(scratch, "package-of-$name")
    for (start in listOf(64, 4096, 4, 7)) {
        val around = ByteArrayOutputStream()
        around.write(ByteArray(start) { 1 })
        around.write(bytes)
        around.write(ByteArray(100) { 2 })
        inside.writeBytes(around.toByteArray())
        RandomAccessFile(inside, "r").use { file ->
            file.seek(5)
            val source = ModelSource.descriptor(file.fd, start.toLong(), bytes.size.toLong(), name)
            same("$name from byte $start on", source)
        }
    }
    val direct = ByteBuffer.allocateDirect(bytes.size + 3)
    (direct as java.nio.Buffer).position(3)
    direct.put(bytes)
    (direct as java.nio.Buffer).position(3)
    same("$name in memory", ModelSource.buffer(direct, name))
    RandomAccessFile(path, "r").use { file ->
        val mapped = file.channel.map(FileChannel.MapMode.READ_ONLY, 0, file.length())
        same("$name mapped", ModelSource.buffer(mapped, name))
    }
    val isSequence = BundleFile.read(path).architecture in SEQUENCE_ARCHITECTURES
    if (isSequence) {
        same("$name in an array", ModelSource.buffer(ByteBuffer.wrap(bytes), name))
    } else {
        refused("$name in an array", ErrorCode.INVALID_ARGUMENT, checks) {
            Predictor.load(ModelSource.buffer(ByteBuffer.wrap(bytes), name), natives, ONE_THREAD)
        }
        refused("$name without engines", ErrorCode.ENGINE_MISSING, checks) {
            Predictor.load(path, NativeEngines.NONE, ONE_THREAD)
        }
    }
    refused("$name cut short", ErrorCode.DAMAGED, checks) {
        FileInputStream(path).use { BundleFile.verify(ModelSource.descriptor(it.fd, 0, bytes.size - 1L, name)) }
    }
    refused("$name from its middle on", ErrorCode.NOT_A_BUNDLE, checks) {
        FileInputStream(path).use { BundleFile.verify(ModelSource.descriptor(it.fd, bytes.size / 2L, -1, name)) }
    }
    refused("a closed descriptor", ErrorCode.UNREADABLE, checks) {
        BundleFile.verify(ModelSource.descriptor(FileDescriptor(), 0, -1, name))
    }
    refused("a stretch before the file", ErrorCode.INVALID_ARGUMENT, checks) {
        ModelSource.descriptor(FileDescriptor.`in`, -1, 1, name)
    }
    inside.delete()
}

/** Calls that are cancelled before, between and inside evaluations leave everything as it was. */
internal fun checkCancelling(path: File, scratch: File, natives: NativeEngines, checks: Checks) {
    val llama = natives.llama!!
    val cancelling = CancellingLlama(llama)
    val expected = Predictor.load(path, natives, ONE_THREAD).use { asked(it) }
    Predictor.load(path, NativeEngines(cancelling, natives.litert), ONE_THREAD).use { predictor ->
        val session = predictor.session()
        session.observe(BehaviorEvent("DK", ASKED, predictor.manifest.candidates.labels[0]))
        val before = CancelSignal()
        before.cancel()
        val asked = { signal: CancelSignal ->
            session.predict(ASKED, "DK", null, PredictOptions {
                source = Source.MODEL
                cancel = signal
            })
        }
        refused("cancelled before", ErrorCode.CANCELLED, checks) { asked(before) }
        refused("prepared after cancelling", ErrorCode.CANCELLED, checks) { session.prepare(before) }
        val alone = session.predict(ASKED, "DK", null, MODEL_ONLY).ranked.map { it.behavior }
        // The evaluation that is cancelled from inside, counted from the call's first.
        for ((after, ofParent) in (0..2).map { Pair(it, false) } + Pair(0, true)) {
            // Nothing of the prompt is held.
            predictor.predict(emptyList(), Moment(61L * after), "home", 1, MODEL_ONLY)
            val signal = CancelSignal()
            cancelling.signal = signal
            cancelling.left = after
            val cancelled = try {
                asked(if (ofParent) CancelSignal(signal) else signal)
                false
            } catch (error: EdgebException) {
                checks.same("code of what was cancelled in evaluation $after", ErrorCode.CANCELLED, error.code)
                true
            }
            cancelling.signal = null
            checks.same("cancelled in evaluation $after", signal.isCancelled, cancelled)
            if (after == 0) checks.same("the first evaluation was cancelled", true, cancelled)
            checks.same("events after cancelling", 1, session.events.size)
            val again = session.predict(ASKED, "DK", null, MODEL_ONLY)
            checks.same("ranks after cancelling in evaluation $after", alone, again.ranked.map { it.behavior })
        }
        for ((i, one) in asked(predictor).withIndex()) {
            checks.same("rank ${i + 1} after cancelling", expected[i].behavior, one.behavior)
        }
        checkCancelledBenchmark(predictor, cancelling, scratch, checks)
    }
}

/** A measurement ends inside an evaluation of any scenario, leaves no file, and measures all of it when asked again. */
private fun checkCancelledBenchmark(
    predictor: Predictor,
    cancelling: CancellingLlama,
    scratch: File,
    checks: Checks
) {
    val benchmark = Benchmark(predictor, 1, scratch)
    val kept = scratch.list()!!.toSet()
    for (wanted in listOf("session", "warm", "whole_prompt", "session_restore", "prefix_evaluate")) {
        val signal = CancelSignal()
        var scenario = ""
        cancelling.signal = signal
        val listener = object : Benchmark.Listener {
            override fun onScenario(name: String) {
                scenario = name
                // Its second evaluation.
                cancelling.left = if (name == wanted) 1 else -1
            }
        }
        refused("a measurement cancelled in $wanted", ErrorCode.CANCELLED, checks) { benchmark.run(listener, signal) }
        cancelling.signal = null
        checks.same("scenario that was cancelled", wanted, scenario)
        checks.same("evaluations after the one that was cancelled in $wanted", -1, cancelling.left)
        checks.same("files of a measurement cancelled in $wanted", kept, scratch.list()!!.toSet())
    }
    val rows = (Json.parse(benchmark.run(), "the benchmark") as Map<*, *>)["scenarios"] as Map<*, *>
    for ((name, row) in rows) {
        checks.same("samples of $name", 1, ((row as Map<*, *>)["samples_ms"] as List<*>).size)
    }
}

private fun asked(predictor: Predictor): List<Ranked> {
    val place = if (predictor.manifest.layout.places) "DK" else null
    val options = PredictOptions {
        source = Source.MODEL
        exhaustive = true
    }
    return predictor.predict(emptyList(), ASKED, place, null, options).ranked
}

private fun refused(where: String, code: ErrorCode, checks: Checks, work: () -> Unit) {
    val found = try {
        work()
        null
    } catch (error: EdgebException) {
        error.code
    }
    checks.same("code of $where", code, found)
}

/** llama.cpp that is cancelled while it evaluates, after `left` evaluations. */
private class CancellingLlama(private val llama: LlamaNative) : LlamaNative by llama {
    var signal: CancelSignal? = null
    var left = 0

    override fun open(model: ModelSource, options: NativeOptions): LlamaContext {
        val opened = llama.open(model, options)
        return object : LlamaContext by opened {
            override fun decode(batch: TokenBatch): Long {
                if (left-- == 0) signal?.cancel()
                return opened.decode(batch)
            }
        }
    }
}
