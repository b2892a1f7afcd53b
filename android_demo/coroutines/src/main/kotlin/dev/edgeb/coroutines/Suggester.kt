package dev.edgeb.coroutines

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.EdgebException
import dev.edgeb.core.Moment
import dev.edgeb.core.PredictOptions
import dev.edgeb.core.Prediction
import dev.edgeb.core.Session
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ExperimentalCoroutinesApi
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.collectLatest
import kotlinx.coroutines.flow.receiveAsFlow
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/**
 * What a screen shows.
 *
 * @property prediction The last answer; null before the first.
 * @property at The time that it was asked for.
 * @property isPredicting Whether a newer one is under way.
 * @property failure Why the last call failed; null where it did not.
 */
public class Suggestions internal constructor(
    public val prediction: Prediction?,
    public val at: Moment?,
    public val isPredicting: Boolean,
    public val failure: EdgebException?
)

/**
 * Keeps suggestions current: every event and every question makes a new prediction, and ends one that still runs.
 *
 * Events are observed in the order in which they were given, none is lost, and the session is used by nobody else. Ends
 * with its scope; the predictor stays the caller's.
 *
 * @param session The user's session.
 * @param scope A screen's or the app's.
 * @param topK How many candidates an answer has; null for all.
 * @param options What is asked for.
 * @param dispatcher Where predictions block.
 */
@OptIn(ExperimentalCoroutinesApi::class)
public class Suggester @JvmOverloads constructor(
    private val session: Session,
    scope: CoroutineScope,
    private val topK: Int? = 5,
    private val options: PredictOptions = PredictOptions.DEFAULT,
    private val dispatcher: CoroutineDispatcher = Dispatchers.Default
) {
    private class Step(val event: BehaviorEvent?, val moment: Moment, val place: String?)

    private val steps = Channel<Step>(Channel.UNLIMITED)
    private val current = MutableStateFlow(Suggestions(null, null, isPredicting = false, failure = null))

    /** The last answer, and whether a newer one is under way. */
    public val suggestions: StateFlow<Suggestions> = current.asStateFlow()

    init {
        scope.launch { steps.receiveAsFlow().collectLatest { take(it) } }
    }

    /**
     * Observe what the user did, and predict what follows at once in the same place. What the session refuses, such as
     * an unknown behavior, is the next `Suggestions.failure`.
     */
    public fun observe(event: BehaviorEvent) {
        steps.trySend(Step(event, event.time, event.place))
    }

    /** Predict for this time and place; null for a bundle without places. */
    public fun ask(moment: Moment, place: String?) {
        steps.trySend(Step(null, moment, place))
    }

    private suspend fun take(step: Step) {
        val before = current.value
        current.value = Suggestions(before.prediction, before.at, isPredicting = true, failure = null)
        try {
            // A newer step ends the prediction of this one, and must not lose its event.
            if (step.event != null) withContext(NonCancellable + dispatcher) { session.observe(step.event) }
            val place = if (session.hasPlaces) step.place else null
            val found = session.awaitPrediction(step.moment, place, topK, options, dispatcher)
            current.value = Suggestions(found, step.moment, isPredicting = false, failure = null)
        } catch (error: EdgebException) {
            current.value = Suggestions(before.prediction, before.at, isPredicting = false, failure = error)
        }
    }
}
