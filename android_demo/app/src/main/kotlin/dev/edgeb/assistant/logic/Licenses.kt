package dev.edgeb.assistant.logic

import dev.edgeb.runtime.EngineLicense

/** The terms of the engines in this app, as its screen shows them. */
object Licenses {
    /** Name, license and origin of each, and then every text once. */
    fun page(engines: List<EngineLicense>): String {
        val heads = engines.map { "${it.library}: ${it.id}\n${it.link}" }
        return (heads + engines.flatMap { it.texts }.distinct()).joinToString("\n\n")
    }
}
