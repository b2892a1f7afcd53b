package dev.edgeb.core

import java.io.File

// Counters compute the same in doubles; only the order of sums may differ.
private const val SAME_ARITHMETIC = 1e-12
private val TRIE = listOf("tokens", "parents", "depths", "candidates", "leaves", "inner")
private val FOUND = listOf("ranked", "source", "tokens", "unexpanded", "calibrated", "suggest", "likely", "balance")

/** Reproduces everything that the goldens say of one bundle, call by call in their order. */
internal class BundleCheck(
    folder: File,
    private val scratch: File,
    golden: Any?,
    private val natives: NativeEngines,
    private val tolerance: Tolerance,
    private val checks: Checks
) {
    private val fields = Fields(
        golden,
        listOf("file", "exact_math", "brief", "manifest", "texts", "trie", "population", "prompts", "calls"),
        "bundle"
    )
    private val path = File(folder, fields.string("file"))
    private val manifest = BundleFile.verify(path)

    // Computed without llama.cpp, by an engine that keeps no cache.
    private val isSequence = manifest.architecture in SEQUENCE_ARCHITECTURES

    // A large model, of which only the recorded calls are made: an emulated CPU takes minutes for each.
    private val brief = fields.boolean("brief")
    private val somewhere = if (manifest.layout.places) "DK" else null
    private var predictor = open(null)
    private var session = predictor.session()

    val name: String = path.name

    fun run() {
        try {
            checkManifest()
            checkPopulation()
            checkEncoding()
            if (!brief) checkThreads()
            fields.list("calls").forEachIndexed { i, call -> check("$name call ${i + 1}", call as Map<*, *>) }
            if (!brief) checkBalance()
        } finally {
            predictor.close()
        }
        checks.same("$name engine of what is closed", true, "${predictor.engineInfo}".isNotEmpty())
        checks.refused("$name closed", Regex("closed")) { predictor.predict(emptyList(), Moment(0), somewhere) }
        if (!brief && !isSequence) checkSnapshots()
    }

    private fun open(snapshots: File?): Predictor {
        val options = LoadOptions {
            threads = 1
            exactMath = fields.boolean("exact_math")
            this.snapshots = snapshots
        }
        val litert = natives.litert
        if (litert != null && File(path.parentFile, "${path.nameWithoutExtension}-npu").isDirectory) {
            val onNpu = NativeEngines(natives.llama, NpuOnCpu(litert, path, npuLibraries(scratch, "sm8650")))
            return Predictor.load(path, onNpu, options.with {
                accelerator = Accelerator.NPU
                npu = NpuOptions("SM8650")
            })
        }
        return Predictor.load(path, if (isSequence) NativeEngines.NONE else natives, options)
    }

    private fun checkManifest() {
        val expected = fields.map("manifest")
        val found = mapOf(
            "labels" to manifest.candidates.labels,
            "counts" to manifest.candidates.counts,
            "bos_id" to manifest.bosId?.toLong(),
            "eos_id" to manifest.eosId.toLong(),
            "layout" to mapOf(
                "name" to manifest.layout.name,
                "list_candidates" to manifest.layout.listCandidates,
                "history_length" to manifest.layout.historyLength.toLong(),
                "task" to manifest.layout.task,
                "role" to manifest.layout.role
            ) + (if (manifest.layout.places) emptyMap() else mapOf("places" to false)) +
                (manifest.layout.chat?.let { mapOf("chat" to chat(it)) } ?: emptyMap()) +
                mapOf("candidate_order" to manifest.layout.candidateOrder).filterValues { it != "frequency" },
            "static_prompt" to manifest.staticPrompt,
            "tensors_sha256" to manifest.tensorsSha256,
            "tokenizer_sha256" to manifest.tokenizerSha256,
            "groups" to manifest.candidates.groups(),
            "license" to manifest.baseModel.license?.lines,
            "license_texts" to manifest.baseModel.license?.texts,
            "default_source" to predictor.defaultSource.text
        )
        for ((key, value) in expected) checks.same("$name manifest.$key", value, found[key])
        if (!brief) checks.same("$name training", "Zürich ☕ 東京", manifest.training["note"])
        checks.same("$name read", manifest.tensorsSha256, BundleFile.read(path).tensorsSha256)
    }

    private fun checkPopulation() {
        val table = BundleFile.open(ModelSource.file(path)).use { it.population() }
        checks.same("$name has a population", fields.isNull("population"), table == null)
        if (table == null) return
        fields.list("population").forEachIndexed { i, entry ->
            val asked = Fields(entry, listOf("recent", "when", "place", "probs"), "population")
            val recent = asked.list("recent").map { (it as Long).toInt() }
            val found = table.probs(recent, Moment.parse(asked.string("when")), asked.string("place"))
            asked.list("probs").forEachIndexed { b, expected ->
                checks.near("$name population $i of candidate $b", expected as Double, found[b], SAME_ARITHMETIC)
            }
        }
    }

    private fun checkEncoding() {
        val tokenize = { text: String -> predictor.engine.backend.tokenize(text) }
        for (pair in fields.list("texts")) {
            val (text, ids) = pair as List<*>
            checks.same("$name ids of '$text'", ids, longs(tokenize(text as String)))
        }
        val encoder = PromptEncoder(tokenize, manifest.layout, manifest.candidates, manifest.bosId, manifest.eosId)
        val trie = Fields(fields.any("trie"), TRIE, "trie")
        val own = encoder.trie
        val found = listOf(own.tokens, own.parents, own.depths, own.candidates, own.leaves, own.inner)
        for (i in TRIE.indices) checks.same("$name trie.${TRIE[i]}", trie.list(TRIE[i]), longs(found[i]))
        fields.list("prompts").forEachIndexed { i, entry ->
            val prompt = Fields(entry, listOf("history", "when", "place", "segments", "ids"), "prompts")
            val history = prompt.list("history").map { event(it) }
            val moment = Moment.parse(prompt.string("when"))
            checks.same(
                "$name segments of prompt $i",
                prompt.list("segments"),
                segments(history, moment, prompt.string("place"))
            )
            checks.same(
                "$name ids of prompt $i",
                prompt.list("ids"),
                longs(encoder.promptIds(history, moment, prompt.string("place")))
            )
        }
    }

    private fun segments(history: List<BehaviorEvent>, moment: Moment, place: String): List<String> {
        val layout = manifest.layout
        val lines = history.takeLast(layout.historyLength).flatMap { layout.line(it) }
        val labels = manifest.candidates.labels
        return layout.static(labels) + layout.before() + lines + layout.after(moment, place, labels)
    }

    /** Threads that share a predictor take turns: all get what one alone gets. */
    private fun checkThreads() {
        val one = open(null)
        val everyOne = MODEL_ONLY.with { exhaustive = true }
        val asked = { i: Int ->
            one.predict(emptyList(), Moment(60L * i), somewhere, 3, everyOne).ranked
        }
        val alone = List(THREADS) { asked(it) }
        val found = java.util.concurrent.ConcurrentHashMap<Int, List<Ranked>>()
        val threads = List(THREADS) { i -> Thread { repeat(3) { found[i] = asked(i) } } }
        threads.forEach { it.start() }
        threads.forEach { it.join() }
        one.close()
        for (i in 0 until THREADS) {
            checks.same("$name thread $i", alone[i].map { it.behavior }, found[i]?.map { it.behavior })
        }
    }

    /** Balanced answers against all labels' probabilities without a balance, each divided by its share's power of τ. */
    private fun checkBalance() {
        val labels = manifest.candidates.labels
        val counts = manifest.candidates.counts
        val share = labels.indices.associate { labels[it] to 0.99 * counts[it] / counts.sum() + 0.01 / labels.size }
        val history = List(2 * labels.size) { BehaviorEvent("DK", Moment(45L * it), labels[it * it % labels.size]) }
        val moment = Moment(90L * labels.size)
        val sources = Source.values().filter { it != Source.FUSED || manifest.habits != null }
        for (source in sources) for (scoring in Scoring.values()) for (part in listOf(null, labels.take(5))) {
            val ask = { topK: Int?, balance: Balance ->
                predictor.predict(history, moment, somewhere, topK, PredictOptions {
                    this.scoring = scoring
                    only = part
                    this.source = source
                    calibrated = false
                    this.balance = balance
                })
            }
            val plain = ask(null, Balance.NONE).ranked
            for (tau in listOf(0.0, 0.25, 1.0, 2.0)) {
                val weights = plain.associate { it.behavior to it.probability * Math.pow(share.getValue(it.behavior), -tau) }
                val expected = weights.mapValues { it.value / weights.values.sum() }
                for (topK in listOf(1, 3, null)) {
                    val where = "$name ${source.text} ${scoring.text} of ${plain.size}, balance $tau, top $topK"
                    checkAgainstAll(where, expected, ask(topK, Balance.of(tau)))
                }
            }
        }
    }

    private fun checkAgainstAll(where: String, expected: Map<String, Double>, found: Prediction) {
        val best = expected.values.sortedDescending()
        val within = if (fields.boolean("exact_math")) BALANCE_TOLERANCE else ROUNDED_BALANCE_TOLERANCE
        found.ranked.forEachIndexed { i, one ->
            val own = expected.getValue(one.behavior)
            // Candidates that are as good as equal may change places.
            checks.near("$where rank ${i + 1}", best[i], own, within)
            checks.same("$where rank ${i + 1} is no more", true, one.probability <= own + within)
            val most = one.probability / maxOf(1 - found.unexpanded, 1e-12)
            checks.same("$where rank ${i + 1} is no less", true, own <= most + within)
        }
    }

    private fun check(where: String, call: Map<*, *>) {
        when (call["do"]) {
            "predict" -> checkAnswer(where, call) { predict(call) }
            "ask" -> checkAnswer(where, call) { ask(call) }
            "session" -> session = predictor.session((call["anchor_every"] as Long).toInt())
            "observe" -> observe(where, call)
            "prepare" -> checks.same("$where tokens prepared", call["tokens"], session.prepare().toLong())
            "save" -> {
                val file = File(scratch, "kotlin-${call["name"]}")
                // As a process leaves it that dies while it writes.
                val partial = File(file.path + ".partial")
                partial.writeText("half a history")
                session.save(file)
                checks.same("$where leaves no partial file", false, partial.exists())
            }
            "restore" -> {
                checkDamagedSession(where, "${call["name"]}")
                session = predictor.restore(File(scratch, "kotlin-${call["name"]}"))
                checks.same("$where window", call["window"], session.events.size.toLong())
            }
            "reopen" -> {
                predictor.close()
                predictor = open(null)
            }
            else -> throw Difference(where, "a known call", call["do"])
        }
    }

    private fun observe(where: String, call: Map<*, *>) {
        val observed = { session.observe(event(call["event"])) }
        val error = call["error"] as String?
        if (error == null) observed() else checks.refused(where, Regex(Regex.escape(error)), observed)
        checks.same("$where window", call["window"], session.events.size.toLong())
    }

    private fun predict(call: Map<*, *>): Prediction {
        val history = (call["history"] as List<*>).map { event(it) }
        val wanted = Wanted(call["wanted"] as Map<*, *>)
        return predictor.predict(
            history, Moment.parse(call["when"] as String), call["place"] as String?, wanted.topK, wanted.options()
        )
    }

    private fun ask(call: Map<*, *>): Prediction {
        val wanted = Wanted(call["wanted"] as Map<*, *>)
        return session.predict(
            Moment.parse(call["when"] as String), call["place"] as String?, wanted.topK, wanted.options()
        )
    }

    private fun checkAnswer(where: String, call: Map<*, *>, run: () -> Prediction) {
        val error = call["error"] as String?
        if (error != null) {
            checks.refused(where, Regex(Regex.escape(error))) { run() }
            return
        }
        val expected = Fields(call["found"], FOUND, where)
        val found = run()
        val shown = "$where ${call["wanted"]}"
        checkRanks(shown, expected.list("ranked").map { it as List<*> }, found)
        checks.same("$shown source", expected.string("source"), found.source.text)
        checks.same("$shown calibrated", expected.boolean("calibrated"), found.calibrated)
        checks.same("$shown balance", expected.number("balance", 0.0, 2.0), found.balance)
        if (tolerance.sameCpu) {
            checks.same("$shown tokens", expected.long("tokens"), found.tokensEvaluated.toLong())
            checks.near(
                "$shown unexpanded", expected.number("unexpanded", 0.0, 1.0), found.unexpanded, tolerance.probability
            )
            checks.same("$shown suggest", expected.any("suggest"), found.suggest)
            checks.same("$shown likely", expected.any("likely"), found.likely)
        }
        checks.same("$shown times", true, found.elapsedMs >= found.decodeMs && found.decodeMs >= 0)
    }

    /** The same labels, order and probabilities; on another CPU neighbours within the tolerance may be swapped. */
    private fun checkRanks(where: String, expected: List<List<*>>, found: Prediction) {
        checks.same("$where count", expected.size, found.ranked.size)
        val known = expected.associate { it[0] as String to (it[1] as Number).toDouble() }
        for (i in expected.indices) {
            val p = (expected[i][1] as Number).toDouble()
            val other = found.ranked[i]
            // What a search left unexpanded on another CPU is in neither's probability.
            val within = tolerance.probability + (if (tolerance.sameCpu) 0.0 else found.unexpanded)
            checks.near("$where rank ${i + 1}", p, other.probability, within)
            // Behind the last rank that the golden has may stand another one of the same probability.
            val theirs = known[other.behavior] ?: if (i == expected.size - 1) p else Double.NaN
            val tied = !tolerance.sameCpu && Math.abs(theirs - p) <= tolerance.probability
            if (!tied) checks.same("$where rank ${i + 1}", expected[i][0], other.behavior)
        }
    }

    /** A session file with a changed byte is refused, and the predictor stays as it was. */
    private fun checkDamagedSession(where: String, name: String) {
        val good = File(scratch, "kotlin-$name").readBytes()
        val damaged = File(scratch, "kotlin-damaged")
        for (at in listOf(3, 7, 12, 40, good.size / 2, good.size - 1)) {
            val bytes = good.copyOf()
            bytes[at] = (bytes[at].toInt() xor 1).toByte()
            damaged.writeBytes(bytes)
            checks.refused("$where, byte $at changed", Regex("changed or cut short|another version|not a state file")) {
                predictor.restore(damaged)
            }
        }
        damaged.writeBytes(good.copyOf(good.size - 1))
        checks.refused("$where, cut short", Regex("changed or cut short")) { predictor.restore(damaged) }
    }

    /** The static prompt is evaluated once; a snapshot gives the same answers, and a damaged one is made again. */
    private fun checkSnapshots() {
        val kept = File(scratch, "snapshots-$name")
        kept.deleteRecursively()
        kept.mkdirs()
        // Files of the app whose folder it is; more of them than snapshots are kept.
        val foreign = List(6) { File(kept, "$it.state") } + File(kept, "0123456789abcdef0123456789abcdef.state")
        for (file in foreign) file.writeText("the app's own")
        val asked = { each: Predictor -> each.predict(emptyList(), Moment(0), somewhere, options = MODEL_ONLY).ranked }
        val cold = open(null).use { asked(it) }
        val written = open(kept).use { asked(it) }
        val files = File(kept, "edgeb-prefix").listFiles().orEmpty()
        checks.same("$name snapshots", 1, files.size)
        open(null).use { checks.same("$name snapshot taken", true, it.warm(kept)) }
        val restored = open(kept).use { asked(it) }
        val bytes = files[0].readBytes()
        bytes[bytes.size / 2] = (bytes[bytes.size / 2].toInt() xor 1).toByte()
        files[0].writeBytes(bytes)
        open(null).use { checks.same("$name damaged snapshot refused", false, it.warm(kept)) }
        open(null).use { checks.same("$name snapshot made again", true, it.warm(kept)) }
        checkOnlyOldSnapshotsGo(kept, files[0])
        for (file in foreign) checks.same("$name leaves ${file.name}", "the app's own", file.readText())
        for (answers in listOf(written, restored)) {
            for (i in cold.indices) {
                checks.same("$name snapshot rank ${i + 1}", cold[i].behavior, answers[i].behavior)
                checks.near(
                    "$name snapshot rank ${i + 1}", cold[i].probability, answers[i].probability, SNAPSHOT_TOLERANCE
                )
            }
        }
        kept.deleteRecursively()
    }

    /** Beyond four the oldest snapshots go, and what a process that died left; nothing else does. */
    private fun checkOnlyOldSnapshotsGo(kept: File, good: File) {
        val other = File(good.parentFile, "notes.state")
        val old = List(4) { File(good.parentFile, "$it".repeat(32) + ".state") } +
            File(good.parentFile, "5".repeat(32) + ".state.partial")
        for ((i, file) in (old + other).withIndex()) {
            file.writeText("old")
            file.setLastModified(1000L * (i + 1))
        }
        good.delete()
        open(null).use { checks.same("$name snapshot is gone", false, it.warm(kept)) }
        val left = good.parentFile.list().orEmpty().toSet()
        checks.same("$name snapshots left", setOf(good.name, other.name) + old.drop(2).map { it.name }, left)
        checks.same("$name snapshot whole", true, good.length() > 0)
    }

    private companion object {
        // A batch of another shape adds up in another order; with an F16 cache that shows.
        const val SNAPSHOT_TOLERANCE = 2e-3
        // The same of probabilities that are divided by small shares: 1,500 raised to τ.
        const val BALANCE_TOLERANCE = 1e-3
        const val ROUNDED_BALANCE_TOLERANCE = 2e-2
        const val THREADS = 4

        fun event(row: Any?): BehaviorEvent {
            val (place, time, behavior) = (row as List<*>).map { it as String }
            return BehaviorEvent(place, Moment.parse(time), behavior)
        }

        fun longs(values: IntArray): List<Long> = values.map { it.toLong() }

        fun chat(turns: ChatTurns): Map<String, Any> = mapOf(
            "opening" to turns.opening.map { it.toLong() },
            "reply" to turns.reply.map { it.toLong() },
            "end_id" to turns.endId.toLong()
        )
    }
}

/** The arguments of a call; what it does not name has the default. */
private class Wanted(call: Map<*, *>) {
    val topK = (call["top_k"] as Long?)?.toInt()
    val scoring = if (call["scoring"] == "masked") Scoring.MASKED else Scoring.EXACT
    val source = Source.values().firstOrNull { it.text == call["source"] }
    val only = (call["only"] as List<*>?)?.map { it as String }
    val exclude = (call["exclude"] as List<*>?)?.map { it as String } ?: emptyList()
    val exhaustive = call["exhaustive"] == true
    val calibrated = call["calibrated"] != false
    val precision = call["precision"] as Double?
    val coverage = call["coverage"] as Double?
    val balance = when (val asked = call["balance"]) {
        null -> Balance.NONE
        "fitted" -> Balance.FITTED
        else -> Balance.of((asked as Number).toDouble())
    }

    fun options() = PredictOptions {
        scoring = this@Wanted.scoring
        source = this@Wanted.source
        only = this@Wanted.only
        exclude = this@Wanted.exclude
        exhaustive = this@Wanted.exhaustive
        calibrated = this@Wanted.calibrated
        precision = this@Wanted.precision
        coverage = this@Wanted.coverage
        balance = this@Wanted.balance
    }
}
