package dev.edgeb.core

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder

private const val QNN = "2.51.0"
private const val BUILD = "v$QNN.260929181845"
private const val BUNDLE = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
private const val VOCABULARY = 10
private const val GRAPH = "{\"cache\": 16, \"first_sizes\": [4], \"head_dim\": 2, \"hidden\": 3, \"kv_heads\": 1, " +
    "\"layers\": 1, \"rope\": [1.0], \"sizes\": [1, 8], \"sliding\": null, \"vocabulary\": 10}"

/**
 * The NPU without one: tests/android/golden/npu_cases.py, and contexts that are chosen, refused and given up for the
 * CPU.
 */
internal fun checkNpu(vectors: Any?, scratch: File, checks: Checks) {
    val names = listOf("chips", "folder", "content", "run_times", "bad_folders", "probe", "bad_probes")
    val fields = Fields(vectors, names, "npu")
    checks.same("chips", fields.list("chips"), NpuChip.ALL.map { listOf(it.name, it.architecture, it.libraries) })
    val text = fields.string("folder")
    val folder = NpuFolder.of(text, NPU_FILE)
    checks.same("tolerance of an NPU", 0.05, folder.tolerance)
    for (pair in fields.list("run_times")) {
        val (version, runs) = pair as List<*>
        val check = { folder.checkRunTime(version as String) }
        if (runs == true) check() else checks.refused("run time $version", Regex("compiled by QNN $QNN"), check)
    }
    for (pair in fields.list("bad_folders")) {
        val (changed, reason) = pair as List<*>
        checks.refused("npu.json $changed", Regex(reason as String)) { NpuFolder.of(changed as String, NPU_FILE) }
    }
    LiteRtProbe.of(Json.parse(fields.string("probe"), "probe"), VOCABULARY, "probe")
    for (pair in fields.list("bad_probes")) {
        val (changed, reason) = pair as List<*>
        val json = Json.parse(changed as String, "probe")
        checks.refused("probe $changed", Regex(reason as String)) { LiteRtProbe.of(json, VOCABULARY, "probe") }
    }
    NpuOpening(File(scratch, "npu"), text, fields.string("content"), checks).run()
    checks.refused("an NPU without a name", Regex("chip is not named")) {
        LoadOptions { accelerator = Accelerator.NPU }
    }
}

/** Qualcomm's libraries in name, and where a build says which it is, in a folder. */
internal fun npuLibraries(folder: File, chip: String, build: String = BUILD): File {
    folder.mkdirs()
    // A build's name that two reads of the file meet in.
    val text = "x".repeat((1 shl 20) - 9) + "\u0000$build\u0000 and more"
    for (name in NpuChip.named(chip).libraries) File(folder, name).writeText(text)
    return folder
}

/**
 * LiteRT whose NPU is the CPU with the bundle's own model in the context's place.
 *
 * @param bundle The bundle.
 * @param libraries What `npuLibraries` laid.
 */
internal class NpuOnCpu(
    private val litert: LiteRtNative,
    private val bundle: File,
    libraries: File
) : LiteRtNative {
    override val version = litert.version
    override val npuLibraries: File? = libraries

    override fun open(model: ModelSource, options: LiteRtOptions): LiteRtModel =
        if (options.accelerator == Accelerator.NPU) {
            litert.open(ModelSource.file(bundle), options.copy(accelerator = Accelerator.CPU))
        } else {
            litert.open(model, options)
        }
}

