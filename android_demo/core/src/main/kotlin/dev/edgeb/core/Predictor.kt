package dev.edgeb.core

import java.io.Closeable
import java.io.File

/**
 * How a bundle is opened.
 *
 * @property threads CPU threads; null chooses by the device and the size of the bundle.
 * @property verify Check every byte of the file against its hashes first.
 * @property exactMath F32 cache, for checks against other programs.
 * @property snapshots Folder of snapshots of the static prompt (an app's cacheDir); null keeps none.
 */
data class LoadOptions @JvmOverloads constructor(
    val threads: Int? = null,
    val verify: Boolean = true,
    val exactMath: Boolean = false,
    val snapshots: File? = null
)

/**
 * Predicts a user's next behavior over the candidate set of one bundle.
 *
 * May be shared between threads: calls take turns. Calls take as long as the model does: not for the main thread.
 */
class Predictor private constructor() : Closeable {
    /** What the bundle says of itself. */
    val manifest: Manifest
        get() = TODO()

    /** Which distribution answers when a call names none. */
    val defaultSource: Source
        get() = TODO()

    /** A new session: events are appended as they happen, and predictions pay only for what is new. */
    fun session(): Session = TODO()

    /**
     * Rank the candidates for the behavior at `moment` in `place` after `history`.
     *
     * @param history Oldest first, any length; the model sees the layout's last L events, habits count all.
     * @param topK How many candidates to return; null for all.
     * @param only Labels to rank; null for all.
     * @param exclude Labels to leave out.
     * @param source Null takes the bundle's default.
     * @param calibrated Calibrate the probabilities where the bundle can; false gives the source's own.
     * @param exhaustive Expand the whole trie, so that every probability is exact.
     * @param precision Also decide whether to suggest the first candidate; a level of the manifest's calibration.
     * @param coverage Also name the candidates that hold the truth this often; a level of the manifest's calibration.
     */
    @JvmOverloads
    fun predict(
        history: List<BehaviorEvent>,
        moment: Moment,
        place: String,
        topK: Int? = null,
        scoring: Scoring = Scoring.EXACT,
        only: List<String>? = null,
        exclude: List<String> = emptyList(),
        source: Source? = null,
        calibrated: Boolean = true,
        exhaustive: Boolean = false,
        precision: Double? = null,
        coverage: Double? = null
    ): Prediction = TODO()

    /** Continue a session that `Session.save` wrote. */
    fun restore(file: File): Session = TODO()

    /** Free native memory. */
    override fun close(): Unit = TODO()

    companion object {
        /** Open a bundle. @throws EdgebException not a bundle, damaged, of a newer version, or not loadable. */
        @JvmStatic
        @JvmOverloads
        fun load(model: File, native: LlamaNative, options: LoadOptions = LoadOptions()): Predictor = TODO()
    }
}
