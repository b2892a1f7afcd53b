package dev.edgeb.core

import java.io.File
import java.util.Random

private const val SEED = 0L
private const val AGAIN = 0.4
private const val MOST_MINUTES = 120
private val START = Moment.of(2024, 3, 4, 7, 0)
internal val MODEL_ONLY = PredictOptions { source = Source.MODEL }
private val PLACES = listOf("home", "work", "transit", "leisure")

// How much of the ranking has to be proven, per session scenario; they take turns.
private val DEPTHS = listOf(Pair("session", 1), Pair("session_top5", 5), Pair("session_full", null))

/**
 * Measures predictions on the device it runs on; the JSON has the fields of `edgeb bench --json` (docs/operate.md).
 *
 * One model is loaded and has one cache, so that scenarios run one after another and not in turns: a device that grows
 * warm shows in the later ones. `whole_prompt` and `session_restore` are the phone's own. Events are made up, labels as
 * frequent as in training.
 *
 * @param predictor Its cache is used; calls of others meanwhile take their turns and disturb the times.
 * @param predictions How many per scenario.
 * @param folder Where a session and a snapshot are written for a moment (an app's cacheDir).
 */
public class Benchmark @JvmOverloads constructor(
    private val predictor: Predictor,
    private val predictions: Int = 30,
    private val folder: File = File(System.getProperty("java.io.tmpdir") ?: ".")
) {
    private val engine = predictor.engine
    private val length = engine.manifest.layout.historyLength
    private val rounds = predictions * DEPTHS.size
    private val events = madeUp(engine.manifest.candidates, length + rounds + 1)
    private val samples = LinkedHashMap<String, ArrayList<Sample>>()
    private var options = MODEL_ONLY

    /** Told what is being measured. */
    public interface Listener {
        /** `name` is measured next; in the order of `edgeb bench`'s table. */
        public fun onScenario(name: String)
    }

    /**
     * Run all scenarios. Returns one JSON object.
     *
     * @param listener Hears each one's name before it starts.
     * @param cancel Ends it from another thread, inside a scenario and inside an evaluation.
     * @throws EdgebException it was cancelled; nothing of it is left.
     */
    @JvmOverloads
    public fun run(listener: Listener? = null, cancel: CancelSignal? = null): String {
        if (predictions < 1) throw EdgebException(
            "predictions is $predictions", "measure at least one", ErrorCode.INVALID_ARGUMENT
        )
        samples.clear()
        options = MODEL_ONLY.with { this.cancel = cancel }
        val all = listOf(
            Pair("session", ::sessions), Pair("warm", ::warm), Pair("whole_prompt", ::wholePrompts),
            Pair("session_restore", ::restoredSessions), Pair("prefix_evaluate", ::prefixes)
        )
        // A sequence model has no static prompt to speak of.
        val isSequence = engine.manifest.architecture in SEQUENCE_ARCHITECTURES
        for ((name, measure) in if (isSequence) all.dropLast(1) else all) {
            listener?.onScenario(name)
            measure()
        }
        return Json.write(result())
    }

    private fun sessions() {
        val session = predictor.session()
        for (event in events.take(length)) session.observe(event)
        session.predict(events[length - 1].time, placeOf(events[length - 1]), 1, options)
        for (i in 0 until rounds) {
            // Every block of rounds has one of each, in changing order: anchoring then hits all alike.
            val (name, topK) = DEPTHS[(i + i / DEPTHS.size) % DEPTHS.size]
            val asked = events[length + i + 1]
            val started = System.nanoTime()
            session.observe(events[length + i])
            val answer = session.predict(asked.time, placeOf(asked), topK, options)
            add(name, started, answer)
        }
    }

    /** The window slides, so only the prompt's static part is reused. */
    private fun warm() {
        predict(predictions + 1)
        for (i in 0 until predictions) add("warm", System.nanoTime(), predict(i))
    }

    private fun wholePrompts() {
        for (i in 0 until predictions) {
            empty()
            add("whole_prompt", System.nanoTime(), predict(i))
        }
    }

    /** A new app process that finds its session on disk: read it, and answer. */
    private fun restoredSessions() {
        val file = File(folder, "edgeb-bench.session")
        try {
            val session = predictor.session()
            for (event in events.take(length)) session.observe(event)
            session.prepare(options.cancel)
            session.save(file)
            for (i in 0 until predictions) {
                empty()
                val started = System.nanoTime()
                val restored = predictor.restore(file)
                val asked = events[length + i]
                add("session_restore", started, restored.predict(asked.time, placeOf(asked), 1, options))
            }
        } finally {
            file.delete()
        }
    }

    private fun prefixes() {
        val snapshots = File(folder, "edgeb-bench-snapshots")
        val ids = engine.encoder.staticIds
        try {
            hold(snapshots)
            for (i in 0 until predictions) {
                empty()
                val started = System.nanoTime()
                prefill(ids)
                add("prefix_evaluate", Sample(since(started), ids.size, null))
                empty()
                val restoring = System.nanoTime()
                if (!hold(snapshots)) {
                    throw EdgebException(
                        "a snapshot cannot be kept in $folder", "name another folder", ErrorCode.UNWRITABLE
                    )
                }
                add("prefix_restore", Sample(since(restoring), 0, null))
            }
        } finally {
            snapshots.deleteRecursively()
        }
    }

    private fun predict(i: Int): Prediction {
        val end = length + i
        val asked = events[end]
        val history = events.subList(end - length, end)
        return predictor.predict(history, asked.time, placeOf(asked), 1, options)
    }

    private fun placeOf(asked: BehaviorEvent): String? = if (engine.manifest.layout.places) asked.place else null

    /** A prompt that begins otherwise leaves nothing of the one before. */
    private fun empty() = prefill(intArrayOf((engine.encoder.staticIds[0] + 1) % engine.backend.vocabularySize))

    private fun prefill(ids: IntArray) {
        guarded { engine.backend.prefill(ids) }
    }

    private fun hold(snapshots: File): Boolean = guarded { engine.warm(snapshots) }

    private fun <T> guarded(work: () -> T): T =
        synchronized(engine.lock) { options.cancel.guarding(engine.backend) { work() } }

    private fun add(name: String, started: Long, answer: Prediction) =
        add(name, Sample(since(started), answer.tokensEvaluated, answer.decodeMs))

    private fun add(name: String, sample: Sample) {
        samples.getOrPut(name) { ArrayList() }.add(sample)
    }

    private fun result(): Map<String, Any?> {
        val manifest = engine.manifest
        return mapOf(
            "bundle" to engine.bundle.name,
            "architecture" to manifest.architecture,
            "quantization" to manifest.quantization,
            "candidates" to manifest.candidates.size,
            "trie_nodes" to engine.encoder.trie.size,
            "layout" to manifest.layout.name,
            "static_tokens" to engine.encoder.staticIds.size,
            "scoring" to Scoring.EXACT.text,
            "anchor_every" to ANCHOR_EVERY,
            "file_bytes" to engine.bundle.bytes,
            "peak_rss_bytes" to mapOf("app" to peakRssBytes()),
            "scenarios" to samples.mapValues { summary(it.value) },
            "machine" to machine(engine)
        )
    }

    private companion object {
        fun since(started: Long): Double = (System.nanoTime() - started) / 1e6

        fun madeUp(candidates: CandidateSet, count: Int): List<BehaviorEvent> {
            val random = Random(SEED)
            val weights = candidates.counts.map { it + 1 }
            var moment = START
            var label = candidates.labels[0]
            var place = PLACES[0]
            return List(count) {
                moment = Moment(moment.minutes + 2 + random.nextInt(MOST_MINUTES - 1))
                if (random.nextDouble() > AGAIN) {
                    var left = (random.nextDouble() * weights.sum()).toLong()
                    label = candidates.labels[weights.indexOfFirst { left -= it; left < 0 }]
                    place = PLACES[random.nextInt(PLACES.size)]
                }
                BehaviorEvent(place, moment, label)
            }
        }
    }
}
