package dev.edgeb.core

/** Measures predictions on the device it runs on; `toJson` names its fields as `edgeb bench --json` does. */
class Benchmark @JvmOverloads constructor(private val predictor: Predictor, private val predictions: Int = 30) {
    /** Run all scenarios. `onScenario` hears each one's name before it starts. Returns one JSON object. */
    @JvmOverloads
    fun run(onScenario: Listener? = null): String = TODO()

    /** Told what is being measured. */
    interface Listener {
        fun onScenario(name: String)
    }
}
