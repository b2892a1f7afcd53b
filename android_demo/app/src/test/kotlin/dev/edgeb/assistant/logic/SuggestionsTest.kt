package dev.edgeb.assistant.logic

import dev.edgeb.core.Prediction
import dev.edgeb.core.Ranked
import dev.edgeb.core.Scoring
import dev.edgeb.core.Source
import org.junit.Assert.assertEquals
import org.junit.Test

class SuggestionsTest {
    private val ranked = listOf(
        Ranked("a", 0.4), Ranked("b", 0.2), Ranked("c", 0.15), Ranked("d", 0.1), Ranked("e", 0.05), Ranked("f", 0.04)
    )

    private fun prediction(suggest: Boolean? = null) =
        Prediction(ranked, Scoring.EXACT, Source.MODEL, 1, 1.0, 1.0, 0.0, true, suggest, null)

    private fun of(step: Int, vararg dismissed: String): Suggestions =
        Suggestions.of(prediction(), Threshold(step), dismissed.toSet())

    private fun names(found: List<Suggestion>): String = found.joinToString("") { it.behavior }

    @Test
    fun fiveAtMost() {
        assertEquals("abcde", names(of(0).shown))
        assertEquals(0, of(0).dismissed)
    }

    @Test
    fun theFirstIsSuggestedWhereItReachesTheThreshold() {
        assertEquals("a", of(4).top!!.behavior)
        assertEquals("bcde", names(of(4).others))
        assertEquals("ab", names(of(4).shown.filter { it.suggested }))
        // The threshold itself is enough.
        assertEquals("a", of(8).top!!.behavior)
        assertEquals(null, of(9).top)
        assertEquals("abcde", names(of(9).others))
    }

    @Test
    fun theDismissedMakeRoom() {
        assertEquals("bcdef", names(of(0, "a").shown))
        assertEquals(1, of(0, "a").dismissed)
        // What lies below those shown is not missed.
        assertEquals(0, of(0, "f").dismissed)
        assertEquals(null, of(5, "a").top)
        assertEquals("b", of(4, "a").top!!.behavior)
    }

    @Test
    fun withAPrecisionOnlyTheRankingsFirstIsSuggested() {
        fun of(suggest: Boolean, vararg dismissed: String) =
            Suggestions.of(prediction(suggest), Threshold(0), dismissed.toSet())
        assertEquals("a", of(true).top!!.behavior)
        assertEquals(1, of(true).shown.count { it.suggested })
        assertEquals(null, of(false).top)
        assertEquals(null, of(true, "a").top)
    }

    @Test
    fun movesAreOfRanksNotOfWhatIsShown() {
        val moved = Suggestions.of(prediction(), Threshold(0), setOf("a"), listOf("c", "b", "x", "a", "d"))
        assertEquals(
            listOf(Move.Same, Move.Down(2), Move.Up(1), Move.New, Move.New), moved.shown.map { it.move }
        )
    }

    @Test
    fun stepsAreFivePercent() {
        assertEquals(0.2, Threshold.DEFAULT.probability, 0.0)
        assertEquals(0.35, Threshold(7).probability, 1e-12)
        assertEquals(Threshold(0), Threshold.ofText("-3"))
        assertEquals(Threshold(20), Threshold.ofText("99"))
        assertEquals(Threshold.DEFAULT, Threshold.ofText("much"))
        assertEquals(Threshold.DEFAULT, Threshold.ofText(null))
    }

    @Test
    fun typedTextMeansALabelOrNothing() {
        val labels = listOf("News", "news", "Short Video")
        assertEquals("news", labelOf("news", labels))
        assertEquals("Short Video", labelOf(" short video ", labels))
        assertEquals("Short Video", labelOf("\u200eShort\u00a0 Vi\u200bdeo", labels))
        assertEquals("Caf\u00e9", labelOf("Cafe\u0301", listOf("News", "Caf\u00e9")))
        assertEquals(null, labelOf("\u200e", labels))
        assertEquals(null, labelOf("Short", labels))
        assertEquals(null, labelOf("", labels))
    }
}
