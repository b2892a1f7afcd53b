package dev.edgeb.core

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder

private const val VERSION = 1
private const val HEADER_BYTES = 28
private const val NO_HOUR = 255L
private const val HOURS = 24
private const val LEAST_STRENGTH = 1e-3
private const val LARGEST = 1e9
private const val MOST = 65_535.0

// FNV-1a of 64 bits, and the finalizer of SplitMix64; Kotlin 1.3 has no literals beyond 63 bits.
private const val FNV_START = -0x340d631b7bdddcdbL
private const val FNV_PRIME = 0x100000001b3L
private const val GAMMA = -0x61c8864680b583ebL
private const val FIRST_MIX = -0x40a7b892e31b1a47L
private const val SECOND_MIX = -0x6b2fb644ecceee15L

/** One kind of context: how many of the last behaviors it names, and whether the hour bucket and the place. */
private class Level(val name: String, val behaviors: Int, val hour: Boolean, val place: Boolean)

// Widest first: the order in which they are combined, and their numbers in keys, from 1.
private val CHAIN = listOf(
    Level("place", 0, false, true),
    Level("place_hour", 0, true, true),
    Level("last_place_hour", 1, true, true),
    Level("last_two", 2, false, false),
    Level("last_two_place_hour", 2, true, true)
)

/** How the population was counted: see docs/integrate.md. `strengths` are those behind the counts of each level. */
internal class PopulationConfig(val minUsers: Int, val hourBucket: Int, val strengths: Map<String, Double>) {
    companion object {
        private val NAMES = listOf("min_users", "per_user", "hour_bucket") + CHAIN.map { "k_${it.name}" }

        /** Read strictly what a manifest holds. */
        fun of(value: Any?, where: String): PopulationConfig {
            val found = Fields(value, NAMES, where)
            val bucket = found.int("hour_bucket")
            if (bucket < 1 || HOURS % bucket != 0) {
                throw EdgebException("$where: hour_bucket is $bucket", "use a divisor of 24", ErrorCode.DAMAGED)
            }
            found.number("per_user", 1.0, MOST)
            found.number("min_users", 1.0, MOST)
            val strengths = CHAIN.associate { it.name to found.number("k_${it.name}", LEAST_STRENGTH, LARGEST) }
            return PopulationConfig(found.int("min_users"), bucket, strengths)
        }
    }
}

/** What a manifest says of its table. */
internal class PopulationInfo(val config: PopulationConfig, val contexts: Int, val bytes: Int, val sha256: String) {
    companion object {
        /** Read strictly what a manifest holds. */
        fun of(value: Any?, where: String): PopulationInfo {
            val found = Fields(value, listOf("config", "contexts", "users", "bytes", "sha256"), where)
            for (name in listOf("contexts", "users", "bytes")) found.number(name, 0.0, Int.MAX_VALUE.toDouble())
            return PopulationInfo(
                PopulationConfig.of(found.any("config"), "$where.config"),
                found.int("contexts"), found.int("bytes"), found.string("sha256")
            )
        }
    }
}

/**
 * What people in general do next: training users' counts per context, each level of context falling back on the next
 * wider one. Names no place and no user: contexts are hashes, and no count stands on fewer than `minUsers` users.
 *
 * Immutable. Python's core/population.py describes the file.
 */
