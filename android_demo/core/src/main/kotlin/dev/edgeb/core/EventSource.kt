package dev.edgeb.core

/** Where events come from beside a user's taps: a host app gives its own. */
public interface EventSource {
    /** Whether the user allowed it to be read. */
    public val isAllowed: Boolean

    /**
     * What the user did after `since` and up to `until`, oldest first. An empty place is where the user said to be.
     *
     * May take a while: not for the main thread.
     */
    public fun read(since: Moment, until: Moment): List<BehaviorEvent>
}
