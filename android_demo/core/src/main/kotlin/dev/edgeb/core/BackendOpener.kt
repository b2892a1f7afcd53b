package dev.edgeb.core

import java.nio.Buffer
import java.nio.ByteBuffer

/** Opens the backend of a bundle's kind. */
internal class BackendOpener(
    private val model: ModelSource,
    private val engines: NativeEngines,
    private val options: LoadOptions,
    val threads: Int
) {
    /** Why the accelerator asked for did not take the bundle and the CPU did; null where that was not so. */
    var refused: String? = null
        private set

    /** @param positions Tokens that the cache is to hold. */
    fun open(bundle: OpenBundle, positions: Int): Backend {
        if (bundle is LiteRtFile) return openLiteRt(bundle, positions)
        if (options.accelerator != Accelerator.CPU) {
            val why = "$model is a GGUF, and runs on the CPU alone"
            if (!options.fallback) throw refusal(why, "export a language model with --format litert")
            refused = why
        }
        if (bundle.manifest.architecture in SEQUENCE_ARCHITECTURES) {
            val file = SequenceFile.read(model)
            file.check(bundle.manifest, model)
            return SequenceBackend(file)
        }
        return openLlama(positions)
    }

    private fun openLlama(positions: Int): Backend {
        val asked = NativeOptions(positions, minOf(MAX_ROWS, positions), threads, options.exactMath)
        val native = neededLlama()
        return LlamaBackend(native.open(model, asked), native.version, asked)
    }

    private fun openLiteRt(bundle: LiteRtFile, positions: Int): Backend {
        val native = engines.litert
            ?: throw EdgebException(
                "$model is a LiteRT bundle, and LiteRT was not given", "pass load a LiteRtJni", ErrorCode.ENGINE_MISSING
            )
        val tokenizer = openTokenizer(bundle)
        try {
            if (tokenizer.vocabularySize > bundle.graph.vocabulary) {
                throw EdgebException(
                    "$model: the tokenizer has ${tokenizer.vocabularySize} tokens, " +
                        "the model ${bundle.graph.vocabulary}",
                    "export it again", ErrorCode.DAMAGED
                )
            }
            return openOn(bundle, native, tokenizer, positions)
        } catch (error: Throwable) {
            tokenizer.close()
            throw error
        }
    }

    private fun openOn(bundle: LiteRtFile, native: LiteRtNative, tokenizer: LlamaVocabulary, positions: Int): Backend {
        if (options.accelerator != Accelerator.CPU) {
            try {
                return openAccelerated(bundle, native, tokenizer, positions)
            } catch (error: EdgebException) {
                if (!options.fallback) throw error
                refused = error.message
            }
        }
        val compiled = native.open(model, LiteRtOptions(threads, Accelerator.CPU))
        return closedOnFailure(compiled) {
            LiteRtBackend(bundle.graph, compiled, tokenizer, native.version, Accelerator.CPU, positions)
        }
    }

    /** On an accelerator that computes the bundle's known rows. @throws EdgebException it does not, or is not there. */
    private fun openAccelerated(
        bundle: LiteRtFile,
        native: LiteRtNative,
        tokenizer: LlamaVocabulary,
        positions: Int
    ): Backend {
        val on = options.accelerator
        val probe = bundle.probe()?.takeIf { it.ids.size <= bundle.graph.cache }
            ?: throw refusal("$model has no known rows to check the ${on.text} by", "export it again, or use the CPU")
        val npu = options.npu
        if (on == Accelerator.NPU && npu != null) {
            val opened = NpuOpener(model, native, npu, threads).open(bundle.graph, bundle.manifest.tensorsSha256)
            return closedOnFailure(opened.model) {
                val version = "${native.version}, ${opened.runsOn}"
                val backend = LiteRtBackend(opened.graph, opened.model, tokenizer, version, on, positions)
                check(backend, probe, opened.tolerance ?: probe.tolerance)
            }
        }
        if (on.text !in probe.accelerators) {
            throw refusal("$model was not exported for the ${on.text}", "export it with norm: apart, or use the CPU")
        }
        val compiled = native.open(model, LiteRtOptions(threads, on))
        return closedOnFailure(compiled) {
            val backend = LiteRtBackend(bundle.graph, compiled, tokenizer, native.version, on, positions)
            check(backend, probe, probe.tolerance)
        }
    }

    /** Refuse an accelerator that reports success and computes something else. */
    private fun check(backend: LiteRtBackend, probe: LiteRtProbe, limit: Double): Backend {
        for ((size, off) in backend.differences(probe)) {
            if (off <= limit) continue
            throw refusal(
                "$model: the ${options.accelerator.text} computes other answers than the CPU in calls of $size " +
                    "tokens (log-probabilities off by ${hundredths(off)}, at most ${hundredths(limit)} is expected)",
                "ask for the CPU, or allow the fallback"
            )
        }
        return backend
    }

    private fun refusal(what: String, hint: String) = EdgebException(what, hint, ErrorCode.ACCELERATOR_REFUSED)

    private fun hundredths(value: Double): String =
        if (value < Double.POSITIVE_INFINITY) "${Math.round(value * 100) / 100.0}" else "infinity"

    /** The compiled model is closed if what follows fails. */
    private inline fun <T> closedOnFailure(compiled: LiteRtModel, use: () -> T): T {
        try {
            return use()
        } catch (error: Throwable) {
            compiled.close()
            throw error
        }
    }

    private fun neededLlama(): LlamaNative = engines.llama
        ?: throw EdgebException(
            "$model is no sequence model, and llama.cpp was not given", "pass load a LlamaJni", ErrorCode.ENGINE_MISSING
        )

    private fun openTokenizer(bundle: LiteRtFile): LlamaVocabulary {
        val content = bundle.tokenizer()
        val direct = ByteBuffer.allocateDirect(content.size).put(content)
        (direct as Buffer).flip()
        return neededLlama().openVocabulary(direct)
    }
}
