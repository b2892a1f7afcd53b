package dev.edgeb.core

/**
 * Ends a call from another thread: give it to `PredictOptions.cancel`, and call `cancel` when nobody waits any more.
 *
 * The call ends in an EdgebException of the code CANCELLED, and the session is as it was. llama.cpp and LiteRT are
 * stopped inside an evaluation, a model computed in Kotlin between two. A cancelled signal stays cancelled.
 */
public class CancelSignal {
    private val lock = Any()
    private var cancelled = false
    private var running: Backend? = null

    /** Whether `cancel` was called. */
    public val isCancelled: Boolean
        get() = synchronized(lock) { cancelled }

    /** End the call that has this signal, and every later one. From any thread. */
    public fun cancel() {
        synchronized(lock) {
            cancelled = true
            running?.interrupt()
        }
    }

    /** @throws EdgebException it was cancelled. */
    internal fun check() {
        if (isCancelled) throw EdgebException("the call was cancelled", "call again", ErrorCode.CANCELLED)
    }

    /** Let `cancel` interrupt the backend while `work` goes on, and only then: the next call is another's. */
    internal fun <T> during(backend: Backend, work: () -> T): T {
        synchronized(lock) {
            running = backend
            if (cancelled) backend.interrupt()
        }
        try {
            check()
            return work()
        } finally {
            synchronized(lock) {
                running = null
                backend.resume()
            }
        }
    }
}

/** `CancelSignal.during` where there is a signal. */
internal inline fun <T> CancelSignal?.guarding(backend: Backend, crossinline work: () -> T): T =
    if (this == null) work() else during(backend) { work() }
