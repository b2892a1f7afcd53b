package dev.edgeb.core

import java.util.TimeZone

private const val HOUR = 60L
private const val DAY = 24 * HOUR

/**
 * A local time to the minute, without a zone: what a user's clock shows.
 *
 * In place of java.time, which Android has from API 26 on only.
 *
 * @property minutes Minutes of the local clock since 1970-01-01T00:00.
 */
public data class Moment(val minutes: Long) : Comparable<Moment> {
    /** 0 for Monday to 6 for Sunday. */
    val dayOfWeek: Int
        get() = floorMod(floorDiv(minutes, DAY) + 3, 7L).toInt()

    /** 0 to 23. */
    val hour: Int
        get() = (floorMod(minutes, DAY) / HOUR).toInt()

    /** 0 to 59. */
    val minute: Int
        get() = floorMod(minutes, HOUR).toInt()

    /** Like "2012-05-01T18:00". */
    public fun format(): String {
        val (year, month, day) = civil(floorDiv(minutes, DAY))
        return "${pad(year, 4)}-${pad(month, 2)}-${pad(day, 2)}T${pad(hour, 2)}:${pad(minute, 2)}"
    }

    override fun compareTo(other: Moment): Int = minutes.compareTo(other.minutes)

    override fun toString(): String = format()

    public companion object {
        private val SHAPE = Regex("(\\d{4})-(\\d{2})-(\\d{2})(?:[T ](\\d{2}):(\\d{2})(?::\\d{2}(?:\\.\\d{1,9})?)?)?")

        /**
         * Parse ISO 8601 local time; seconds are dropped.
         *
         * @throws EdgebException on anything else; a zone is refused, since events are kept in local time.
         */
        @JvmStatic
        public fun parse(text: String): Moment {
            val found = SHAPE.matchEntire(text.trim())
                ?: throw EdgebException(
                    "'$text' is not a local time", "write ISO 8601, like 2012-05-01T18:00", ErrorCode.INVALID_TIME
                )
            val parts = found.groupValues.drop(1).map { if (it == "") 0 else it.toInt() }
            return of(parts[0], parts[1], parts[2], parts[3], parts[4])
        }

        /** @throws EdgebException on a date or time that does not exist. */
        @JvmStatic
        public fun of(year: Int, month: Int, day: Int, hour: Int, minute: Int): Moment {
            val days = daysFromCivil(year, month, day)
            val exists = month in 1..12 && day in 1..31 && civil(days) == Triple(year, month, day)
            if (!exists || hour !in 0..23 || minute !in 0..59) {
                throw EdgebException(
                    "$year-$month-$day $hour:$minute does not exist", "check the date and time", ErrorCode.INVALID_TIME
                )
            }
            return Moment(days * DAY + hour * HOUR + minute)
        }

        /** What a clock in `zone` shows at `epochMillis` (as System.currentTimeMillis gives it). */
        @JvmStatic
        @JvmOverloads
        public fun at(epochMillis: Long, zone: TimeZone = TimeZone.getDefault()): Moment =
            Moment(floorDiv(epochMillis + zone.getOffset(epochMillis), 60_000L))
    }
}

// Math has these on Android from API 24 on only.
private fun floorDiv(a: Long, b: Long): Long = if (a >= 0) a / b else -((b - 1 - a) / b)

private fun floorMod(a: Long, b: Long): Long = a - floorDiv(a, b) * b

private fun pad(number: Int, width: Int): String = number.toString().padStart(width, '0')

/** Days since 1970-01-01 of a date of the Gregorian calendar, by counting years from March. */
private fun daysFromCivil(year: Int, month: Int, day: Int): Long {
    val y = if (month <= 2) year - 1L else year.toLong()
    val era = floorDiv(y, 400L)
    val yearOfEra = y - era * 400
    val dayOfYear = (153L * ((month + 9) % 12) + 2) / 5 + day - 1
    return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
}

/** Year, month and day of a number of days since 1970-01-01. */
private fun civil(days: Long): Triple<Int, Int, Int> {
    val shifted = days + 719_468
    val era = floorDiv(shifted, 146_097L)
    val dayOfEra = shifted - era * 146_097
    val yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    val dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    val fromMarch = (5 * dayOfYear + 2) / 153
    val month = (if (fromMarch < 10) fromMarch + 3 else fromMarch - 9).toInt()
    val year = yearOfEra + era * 400 + if (month <= 2) 1 else 0
    return Triple(year.toInt(), month, (dayOfYear - (153 * fromMarch + 2) / 5 + 1).toInt())
}
