package dev.edgeb.assistant.logic

import dev.edgeb.runtime.EngineLicense
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

class LicensesTest {
    @Test
    fun thePageNamesWhatIsInTheAppAndHasEachTextOnce() {
        val all = Licenses.page(EngineLicense.shipped(kleidiAi = true, liteRt = true))
        for (head in listOf("llama.cpp: MIT\n", "KleidiAI: Apache-2.0 AND BSD-3-Clause\n", "LiteRT: Apache-2.0\n")) {
            assertTrue(head, all.contains(head))
        }
        assertTrue(all.contains("The ggml authors"))
        assertEquals(2, all.split("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION").size)
        val least = Licenses.page(EngineLicense.shipped(kleidiAi = false, liteRt = false))
        assertFalse(least.contains("Apache") || least.contains("KleidiAI") || least.contains("LiteRT"))
        assertTrue(least.startsWith("llama.cpp: MIT\nhttps://github.com/ggml-org/llama.cpp\n\n"))
    }
}
