package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import dev.edgeb.core.Source
import java.io.ByteArrayInputStream
import java.io.File
import java.io.IOException
import java.io.InputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class StoresTest {
    @get:Rule
    val folder = TemporaryFolder()

    private fun names(): Set<String> = folder.root.list()!!.toSet()

    @Test
    fun settingsComeBack() {
        val store = SettingsStore(File(folder.root, "settings.properties"))
        assertEquals(Settings(), store.load())
        val set = Settings(
            Threshold(13), "Café = \\ #1", Wish(Source.HABITS, true, 0.7, 0.9),
            Dismissals(mapOf("He said \"go\",\nnow" to Moment.parse("2024-03-18T20:00"), "News" to Moment(-3)))
        )
        store.save(set)
        assertEquals(set, store.load())
        assertEquals(setOf("settings.properties"), names())
    }

    @Test
    fun damagedSettingsAreTheDefaults() {
        val file = File(folder.root, "settings.properties")
        file.writeText("threshold=\\u12")
        assertEquals(Settings(), SettingsStore(file).load())
    }

    @Test
    fun aFailedWriteLeavesTheOldFile() {
        val file = File(folder.root, "kept")
        AtomicFile.write(file, "old")
        // The temporary name is taken by a folder that is not empty.
        File(folder.root, "kept.partial/in").mkdirs()
        try {
            AtomicFile.write(file, "new")
            fail("written")
        } catch (error: IOException) {
            assertEquals("old", file.readText())
        }
    }

    @Test
    fun theHashIsThatOfTheBytes() {
        val model = ModelFile(folder.root)
        val told = ArrayList<Long>()
        val copy = model.copy(ByteArrayInputStream("abc".toByteArray()), 3, object : CopyListener {
            override fun onCopied(bytes: Long) {
                told.add(bytes)
            }
        })
        // FIPS 180-2, appendix B.1.
        assertEquals("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", copy.sha256)
        assertEquals(listOf(3L), told)
        assertFalse(model.exists)
        model.accept(copy, "mine.gguf")
        assertTrue(model.exists)
        assertEquals(copy.sha256, ModelFile(folder.root).sha256)
        assertEquals("mine.gguf", ModelFile(folder.root).name)
        assertEquals(setOf("model.gguf", "model.properties"), names())
    }

    @Test
    fun aFileThatWasExchangedHasNoHash() {
        val model = ModelFile(folder.root)
        model.accept(model.copy(ByteArrayInputStream("abc".toByteArray()), null), "mine.gguf")
        model.file.writeText("abcd")
        assertNull(model.sha256)
    }

    @Test
    fun aNewModelReplacesTheOldOneOnlyWhenAccepted() {
        val model = ModelFile(folder.root)
        model.accept(model.copy(ByteArrayInputStream("old".toByteArray()), null), "mine.gguf")
        val copy = model.copy(ByteArrayInputStream("newer".toByteArray()), null)
        assertEquals("old", model.file.readText())
        assertTrue(model.sha256 != copy.sha256)
        model.accept(copy, "mine.gguf")
        assertEquals("newer", model.file.readText())
        assertEquals(copy.sha256, model.sha256)
    }

    @Test
    fun storageThatFillsUpDuringACopyIsSaid() {
        val sizes = arrayOf(10L, 10L, 3L)
        var asked = 0
        val model = ModelFile(folder.root) { sizes[minOf(asked++, 2)] }
        val slow = object : InputStream() {
            private var left = 12

            override fun read(): Int = if (left-- > 0) 7 else -1

            override fun read(b: ByteArray, off: Int, len: Int): Int = super.read(b, off, minOf(len, 4))
        }
        try {
            model.copy(slow, null)
            fail("copied")
        } catch (error: NoSpaceException) {
            assertEquals(3L, error.free)
            assertTrue(names().isEmpty())
        }
    }

    @Test
    fun dismissalsEndAndASetBackClockDoesNotKeepThem() {
        val now = Moment.parse("2024-03-18T20:00")
        val set = Dismissals().plus("News", now).plus("Maps", Moment(now.minutes - 60))
        assertEquals(setOf("News", "Maps"), set.at(now))
        assertEquals(setOf("News"), set.at(Moment(now.minutes + 60)))
        assertTrue(set.at(Moment(now.minutes + 120)).isEmpty())
        assertTrue(set.at(Moment.parse("2010-01-01T00:00")).isEmpty())
        assertEquals(Dismissals().plus("News", now), set.renewed(Moment(now.minutes + 60)))
    }

    @Test
    fun whatFailsLeavesNothing() {
        val model = ModelFile(folder.root)
        val broken = object : InputStream() {
            private var left = 10

            override fun read(): Int {
                if (left == 0) throw IOException("gone")
                left--
                return 7
            }
        }
        val sources = listOf<Pair<InputStream, Long?>>(
            broken to null,
            ByteArrayInputStream(ByteArray(0)) to null,
            ByteArrayInputStream(ByteArray(5)) to 6L,
            ByteArrayInputStream(ByteArray(5)) to Long.MAX_VALUE
        )
        for ((source, size) in sources) {
            try {
                model.copy(source, size)
                fail("copied")
            } catch (error: IOException) {
                assertTrue(names().isEmpty())
            }
        }
    }
}
