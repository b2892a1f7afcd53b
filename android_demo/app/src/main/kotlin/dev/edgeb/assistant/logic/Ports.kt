package dev.edgeb.assistant.logic

import dev.edgeb.core.Moment
import java.io.InputStream

/** The clock on the wall. */
interface Clock {
    fun now(): Moment

    /** The zone it shows the time of, like "Europe/Berlin"; empty where that is not known. */
    fun zone(): String = ""
}

/** Told how an import goes on. What it throws ends the import. */
interface ImportListener : CopyListener {
    fun onChecking()

    /** So much of a log was read. */
    fun onRead(bytes: Long) = Unit
}

/** Told while a prediction is computed. */
interface PredictionListener {
    fun onPredicting(active: Boolean)
}

/** A model and a log that an app brings along. */
interface Sample {
    /** What the model's file is called. */
    val name: String

    fun model(): InputStream

    /** A history file of some weeks. */
    fun log(): InputStream
}
