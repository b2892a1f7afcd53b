package dev.edgeb.core

import java.nio.Buffer
import java.nio.ByteBuffer

/**
 * A bundle on an NPU.
 *
 * @property graph Calls of one size, all of them with the cache.
 * @property runsOn What runs it, in words.
 * @property tolerance How far the context may be from the bundle's known rows, nats; null for the bundle's own.
 */
internal class OpenedNpu(val model: LiteRtModel, val graph: LiteRtGraph, val runsOn: String, val tolerance: Double?)

/** Opens a bundle on this phone's NPU: the context is chosen by the chip's name, and nothing is loaded unchecked. */
internal class NpuOpener(
    private val model: ModelSource,
    private val native: LiteRtNative,
    private val npu: NpuOptions,
    private val threads: Int
) {
    /**
     * @param graph The bundle's.
     * @param bundleSha256 The manifest's `tensorsSha256`.
     * @throws EdgebException no context for the chip, another bundle's or a newer compiler's, a file that is missing or
     *   changed, a library that the app does not package, or LiteRT does not take the context.
     */
    fun open(graph: LiteRtGraph, bundleSha256: String): OpenedNpu {
        val chip = NpuChip.named(npu.chip)
        val files = NpuFiles(npu.contexts ?: beside(), model)
        val found = files.list(bundleSha256)
        val context = found.contextFor(chip)
        if (found.size !in graph.sizes + graph.firstSizes) {
            throw EdgebException(
                "$NPU_FILE has calls of ${found.size} tokens, $model has none", "export it again with --npu",
                ErrorCode.ACCELERATOR_REFUSED
            )
        }
        val version = runTimeVersion(native.npuLibraries, chip)
        found.checkRunTime(version)
        val file = files.context(context)
        val lookup = native.open(model, LiteRtOptions(threads, Accelerator.CPU))
        try {
            val compiled = native.open(ModelSource.file(file), LiteRtOptions(threads, Accelerator.NPU))
            val opened = NpuModel(lookup, compiled, graph.embedName(found.size))
            return OpenedNpu(
                opened, graph.inCallsOf(found.size), "QNN $version on ${context.architecture}", found.tolerance
            )
        } catch (error: Throwable) {
            lookup.close()
            throw error
        }
    }

    private fun beside(): NpuContexts = (model as? ModelSource.InFile)?.let { NpuContexts.beside(it.path) }
        ?: throw EdgebException(
            "$model is no file of its own, beside which its contexts could lie", "name its contexts in NpuOptions",
            ErrorCode.INVALID_ARGUMENT
        )
}

/**
 * Two models as one: embeddings are looked up on the CPU, everything else is the compiled context's.
 *
 * @param embed The signature that is the former's.
 */
internal class NpuModel(
    private val lookup: LiteRtModel,
    private val context: LiteRtModel,
    private val embed: String
) : LiteRtModel by context {
    private val runs = ArrayList<() -> Long>()

    override fun bind(signature: String, inputs: List<LiteRtArray>, outputs: List<LiteRtArray>): Int {
        if (signature == embed) {
            // A model takes memory of its own only.
            val (own, made) = listOf(inputs, outputs).map { arrays ->
                arrays.map { LiteRtArray(it.tensor, lookup.memory(it.memory.capacity())) }
            }
            val bound = lookup.bind(signature, own, made)
            runs.add {
                copy(inputs, own)
                lookup.run(bound).also { copy(made, outputs) }
            }
        } else {
            val bound = context.bind(signature, inputs, outputs)
            runs.add { context.run(bound) }
        }
        return runs.size - 1
    }

    override fun run(bound: Int): Long = runs[bound]()

    override fun interrupt(wanted: Boolean) {
        lookup.interrupt(wanted)
        context.interrupt(wanted)
    }

    override fun close() {
        lookup.close()
        context.close()
    }

    private fun copy(from: List<LiteRtArray>, into: List<LiteRtArray>) {
        for ((source, target) in from.zip(into)) whole(target.memory).put(whole(source.memory))
    }

    private fun whole(memory: ByteBuffer): ByteBuffer {
        val all = memory.duplicate()
        (all as Buffer).clear()
        return all
    }
}
