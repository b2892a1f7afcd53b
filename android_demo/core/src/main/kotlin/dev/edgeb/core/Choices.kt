package dev.edgeb.core

/**
 * What may be asked of a source at one balance.
 *
 * @property balance The balance.
 * @property tau Its τ.
 * @property precisions Levels that `precision` takes, and whether suggestions reach each at any threshold.
 * @property coverages Levels that `coverage` takes.
 */
public class Levels(
    public val balance: Balance,
    public val tau: Double,
    public val precisions: Map<Double, Boolean>,
    public val coverages: List<Double>
)

/** A source that a bundle can answer from; its levels at balance 0, then at the fitted one where there is one. */
public class SourceChoice(public val source: Source, public val levels: List<Levels>)

/** What an app can offer of a bundle. */
public object Choices {
    /** Of a bundle that has been loaded, which checks the fields that are read here. */
    @JvmStatic
    public fun of(manifest: BundleManifest): List<SourceChoice> {
        val canFuse = manifest.habits?.get("fusion") != null
        return Source.values().filter { it != Source.FUSED || canFuse }.map { source ->
            val fitted = (entry(manifest.balance, "fitted", source) as? Number ?: 0.0).toDouble()
            val plain = levels(Balance.NONE, 0.0, manifest.calibration?.get(source.text))
            val raised = levels(Balance.FITTED, fitted, entry(manifest.balance, "calibration", source))
            SourceChoice(source, if (fitted > 0) listOf(plain, raised) else listOf(plain))
        }
    }

    private fun entry(fields: Map<String, Any?>?, name: String, source: Source): Any? =
        (fields?.get(name) as? Map<*, *>)?.get(source.text)

    private fun levels(balance: Balance, tau: Double, calibration: Any?): Levels {
        val precisions = (calibration as? Map<*, *>)?.get("precision") as? Map<*, *> ?: emptyMap<Any, Any>()
        val coverages = (calibration as? Map<*, *>)?.get("coverage") as? Map<*, *> ?: emptyMap<Any, Any>()
        return Levels(
            balance, tau,
            precisions.entries.associate { "${it.key}".toDouble() to (it.value != null) },
            coverages.keys.map { "$it".toDouble() }
        )
    }
}
