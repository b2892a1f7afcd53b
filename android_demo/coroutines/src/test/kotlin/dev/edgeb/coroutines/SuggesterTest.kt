package dev.edgeb.coroutines

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.CancelSignal
import dev.edgeb.core.EdgebException
import dev.edgeb.core.EngineKind
import dev.edgeb.core.ErrorCode
import dev.edgeb.core.ModelSource
import dev.edgeb.core.Moment
import dev.edgeb.core.NativeEngines
import dev.edgeb.core.PredictOptions
import dev.edgeb.core.Predictor
import dev.edgeb.core.Source
import java.io.File
import java.util.concurrent.CountDownLatch
import java.util.concurrent.Executors
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Job
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.launch
import kotlinx.coroutines.plus
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Before
import org.junit.Test

private const val LONG = 60_000L

/** Over a real bundle, which the property edgeb.bundle names. */
class SuggesterTest {
    private val source = ModelSource.file(File(System.getProperty("edgeb.bundle")!!))
    private val model = PredictOptions { this.source = Source.MODEL }
    private val noon = Moment.parse("2024-03-18T12:00")
    private val thread = Executors.newSingleThreadExecutor()
    private lateinit var predictor: Predictor
    private lateinit var labels: List<String>

    @Before
    fun open() {
        predictor = runBlocking { loadPredictor(source, NativeEngines.NONE) }
        labels = predictor.manifest.candidates.labels
    }

    @After
    fun close() {
        predictor.close()
        thread.shutdown()
    }

    private fun worker(): CoroutineDispatcher = thread.asCoroutineDispatcher()

    private fun event(minute: Int, label: Int) = BehaviorEvent("DK", Moment(noon.minutes + minute), labels[label])

    /** Keep the only worker busy until the latch opens. */
    private fun occupied(): CountDownLatch {
        val latch = CountDownLatch(1)
        thread.execute { latch.await() }
        return latch
    }

    @Test
    fun anAnswerIsTheBlockingOne() = runBlocking {
        val session = predictor.session()
        session.observe(event(0, 1))
        val expected = predictor.predict(listOf(event(0, 1)), noon, "DK", 3, model)
        val found = session.awaitPrediction(noon, "DK", 3, model)
        assertEquals(expected.ranked, found.ranked)
        assertEquals(EngineKind.KOTLIN, found.engine)
    }

    @Test
    fun whatTheLibraryRefusesArrivesAsItIs() = runBlocking {
        try {
            predictor.session().awaitPrediction(noon, null)
            fail("predicted without a place")
        } catch (error: EdgebException) {
            assertEquals(ErrorCode.INVALID_PLACE, error.code)
        }
        try {
            loadPredictor(ModelSource.file(File("none.gguf")), NativeEngines.NONE)
            fail("loaded nothing")
        } catch (error: EdgebException) {
            assertEquals(ErrorCode.UNREADABLE, error.code)
        }
    }

    @Test
    fun aCancelledCoroutineCancelsTheCall() = runBlocking {
        val session = predictor.session()
        val signal = CancelSignal()
        val busy = occupied()
        val job = launch {
            session.awaitPrediction(noon, "DK", 3, model.with { cancel = signal }, worker())
            fail("answered")
        }
        withTimeout(LONG) {
            kotlinx.coroutines.yield()
            job.cancel()
            // The call has not begun, and never does.
            busy.countDown()
            job.join()
        }
        assertTrue(job.isCancelled)
        // The caller's signal is for the calls to come.
        assertFalse(signal.isCancelled)
        assertEquals(3, session.awaitPrediction(noon, "DK", 3, model.with { cancel = signal }).ranked.size)
    }

    @Test
    fun aSignalOfTheCallersEndsOnlyTheCall() = runBlocking {
        val signal = CancelSignal()
        signal.cancel()
        try {
            predictor.session().awaitPrediction(noon, "DK", 3, model.with { cancel = signal })
            fail("answered")
        } catch (error: EdgebException) {
            assertEquals(ErrorCode.CANCELLED, error.code)
        } catch (error: CancellationException) {
            fail("the coroutine was cancelled")
        }
    }

    @Test
    fun suggestionsFollowEventsAndQuestions() = runBlocking {
        val inner = Job(coroutineContext[Job])
        val suggester = Suggester(predictor.session(), this + inner, 3, model, worker())
        assertNull(suggester.suggestions.value.prediction)
        suggester.observe(event(0, 1))
        val after = withTimeout(LONG) { suggester.suggestions.first { it.at == noon && !it.isPredicting } }
        assertEquals(predictor.predict(listOf(event(0, 1)), noon, "DK", 3, model).ranked, after.prediction!!.ranked)
        val later = Moment(noon.minutes + 300)
        suggester.ask(later, "home")
        val asked = withTimeout(LONG) { suggester.suggestions.first { it.at == later && !it.isPredicting } }
        assertEquals(predictor.predict(listOf(event(0, 1)), later, "home", 3, model).ranked, asked.prediction!!.ranked)
        inner.cancelAndJoin()
    }

    @Test
    fun noEventIsLostWhileOthersArrive() = runBlocking {
        val session = predictor.session()
        val inner = Job(coroutineContext[Job])
        val busy = occupied()
        val suggester = Suggester(session, this + inner, 3, model, worker())
        for (i in 0..5) suggester.observe(event(i, i))
        kotlinx.coroutines.yield()
        busy.countDown()
        val last = Moment(noon.minutes + 5)
        val found = withTimeout(LONG) { suggester.suggestions.first { it.at == last && !it.isPredicting } }
        assertEquals((0..5).map { event(it, it) }.takeLast(session.events.size), session.events)
        val history = (0..5).map { event(it, it) }
        assertEquals(predictor.predict(history, last, "DK", 3, model).ranked, found.prediction!!.ranked)
        inner.cancelAndJoin()
    }

    @Test
    fun anUnknownBehaviorIsAFailureThatTheNextStepClears() = runBlocking {
        val inner = Job(coroutineContext[Job])
        val suggester = Suggester(predictor.session(), this + inner, 3, model, worker())
        suggester.observe(BehaviorEvent("DK", noon, "no such behavior"))
        val failed = withTimeout(LONG) { suggester.suggestions.first { it.failure != null } }
        assertEquals(ErrorCode.UNKNOWN_LABEL, failed.failure!!.code)
        assertFalse(failed.isPredicting)
        suggester.ask(noon, "DK")
        val found = withTimeout(LONG) { suggester.suggestions.first { it.prediction != null } }
        assertNull(found.failure)
        inner.cancelAndJoin()
    }

    @Test
    fun preparingPaysForEvents() = runBlocking {
        val session = predictor.session()
        session.observe(event(0, 1))
        assertTrue(session.awaitPrepared() >= 0)
        coroutineScope { assertEquals(1, session.events.size) }
    }
}
