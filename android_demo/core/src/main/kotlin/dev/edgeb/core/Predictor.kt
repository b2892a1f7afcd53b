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
 * How a bundle is opened.
 *
 * @property threads CPU threads; null chooses by the device and the size of the bundle.
 * @property verify Check every byte of the file against its hashes first.
 * @property exactMath F32 cache, for checks against other programs.
 * @property snapshots Where snapshots of the static prompt are kept, in a folder edgeb-prefix (an app's cacheDir); null
 *   keeps none.
 * @property name What a benchmark calls the bundle; null takes the file's name.
 * @property accelerator What a LiteRT bundle is to run on, all of it. llama.cpp's bundles run on the CPU.
 * @property fallback Whether the CPU may take a bundle that the accelerator does not; else that is an error.
 */
data class LoadOptions @JvmOverloads constructor(
    val threads: Int? = null,
    val verify: Boolean = true,
    val exactMath: Boolean = false,
    val snapshots: File? = null,
    val name: String? = null,
    val accelerator: Accelerator = Accelerator.CPU,
    val fallback: Boolean = false
)

/**
 * Predicts a user's next behavior over the candidate set of one bundle.
 *
 * May be shared between threads: calls take turns. Calls take as long as the model does: not for the main thread.
 */
class Predictor private constructor(internal val engine: Engine) : Closeable {
    /** What the bundle says of itself. */
    val manifest: Manifest
        get() = engine.manifest

    /** What the model runs on: the CPU where the accelerator did not take it and the options allow that. */
    val accelerator: Accelerator
        get() = synchronized(engine.lock) { engine.backend.accelerator }

    /** Which distribution answers when a call names none. */
    val defaultSource: Source
        get() = engine.defaultSource

    /**
     * A new session: events are appended as they happen, and predictions pay only for what is new.
     *
     * @param anchorEvery Events by which the window may grow beyond the layout's L before it is anchored anew.
     */
    @JvmOverloads
    fun session(anchorEvery: Int = ANCHOR_EVERY): Session = Session(engine, anchorEvery)

    /**
     * Rank the candidates for the behavior at `moment` in `place` after `history`.
     *
     * @param history Oldest first, any length; the model sees the layout's last L events, habits count all. Its order
     *   counts: a local clock may go back, see `EventOrder`. The places of its events are not read where the bundle has
     *   none.
     * @param place Needed where the bundle's prompts name a place (`manifest.layout.places`), refused where not.
     * @param topK How many candidates to return; null for all.
     * @param only Labels to rank; null for all.
     * @param exclude Labels to leave out.
     * @param source Null takes the bundle's default.
     * @param calibrated Calibrate the probabilities where the bundle can; false gives the source's own.
     * @param exhaustive Expand the whole trie, so that every probability is exact.
     * @param precision Also decide whether to suggest the first candidate; a level of the manifest's calibration.
     * @param coverage Also name the candidates that hold the truth this often; a level of the manifest's calibration.
     * @param balance How far to raise rare behaviors. Other than at 0 and at the fitted τ, probabilities are raw, and
     *   precision and coverage are refused.
     * @throws EdgebException a behavior outside the candidate set, a clock that goes back too far, a place missing or
     *   too many, a prompt that does not fit, a level or a balance that the bundle is not calibrated for.
     */
    @JvmOverloads
    fun predict(
        history: List<BehaviorEvent>,
        moment: Moment,
        place: String? = null,
        topK: Int? = null,
        scoring: Scoring = Scoring.EXACT,
        only: List<String>? = null,
        exclude: List<String> = emptyList(),
        source: Source? = null,
        calibrated: Boolean = true,
        exhaustive: Boolean = false,
        precision: Double? = null,
        coverage: Double? = null,
        balance: Balance = Balance.NONE
    ): Prediction {
        val started = System.nanoTime()
        val request =
            Request(topK, scoring, source, only, exclude, exhaustive, calibrated, precision, coverage, balance)
        val known = checked(history, moment)
        val where = manifest.layout.placeOf(place)
        synchronized(engine.lock) {
            val wanted = engine.source(request)
            val habits = if (wanted == Source.MODEL) null else habits(known, moment, where)
            val ids = if (wanted == Source.HABITS) IntArray(0) else engine.encoder.promptIds(known, moment, where)
            return engine.answer(ids, habits, request, started)
        }
    }

    /**
     * Continue a session that `Session.save` wrote.
     *
     * @throws EdgebException damaged, of another version, of another model or of another candidate list.
     */
    fun restore(file: File): Session = Session.restore(file, engine)

    /** Hold the static prompt, from a snapshot in `folder` where there is one; says whether there was. */
    fun warm(folder: File): Boolean = synchronized(engine.lock) { engine.warm(folder) }

    /** Free native memory. */
    override fun close() = synchronized(engine.lock) { engine.close() }

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

    companion object {
        /**
         * Open a bundle: a GGUF file with llama.cpp, a LiteRT file with LiteRT, and with llama.cpp for its tokenizer. A
         * sequence model, which is a GGUF file as well, is computed in Kotlin.
         *
         * @param llama Null where the app ships sequence models only.
         * @param litert Null where the app comes without LiteRT.
         * @throws EdgebException not a bundle, damaged, of a newer version, or not loadable.
         */
        @JvmStatic
        @JvmOverloads
        fun load(
            model: File,
            llama: LlamaNative?,
            options: LoadOptions = LoadOptions(),
            litert: LiteRtNative? = null
        ): Predictor {
            val opener = BackendOpener(model, llama, litert, options, options.threads ?: threadsFor(model))
            Bundle.open(model).use { bundle ->
                if (options.verify) bundle.verify()
                val population = bundle.population()
                val backend = opener.open(bundle, contextNeeded(bundle.manifest))
                try {
                    val file = LoadedFile(options.name ?: model.name, model.length())
                    val predictor = Predictor(Engine(bundle.manifest, backend, file, opener.threads, population))
                    if (options.snapshots != null) predictor.warm(options.snapshots)
                    return predictor
                } catch (error: Throwable) {
                    backend.close()
                    throw error
                }
            }
        }

        /** Positions for the longest usual prompt and its trie, rounded up; never more than the model was built for. */
        private fun contextNeeded(manifest: Manifest): Int {
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

        private fun threadsFor(model: File): Int {
            if (model.length() < SMALL_BUNDLE) return 1
            return maxOf(1, minOf(MOST_THREADS, Runtime.getRuntime().availableProcessors() - SPARE_CORES))
        }
    }
}