internal class PopulationTable private constructor(
    private val config: PopulationConfig,
    private val places: Boolean,
    private val prior: DoubleArray,
    private val labels: LongArray,
    private val keys: LongArray,
    private val offsets: IntArray,
    private val codes: IntArray,
    private val units: IntArray
) {
    /** Number of candidates. */
    val size: Int
        get() = prior.size

    /**
     * Probabilities of what comes next at `moment` in `place`: they sum to one, none is zero.
     *
     * @param recent Codes of the behaviors observed last, oldest first; the last two are read, fewer if fewer are known.
     */
    fun probs(recent: List<Int>, moment: Moment, place: String): DoubleArray {
        val p = prior.copyOf()
        val placeHash = if (places) textHash(cleanPlace(place)) else 0L
        for ((index, level) in CHAIN.withIndex()) {
            val repeats = !places && !level.hour && level.behaviors == 0
            if (repeats || recent.size < level.behaviors) continue
            val hour = if (level.hour) (moment.hour / config.hourBucket).toLong() else NO_HOUR
            var key = mix(256L * (index + 1) + hour)
            key = mix(key xor (if (level.behaviors >= 1) labels[recent[recent.size - 1]] else 0L))
            key = mix(key xor (if (level.behaviors == 2) labels[recent[recent.size - 2]] else 0L))
            key = mix(key xor (if (level.place) placeHash else 0L))
            val context = find(key)
            if (context >= 0) add(p, context, config.strengths.getValue(level.name))
        }
        return p
    }

    /** Mix a context's counts c with the distribution p of the wider one: (c + k·p) / (Σc + k). */
    private fun add(p: DoubleArray, context: Int, k: Double) {
        var total = k
        for (b in p.indices) p[b] *= k
        for (entry in offsets[context] until offsets[context + 1]) {
            val count = units[entry].toDouble() * config.minUsers
            p[codes[entry]] += count
            total += count
        }
        for (b in p.indices) p[b] /= total
    }

    private fun find(key: Long): Int {
        var low = 0
        var high = keys.size - 1
        while (low <= high) {
            val middle = (low + high) ushr 1
            if (keys[middle] == key) return middle
            if (below(keys[middle], key)) low = middle + 1 else high = middle - 1
        }
        return -1
    }

    companion object {
        /**
         * Read a table strictly.
         *
         * @param candidates The bundle's.
         * @param places Whether the bundle knows places.
         * @throws EdgebException the bytes do not match their hash, or are no table of this bundle.
         */
        fun of(
            content: ByteArray, info: PopulationInfo, candidates: CandidateSet, places: Boolean, path: String
        ): PopulationTable {
            val where = "$path: the population's table"
            if (content.size != info.bytes || hex(sha256().digest(content)) != info.sha256) {
                throw EdgebException("$where does not match its hash", DAMAGED_HINT, ErrorCode.DAMAGED)
            }
            val magic = "EDGEBPOP".toByteArray(Charsets.US_ASCII)
            if (content.size < HEADER_BYTES || !content.copyOf(magic.size).contentEquals(magic)) {
                throw EdgebException("$where is none", DAMAGED_HINT, ErrorCode.DAMAGED)
            }
            val bytes = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN)
            // By Buffer: ByteBuffer has a position of its own from Java 9 and Android 10 on.
            (bytes as Buffer).position(magic.size)
            val version = bytes.getInt()
            if (version != VERSION) {
                throw EdgebException(
                    "$where has version $version, this edgeb reads $VERSION", "update the app",
                    ErrorCode.UNSUPPORTED_VERSION
                )
            }
            if (bytes.getInt() != candidates.size || bytes.getInt() != (if (places) 1 else 0)) {
                throw EdgebException("$where is of another bundle", DAMAGED_HINT, ErrorCode.DAMAGED)
            }
            val contexts = bytes.getInt()
            val entries = bytes.getInt()
            val expected = HEADER_BYTES + 12L * contexts + 4 + 4L * entries
            if (contexts < 0 || entries < 0 || expected != content.size.toLong()) {
                throw EdgebException("$where has ${content.size} bytes, not $expected", DAMAGED_HINT, ErrorCode.DAMAGED)
            }
            val keys = LongArray(contexts) { bytes.getLong() }
            val offsets = IntArray(contexts + 1) { bytes.getInt() }
            val codes = IntArray(entries) { bytes.getShort().toInt() and 0xffff }
            val units = IntArray(entries) { bytes.getShort().toInt() and 0xffff }
            check(keys, offsets, codes, units, candidates.size, where)
            if (contexts != info.contexts) {
                throw EdgebException(
                    "$where has $contexts contexts, not ${info.contexts}", DAMAGED_HINT, ErrorCode.DAMAGED
                )
            }
            val labels = LongArray(candidates.size) { textHash(candidates.labels[it]) }
            return PopulationTable(
                info.config, places, smoothedShares(candidates.counts), labels, keys, offsets, codes, units
            )
        }

        private fun check(
            keys: LongArray, offsets: IntArray, codes: IntArray, units: IntArray, size: Int, where: String
        ) {
            fun refuse(what: String): Nothing = throw EdgebException("$where: $what", DAMAGED_HINT, ErrorCode.DAMAGED)
            if (offsets[0] != 0 || offsets[keys.size] != codes.size) refuse("its entries leave gaps")
            for (c in keys.indices) {
                if (c > 0 && !below(keys[c - 1], keys[c])) refuse("its contexts are not in order")
                if (offsets[c] >= offsets[c + 1] || offsets[c + 1] > codes.size) refuse("its entries overlap")
                for (entry in offsets[c] until offsets[c + 1]) {
                    if (entry > offsets[c] && codes[entry] <= codes[entry - 1]) refuse("its codes are not in order")
                    if (codes[entry] >= size || units[entry] == 0) refuse("a count is 0, or of no candidate")
                }
            }
        }

        /** Unsigned order; java.lang.Long has it on Android from API 26 on only. */
        private fun below(a: Long, b: Long): Boolean = (a xor Long.MIN_VALUE) < (b xor Long.MIN_VALUE)

        /** FNV-1a of 64 bits over a text's UTF-8. */
        internal fun textHash(text: String): Long {
            var found = FNV_START
            for (byte in text.toByteArray(Charsets.UTF_8)) found = (found xor (byte.toLong() and 0xff)) * FNV_PRIME
            return found
        }

        private fun mix(value: Long): Long {
            var z = value + GAMMA
            z = (z xor (z ushr 30)) * FIRST_MIX
            z = (z xor (z ushr 27)) * SECOND_MIX
            return z xor (z ushr 31)
        }
    }
}
