"""The 37 behaviors of the simulated phone users: how frequent each is, and what triggers it.

Parameters only; `simulator` turns them into events, and docs/data.md explains them. The frequency distribution (16
behaviors with about 97 % of events, the top one near 43 %, the rarest near 0.02 %) is the paper's Figure 1(a). Labels,
routines and triggers are ours, because the paper's log is not public.
"""

from __future__ import annotations

from dataclasses import dataclass

PLACES = ("home", "work", "transit", "leisure")
DAYPARTS = ("morning", "day", "evening", "night")
FIRST_HOUR, HOURS = 5, 24
"""A simulated day runs from 05:00 to 05:00; hour 25 is 01:00 of the following night."""

NOISE = 0.05  # an event ignores all context and follows the overall shares
ROUTINE = 0.60  # a burst opens with the behavior that this user usually opens with here
RESUME = 0.12  # a burst resumes the last behavior of the day's previous burst
FOLLOW = 0.65  # when a behavior ends inside a burst: a behavior it leads to, else any that fits the slot
FIRST_LINK = 0.75  # of two behaviors that it leads to, the share of the first
CUED = 0.75  # a habit begins with its first cue, else at once
COMPLETE = 0.75  # after a cue, the next step of the habit follows
CROWDED = 0.9  # upper limit on what all active habits claim together

WEEKDAYS, WEEKEND, EVERY_DAY = (0, 1, 2, 3, 4), (5, 6), (0, 1, 2, 3, 4, 5, 6)


def daypart(hour: int) -> int:
    """Index into DAYPARTS of an hour of the simulated day (5 to 28)."""
    return 0 if hour < 10 else 1 if hour < 17 else 2 if hour < 22 else 3


@dataclass(frozen=True)
class Routine:
    """When an anchor (a frequent behavior) is likely.

    Attributes:
        weight: Overall weight, fitted so that the simulated share meets the target.
        places: Relative weights at home, at work, in transit, at leisure.
        dayparts: Relative weights in the morning, by day, in the evening, at night.
        weekend: Relative weight on Saturday and Sunday.
        leads_to: One or two behaviors that tend to follow it inside a burst.
    """

    weight: float
    places: tuple[float, float, float, float]
    dayparts: tuple[float, float, float, float]
    weekend: float
    leads_to: tuple[str, ...]


@dataclass(frozen=True)
class Habit:
    """When a tail (rare) behavior is likely: for some users, in one slot of the week, after certain anchors.

    Attributes:
        near: The anchor it resembles, which tends to follow it.
        place: One of PLACES.
        days: Days of the week, Monday = 0.
        hours: Possible hours [first, last]; each user has two consecutive ones of them.
        cues: The one or two anchors that precede it, in order.
        users: Fraction of users who have the habit.
        start: Probability that a burst in the slot starts it, fitted so that the simulated share meets the target.
        trigger: The slot and cues in words.
    """

    near: str
    place: str
    days: tuple[int, ...]
    hours: tuple[int, int]
    cues: tuple[str, ...]
    users: float
    start: float
    trigger: str


@dataclass(frozen=True)
class Behavior:
    """A behavior of the simulation.

    Attributes:
        label: Its name in the log and in prompts.
        percent: Target percentage of all events.
        stay: Probability that the next event of the same burst has the same behavior.
        cause: A routine (anchor) or a habit (tail).
    """

    label: str
    percent: float
    stay: float
    cause: Routine | Habit

    @property
    def share(self) -> float:
        """Target fraction of all events."""
        return self.percent / 100


