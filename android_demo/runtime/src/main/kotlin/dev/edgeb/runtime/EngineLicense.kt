package dev.edgeb.runtime

private const val FOLDER = "licenses/"

/**
 * The license of a native library that an app ships with this one. Show all of `shipped` where the app names its
 * licenses; a bundle's own is in its manifest.
 *
 * @property library Its name.
 * @property id SPDX identifier.
 * @property link Where it comes from.
 * @property texts License texts.
 */
public class EngineLicense private constructor(
    public val library: String,
    public val id: String,
    public val link: String,
    private val files: List<String>
) {
    public val texts: List<String>
        get() = files.map { file ->
            val stream = checkNotNull(EngineLicense::class.java.getResourceAsStream("$FOLDER$file.txt")) {
                "the app was packaged without $FOLDER$file.txt"
            }
            stream.use { it.readBytes().toString(Charsets.UTF_8) }
        }

    public companion object {
        /**
         * What is packaged: llama.cpp; KleidiAI unless `edgeb.kleidiai=false`; LiteRT where the app depends on it.
         *
         * @param kleidiAi Whether the native build has it, as it has by default.
         * @param liteRt Whether the app depends on `com.google.ai.edge.litert:litert`.
         */
        @JvmStatic
        public fun shipped(kleidiAi: Boolean, liteRt: Boolean): List<EngineLicense> = listOfNotNull(
            EngineLicense("llama.cpp", "MIT", "https://github.com/ggml-org/llama.cpp", listOf("llama.cpp")),
            if (kleidiAi) {
                EngineLicense(
                    "KleidiAI", "Apache-2.0 AND BSD-3-Clause", "https://github.com/ARM-software/kleidiai",
                    listOf("Apache-2.0", "BSD-3-Clause")
                )
            } else {
                null
            },
            if (liteRt) {
                EngineLicense(
                    "LiteRT", "Apache-2.0", "https://github.com/google-ai-edge/LiteRT", listOf("Apache-2.0")
                )
            } else {
                null
            }
        )
    }
}
