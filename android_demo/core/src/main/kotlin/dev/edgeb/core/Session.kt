package dev.edgeb.core

import java.io.File

/** Events by which a session's window may grow beyond the layout's L before it is anchored anew. */
public const val ANCHOR_EVERY: Int = 20

// Suggestions that a screen shows.
private const val DEFAULT_TOP_K = 5
private const val SCHEMA = 2L
private val HEADER = listOf(
    "kind", "schema", "model", "candidates", "anchor_every", "events", "habits", "held", "engine"
)

/**
 * One user's events and predictions on a loaded bundle; made by `Predictor.session`.
 *
 * The window of past events grows from L to L + `anchorEvery` events; then the last L are evaluated anew
 * (docs/integrate.md). Calls take turns, from any thread. Sessions that share a predictor share its one cache: after
 * another session's call the window is evaluated again.
 */
public class Session internal constructor(private val engine: Engine, private val anchorEvery: Int) {
    private class Line(val event: BehaviorEvent, val ids: IntArray)

    private val length = engine.manifest.layout.historyLength
    private val places = engine.manifest.layout.places
    private var window = ArrayList<Line>()
    private var counter = engine.counter()

    init {
        if (anchorEvery < 1) throw EdgebException(
            "anchorEvery is $anchorEvery", "use at least 1 event", ErrorCode.INVALID_ARGUMENT
        )
    }

    /** Whether predictions name a place; see `PromptLayout.places`. */
    public val hasPlaces: Boolean
        get() = places

    /** Events the model sees, oldest first. */
    public val events: List<BehaviorEvent>
        get() = synchronized(engine.lock) { window.map { it.event } }

    /**
     * Append what the user did. Nothing is evaluated until the next prediction. The event's place is not kept where the
     * bundle has no places.
     *
     * @throws EdgebException not a candidate, or earlier than a local clock can go back; the session is unchanged.
     */
    public fun observe(event: BehaviorEvent) {
        synchronized(engine.lock) {
            val candidates = engine.manifest.candidates
            val place = if (places) cleanPlace(event.place) else UNKNOWN_PLACE
            val cleaned = candidates.named(event.copy(place = place), "the event observed")
            val code = candidates.code(cleaned.behavior)
            checkTime(event.time, "the event observed")
            val line = Line(cleaned, engine.encoder.lineIds(cleaned))
            counter.observe(code, cleaned.time, cleaned.place)
            window.add(line)
            if (window.size > length + anchorEvery) anchor()
        }
    }

    /**
     * Rank the candidates for the behavior at `moment` in `place`; see `Predictor.predict` for the arguments.
     *
     * @throws EdgebException a time further before the last event than a local clock goes back, an unknown label, a
     *   place missing or too many, a prompt that does not fit; the session is unchanged.
     */
    @JvmOverloads
    public fun predict(
        moment: Moment,
        place: String? = null,
        topK: Int? = DEFAULT_TOP_K,
        options: PredictOptions = PredictOptions.DEFAULT
    ): Prediction {
        val started = System.nanoTime()
        checkTopK(topK)
        synchronized(engine.lock) {
            checkTime(moment, "the time asked for")
            val where = engine.manifest.layout.placeOf(place)
            val wanted = engine.source(options)
            val habits = if (wanted == Source.MODEL) null else counter.logProbs(moment, where)
            val ids = if (wanted == Source.HABITS) IntArray(0) else ids(moment, where)
            return engine.answer(ids, habits, topK, options, started)
        }
    }

    /**
     * Evaluate the events observed so far, at a time when nobody waits. A sequence model keeps nothing of it. Returns
     * the tokens evaluated.
     *
     * @param cancel Ends it from another thread; the next call evaluates what is left.
     */
    @JvmOverloads
    public fun prepare(cancel: CancelSignal? = null): Int = synchronized(engine.lock) {
        val lead = engine.encoder.leadIds
        fit(lead.size)
        val ids = joined(listOf(lead) + window.map { it.ids })
        if (holds(ids)) 0 else cancel.guarding(engine.backend) { engine.backend.prefill(ids) }
    }

