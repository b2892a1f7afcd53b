package dev.edgeb.core

import dev.edgeb.runtime.LlamaJni
import java.io.File

/**
 * Prints why a bundle suggests what it does, asked in every way, for tests/android/test_why.py to compute by brute force.
 *
 * Arguments: a bundle, a history without quotes, the time asked for, the place. A line has the source, τ, whether
 * calibrated, the behavior, the reason, its probability, and the probability without each source.
 */
internal object WhyCheck {
    @JvmStatic
    fun main(arguments: Array<String>) {
        val (bundle, history, at, place) = arguments
        Predictor.load(File(bundle), NativeEngines(LlamaJni())).use { predictor ->
            val session = predictor.session()
            for (line in File(history).readLines().drop(1)) {
                val (time, where, behavior) = line.split(",")
                session.observe(BehaviorEvent(where, Moment.parse(time), behavior))
            }
            val moment = Moment.parse(at)
            val explainer = Explainer(predictor)
            for (choice in Choices.of(predictor.manifest)) {
                for (balance in choice.levels.map { it.balance } + Balance.of(0.7)) {
                    for (calibrated in listOf(true, false)) {
                        val options = PredictOptions {
                            source = choice.source
                            this.calibrated = calibrated
                            this.balance = balance
                        }
                        val made = session.predict(moment, place, null, options.with { exhaustive = true })
                        println(lineOf(made, explainer.explain(session, made, moment, place)))
                        // The same of those that a search ranks: their scores differ by as much.
                        val few = session.predict(moment, place, 4, options)
                        println(lineOf(few, explainer.explain(session, few, moment, place)))
                    }
                }
            }
        }
    }

    private fun lineOf(made: Prediction, why: Explanation): String {
        val without = why.without.map { "${it.key.text}=${it.value}" }
        return (
            listOf(
                made.source.text, made.balance, made.calibrated, made.ranked.size, why.behavior, why.reason?.text,
                why.probability
            ) + without
            ).joinToString("\t")
    }
}
