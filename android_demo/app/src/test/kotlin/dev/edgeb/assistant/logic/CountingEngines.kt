package dev.edgeb.assistant.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.EdgebException
import dev.edgeb.core.ErrorCode
import dev.edgeb.core.EventOrder
import dev.edgeb.core.Explanation
import dev.edgeb.core.Moment
import dev.edgeb.core.Prediction
import dev.edgeb.core.Ranked
import dev.edgeb.core.Reason
import dev.edgeb.core.Scoring
import dev.edgeb.core.Source as Ranking
import java.io.File

/** A model whose file names its labels; it ranks first what was done last. */
class CountingEngines : Engines {
    val loads = ArrayList<String>()
    var open = 0
    var fresh = 0
    var restored = 0
    var observed = 0
    var fails: Throwable? = null
    var called = ""
    var measured = 0
    var onMeasuring: () -> Unit = {}
    var places = true
    val asked = ArrayList<String?>()
    val wishes = ArrayList<Wish>()
    var prepared = 0
    var saved = 0
    var offers = emptyList<Offer>()

    override fun load(model: File, verify: Boolean, name: String): Engine {
        fails?.let { throw it }
        val text = model.readText()
        if (!text.startsWith("labels ")) throw EdgebException("$model is not a bundle", "export one")
        called = name
        loads.add(if (verify) "verified" else "trusted")
        return CountingEngine(this, text.removePrefix("labels ").split(" "))
    }
}

class CountingEngine(private val all: CountingEngines, labels: List<String>) : Engine {
    override val facts = ModelFacts("qwen2", "Q4_0", "edgeb", labels, all.places, offers = all.offers)

    init {
        all.open++
    }

    override fun session(): EngineSession {
        all.fresh++
        return CountingSession(all, facts.labels, ArrayList())
    }

    override fun restore(file: File): EngineSession {
        val rows = Csv.rows(file.readText())
        if (rows[0] != facts.labels) throw EdgebException("belongs to another model")
        all.restored++
        val events = rows.drop(1).map { BehaviorEvent(it[0], Moment.parse(it[1]), it[2]) }
        return CountingSession(all, facts.labels, ArrayList(events))
    }

    override fun benchmark(listener: Benchmark.Listener, cancel: CancelSignal): String {
        listener.onScenario("session")
        all.onMeasuring()
        if (cancel.isCancelled) throw EdgebException("the call was cancelled", "", ErrorCode.CANCELLED)
        all.measured++
        return "{\"scenarios\": {}}"
    }

    override fun close() {
        all.open--
    }
}

class CountingSession(
    private val all: CountingEngines,
    private val labels: List<String>,
    override val events: ArrayList<BehaviorEvent>
) : EngineSession {
    override fun observe(event: BehaviorEvent) {
        if (event.behavior !in labels || !follows(event.time)) throw EdgebException("refused")
        all.observed++
        events.add(event)
    }

    override fun predict(moment: Moment, place: String?, topK: Int, wish: Wish): Prediction {
        if (!follows(moment)) throw EdgebException("asked for the past")
        all.asked.add(place)
        all.wishes.add(wish)
        val order = events.asReversed().map { it.behavior }.distinct() + labels
        val ranked = order.distinct().take(topK).mapIndexed { i, label -> Ranked(label, 0.6 / (1 shl i)) }
        return Prediction(ranked, Scoring.EXACT, Ranking.MODEL, events.size, 1.5, 1.0, 0.0, false, wish.precision?.let { true }, null)
    }

    override fun explain(made: Prediction, moment: Moment, place: String?) =
        Explanation(made.ranked[0].behavior, Reason.MODEL, made.ranked[0].probability, emptyMap())

    override fun prepare(cancel: CancelSignal) {
        if (cancel.isCancelled) throw EdgebException("the call was cancelled", "", ErrorCode.CANCELLED)
        all.prepared++
    }

    private fun follows(moment: Moment): Boolean =
        events.isEmpty() || EventOrder.isPossible(events.last().time, moment)

    override fun save(file: File) {
        all.saved++
        val rows = events.map { Csv.row(listOf(it.place, it.time.format(), it.behavior)) }
        // Whole or not at all, as the library's.
        AtomicFile.write(file, Csv.row(labels) + rows.joinToString(""))
    }
}
