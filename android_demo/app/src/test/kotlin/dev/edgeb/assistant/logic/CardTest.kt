package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import dev.edgeb.core.Reason
import dev.edgeb.core.Source as Ranking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** What the screen suggests, and why. */
class CardTest : OnAssistant() {
    @Test
    fun whatWasDismissedIsNotShownForAWhile() {
        val first = assistant()
        first.bring("labels News Music Maps")
        val shown = ready(first.attempt { dismiss("News") }).suggestions
        assertEquals(listOf("Music", "Maps"), shown.shown.map { it.behavior })
        assertEquals(1, shown.dismissed)
        // Its probability stays what it is, and so do the others'.
        assertEquals(listOf(0.3, 0.15), shown.shown.map { it.probability })
        assertEquals(listOf("News", "Music", "Maps"), first.ranked().map { it.behavior })
        first.attempt { accept("Maps", "home") }
        // Neither an event nor the end of the process brings it back.
        time = Moment.parse("2024-03-18T21:59")
        val assistant = assistant()
        val later = ready(assistant.attempt { open() }).suggestions
        assertEquals(listOf("Maps", "Music"), later.shown.map { it.behavior })
        time = Moment.parse("2024-03-18T22:00")
        assertEquals(listOf("Maps", "News", "Music"), ready(assistant.attempt { tick() }).suggestions.shown.map { it.behavior })
        assistant.attempt { dismiss("News") }
        val back = ready(assistant.attempt { restoreDismissed() }).suggestions
        assertEquals(listOf("Maps", "News", "Music"), back.shown.map { it.behavior })
        // What the user does is no longer unwanted.
        assistant.attempt { dismiss("News") }
        assertEquals("News", ready(assistant.attempt { accept("News", "home") }).suggestions.shown[0].behavior)
    }

    @Test
    fun arrowsTellWhatMovedSinceTheLastEvent() {
        val assistant = assistant()
        assistant.bring("labels News Music Maps Mail Chess Radio")
        val moves = ready(assistant.attempt { accept("Radio", "home") }).suggestions.shown.map { it.behavior to it.move }
        assertEquals(
            listOf("Radio" to Move.New, "News" to Move.Down(1), "Music" to Move.Down(1), "Maps" to Move.Down(1), "Mail" to Move.Down(1)),
            moves
        )
        val back = ready(assistant.attempt { undo() }).suggestions.shown
        assertTrue(back.all { it.move == Move.Same })
    }

    @Test
    fun oneSaysWhyAsLongAsTheFirstIsShown() {
        val assistant = assistant()
        val day = ready(assistant.bring("labels News Music"))
        assertEquals(Reason.MODEL, day.why!!.reason)
        assertNull(ready(assistant.attempt { dismiss("News") }).why)
    }

    @Test
    fun predictingIsToldWhileAPredictionRunsAlone() {
        val told = ArrayList<Boolean>()
        val assistant = assistant(object : PredictionListener {
            override fun onPredicting(active: Boolean) {
                told.add(active)
            }
        })
        assistant.bring("labels News Music")
        assertEquals(listOf(true, false), told)
        assistant.attempt { save() }
        assistant.attempt { setThreshold(Threshold(3)) }
        assistant.attempt { showDay(null) }
        assertEquals(2, told.size)
        assistant.attempt { accept("News", "home") }
        assertEquals(listOf(true, false, true, false), told)
    }

    @Test
    fun aWishIsFulfilledAsFarAsTheModelOffersIt() {
        val offered = Levels(mapOf(0.5 to true, 0.9 to false), listOf(0.8))
        engines.offers = listOf(Offer(Ranking.MODEL, Levels()), Offer(Ranking.FUSED, offered, Levels()))
        val assistant = assistant()
        assistant.bring("labels News Music")
        val wish = Wish(Ranking.FUSED, false, 0.5, 0.8)
        val day = ready(assistant.attempt { setWish(wish) })
        assertEquals(wish, engines.wishes.last())
        // With a precision the decision is the model's, and for the first alone.
        assertEquals(listOf(true, false), day.suggestions.shown.map { it.suggested })
        // Raised, nothing is calibrated; another model has no fusion.
        assistant.attempt { setWish(wish.copy(fitted = true)) }
        assertEquals(Wish(Ranking.FUSED, true), engines.wishes.last())
        engines.offers = listOf(Offer(Ranking.MODEL, Levels()), Offer(Ranking.HABITS, offered))
        assertEquals(Wish(), ready(assistant.bring("labels News Music")).settings.wish)
        assertEquals(Wish(), engines.wishes.last())
    }
}
