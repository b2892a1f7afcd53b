package dev.edgeb.core

/**
 * Ends a call from another thread: give it to `PredictOptions.cancel`, and call `cancel` when nobody waits any more.
 *
 * The call ends in an EdgebException of the code CANCELLED, and the session is as it was. llama.cpp and LiteRT are
 * stopped inside an evaluation, a model computed in Kotlin between two blocks. A cancelled signal stays cancelled.
 *
 * @param parent Cancels this one, too, and is not cancelled with it; null for none.
 */
public class CancelSignal(private val parent: CancelSignal?) {
    /** A signal of its own. */
    public constructor() : this(null)

    private val lock = Any()
    private var cancelled = false
    private val running = ArrayList<Backend>()

    /** Whether `cancel` was called, here or on the parent. */
    public val isCancelled: Boolean
        get() = synchronized(lock) { cancelled } || parent?.isCancelled == true

    /** End the calls that have this signal, and every later one. From any thread. */
    public fun cancel() {
        synchronized(lock) {
            cancelled = true
            for (backend in running) backend.interrupt()
        }
    }

    /** @throws EdgebException it was cancelled. */
    internal fun check() {
        if (isCancelled) throw EdgebException("the call was cancelled", "call again", ErrorCode.CANCELLED)
    }

    /** Let `cancel` interrupt the backend while `work` goes on, and only then: the next call is another's. */
    internal fun <T> during(backend: Backend, work: () -> T): T =
        if (parent == null) alone(backend, work) else parent.during(backend) { alone(backend, work) }

    private fun <T> alone(backend: Backend, work: () -> T): T {
        synchronized(lock) {
            running.add(backend)
            if (cancelled) backend.interrupt()
        }
        try {
            check()
            return work()
        } finally {
            synchronized(lock) {
                running.remove(backend)
                backend.resume()
            }
        }
    }
}

/** `CancelSignal.during` where there is a signal. */
internal inline fun <T> CancelSignal?.guarding(backend: Backend, crossinline work: () -> T): T =
    if (this == null) work() else during(backend) { work() }
