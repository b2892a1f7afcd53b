package dev.edgeb.core

import java.io.Closeable
import java.io.File

// Tokens of a context line besides its label: day, hour, punctuation, and a place of at most 48 characters.
private const val LINE_TOKENS = 64
private const val WORDING_TOKENS = 128
private const val CONTEXT_STEP = 256

// Below so many bytes threads wait for each other longer than they compute.
private const val SMALL_BUNDLE = 10_000_000L

// llama.cpp's Android example: two cores are left to the system, four are the most.
private const val SPARE_CORES = 2
private const val MOST_THREADS = 4

/**
 * The native engines that an app ships, each null where it does not: `LlamaJni` and `LiteRtJni` of the runtime.
 *
 * @property llama For GGUF bundles of language models, and for the tokenizer of LiteRT's.
 * @property litert For LiteRT bundles.
 */
public class NativeEngines @JvmOverloads constructor(
    public val llama: LlamaNative?,
    public val litert: LiteRtNative? = null
) {
    public companion object {
        /** Neither: for sequence models, which are computed in Kotlin. */
        @JvmField
        public val NONE: NativeEngines = NativeEngines(null)
    }
}

/**
 * Predicts a user's next behavior over the candidate set of one bundle.
 *
 * May be shared between threads: calls take turns. Calls take as long as the model does: not for the main thread.
 */
public class Predictor private constructor(internal val engine: Engine) : Closeable {
    /** What the bundle says of itself. */
    public val manifest: BundleManifest
        get() = engine.manifest

    /**
     * What computes the model, and on what: the CPU where the accelerator did not take it and the CPU may. From any
     * thread, at once, and after `close`, too.
     */
    public val engineInfo: EngineInfo
        get() = engine.info

    /** Which distribution answers when a call names none. */
    public val defaultSource: Source
        get() = engine.defaultSource

    /**
     * A new session: events are appended as they happen, and predictions pay only for what is new.
     *
     * @param anchorEvery Events by which the window may grow beyond the layout's L before it is anchored anew.
     */
    @JvmOverloads
    public fun session(anchorEvery: Int = ANCHOR_EVERY): Session = Session(engine, anchorEvery)

    /**
     * Rank the candidates for the behavior at `moment` in `place` after `history`.
     *
     * @param history Oldest first, any length; the model sees the layout's last L events, habits count all. Its order
     *   counts: a local clock may go back, see `EventOrder`. The places of its events are not read where the bundle has
     *   none.
     * @param place Needed where the bundle's prompts name a place (`manifest.layout.places`), refused where not.
     * @param topK How many candidates to return; null for all.
     * @throws EdgebException a behavior outside the candidate set, a clock that goes back too far, a place missing or
     *   too many, a prompt that does not fit, a level or a balance that the bundle is not calibrated for.
     */
    @JvmOverloads
    public fun predict(
        history: List<BehaviorEvent>,
        moment: Moment,
        place: String? = null,
        topK: Int? = null,
        options: PredictOptions = PredictOptions.DEFAULT
    ): Prediction {
        val started = System.nanoTime()
        checkTopK(topK)
        val known = checked(history, moment)
        val where = manifest.layout.placeOf(place)
        synchronized(engine.lock) {
            val wanted = engine.source(options)
            val habits = if (wanted == Source.MODEL) null else habits(known, moment, where)
            val ids = if (wanted == Source.HABITS) IntArray(0) else engine.encoder.promptIds(known, moment, where)
            return engine.answer(ids, habits, topK, options, started)
        }
    }

    /**
     * Continue a session that `Session.save` wrote.
     *
     * @throws EdgebException damaged, of another version, of another model or of another candidate list.
     */
    public fun restore(file: File): Session = Session.restore(file, engine)

    /** Hold the static prompt, from a snapshot in `folder` where there is one; says whether there was. */
    public fun warm(folder: File): Boolean = synchronized(engine.lock) { engine.warm(folder) }

    /** Free native memory. */
    override fun close(): Unit = synchronized(engine.lock) { engine.close() }

    private fun habits(history: List<BehaviorEvent>, moment: Moment, place: String): DoubleArray {
        val counter = engine.counter()
        for (event in history) counter.observe(manifest.candidates.code(event.behavior), event.time, event.place)
        return counter.logProbs(moment, place)
    }

    /** The history with its behaviors named as the candidates are; refuses an order that no clock gives. */
    private fun checked(history: List<BehaviorEvent>, moment: Moment): List<BehaviorEvent> {
        val known = history.mapIndexed { i, event -> manifest.candidates.named(event, "history event ${i + 1}") }
        EventOrder.check(known)
        val last = known.lastOrNull()
        if (last != null) EventOrder.checkStep(last.time, moment, "the time asked for", "ask for a later time")
        return known
    }

    public companion object {
        /**
         * Open a bundle: a GGUF with llama.cpp, a LiteRT file with LiteRT, and with llama.cpp for its tokenizer. A
         * sequence model, which is a GGUF as well, is computed in Kotlin.
         *
         * @throws EdgebException not a bundle, damaged, of a newer version, not loadable, or without its engine.
         */
        @JvmStatic
        @JvmOverloads
        public fun load(
            model: ModelSource,
            engines: NativeEngines,
            options: LoadOptions = LoadOptions.DEFAULT
        ): Predictor {
            BundleFile.open(model).use { bundle ->
                val opener = BackendOpener(model, engines, options, options.threads ?: threadsFor(bundle.bytes))
                if (options.verify) bundle.verify()
                val population = bundle.population()
                val backend = opener.open(bundle, contextNeeded(bundle.manifest))
                try {
                    val file = LoadedFile(model.name, bundle.bytes)
                    val engine =
                        Engine(bundle.manifest, backend, file, opener.threads, population, opener.refused)
                    val predictor = Predictor(engine)
                    if (options.snapshots != null) predictor.warm(options.snapshots)
                    return predictor
                } catch (error: Throwable) {
                    backend.close()
                    throw error
                }
            }
        }

        /** `load` of a file. */
        @JvmStatic
        @JvmOverloads
        public fun load(model: File, engines: NativeEngines, options: LoadOptions = LoadOptions.DEFAULT): Predictor =
            load(ModelSource.file(model), engines, options)

        /** Positions for the longest usual prompt and its trie, rounded up; never more than the model was built for. */
        private fun contextNeeded(manifest: BundleManifest): Int {
            val labels = manifest.candidates.labels.map { it.toByteArray(Charsets.UTF_8).size }
            val line = LINE_TOKENS + labels.sorted().last()
            val static = manifest.staticPrompt.toByteArray(Charsets.UTF_8).size / 2 + 64
            val chat = manifest.layout.chat?.ids.orEmpty().size
            // The candidates are listed behind the history, in a wording.
            val listed = if (manifest.layout.name == "instruct") labels.sum() / 2 + labels.size + WORDING_TOKENS else 0
            val trie = labels.sum() / 2 + 2 * labels.size
            val needed = static + chat + listed + (manifest.layout.historyLength + 1) * line + trie
            return minOf((needed + CONTEXT_STEP - 1) / CONTEXT_STEP * CONTEXT_STEP, manifest.contextLength)
        }

        private fun threadsFor(bytes: Long): Int {
            if (bytes < SMALL_BUNDLE) return 1
            return maxOf(1, minOf(MOST_THREADS, Runtime.getRuntime().availableProcessors() - SPARE_CORES))
        }
    }
}