/** Opens contexts with a LiteRT that only notes what it is asked for. */
private class NpuOpening(
    private val folder: File,
    private val text: String,
    private val content: String,
    private val checks: Checks
) {
    private val bundle = ModelSource.file(File(folder, "mine.tflite"))
    private val graph = LiteRtGraph.of(Json.parse(GRAPH, "graph"), "graph")
    private val contexts = File(folder, "mine-npu")

    fun run() {
        lay()
        checkOpened()
        val libraries = npuLibraries(File(folder, "libraries"), "sm8650")
        refused("a chip that is unknown", "no contexts for the chip 'SM8651'") { open(libraries, "SM8651") }
        refused("a phone that names none", "does not say which chip") { open(libraries, "") }
        refused("a chip without a context", "for sm8550 \\(v73\\), but for sm8650 \\(v75\\), sm8750 \\(v79\\)") {
            open(libraries, "SM8550")
        }
        refused("contexts of another bundle", "compiled from another bundle") { open(libraries, sha256 = "c" + BUNDLE) }
        refused("no libraries", "packages no libLiteRtDispatch_Qualcomm.so, libQnnHtp.so") { open(null) }
        refused("another chip's libraries", "packages no libQnnHtpV79Stub.so, libQnnHtpV79Skel.so") {
            open(libraries, "SM8750")
        }
        refused("an older run time", "compiled by QNN $QNN, the app packages a run time of 2.50.0") {
            open(npuLibraries(File(folder, "older"), "sm8650", "v2.50.0.260101000000"))
        }
        refused("a run time that says nothing", "does not say its version") {
            open(npuLibraries(File(folder, "mute"), "sm8650", "v2.51"))
        }
        refused("calls that the bundle has none of", "has calls of 5 tokens") {
            changed(NPU_FILE, text.replace("\"size\": 8", "\"size\": 5")) { open(libraries) }
        }
        for ((name, changed) in listOf("cut short" to "x", "does not match its hash" to "A" + content.substring(1))) {
            refused("a context that $name", name) { changed("v75.tflite", changed) { open(libraries) } }
        }
        refused("a context that is gone", "there is no .*v75.tflite") { without("v75.tflite") { open(libraries) } }
        refused("no contexts", "has no contexts for an NPU: there is no .*npu.json") {
            without(NPU_FILE) { open(libraries) }
        }
        val offline = object : NpuContexts {
            override fun file(name: String): File = throw IOException("no network")
        }
        refused("contexts that cannot be fetched", "cannot get npu.json for .*mine.tflite: no network") {
            open(libraries, contexts = offline)
        }
        val memory = ModelSource.buffer(ByteBuffer.allocateDirect(1), "memory")
        refused("a bundle in memory", "memory is no file of its own") { open(libraries, from = memory) }
        checkClosed(libraries)
    }

    /** The context is the chip's, calls have its one size, and what it is opened with lies where the host says. */
    private fun checkOpened() {
        val libraries = npuLibraries(File(folder, "two"), "sm8650")
        npuLibraries(libraries, "sm8750")
        for ((chip, architecture) in listOf("SM8650" to "v75", " sm8750" to "v79")) {
            val noted = NotingLiteRt(libraries)
            val opened = NpuOpener(bundle, noted, NpuOptions(chip), 3).open(graph, BUNDLE)
            checks.same("what runs on $chip", "QNN $QNN on $architecture", opened.runsOn)
            val asked = listOf("mine.tflite on cpu by 3", "$architecture.tflite on npu by 3")
            checks.same("what is opened on $chip", asked, noted.opened.map { it.name })
            checks.same("sizes of calls", listOf(8), opened.graph.sizes.toList())
            checks.same("sizes of first calls", emptyList<Int>(), opened.graph.firstSizes.toList())
            checkBound(opened, noted)
            opened.model.close()
            checks.same("models left open", listOf(true, true), noted.opened.map { it.isClosed })
        }
        val noted = NotingLiteRt(libraries)
        val fetched = ArrayList<String>()
        val own = object : NpuContexts {
            override fun file(name: String): File {
                fetched.add(name)
                return File(contexts, name)
            }
        }
        NpuOpener(bundle, noted, NpuOptions("SM8750", own), 1).open(graph, BUNDLE)
        checks.same("what the host is asked for", listOf(NPU_FILE, "v79.tflite"), fetched)
    }

    /** Embeddings are the bundle's on the CPU, and everything else is the context's. */
    private fun checkBound(opened: OpenedNpu, noted: NotingLiteRt) {
        val tokens = LiteRtArray(graph.tokens(8), opened.model.memory(32))
        val embeddings = LiteRtArray(graph.embeddings(8), opened.model.memory(96))
        val embed = opened.model.bind("embed_8", listOf(tokens), listOf(embeddings))
        val step = opened.model.bind("step_8", listOf(embeddings), listOf())
        tokens.memory.putInt(4, 7)
        checks.same("nanoseconds", listOf(1L, 1L), listOf(opened.model.run(embed), opened.model.run(step)))
        // The fake gives each output the first of its inputs.
        checks.same("embeddings", 7, embeddings.memory.getInt(4))
        checks.same("runs", listOf(listOf("embed_8"), listOf("step_8")), noted.opened.map { it.ran })
        opened.model.interrupt(true)
        checks.same("interrupted", listOf(true, true), noted.opened.map { it.isInterrupted })
    }

    /** Where the NPU does not take the context, nothing stays open. */
    private fun checkClosed(libraries: File) {
        val noted = NotingLiteRt(libraries, takes = false)
        checks.refused("a context that LiteRT does not take", Regex("does not take")) {
            NpuOpener(bundle, noted, NpuOptions("SM8650"), 1).open(graph, BUNDLE)
        }
        checks.same("models left open", listOf(true), noted.opened.map { it.isClosed })
    }

    /** Refused before anything is opened. */
    private fun refused(where: String, reason: String, open: () -> Unit) = checks.refused(where, Regex(reason), open)

    private fun open(
        libraries: File?,
        chip: String = "SM8650",
        sha256: String = BUNDLE,
        contexts: NpuContexts? = null,
        from: ModelSource = bundle
    ) {
        val noted = NotingLiteRt(libraries)
        try {
            NpuOpener(from, noted, NpuOptions(chip, contexts), 1).open(graph, sha256)
        } finally {
            checks.same("what was opened", 0, noted.opened.size)
        }
    }

    private fun lay() {
        contexts.mkdirs()
        File(contexts, NPU_FILE).writeText(text)
        for (name in listOf("v75.tflite", "v79.tflite")) File(contexts, name).writeText(content)
    }

    private fun changed(name: String, content: String, work: () -> Unit) {
        File(contexts, name).writeText(content)
        try {
            work()
        } finally {
            lay()
        }
    }

    private fun without(name: String, work: () -> Unit) {
        File(contexts, name).delete()
        try {
            work()
        } finally {
            lay()
        }
    }
}

