package dev.edgeb.assistant.logic

import dev.edgeb.core.Accelerator
import dev.edgeb.core.Balance
import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Benchmark
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.Choices
import dev.edgeb.core.Explainer
import dev.edgeb.core.Explanation
import dev.edgeb.core.LiteRtNative
import dev.edgeb.core.LlamaNative
import dev.edgeb.core.LoadOptions
import dev.edgeb.core.ModelSource
import dev.edgeb.core.Moment
import dev.edgeb.core.NativeEngines
import dev.edgeb.core.NpuContexts
import dev.edgeb.core.NpuOptions
import dev.edgeb.core.PredictOptions
import dev.edgeb.core.Prediction
import dev.edgeb.core.Predictor
import dev.edgeb.core.Session
import dev.edgeb.core.Source as Ranking
import java.io.Closeable
import java.io.File

/**
 * What the screens tell of a model.
 *
 * @property places Whether it wants to know where the user is.
 * @property license Lines about the backbone's license; empty where it states none.
 * @property licenseTexts The license's texts by file name.
 * @property offers What predictions may be asked for.
 * @property defaultSource What answers where nothing else was chosen.
 */
data class ModelFacts(
    val architecture: String,
    val quantization: String,
    val createdWith: String,
    val labels: List<String>,
    val places: Boolean = true,
    val license: List<String> = emptyList(),
    val licenseTexts: Map<String, String> = emptyMap(),
    val offers: List<Offer> = emptyList(),
    val defaultSource: Ranking = Ranking.MODEL
)

/** Opens models. An interface so that the assistant can be tested without one. */
interface Engines {
    /**
     * Open a bundle, which the benchmark calls `name`.
     *
     * @throws dev.edgeb.core.EdgebException where it is none, is damaged or does not load.
     */
    fun load(model: File, verify: Boolean, name: String): Engine
}

/** An open model. */
interface Engine : Closeable {
    val facts: ModelFacts

    /** A session of nothing yet. */
    fun session(): EngineSession

    /** A saved session. @throws dev.edgeb.core.EdgebException where it is damaged or of another model. */
    fun restore(file: File): EngineSession

    /** Measure predictions; one JSON object. @throws dev.edgeb.core.EdgebException it was cancelled. */
    fun benchmark(listener: Benchmark.Listener, cancel: CancelSignal): String
}

/** The events a model was shown, and its predictions. */
interface EngineSession {
    val events: List<BehaviorEvent>

    fun observe(event: BehaviorEvent)

    /** `place` is null for a model without places. */
    fun predict(moment: Moment, place: String?, topK: Int, wish: Wish): Prediction

    /** Why the last prediction's first candidate is its first; null where this model cannot say. */
    fun explain(made: Prediction, moment: Moment, place: String?): Explanation?

    /** Evaluate what was observed. @throws dev.edgeb.core.EdgebException it was cancelled; what is left is left. */
    fun prepare(cancel: CancelSignal)

    fun save(file: File)
}

/** Makes the native side when it is first needed: loading libraries takes time and can fail. */
interface NativeFactory {
    fun create(): LlamaNative

    /** For LiteRT bundles; null where the app comes without LiteRT. */
    fun createLiteRt(): LiteRtNative?
}

/**
 * Models run by llama.cpp or LiteRT. Snapshots of the static prompt are kept in `cache`, and nothing of the user's.
 *
 * @param phone The phone's NPU, which a model with contexts beside it runs on, or else on the CPU; null for the CPU alone.
 */
class PredictorEngines(
    private val native: NativeFactory,
    private val cache: File,
    private val phone: NpuOptions? = null
) : Engines {
    private val opened by lazy { NativeEngines(native.create(), native.createLiteRt()) }

    override fun load(model: File, verify: Boolean, name: String): Engine {
        val options = LoadOptions {
            this.verify = verify
            snapshots = cache
            if (phone != null && NpuContexts.beside(model).file("npu.json").isFile) {
                accelerator = Accelerator.NPU
                npu = phone
                fallback = true
            }
        }
        return PredictorEngine(Predictor.load(ModelSource.file(model, name), opened, options), cache)
    }
}

private class PredictorEngine(private val predictor: Predictor, private val scratch: File) : Engine {
    override val facts = ModelFacts(
        predictor.manifest.architecture,
        predictor.manifest.quantization,
        predictor.manifest.createdWith,
        predictor.manifest.candidates.labels,
        predictor.manifest.layout.places,
        predictor.manifest.baseModel.license?.lines.orEmpty(),
        predictor.manifest.baseModel.license?.texts.orEmpty(),
        Choices.of(predictor.manifest).map { choice ->
            val levels = choice.levels.map { Levels(it.precisions, it.coverages) }
            Offer(choice.source, levels[0], levels.getOrNull(1))
        },
        predictor.defaultSource
    )
    private val explainer = Explainer(predictor)

    override fun session(): EngineSession = PredictorSession(predictor.session(), explainer)

    override fun restore(file: File): EngineSession = PredictorSession(predictor.restore(file), explainer)

    override fun benchmark(listener: Benchmark.Listener, cancel: CancelSignal): String =
        Benchmark(predictor, folder = scratch).run(listener, cancel)

    override fun close() = predictor.close()
}

private class PredictorSession(private val session: Session, private val explainer: Explainer) : EngineSession {
    override val events: List<BehaviorEvent>
        get() = session.events

    override fun observe(event: BehaviorEvent) = session.observe(event)

    override fun predict(moment: Moment, place: String?, topK: Int, wish: Wish): Prediction {
        val options = PredictOptions {
            source = wish.source
            precision = wish.precision
            coverage = wish.coverage
            balance = if (wish.fitted) Balance.FITTED else Balance.NONE
        }
        return session.predict(moment, place, topK, options)
    }

    override fun explain(made: Prediction, moment: Moment, place: String?): Explanation =
        explainer.explain(session, made, moment, place)

    override fun prepare(cancel: CancelSignal) {
        session.prepare(cancel)
    }

    override fun save(file: File) = session.save(file)
}
