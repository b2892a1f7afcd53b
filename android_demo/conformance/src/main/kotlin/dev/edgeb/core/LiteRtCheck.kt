package dev.edgeb.core

import dev.edgeb.runtime.LiteRtJni
import java.io.File
import java.nio.ByteBuffer

/** What LiteRT's native side does with impossible arguments, and what a predictor does when LiteRT fails. */
internal fun checkLiteRt(folder: File, scratch: File, natives: NativeEngines, litert: LiteRtJni, checks: Checks) {
    val path = File(folder, "stream.tflite")
    val source = ModelSource.file(path)
    val options = LiteRtOptions(1, Accelerator.CPU)
    checks.refused("a file that is no model", Regex("cannot load")) {
        litert.open(ModelSource.file(File(folder, "bad-stock.tflite")), options)
    }
    checks.refused("no threads", Regex("impossible")) { litert.open(source, options.copy(threads = 0)) }
    val graph = LiteRtFile(source).use { it.graph }
    val model = litert.open(source, options)
    val size = graph.sizes[0]
    fun array(tensor: LiteRtTensor) = LiteRtArray(tensor, model.memory(4 * tensor.size))
    val tokens = array(graph.tokens(size))
    val embeddings = array(graph.embeddings(size))
    val name = graph.embedName(size)
    checks.refused("no memory", Regex("impossible")) { model.memory(0) }
    checks.refused("a signature that is none", Regex("has no signature 'x'")) { model.bind("x", listOf(), listOf()) }
    checks.refused("no input", Regex("not as the bundle says")) { model.bind(name, listOf(), listOf(embeddings)) }
    checks.refused("no output", Regex("not as the bundle says")) { model.bind(name, listOf(tokens), listOf()) }
    val longer = intArrayOf(1, size + 1)
    for (shape in listOf(longer, intArrayOf(size), intArrayOf(1, 0), intArrayOf(1, -1), IntArray(9) { 1 })) {
        val other = LiteRtArray(LiteRtTensor("tokens", shape, whole = true), tokens.memory)
        checks.refused("tokens of shape ${shape.toList()}", Regex("another shape")) {
            model.bind(name, listOf(other), listOf(embeddings))
        }
    }
    val floats = LiteRtArray(LiteRtTensor("tokens", intArrayOf(1, size)), tokens.memory)
    checks.refused("tokens of another type", Regex("another shape or type")) {
        model.bind(name, listOf(floats), listOf(embeddings))
    }
    val foreign = LiteRtArray(tokens.tensor, ByteBuffer.allocateDirect(4 * size))
    checks.refused("memory of another", Regex("not the model's")) {
        model.bind(name, listOf(foreign), listOf(embeddings))
    }
    checks.refused("what is not bound", Regex("not bound")) { model.run(0) }
    val bound = model.bind(name, listOf(tokens), listOf(embeddings))
    checks.same("time of a run", true, model.run(bound) >= 0)
    model.interrupt(true)
    checks.refused("a run that is interrupted", Regex("was cancelled")) { model.run(bound) }
    model.interrupt(false)
    checks.same("time of a run after it", true, model.run(bound) >= 0)
    checks.refused("a number too large", Regex("not bound")) { model.run(bound + 1) }
    fun read(width: Int, row: Int, token: Int) = model.readRows(
        embeddings.memory, width, intArrayOf(row), intArrayOf(0, 1), intArrayOf(token), FloatArray(1), DoubleArray(1)
    )
    read(graph.hidden, 0, graph.hidden - 1)
    checks.refused("a row too large", Regex("no logits")) { read(graph.hidden, size, 0) }
    checks.refused("a negative row", Regex("no logits")) { read(graph.hidden, -1, 0) }
    checks.refused("a token too large", Regex("does not exist")) { read(graph.hidden, 0, graph.hidden) }
    for (width in listOf(0, -1, graph.hidden + 1)) {
        checks.refused("rows of $width", Regex("impossible")) { read(width, 0, 0) }
    }
    model.close()
    model.close()
    checks.refused("a closed model", Regex("closed")) { model.run(bound) }
    checkFailures(path, natives, litert, checks)
    checkAccelerators(path, scratch, natives, litert, checks)
    checks.refused("the NPU of an app without its libraries", Regex("packages no libraries for the NPU")) {
        litert.open(source, options.copy(accelerator = Accelerator.NPU))
    }
}

