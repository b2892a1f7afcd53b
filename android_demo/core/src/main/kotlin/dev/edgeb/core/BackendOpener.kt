package dev.edgeb.core

import java.io.File
import java.io.IOException

/** Opens the backend of a bundle's kind. */
internal class BackendOpener(
    private val model: File,
    private val llama: LlamaNative,
    private val litert: LiteRtNative?,
    private val options: LoadOptions,
    val threads: Int
) {
    /** @param positions Tokens that the cache is to hold. */
    fun open(bundle: OpenBundle, positions: Int): Backend =
        if (bundle is LiteRtFile) openLiteRt(bundle, positions) else openLlama(positions)

    private fun openLlama(positions: Int): Backend {
        if (options.accelerator != Accelerator.CPU && !options.fallback) {
            throw EdgebException("$model is a GGUF, and runs on the CPU alone", "export it with --format litert")
        }
        val asked = NativeOptions(positions, minOf(MAX_ROWS, positions), threads, options.exactMath)
        return LlamaBackend(llama.open(model, asked), llama.version, asked)
    }

    private fun openLiteRt(bundle: LiteRtFile, positions: Int): Backend {
        val native = litert
            ?: throw EdgebException("$model is a LiteRT bundle, and LiteRT was not given", "pass load a LiteRtJni")
        val tokenizer = openTokenizer(bundle)
        try {
            if (tokenizer.vocabularySize > bundle.graph.vocabulary) {
                throw EdgebException(
                    "$model: the tokenizer has ${tokenizer.vocabularySize} tokens, " +
                        "the model ${bundle.graph.vocabulary}",
                    "export it again"
                )
            }
            val (compiled, accelerator) = compile(native)
            try {
                return LiteRtBackend(bundle.graph, compiled, tokenizer, native.version, accelerator, positions)
            } catch (error: Throwable) {
                compiled.close()
                throw error
            }
        } catch (error: Throwable) {
            tokenizer.close()
            throw error
        }
    }

    private fun compile(native: LiteRtNative): Pair<LiteRtModel, Accelerator> {
        val wanted = options.accelerator
        try {
            return Pair(native.open(model, LiteRtOptions(threads, wanted)), wanted)
        } catch (error: EdgebException) {
            if (wanted == Accelerator.CPU || !options.fallback) throw error
        }
        return Pair(native.open(model, LiteRtOptions(threads, Accelerator.CPU)), Accelerator.CPU)
    }

    /** llama.cpp reads files; it does not need this one once the vocabulary is in memory. */
    private fun openTokenizer(bundle: LiteRtFile): LlamaVocabulary {
        val content = bundle.tokenizer()
        val file = try {
            File.createTempFile("edgeb-", ".gguf")
        } catch (error: IOException) {
            throw EdgebException("cannot write a temporary file: ${error.message}", "free some space")
        }
        try {
            file.writeBytes(content)
            return llama.openVocabulary(file)
        } catch (error: IOException) {
            throw EdgebException("cannot write $file: ${error.message}", "free some space")
        } finally {
            file.delete()
        }
    }
}
