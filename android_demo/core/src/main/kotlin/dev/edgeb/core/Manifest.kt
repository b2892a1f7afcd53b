package dev.edgeb.core

/** The labels a model may answer with, in a fixed order, and how often each occurs in training. */
data class CandidateSet(val labels: List<String>, val counts: List<Long>)

/** What a bundle carries beside its weights. */
class Manifest(
    val createdWith: String,
    val candidates: CandidateSet,
    val architecture: String,
    val quantization: String,
    val contextLength: Int,
    val tensorsSha256: String
)