# fmt: off
ANCHORS = (
    # label, percent, stay; weight, (home, work, transit, leisure), (morning, day, evening, night), weekend, leads to
    Behavior("Short Video", 43.02, 0.82, Routine(
        0.3637, (1.0, 0.5, 0.8, 0.5), (0.6, 0.8, 1.2, 1.5), 1.2, ("Instant Messaging", "Online Shopping"))),
    Behavior("Instant Messaging", 12.40, 0.50, Routine(
        0.0452, (0.8, 1.4, 1.0, 1.2), (1.0, 1.2, 1.0, 0.6), 1.0, ("Short Video", "Phone Call"))),
    Behavior("Gaming", 7.40, 0.70, Routine(
        0.0741, (1.4, 0.1, 0.6, 0.4), (0.1, 0.5, 1.5, 1.6), 1.6, ("Short Video", "Instant Messaging"))),
    Behavior("Online Shopping", 6.40, 0.50, Routine(
        0.0466, (1.2, 0.8, 0.4, 0.5), (0.3, 1.0, 1.4, 1.0), 1.2, ("Mobile Payment", "Short Video"))),
    Behavior("News", 5.60, 0.50, Routine(
        0.0460, (0.8, 1.3, 1.4, 0.3), (2.2, 1.2, 0.6, 0.4), 0.8, ("Short Video", "Weather Check"))),
    Behavior("Music", 3.80, 0.50, Routine(
        0.0314, (0.6, 0.6, 3.0, 1.0), (1.2, 0.8, 1.0, 0.8), 1.0, ("Instant Messaging", "Short Video"))),
    Behavior("Reading", 3.10, 0.60, Routine(
        0.0321, (1.2, 0.3, 1.2, 0.3), (0.5, 0.6, 0.8, 2.2), 1.0, ("Short Video", "News"))),
    Behavior("Public Transportation", 2.50, 0.10, Routine(
        0.0441, (0.05, 0.05, 9.0, 0.3), (1.5, 0.8, 1.2, 0.5), 0.7, ("Music", "News"))),
    Behavior("Weather Check", 2.10, 0.05, Routine(
        0.0235, (1.5, 0.4, 0.4, 0.5), (3.5, 0.6, 0.4, 0.4), 1.0, ("News", "Instant Messaging"))),
    Behavior("Phone Call", 1.90, 0.15, Routine(
        0.0160, (0.6, 1.6, 0.8, 0.8), (0.8, 1.4, 1.0, 0.1), 0.8, ("Instant Messaging",))),
    Behavior("Mobile Payment", 1.60, 0.05, Routine(
        0.0218, (0.1, 0.8, 0.8, 3.5), (0.6, 1.2, 1.0, 0.3), 1.2, ("Instant Messaging", "Short Video"))),
    Behavior("Office Work", 1.60, 0.55, Routine(
        0.0187, (0.05, 4.0, 0.2, 0.0), (1.0, 1.4, 0.4, 0.1), 0.1, ("Instant Messaging", "Phone Call"))),
    Behavior("Map Navigation", 1.40, 0.10, Routine(
        0.0913, (0.1, 0.1, 1.5, 3.0), (0.8, 1.0, 0.8, 0.4), 1.6, ("Public Transportation", "Instant Messaging"))),
    Behavior("Exercise", 1.40, 0.35, Routine(
        0.0586, (0.3, 0.0, 0.1, 5.0), (2.5, 0.8, 1.4, 0.1), 1.0, ("Music", "Instant Messaging"))),
    Behavior("Online Learning", 1.40, 0.60, Routine(
        0.0199, (1.0, 1.0, 0.4, 0.1), (1.0, 1.2, 1.0, 0.3), 0.6, ("Reading", "Instant Messaging"))),
    Behavior("Take Photo", 1.40, 0.35, Routine(
        0.0670, (0.2, 0.1, 0.3, 6.0), (0.6, 1.2, 0.9, 0.3), 1.6, ("Instant Messaging",))),
)