/** A run that fails leaves an empty cache, not a wrong answer. */
private fun checkFailures(path: File, natives: NativeEngines, litert: LiteRtNative, checks: Checks) {
    val failing = FailingLiteRt(litert)
    val asked = { predictor: Predictor, minutes: Long ->
        predictor.predict(emptyList(), Moment(minutes), "DK", 3, MODEL_ONLY).ranked
    }
    val expected = Predictor.load(path, natives, ONE_THREAD).use { predictor -> List(2) { asked(predictor, 61L * it) } }
    Predictor.load(path, NativeEngines(natives.llama, failing), ONE_THREAD).use { predictor ->
        for (left in listOf(0, 1, 3, 4)) {
            failing.left = left
            checks.refused("a run that fails after $left", Regex("out of order")) {
                for (i in 0..9) asked(predictor, 61L * i)
            }
            failing.left = -1
            for ((i, ranked) in expected.withIndex()) {
                checks.same(
                    "ranks after a failure", ranked.map { it.behavior }, asked(predictor, 61L * i).map { it.behavior }
                )
            }
        }
    }
}

/** The accelerator asked for, or an error; the CPU instead only where that was allowed. */
private fun checkAccelerators(
    path: File,
    scratch: File,
    natives: NativeEngines,
    litert: LiteRtNative,
    checks: Checks
) {
    val refusing = FailingLiteRt(litert)
    val gpu = ONE_THREAD.with { accelerator = Accelerator.GPU }
    checks.refused("an accelerator that refuses", Regex("takes only a part")) {
        Predictor.load(path, NativeEngines(natives.llama, refusing), gpu)
    }
    Predictor.load(path, NativeEngines(natives.llama, refusing), gpu.with { fallback = true }).use { predictor ->
        checks.same("accelerator after the fallback", Accelerator.CPU, predictor.engineInfo.accelerator)
        val answer = predictor.predict(emptyList(), Moment(0), "DK", 1, MODEL_ONLY)
        checks.same("accelerator of an answer", Accelerator.CPU, answer.accelerator)
        val habits = predictor.predict(emptyList(), Moment(0), "DK", 1, PredictOptions { source = Source.HABITS })
        checks.same("accelerator of habits", null, habits.accelerator)
    }
    checkNoise(path, natives, litert, checks)
    checkNpuAnswers(File(path.parentFile, "npu.tflite"), scratch, natives, litert, checks)
    checks.refused("a bundle without its engine", Regex("LiteRT was not given")) {
        Predictor.load(path, NativeEngines(natives.llama))
    }
}

/** An accelerator that reports success and answers noise is found out; one that computes the same is taken. */
private fun checkNoise(path: File, natives: NativeEngines, litert: LiteRtNative, checks: Checks) {
    val gpu = ONE_THREAD.with { accelerator = Accelerator.GPU }
    val asked = { predictor: Predictor ->
        predictor.predict(emptyList(), Moment(0), "DK", 3, MODEL_ONLY)
    }
    val expected = Predictor.load(path, natives, ONE_THREAD).use(asked).ranked.map { it.behavior }
    val noisy = OtherLiteRt(litert, isNoisy = true)
    checks.refused("an accelerator that answers noise", Regex("other answers than the CPU")) {
        Predictor.load(path, NativeEngines(natives.llama, noisy), gpu)
    }
    val cases = listOf(Pair(noisy, Accelerator.CPU), Pair(OtherLiteRt(litert, isNoisy = false), Accelerator.GPU))
    for ((native, on) in cases) {
        Predictor.load(path, NativeEngines(natives.llama, native), gpu.with { fallback = true }).use { predictor ->
            val answer = asked(predictor)
            checks.same("accelerator", on, answer.accelerator)
            checks.same("answer on ${on.text}", expected, answer.ranked.map { it.behavior })
        }
    }
}

