package dev.edgeb.core

/** One thing a user did: where, when (local time) and what. */
data class BehaviorEvent(val place: String, val time: Moment, val behavior: String)
