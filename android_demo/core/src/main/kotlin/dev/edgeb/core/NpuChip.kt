package dev.edgeb.core

/**
 * A phone chip that contexts are compiled for: the counterpart of edge_behavior/bundle/npu_chips.py.
 *
 * @property name As Android's `Build.SOC_MODEL` gives it, in lower case.
 * @property architecture That of its NPU, Qualcomm's Hexagon, like "v75"; a context runs on its own only.
 */
internal class NpuChip private constructor(val name: String, val architecture: String) {
    /** What the app has to package for it: LiteRT's library for this vendor, and Qualcomm's. */
    val libraries: List<String>
        get() {
            val version = "V" + architecture.substring(1)
            val own = listOf("libQnnHtp${version}Stub.so", "libQnnHtp${version}Skel.so")
            return listOf(DISPATCH, RUN_TIME, "libQnnSystem.so") + own
        }

    companion object {
        const val DISPATCH = "libLiteRtDispatch_Qualcomm.so"

        /** Says its version. */
        const val RUN_TIME = "libQnnHtp.so"

        val ALL = listOf(
            NpuChip("sm8450", "v69"), NpuChip("sm8550", "v73"), NpuChip("sm8650", "v75"), NpuChip("sm8750", "v79"),
            NpuChip("sm8850", "v81")
        )

        /** A chip by its name, in any case. @throws EdgebException nothing is compiled for it. */
        fun named(name: String): NpuChip {
            val wanted = name.trim()
            return ALL.firstOrNull { it.name.equals(wanted, ignoreCase = true) } ?: throw EdgebException(
                if (wanted.isEmpty()) "this phone does not say which chip it has"
                else "there are no contexts for the chip '${wanted.take(40)}'",
                "NPUs of ${ALL.joinToString { it.name }} can be used; ask for the CPU, or allow the fallback",
                ErrorCode.ACCELERATOR_REFUSED
            )
        }
    }
}
