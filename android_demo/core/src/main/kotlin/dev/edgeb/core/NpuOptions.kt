package dev.edgeb.core

import java.io.File

/**
 * Which NPU a phone has, and where its contexts are.
 *
 * @property chip The chip as Android's `Build.SOC_MODEL` names it; empty where the system does not say.
 * @property contexts Where the bundle's contexts come from; null for the folder beside its file.
 */
public class NpuOptions @JvmOverloads constructor(public val chip: String, public val contexts: NpuContexts? = null)

/**
 * Where a bundle's compiled contexts come from. An app that fetches only its phone's context has one of its own; what
 * it gives is checked against hashes here.
 */
public interface NpuContexts {
    /**
     * A file of the folder that `edgeb export --npu` wrote: `npu.json` first, then the context that is taken.
     *
     * @throws java.io.IOException it cannot be had.
     */
    public fun file(name: String): File

    public companion object {
        /** The folder beside a bundle's file: `mine-npu` beside `mine.tflite`. */
        @JvmStatic
        public fun beside(bundle: File): NpuContexts =
            inFolder(File(bundle.parentFile, "${bundle.nameWithoutExtension}-npu"))

        /** A folder. */
        @JvmStatic
        public fun inFolder(folder: File): NpuContexts = object : NpuContexts {
            override fun file(name: String): File = File(folder, name)
        }
    }
}
