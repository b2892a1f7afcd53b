// Local times as text, "2024-03-18T20:05": no time zone is ever involved. Knows nothing of the page.

const DAY = 1440;

const utc = (text) => {
  const [date, clock = "00:00"] = text.split("T");
  const [year, month, day] = date.split("-").map(Number);
  const [hour, minute] = clock.split(":").map(Number);
  return new Date(Date.UTC(year, month - 1, day, hour, minute));
};

const text = (date) => date.toISOString().slice(0, 16);
const format = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options });
const LONG = format({ weekday: "long", day: "numeric", month: "long" });
const SHORT = format({ weekday: "short", day: "numeric", month: "short" });

export const valid = (when) => /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}/.test(when) && !Number.isNaN(utc(when).getTime());
export const dayOf = (when) => when.slice(0, 10);
export const clockOf = (when) => when.slice(11, 16);
export const longDay = (when) => LONG.format(utc(when));
export const shortDay = (when) => SHORT.format(utc(when));
export const minuteOf = (when) => Number(when.slice(11, 13)) * 60 + Number(when.slice(14, 16));

export const plus = (when, minutes) => text(new Date(utc(when).getTime() + minutes * 60_000));

export const atMinute = (when, minute) => plus(`${dayOf(when)}T00:00`, Math.min(Math.max(minute, 0), DAY - 1));

// The first whole minute that is not before an event's time.
export const notBefore = (time) => (time.slice(17, 19) > "00" ? plus(time, 1) : time.slice(0, 16));
