package dev.edgeb.assistant.logic

import dev.edgeb.core.Ranked
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class SuggestionsTest {
    private val ranked = listOf(
        Ranked("a", 0.4), Ranked("b", 0.2), Ranked("c", 0.15), Ranked("d", 0.1), Ranked("e", 0.05), Ranked("f", 0.04)
    )

    private fun shown(step: Int, vararg dismissed: String): Suggestions =
        Suggestions.of(ranked, Threshold(step), dismissed.toSet())

    @Test
    fun fiveAtMost() {
        assertEquals(listOf("a", "b", "c", "d", "e"), shown(0).shown.map { it.behavior })
        assertEquals(0, shown(0).hidden)
    }

    @Test
    fun whatIsBelowTheThresholdIsCountedNotShown() {
        assertEquals(listOf("a", "b"), shown(4).shown.map { it.behavior })
        assertEquals(3, shown(4).hidden)
        assertTrue(shown(20).shown.isEmpty())
        assertEquals(5, shown(20).hidden)
    }

    @Test
    fun theThresholdItselfIsEnough() {
        assertEquals(listOf("a"), shown(8).shown.map { it.behavior })
    }

    @Test
    fun theDismissedMakeRoom() {
        assertEquals(listOf("b", "c", "d", "e", "f"), shown(0, "a").shown.map { it.behavior })
        assertEquals(listOf("b"), shown(4, "a").shown.map { it.behavior })
        assertEquals(4, shown(4, "a").hidden)
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
