package dev.edgeb.usage.logic

import dev.edgeb.core.BehaviorEvent
import dev.edgeb.core.Moment
import org.junit.Assert.assertEquals
import org.junit.Test

class AppUsesTest {
    private val uses = AppUses(mapOf("com.tube" to "Short Video", "com.clips" to "Short Video", "com.mail" to "Mail"))

    /** Changes like "0 +com.tube": seconds, + for the foreground, - for the background. */
    private fun events(now: Int, vararg changes: String): List<BehaviorEvent> = uses.events(
        changes.map {
            val (seconds, app) = it.split(" ")
            AppChange(app.drop(1), seconds.toLong() * 1000, app[0] == '+')
        },
        now * 1000L
    ) { Moment(it / 60_000) }

    private fun video(minute: Long) = BehaviorEvent("", Moment(minute), "Short Video")

    @Test
    fun aUseIsABehaviorWhenItBegins() {
        assertEquals(listOf(video(1)), events(600, "60 +com.tube", "120 -com.tube"))
    }

    @Test
    fun passingByIsNone() {
        assertEquals(emptyList<BehaviorEvent>(), events(600, "60 +com.tube", "69 -com.tube"))
        assertEquals(listOf(video(1)), events(600, "60 +com.tube", "70 -com.tube"))
    }

    @Test
    fun appsWithoutABehaviorAreLeftOut() {
        assertEquals(emptyList<BehaviorEvent>(), events(600, "60 +com.bank", "120 -com.bank"))
    }

    @Test
    fun anotherAppInFrontEndsAUse() {
        val found = events(600, "60 +com.tube", "120 +com.bank", "500 -com.tube")
        assertEquals(listOf(video(1)), found)
        assertEquals(emptyList<BehaviorEvent>(), events(600, "60 +com.tube", "65 +com.bank", "500 -com.tube"))
    }

    @Test
    fun severalScreensOfAnAppAreOneUse() {
        // Each too short by itself.
        val found = events(600, "58 +com.tube", "64 -com.tube", "64 +com.tube", "69 -com.tube")
        assertEquals(listOf(video(0)), found)
        assertEquals(listOf(video(1)), events(600, "60 +com.tube", "66 +com.tube", "72 -com.tube"))
    }

    @Test
    fun aShortPauseDoesNotBeginAnew() {
        val changes = arrayOf("60 +com.tube", "120 -com.tube", "360 +com.clips", "400 -com.clips")
        assertEquals(listOf(video(1)), events(900, *changes))
        val later = arrayOf("60 +com.tube", "120 -com.tube", "420 +com.clips", "460 -com.clips")
        assertEquals(listOf(video(1), video(7)), events(900, *later))
        val between = arrayOf("60 +com.tube", "120 +com.mail", "180 +com.tube", "240 -com.tube")
        assertEquals(listOf("Short Video", "Mail", "Short Video"), events(900, *between).map { it.behavior })
    }

    @Test
    fun whatIsStillInFrontCountsUntilNow() {
        assertEquals(listOf(video(1)), events(70, "60 +com.tube"))
        assertEquals(emptyList<BehaviorEvent>(), events(69, "60 +com.tube"))
    }
}
