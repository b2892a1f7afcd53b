package dev.edgeb.core

import java.nio.Buffer
import java.nio.ByteBuffer

// How far the next token's distribution may be off, as a share of how far the uniform one is. Both in nats: rounding
// makes some hundredths, and a graph that a GPU could not hold made 8, where the uniform distribution is about as far.
private const val MOST_DIVERGENCE = 0.1

/** Opens the backend of a bundle's kind. */
internal class BackendOpener(
    private val model: ModelSource,
    private val engines: NativeEngines,
    private val options: LoadOptions,
    val threads: Int
) {
    /** @param positions Tokens that the cache is to hold. */
    fun open(bundle: OpenBundle, positions: Int): Backend {
        if (bundle is LiteRtFile) return openLiteRt(bundle, positions)
        if (options.accelerator != Accelerator.CPU && !options.fallback) {
            throw EdgebException(
                "$model is a GGUF, and runs on the CPU alone", "export it with --format litert",
                ErrorCode.ACCELERATOR_REFUSED
            )
        }
        if (bundle.manifest.architecture in SEQUENCE_ARCHITECTURES) return SequenceBackend(SequenceFile.read(model))
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
        val cpu = Accelerator.CPU
        val make = { compiled: LiteRtModel, on: Accelerator ->
            LiteRtBackend(bundle.graph, compiled, tokenizer, native.version, on, positions)
        }
        if (options.accelerator != cpu) {
            try {
                // First, so that memory holds one of the two at a time.
                val expected = compile(native, cpu) { compiled ->
                    compiled.use { rowAfterStatic(make(it, cpu), bundle.manifest) }
                }
                return compile(native, options.accelerator) { compiled ->
                    val backend = make(compiled, options.accelerator)
                    checkRow(expected, rowAfterStatic(backend, bundle.manifest))
                    backend
                }
            } catch (error: EdgebException) {
                if (!options.fallback) throw error
            }
        }
        return compile(native, cpu) { make(it, cpu) }
    }

    /** Compile the model; it is closed if what follows fails. */
    private inline fun <T> compile(native: LiteRtNative, on: Accelerator, use: (LiteRtModel) -> T): T {
        val compiled = native.open(model, LiteRtOptions(threads, on))
        try {
            return use(compiled)
        } catch (error: Throwable) {
            compiled.close()
            throw error
        }
    }

    /** Log-probabilities of the whole vocabulary after the beginning of the static prompt. */
    private fun rowAfterStatic(backend: Backend, manifest: BundleManifest): DoubleArray {
        val ids = backend.tokenize(manifest.staticPrompt) + manifest.eosId
        val all = Reading({ IntArray(backend.vocabularySize) { it } }, Scoring.EXACT)
        backend.prefill(ids.copyOf(minOf(ids.size, backend.capacity)), Ahead(LabelTrie.of(listOf(intArrayOf(0))), all))
        return backend.root()
    }

    /** Refuse an accelerator that reports success and computes something else. */
    private fun checkRow(expected: DoubleArray, found: DoubleArray) {
        val uniform = -Math.log(expected.size.toDouble())
        var divergence = 0.0
        var farthest = 0.0
        for (i in expected.indices) {
            divergence += Math.exp(expected[i]) * (expected[i] - found[i])
            farthest += Math.exp(expected[i]) * (expected[i] - uniform)
        }
        if (!(divergence <= MOST_DIVERGENCE * farthest)) {
            throw EdgebException(
                "$model: the ${options.accelerator.text} gives other answers than the CPU " +
                    "(${Math.round(divergence * 100) / 100.0} nats apart)",
                "ask for the CPU, or allow the fallback", ErrorCode.ACCELERATOR_REFUSED
            )
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