/** LiteRT that notes what it is asked for, and computes nothing. */
private class NotingLiteRt(override val npuLibraries: File?, private val takes: Boolean = true) : LiteRtNative {
    val opened = ArrayList<NotingModel>()

    override val version = "noting"

    override fun open(model: ModelSource, options: LiteRtOptions): LiteRtModel {
        if (options.accelerator == Accelerator.NPU && !takes) throw EdgebException("the NPU does not take the model")
        return NotingModel("${model.name} on ${options.accelerator.text} by ${options.threads}").also { opened.add(it) }
    }
}

private class NotingModel(val name: String) : LiteRtModel {
    private val bound = ArrayList<Triple<String, List<LiteRtArray>, List<LiteRtArray>>>()
    private val own = ArrayList<ByteBuffer>()
    val ran = ArrayList<String>()
    var isInterrupted = false
    var isClosed = false

    override fun memory(bytes: Int): ByteBuffer =
        ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder()).also { own.add(it) }

    override fun bind(signature: String, inputs: List<LiteRtArray>, outputs: List<LiteRtArray>): Int {
        for (array in inputs + outputs) {
            if (own.none { it === array.memory }) throw EdgebException("the memory is not the model's")
        }
        bound.add(Triple(signature, inputs, outputs))
        return bound.size - 1
    }

    override fun run(bound: Int): Long {
        val (signature, inputs, outputs) = this.bound[bound]
        ran.add(signature)
        for (output in outputs) {
            for (i in 0 until inputs[0].memory.capacity()) output.memory.put(i, inputs[0].memory.get(i))
        }
        return 1
    }

    override fun interrupt(wanted: Boolean) {
        isInterrupted = wanted
    }

    override fun readRows(
        memory: ByteBuffer,
        width: Int,
        rows: IntArray,
        starts: IntArray,
        tokens: IntArray,
        logits: FloatArray,
        logSumExp: DoubleArray?
    ) = Unit

    override fun close() {
        isClosed = true
    }
}