/** An NPU that computes the known rows answers, and says so; one that does not gives way to the CPU, and says why. */
private fun checkNpuAnswers(path: File, scratch: File, natives: NativeEngines, litert: LiteRtNative, checks: Checks) {
    val libraries = npuLibraries(File(scratch, "answers"), "sm8650")
    val onNpu = ONE_THREAD.with {
        accelerator = Accelerator.NPU
        npu = NpuOptions("SM8650")
    }
    val asked = { predictor: Predictor -> predictor.predict(emptyList(), Moment(0), "DK", 3, MODEL_ONLY) }
    val expected = Predictor.load(path, natives, ONE_THREAD).use(asked).ranked.map { it.behavior }
    val good = NpuOnCpu(litert, path, libraries)
    Predictor.load(path, NativeEngines(natives.llama, good), onNpu).use { predictor ->
        val answer = asked(predictor)
        checks.same("answer on an NPU", expected, answer.ranked.map { it.behavior })
        checks.same("what answered", Accelerator.NPU, answer.accelerator)
        checks.same("its name", "${litert.version}, QNN 2.51.0 on v75 on the npu", "${predictor.engineInfo}")
    }
    val noisy = OtherLiteRt(good, isNoisy = true)
    checks.refused("an NPU that answers noise", Regex("npu computes other answers than the CPU in calls of 8 tokens")) {
        Predictor.load(path, NativeEngines(natives.llama, noisy), onNpu)
    }
    val cases = listOf(
        Triple(noisy, "SM8650", "computes other answers"), Triple(good, "SM8550", "no context for sm8550"),
        Triple(good, "Tensor G5", "no contexts for the chip 'Tensor G5'")
    )
    for ((native, chip, why) in cases) {
        val options = onNpu.with {
            npu = NpuOptions(chip)
            fallback = true
        }
        Predictor.load(path, NativeEngines(natives.llama, native), options).use { predictor ->
            checks.same("what answered instead", Accelerator.CPU, asked(predictor).accelerator)
            checks.same("the reason", true, why in predictor.engineInfo.refused.orEmpty())
        }
    }
}

/** LiteRT's own refusal, in an environment that looks for a vendor's library: what lies there is none. */
internal fun checkNpuLibrary(library: File, path: File, scratch: File, checks: Checks) {
    val litert = LiteRtJni(library.path, library.parentFile, npuLibraries(File(scratch, "no-libraries"), "sm8650"))
    checks.refused("an NPU that is none", Regex("the NPU (does not take|takes only a part of) the model")) {
        litert.open(ModelSource.file(path), LiteRtOptions(1, Accelerator.NPU))
    }
    litert.open(ModelSource.file(path), LiteRtOptions(1, Accelerator.CPU)).close()
}

/** LiteRT whose GPU is the CPU, or whose accelerators give every logit to the token's neighbour. */
private class OtherLiteRt(private val litert: LiteRtNative, private val isNoisy: Boolean) : LiteRtNative {
    override val version = litert.version
    override val npuLibraries: File? = litert.npuLibraries

    override fun open(model: ModelSource, options: LiteRtOptions): LiteRtModel {
        val isGpu = options.accelerator == Accelerator.GPU
        val opened = litert.open(model, if (isGpu) options.copy(accelerator = Accelerator.CPU) else options)
        if (options.accelerator == Accelerator.CPU || !isNoisy) return opened
        return object : LiteRtModel by opened {
            override fun readRows(
                memory: ByteBuffer,
                width: Int,
                rows: IntArray,
                starts: IntArray,
                tokens: IntArray,
                logits: FloatArray,
                logSumExp: DoubleArray?
            ) {
                val others = IntArray(tokens.size) { (tokens[it] + 1) % width }
                opened.readRows(memory, width, rows, starts, others, logits, logSumExp)
            }
        }
    }
}

/** LiteRT that refuses the GPU, and fails once `left` runs are made; -1 never does. */
private class FailingLiteRt(private val litert: LiteRtNative) : LiteRtNative {
    var left = -1

    override val version = litert.version
    override val npuLibraries: File? = null

    override fun open(model: ModelSource, options: LiteRtOptions): LiteRtModel {
        if (options.accelerator != Accelerator.CPU) throw EdgebException("the GPU takes only a part of the model")
        val opened = litert.open(model, options)
        return object : LiteRtModel by opened {
            override fun run(bound: Int): Long {
                if (left == 0) throw EdgebException("LiteRT is out of order")
                if (left > 0) left--
                return opened.run(bound)
            }
        }
    }
}
