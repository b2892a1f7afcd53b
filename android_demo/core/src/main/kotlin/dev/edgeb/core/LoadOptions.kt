package dev.edgeb.core

import java.io.File

/**
 * How a bundle is opened: `LoadOptions { threads = 2; snapshots = cacheDir }`, from Java by a `Builder`.
 *
 * @property threads CPU threads; null chooses by the device and the size of the bundle.
 * @property verify Check every byte of the bundle against its hashes first.
 * @property exactMath F32 cache, for checks against other programs.
 * @property snapshots Where snapshots of the static prompt are kept, in a folder edgeb-prefix (an app's cacheDir); null
 *   keeps none.
 * @property accelerator What a LiteRT bundle is to run on, all of it. llama.cpp's bundles run on the CPU.
 * @property npu Which NPU the phone has; needed where `accelerator` is the NPU.
 * @property fallback Whether the CPU may take a bundle that the accelerator does not; else that is an error.
 */
public class LoadOptions private constructor(from: Builder) {
    public val threads: Int? = from.threads
    public val verify: Boolean = from.verify
    public val exactMath: Boolean = from.exactMath
    public val snapshots: File? = from.snapshots
    public val accelerator: Accelerator = from.accelerator
    public val npu: NpuOptions? = from.npu
    public val fallback: Boolean = from.fallback

    /** These options with some changed. */
    public fun with(change: Builder.() -> Unit): LoadOptions {
        val builder = Builder()
        builder.threads = threads
        builder.verify = verify
        builder.exactMath = exactMath
        builder.snapshots = snapshots
        builder.accelerator = accelerator
        builder.npu = npu
        builder.fallback = fallback
        builder.change()
        return builder.build()
    }

    /** Collects options; its properties are those of `LoadOptions`. */
    public class Builder {
        /** See [LoadOptions.threads]. */
        public var threads: Int? = null

        /** See [LoadOptions.verify]. */
        public var verify: Boolean = true

        /** See [LoadOptions.exactMath]. */
        public var exactMath: Boolean = false

        /** See [LoadOptions.snapshots]. */
        public var snapshots: File? = null

        /** See [LoadOptions.accelerator]. */
        public var accelerator: Accelerator = Accelerator.CPU

        /** See [LoadOptions.npu]. */
        public var npu: NpuOptions? = null

        /** See [LoadOptions.fallback]. */
        public var fallback: Boolean = false

        /** @throws EdgebException less than one thread, or an NPU that is not named. */
        public fun build(): LoadOptions {
            val wanted = threads
            if (wanted != null && wanted < 1) {
                throw EdgebException("threads is $wanted", "use at least one", ErrorCode.INVALID_ARGUMENT)
            }
            if (accelerator == Accelerator.NPU && npu == null) {
                throw EdgebException(
                    "the NPU is asked for, and the phone's chip is not named", "set npu", ErrorCode.INVALID_ARGUMENT
                )
            }
            return LoadOptions(this)
        }
    }

    public companion object {
        /** Verified, on the CPU, without snapshots. */
        @JvmField
        public val DEFAULT: LoadOptions = Builder().build()

        /** @throws EdgebException an option that cannot be. */
        public operator fun invoke(set: Builder.() -> Unit): LoadOptions {
            val builder = Builder()
            builder.set()
            return builder.build()
        }
    }
}
