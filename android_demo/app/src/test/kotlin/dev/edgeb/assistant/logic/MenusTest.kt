package dev.edgeb.assistant.logic

import dev.edgeb.core.EdgebException
import dev.edgeb.core.Explanation
import dev.edgeb.core.Moment
import dev.edgeb.core.Reason
import dev.edgeb.core.Source
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.fail
import org.junit.Test

class MenusTest {
    private val plain = Levels(linkedMapOf(0.5 to true, 0.9 to false), listOf(0.8, 0.9))
    private val offers = listOf(Offer(Source.MODEL, Levels()), Offer(Source.FUSED, plain, Levels()))

    @Test
    fun menusOfferWhatTheSourceCanDo() {
        val fused = Menus.of(offers, Source.FUSED, Wish())
        assertEquals(listOf(null, Source.MODEL, Source.FUSED), fused.sources.map { it.value })
        assertEquals(listOf(false, true), fused.balances.map { it.value })
        assertEquals(listOf(null, 0.5, 0.9), fused.precisions.map { it.value })
        assertEquals(listOf(true, true, false), fused.precisions.map { it.isReached })
        assertEquals(listOf(null, 0.8, 0.9), fused.coverages.map { it.value })
        // Another source, another balance, a model without any: the defaults are left.
        val bare = listOf(
            Menus.of(offers, Source.FUSED, Wish(Source.MODEL)), Menus.of(offers, Source.FUSED, Wish(fitted = true)),
            Menus.of(emptyList(), Source.MODEL, Wish())
        )
        assertEquals(listOf(1, 1, 1), bare.map { it.precisions.size })
        assertEquals(listOf(1, 1, 1), bare.map { it.coverages.size })
        assertEquals(listOf(1, 2, 1), bare.map { it.balances.size })
    }

    @Test
    fun everythingOnAMenuIsFulfilled() {
        for (source in listOf(null, Source.MODEL, Source.FUSED)) {
            for (fitted in listOf(false, true)) {
                val begun = Wish(source, fitted).within(offers, Source.FUSED)
                val menus = Menus.of(offers, Source.FUSED, begun)
                for (precision in menus.precisions) {
                    for (coverage in menus.coverages) {
                        val wish = begun.copy(precision = precision.value, coverage = coverage.value)
                        assertEquals(wish, wish.within(offers, Source.FUSED))
                    }
                }
            }
        }
    }

    @Test
    fun actionsAreFoundByBehavior() {
        val table = ActionTable.fromCsv(
            "package,behavior,action,category,data\r\n,Cafe\u0301,a.DIAL,,tel:1\r\ncom.x,\"Mail, long\",a.MAIN,c.MAIL,\r\n"
        )
        assertEquals(Action("a.DIAL", "", "tel:1", ""), table.of("Caf\u00e9"))
        assertEquals(Action("a.MAIN", "c.MAIL", "", "com.x"), table.of("Mail, long"))
        assertNull(table.of("Music"))
        assertNull(ActionTable().of("Music"))
        val head = "behavior,action,category,data,package\n"
        for (text in listOf("", "behavior,action\nx,y\n", head + "x,y\n", head + ",y,,,\n", head + "x,,,,\n", head + "\"x")) {
            try {
                ActionTable.fromCsv(text)
                fail("read: $text")
            } catch (error: EdgebException) {
                // As it should be.
            }
        }
    }

    @Test
    fun aGlanceIsWhatTheScreenSuggests() {
        val why = Explanation("News", Reason.USUAL, 0.5, emptyMap())
        val asked = Moment.parse("2024-03-18T18:05")
        val top = Suggestion("News", 0.4, true, Move.Same)
        fun day(shown: List<Suggestion>, cost: Cost?) = Day(
            ModelFacts("qwen2", "Q4_0", "edgeb", listOf("News", "Maps")), 1, null, Settings(), emptyList(),
            Suggestions(shown, 0), null, why, cost, Page(asked, emptyList(), null, null, ""), Aside(0, emptyList()),
            false, false, false
        )
        val cost = Cost(1.0, 2, "fused", asked)
        assertEquals(Glance.Suggested("News", 0.4, asked, Reason.USUAL), Glance.of(State.Ready(day(listOf(top), cost), null)))
        assertEquals(Glance.Silent, Glance.of(State.Ready(day(listOf(top.copy(suggested = false)), cost), null)))
        assertEquals(Glance.Wait, Glance.of(State.Ready(day(listOf(top), null), null)))
        assertEquals(Glance.Wait, Glance.of(State.Importing(3)))
        assertEquals(Glance.Wait, Glance.of(State.Opening))
        assertEquals(Glance.Begin, Glance.of(State.NoModel(null)))
        assertEquals(Glance.Begin, Glance.of(State.Broken(Problem.Memory)))
    }
}