    /**
     * Write window, habits and, where the cache still holds them, the evaluated events.
     *
     * The file holds the user's places and behaviors: keep it in the app's private storage. A process that dies while
     * it writes leaves FILE.partial, which the next `save` replaces.
     *
     * @throws EdgebException the file cannot be written.
     */
    public fun save(file: File) {
        synchronized(engine.lock) {
            val backend = engine.backend
            val known = joined(listOf(engine.encoder.leadIds) + window.dropLast(1).map { it.ids })
            val held = if (window.isNotEmpty() && holds(known)) backend.held else IntArray(0)
            val header = mapOf(
                "kind" to "session",
                "schema" to SCHEMA,
                "model" to engine.manifest.tensorsSha256,
                "candidates" to labelsHash(engine),
                "anchor_every" to anchorEvery.toLong(),
                "events" to window.map { listOf(it.event.time.format(), it.event.place, it.event.behavior) },
                "habits" to counter.toJson(),
                "held" to held.map { it.toLong() },
                "engine" to backend.fingerprint
            )
            StateFile.write(file, header, if (held.size > 0) backend.saveState() else ByteArray(0))
        }
    }

    private fun checkTime(moment: Moment, what: String) {
        val last = window.lastOrNull() ?: return
        EventOrder.checkStep(last.event.time, moment, what)
    }

    private fun anchor() {
        window = ArrayList(window.takeLast(length))
    }

    /** Anchor the window early where it no longer fits into the context beside so many others and the labels. */
    private fun fit(others: Int) {
        val total = others + window.map { it.ids.size }.sum() + engine.encoder.trie.inner.size
        if (total > engine.backend.capacity) anchor()
    }

    /** The prompt. */
    private fun ids(moment: Moment, place: String): IntArray {
        val lead = engine.encoder.leadIds
        val question = engine.encoder.questionIds(moment, place)
        fit(lead.size + question.size)
        return joined(listOf(lead) + window.map { it.ids } + listOf(question))
    }

    private fun holds(ids: IntArray): Boolean {
        val held = engine.backend.held
        return held.size >= ids.size && held.copyOf(ids.size).contentEquals(ids)
    }

    internal companion object {
        /** Continue a saved session; `Predictor.restore` calls this. */
        fun restore(file: File, engine: Engine): Session {
            val state = StateFile.read(file)
            val found = Fields(state.header, HEADER, "$file")
            if (found.string("kind") != "session" || found.long("schema") != SCHEMA) {
                throw EdgebException(
                    "$file is not a session this edgeb reads", "start a new session", ErrorCode.UNSUPPORTED_VERSION
                )
            }
            if (found.string("model") != engine.manifest.tensorsSha256) {
                throw EdgebException(
                    "$file belongs to another model", "load the bundle it was made with", ErrorCode.OTHER_BUNDLE
                )
            }
            if (found.string("candidates") != labelsHash(engine)) {
                throw EdgebException(
                    "$file belongs to another candidate list", "load the bundle it was made with",
                    ErrorCode.OTHER_BUNDLE
                )
            }
            synchronized(engine.lock) {
                val session = Session(engine, found.int("anchor_every"))
                for (entry in found.list("events")) {
                    val (time, place, behavior) = (entry as? List<*>)?.map { it as? String ?: "" } ?: listOf("", "", "")
                    val event = BehaviorEvent(place, Moment.parse(time), behavior)
                    session.window.add(Line(event, engine.encoder.lineIds(event)))
                }
                session.counter = HabitCounter.restore(
                    found.any("habits"), engine.manifest.candidates.counts, "$file: habits", session.places,
                    engine.population
                )
                val held = found.list("held").map { (it as? Long ?: -1L).toInt() }.toIntArray()
                if (held.size > 0 && found.string("engine") == engine.backend.fingerprint) {
                    // A cache that llama.cpp does not take is evaluated again by the next prediction.
                    engine.backend.loadState(held, state.blob)
                }
                return session
            }
        }

        private fun labelsHash(engine: Engine): String =
            hex(sha256().digest(Json.write(engine.manifest.candidates.labels).toByteArray(Charsets.UTF_8)))
    }
}
