package dev.edgeb.core

private const val HOUR = 60L
private const val MOST_BACK = EventOrder.MOST_BACK_HOURS * HOUR
private const val HINT = "a local clock goes back by ${EventOrder.MOST_BACK_HOURS} hours at most; "

// Steps back, and how many times the steps forward they are, from which events are listed newest first.
private const val LEAST_BACK = 2
private const val MOSTLY = 3

/**
 * The order of one user's events: that of the list, because a local clock may go back.
 *
 * Clocks go back at the end of daylight saving time and on flights west.
 */
public object EventOrder {
    /** Local times on Earth differ by no more: UTC+14 to UTC-12. */
    public const val MOST_BACK_HOURS: Long = 26L

    /** Whether a local clock may show `later` after it has shown `earlier`. */
    @JvmStatic
    public fun isPossible(earlier: Moment, later: Moment): Boolean = minutesBack(earlier, later) <= MOST_BACK

    /** By how many minutes the clock went back between two events that follow each other; 0 where it did not. */
    private fun minutesBack(earlier: Moment, later: Moment): Long = maxOf(0L, earlier.minutes - later.minutes)

    /** @throws EdgebException the clock went back from the last event by more than a local clock can. */
    internal fun checkStep(earlier: Moment, later: Moment, what: String, hint: String = "use a later time") {
        if (isPossible(earlier, later)) return
        val span = span(minutesBack(earlier, later))
        throw EdgebException(
            "$what, $later, is $span before the last event ($earlier)", HINT + hint, ErrorCode.INVALID_TIME
        )
    }

    /** @throws EdgebException the list is newest first, or a step goes back by more than a local clock can. */
    internal fun check(history: List<BehaviorEvent>) {
        val backs = history.zip(history.drop(1)).map { (a, b) -> minutesBack(a.time, b.time) }
        val back = backs.count { it > 0 }
        val forward = history.zip(history.drop(1)).count { (a, b) -> a.time < b.time }
        if (back >= LEAST_BACK && back >= MOSTLY * forward) {
            throw EdgebException(
                "history event 1: the newest event comes first", "sort the events by time, oldest first",
                ErrorCode.INVALID_TIME
            )
        }
        val far = backs.indexOfFirst { it > MOST_BACK }
        if (far >= 0) {
            throw EdgebException(
                "history event ${far + 2}: ${history[far + 1].time} is ${span(backs[far])} before the event above it",
                HINT + "sort the events by time, oldest first", ErrorCode.INVALID_TIME
            )
        }
    }

    private fun span(minutes: Long): String {
        val hours = minutes / HOUR
        return if (hours < 72) "$hours h ${minutes % HOUR} min" else "${hours / 24} days"
    }
}