TAILS = (
    # label, percent, stay; near, place, days, hours, cues, users, start, trigger
    Behavior("Food Delivery", 0.45, 0.35, Habit(
        "Online Shopping", "work", WEEKDAYS, (11, 13), ("Online Shopping",), 0.70, 0.662,
        "office lunch time, after browsing a shop")),
    Behavior("Live Streaming", 0.38, 0.60, Habit(
        "Short Video", "home", EVERY_DAY, (20, 23), ("Short Video", "Online Shopping"), 0.25, 0.062,
        "late evening at home, when short videos lead into a shop")),
    Behavior("Watch Movie", 0.30, 0.60, Habit(
        "Short Video", "home", (4, 5), (20, 23), ("Online Shopping", "Mobile Payment"), 0.60, 0.531,
        "Friday or Saturday night at home, after paying for something in a shop")),
    Behavior("Stock Trading", 0.25, 0.60, Habit(
        "News", "work", WEEKDAYS, (9, 11), ("News",), 0.30, 0.734,
        "market hours at work, after the news")),
    Behavior("Watch Animation", 0.22, 0.60, Habit(
        "Short Video", "home", WEEKEND, (7, 11), ("Short Video", "Short Video"), 0.35, 0.434,
        "weekend morning at home, after a run of short videos")),
    Behavior("Sports Match", 0.20, 0.60, Habit(
        "Short Video", "home", WEEKEND, (18, 21), ("News",), 0.35, 0.448,
        "weekend evening at home, after the news")),
    Behavior("Hail Taxi", 0.08, 0.10, Habit(
        "Public Transportation", "transit", EVERY_DAY, (22, 24), ("Map Navigation",), 0.80, 0.950,
        "on the way home late at night, after looking at the map")),
    Behavior("Listen to Podcast", 0.16, 0.55, Habit(
        "Music", "transit", WEEKDAYS, (7, 9), ("Public Transportation", "Music"), 0.30, 0.579,
        "morning commute, when music follows boarding")),
    Behavior("Read Comics", 0.14, 0.55, Habit(
        "Reading", "home", EVERY_DAY, (22, 24), ("Reading",), 0.15, 0.194,
        "bedtime at home, after reading")),
    Behavior("Online Meeting", 0.12, 0.40, Habit(
        "Office Work", "work", WEEKDAYS, (13, 16), ("Office Work", "Phone Call"), 0.30, 0.544,
        "afternoon at work, when a call follows office work")),
    Behavior("Cycling", 0.11, 0.30, Habit(
        "Exercise", "transit", WEEKDAYS, (7, 9), ("Weather Check",), 0.25, 0.621,
        "morning commute, after checking the weather")),
    Behavior("Video Call", 0.10, 0.30, Habit(
        "Phone Call", "home", (2, 6), (18, 21), ("Phone Call",), 0.30, 0.400,
        "Wednesday or Sunday evening at home, after a phone call")),
    Behavior("Learn Language", 0.09, 0.55, Habit(
        "Online Learning", "home", WEEKDAYS, (6, 7), ("Online Learning",), 0.15, 0.305,
        "weekday morning at home, after an online lesson")),
    Behavior("Edit Photo", 0.08, 0.45, Habit(
        "Take Photo", "home", WEEKEND, (18, 22), ("Take Photo",), 0.30, 0.232,
        "weekend evening at home, after looking through the camera")),
    Behavior("Track Parcel", 0.07, 0.10, Habit(
        "Online Shopping", "home", WEEKDAYS, (18, 20), ("Phone Call", "Online Shopping"), 0.40, 0.169,
        "weekday evening at home, when a shop is opened after a call from the courier")),
    Behavior("Look Up Recipe", 0.06, 0.40, Habit(
        "Reading", "home", EVERY_DAY, (17, 19), ("Reading", "Online Shopping"), 0.25, 0.143,
        "before dinner at home, when shopping follows reading")),
    Behavior("Play Chess", 0.05, 0.60, Habit(
        "Gaming", "home", WEEKEND, (14, 17), ("Reading", "Gaming"), 0.20, 0.364,
        "weekend afternoon at home, when gaming follows reading")),
    Behavior("Sing Karaoke", 0.04, 0.50, Habit(
        "Music", "leisure", (4, 5), (20, 22), ("Music", "Take Photo"), 0.60, 0.771,
        "Friday or Saturday night out, when photos follow music")),
    Behavior("Buy Train Ticket", 0.035, 0.15, Habit(
        "Public Transportation", "work", (3, 4), (12, 15), ("Weather Check", "Map Navigation"), 0.50, 0.337,
        "Thursday or Friday at work, when the map follows the weather")),
    Behavior("Buy Movie Ticket", 0.025, 0.10, Habit(
        "Mobile Payment", "leisure", WEEKEND, (13, 17), ("Instant Messaging", "Map Navigation"), 0.70, 0.629,
        "weekend afternoon out, when the map follows a chat")),
    Behavior("Book Hotel", 0.02, 0.20, Habit(
        "Map Navigation", "home", (2, 3), (20, 22), ("Map Navigation", "Weather Check"), 0.50, 0.059,
        "Wednesday or Thursday evening at home, when the weather follows the map")),
)
# fmt: on

BEHAVIORS: tuple[Behavior, ...] = ANCHORS + TAILS
LABELS: tuple[str, ...] = tuple(b.label for b in BEHAVIORS)
