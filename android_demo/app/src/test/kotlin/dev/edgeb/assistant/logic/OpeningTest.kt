package dev.edgeb.assistant.logic

import java.util.ArrayDeque
import java.util.concurrent.Executor
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test

/** Accepting a suggestion that another app can open, and what is said where none can. */
class OpeningTest : OnAssistant() {
    private class Phone : Launcher {
        val started = ArrayList<Action>()
        val said = ArrayList<String>()
        var fails: RuntimeException? = null

        override fun start(action: Action) {
            fails?.let { throw it }
            started.add(action)
        }

        override fun onNothing(behavior: String) {
            said.add(behavior)
        }
    }

    /** As Android's ActivityNotFoundException and FileUriExposedException are. */
    private class NotFound : RuntimeException("No Activity found to handle Intent")

    private val worker = ArrayDeque<Runnable>()
    private val main = ArrayDeque<Runnable>()
    private val phone = Phone()
    private val table = ActionTable.fromCsv(
        // However a table writes the letters.
        "behavior,action,category,data,package\nMusic,a.MAIN,c.MUSIC,,\nCafe\u0301,a.VIEW,,\"geo:0,0\",com.maps\n"
    )
    private lateinit var controller: Controller
    private lateinit var opening: Opening

    @Before
    fun open() {
        assistant().bring("labels News Music Caf\u00e9")
        controller = Controller(Executor { worker.add(it) }, Executor { main.add(it) }) { assistant(it) }
        opening = Opening(controller, table, phone)
        controller.start()
        drain(worker, main)
    }

    private fun accept(behavior: String): List<String> {
        opening.accept(behavior, "home")
        drain(worker, main)
        return ready(controller.state).behaviors()
    }

    @Test
    fun whatTheTableNamesIsOpenedAndCounts() {
        assertTrue(opening.isOffered("Music"))
        assertEquals(listOf("Music"), accept("Music"))
        assertEquals(listOf("Caf\u00e9", "Music"), accept("Caf\u00e9"))
        val opened = listOf(Action("a.MAIN", "c.MUSIC", "", ""), Action("a.VIEW", "", "geo:0,0", "com.maps"))
        assertEquals(opened, phone.started)
        assertTrue(phone.said.isEmpty())
    }

    @Test
    fun whatNobodyOpensIsSaidAndCountsAllTheSame() {
        for (failure in listOf(NotFound(), SecurityException("not exported"), IllegalArgumentException())) {
            phone.fails = failure
            accept("Music")
        }
        assertEquals(listOf("Music", "Music", "Music"), phone.said)
        assertTrue(phone.started.isEmpty())
        assertEquals(3, ready(controller.state).page.entries.size)
        phone.fails = null
        accept("Music")
        assertEquals(1, phone.started.size)
    }

    @Test
    fun whatTheTableDoesNotNameOffersNothing() {
        assertFalse(opening.isOffered("News"))
        assertTrue(accept("News").isEmpty())
        assertTrue(phone.started.isEmpty() && phone.said.isEmpty())
    }

    @Test
    fun aSecondTapOpensNothing() {
        for (tap in 1..2) opening.accept("Music", "home")
        drain(worker, main)
        assertEquals(1, phone.started.size)
        assertEquals(listOf("Music"), ready(controller.state).behaviors())
    }
}
