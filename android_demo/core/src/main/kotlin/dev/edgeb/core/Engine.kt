package dev.edgeb.core

import java.io.File

private const val KEPT_SEARCHES = 32

// Candidates beyond those that a search expects to need, for calls that have room.
private const val SPARE = 8
private const val NANOS_PER_MS = 1e6

/** What a bundle's file was when it was opened. It may be renamed later. */
internal class LoadedFile(val name: String, val bytes: Long)

/**
 * One bundle's model with everything that predictor and sessions share: cache, tries, habits, calibration, one lock.
 *
 * Turns prompt ids into ranked candidates. Knows neither histories nor how a prompt came about. Callers hold `lock`
 * around everything that uses the cache.
 */
internal class Engine(
    val manifest: BundleManifest,
    opened: Backend,
    val bundle: LoadedFile,
    val threads: Int,
    val population: PopulationTable?,
    val refused: String?
) {
    val lock = Any()
    val encoder: PromptEncoder
    val defaultSource: Source
    private val habitsConfig: HabitsConfig
    val fusion: Fusion?
    private val calibrations: Map<Source, Calibration>
    private val fittedBalance: FittedBalance?
    private var open: Backend? = opened
    private val searches = HashMap<Pair<Scoring, List<Boolean>?>, TrieSearch>()

    /** What evaluates; read once, so that nobody who asks waits for a prediction. */
    val info = EngineInfo(
        opened.kind, opened.version, opened.accelerator, threads,
        if (opened.kind == EngineKind.LLAMA_CPP) cpuVariant() else null, refused
    )

    // What the last prediction found likely is probably looked at next time, too.
    private var expected = manifest.candidates.shares()

    init {
        val fixed = listOf(Pair("bos_id", manifest.bosId), Pair("eos_id", manifest.eosId))
        val chat = manifest.layout.chat?.ids.orEmpty().map { Pair("layout.chat", it) }
        for ((name, id) in fixed + chat) {
            if (id != null && id !in 0 until opened.vocabularySize) {
                throw EdgebException(
                    "manifest field '$name' is $id, the model has ${opened.vocabularySize} tokens",
                    "export the bundle again", ErrorCode.DAMAGED
                )
            }
        }
        encoder = PromptEncoder(opened::tokenize, manifest.layout, manifest.candidates, manifest.bosId, manifest.eosId)
        checkRoom(opened.capacity)
        val groups = manifest.candidates.groups()
        val held = manifest.habits
        if (held == null) {
            defaultSource = Source.MODEL
            habitsConfig = HabitsConfig.DEFAULT
            fusion = null
        } else {
            val where = "manifest.habits"
            val fields = Fields(held, listOf("config", "fusion", "default", "measured"), where)
            defaultSource = Source.values().firstOrNull { it.text == fields.string("default") }
                ?: throw EdgebException(
                    "$where: 'default' is '${fields.string("default")}'", "update the app",
                    ErrorCode.UNSUPPORTED_VERSION
                )
            habitsConfig = HabitsConfig.of(fields.any("config"), "$where.config")
            fusion = Fusion.of(fields.any("fusion"), groups, "$where.fusion")
        }
        val sources = Source.values().filter { it != Source.FUSED || fusion != null }
        calibrations = manifest.calibration
            ?.let { Calibration.all(it, sources, groups, "manifest.calibration") } ?: emptyMap()
        fittedBalance = manifest.balance?.let { FittedBalance.of(it, sources, groups, "manifest.balance") }
    }

    /** The inference engine. @throws EdgebException it was closed. */
    val backend: Backend
        get() = open ?: throw EdgebException("the predictor is closed", "load the bundle again", ErrorCode.CLOSED)

    /** Hold the static part of the prompt, from a snapshot in `folder` where there is one. */
    fun warm(folder: File): Boolean = PrefixCache(folder, manifest.tensorsSha256).warm(backend, encoder.staticIds)

    /** A user's habits, nothing observed yet. */
    fun counter() = HabitCounter(manifest.candidates.counts, habitsConfig, manifest.layout.places, population)

    /** Which distribution a call is about. @throws EdgebException fusion, where the bundle has no weights for it. */
    fun source(options: PredictOptions): Source {
        val source = options.source ?: defaultSource
        if (source == Source.FUSED && fusion == null) {
            throw EdgebException(
                "the bundle has no weights to fuse model and habits", "export it with --data, or ask for the model",
                ErrorCode.NOT_IN_BUNDLE
            )
        }
        return source
    }

    /**
     * Rank the candidates after a prompt.
     *
     * @param ids The prompt; not evaluated where only habits are asked for.
     * @param habits Log-probabilities of the user's habits; null where the source is the model.
     * @param started System.nanoTime() at the beginning of the call that is timed.
     */
    fun answer(ids: IntArray, habits: DoubleArray?, topK: Int?, options: PredictOptions, started: Long): Prediction {
        options.cancel?.check()
        val source = source(options)
        val tau = tau(options, source)
        val calibration = calibration(options, source, tau)
        val raised = Balance.offsets(tau, manifest.candidates.counts)
        val first = options.precision?.let { calibration?.leastSuggested(it) }
        val each = options.coverage?.let { calibration?.leastLikely(it) }
        val decoding = backend.decodeMs
        val allowed = allowed(manifest.candidates, options)
        var tokens = 0
        var unexpanded = 0.0
        val logTotal: Double
        val scores: DoubleArray
        if (source == Source.HABITS) {
            val balanced = DoubleArray(raised.size) { habits!![it] + raised[it] }
            val own = calibration?.scores(balanced) ?: balanced
            scores = DoubleArray(own.size) { if (allowed == null || allowed[it]) own[it] else Double.NEGATIVE_INFINITY }
            logTotal = logSumExp(scores)
        } else {
            val plain = if (source == Source.FUSED) fusion!!.affine(habits!!) else Affine.ofModel(raised.size)
            var affine = plain.raised(raised)
            if (calibration != null) affine = calibration.after(affine)
            val lines = if (first == null && each == null) null else Lines(first, each)
            val (found, count) = options.cancel.guarding(backend) {
                search(ids, topK, options, allowed, affine, lines)
            }
            tokens = count
            unexpanded = found.unexpanded
            logTotal = found.logTotal
            // A bound is no rank: candidates that were not looked at come after all that were.
            scores = DoubleArray(found.scores.size) {
                if (found.known[it]) found.scores[it] else Double.NEGATIVE_INFINITY
            }
        }
        val count = allowed?.count { it } ?: scores.size
        val order = scores.indices.sortedByDescending { scores[it] }
        val labels = manifest.candidates.labels
        val wanted = order.take(minOf(topK ?: count, count))
        val ranked = wanted.map { Ranked(labels[it], Math.exp(scores[it] - logTotal)) }
        val suggest = if (options.precision == null) null else first != null && ranked[0].probability >= first
        val likely = if (options.coverage == null) null else order.filterIndexed { n, b ->
            n == 0 || Math.exp(scores[b] - logTotal) >= each ?: 0.0
        }.map { labels[it] }
        return Prediction(
            ranked = ranked,
            scoring = options.scoring,
            source = source,
            tokensEvaluated = tokens,
            elapsedMs = (System.nanoTime() - started) / NANOS_PER_MS,
            decodeMs = backend.decodeMs - decoding,
            unexpanded = unexpanded,
            calibrated = calibration != null,
            suggest = suggest,
            likely = likely,
            balance = tau,
            accelerator = if (source == Source.HABITS) null else backend.accelerator,
            engine = if (source == Source.HABITS) null else backend.kind
        )
    }

    /** Free native memory. */
    fun close() {
        open?.close()
        open = null
    }

    /** Refuse a cache in which not even a prompt without history finds room. */
    private fun checkRoom(capacity: Int) {
        val shortest = encoder.promptIds(emptyList(), Moment(0), UNKNOWN_PLACE).size
        val deepest = encoder.trie.depths.last()
        if (shortest + deepest > capacity) {
            throw EdgebException(
                "${bundle.name}: a prompt without history has $shortest tokens and a label $deepest, " +
                    "the context holds $capacity",
                "export it with a longer context", ErrorCode.PROMPT_TOO_LONG
            )
        }
    }

    /** τ for the source. @throws EdgebException the fitted one, where the bundle has none. */
    private fun tau(options: PredictOptions, source: Source): Double =
        options.balance.tau ?: fittedBalance?.tau(source) ?: throw EdgebException(
            "the bundle has no fitted balance", "export it with 10 or more validation users, or use Balance.of",
            ErrorCode.NOT_IN_BUNDLE
        )

    /** What was fitted for a source at a balance; null where nothing was. */
    fun fittedCalibration(source: Source, tau: Double): Calibration? =
        if (tau == 0.0) calibrations[source] else fittedBalance?.calibration(source, tau)

    /**
     * What turns the source's scores into probabilities. Fitted under exact scoring, so that masked ones stay raw, and
     * at two balances, so that every source's stay raw at others.
     */
    private fun calibration(options: PredictOptions, source: Source, tau: Double): Calibration? {
        val exact = options.scoring == Scoring.EXACT || source == Source.HABITS
        val known = fittedCalibration(source, tau)
        val found = if (options.calibrated && exact) known else null
        if (found == null && (options.precision != null || options.coverage != null)) {
            if (calibrations.isEmpty()) {
                throw EdgebException(
                    "the bundle is not calibrated", "export it with --data, with 10 or more validation users",
                    ErrorCode.NOT_IN_BUNDLE
                )
            }
            if (exact) {
                throw EdgebException(
                    "precision and coverage were not measured at balance $tau",
                    fittedBalance?.hint(source) ?: "use Balance.NONE", ErrorCode.NOT_IN_BUNDLE
                )
            }
            throw EdgebException(
                "precision and coverage were measured under exact scoring", "ask for exact scoring",
                ErrorCode.INVALID_ARGUMENT
            )
        }
        return found
    }

    private fun search(
        ids: IntArray,
        topK: Int?,
        options: PredictOptions,
        allowed: BooleanArray?,
        affine: Affine,
        lines: Lines?
    ): Pair<Found, Int> {
        val search = searchOf(options.scoring, allowed)
        var hint = emptyList<Int>()
        var spare = emptyList<Int>()
        if (!options.exhaustive && topK != null) {
            // One more than asked for: the first one out has to be known to be worse.
            hint = search.likely(expected, topK + 1)
            spare = search.likely(expected, topK + 1 + SPARE).drop(hint.size)
        }
        val reading = Reading(search::childTokens, options.scoring)
        var tokens = backend.prefill(ids, Ahead(encoder.trie, reading, hint, spare))
        val rows = object : Rows {
            override fun root() = backend.root()

            override fun expand(nodes: List<Int>): List<DoubleArray> {
                val (steps, evaluated) = backend.branch(nodes)
                tokens += evaluated
                return steps
            }

            override fun atHand() = backend.atHand()
        }
        val found = search.run(rows, affine, topK, if (options.exhaustive) 0.0 else RANKS_ONLY, lines)
        if (allowed == null) expected = found.scores
        return Pair(found, tokens)
    }

    private fun searchOf(scoring: Scoring, allowed: BooleanArray?): TrieSearch {
        if (searches.size >= KEPT_SEARCHES) searches.clear()
        return searches.getOrPut(Pair(scoring, allowed?.toList())) { TrieSearch(encoder.trie, scoring, allowed) }
    }
}
