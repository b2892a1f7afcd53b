package dev.edgeb.coroutines

import dev.edgeb.core.CancelSignal
import dev.edgeb.core.LoadOptions
import dev.edgeb.core.ModelSource
import dev.edgeb.core.Moment
import dev.edgeb.core.NativeEngines
import dev.edgeb.core.PredictOptions
import dev.edgeb.core.Prediction
import dev.edgeb.core.Predictor
import dev.edgeb.core.Session
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.withContext

/**
 * `Predictor.load` off the calling thread. Cancelling it lets the load end and closes what it opened.
 *
 * @param model The bundle.
 * @param engines The native engines that the app ships.
 * @param options How it is opened.
 * @param dispatcher Where it blocks.
 * @return The predictor, to be closed by the caller.
 * @throws dev.edgeb.core.EdgebException as `Predictor.load`.
 */
public suspend fun loadPredictor(
    model: ModelSource,
    engines: NativeEngines,
    options: LoadOptions = LoadOptions.DEFAULT,
    dispatcher: CoroutineDispatcher = Dispatchers.IO
): Predictor {
    var opened: Predictor? = null
    try {
        withContext(dispatcher) { opened = Predictor.load(model, engines, options) }
        return checkNotNull(opened)
    } catch (error: CancellationException) {
        opened?.close()
        throw error
    }
}

/**
 * `Session.predict` off the calling thread. Cancelling the coroutine ends the evaluation, llama.cpp's and LiteRT's from
 * the inside, and leaves the session as it was.
 *
 * @param moment When the behavior happens.
 * @param place Where; null for a bundle without places.
 * @param topK How many candidates to return; null for all.
 * @param options What is asked for; a cancel signal in it works, too, and is not cancelled with the coroutine.
 * @param dispatcher Where it blocks.
 * @return The answer.
 * @throws dev.edgeb.core.EdgebException as `Session.predict`.
 */
public suspend fun Session.awaitPrediction(
    moment: Moment,
    place: String?,
    topK: Int? = 5,
    options: PredictOptions = PredictOptions.DEFAULT,
    dispatcher: CoroutineDispatcher = Dispatchers.Default
): Prediction {
    val signal = CancelSignal(options.cancel)
    return cancelling(signal, dispatcher) { predict(moment, place, topK, options.with { cancel = signal }) }
}

/**
 * `Session.prepare` off the calling thread, cancelled as `awaitPrediction` is.
 *
 * @param dispatcher Where it blocks.
 * @return Tokens evaluated.
 * @throws dev.edgeb.core.EdgebException as `Session.prepare`.
 */
public suspend fun Session.awaitPrepared(dispatcher: CoroutineDispatcher = Dispatchers.Default): Int {
    val signal = CancelSignal()
    return cancelling(signal, dispatcher) { prepare(signal) }
}

/** Block elsewhere; cancelling the coroutine gives the signal, and waits until the work has ended. */
private suspend fun <T> cancelling(signal: CancelSignal, dispatcher: CoroutineDispatcher, work: () -> T): T =
    coroutineScope {
        val answer = async(dispatcher) { work() }
        try {
            answer.await()
        } catch (error: CancellationException) {
            signal.cancel()
            throw error
        }
    }
