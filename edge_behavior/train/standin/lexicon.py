"""Common knowledge about everyday activities: when and where they happen, and which are related.

This short table of words takes the place of a pretrained model's world knowledge. It knows no dataset: a label is
placed by the words in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DAYPARTS = {"night": (0, 5), "morning": (6, 10), "midday": (11, 14), "afternoon": (15, 17), "evening": (18, 23)}


@dataclass(frozen=True)
class Sense:
    """One kind of activity: its words, its dayparts, weekday or weekend, and typical places."""

    name: str
    words: str
    dayparts: tuple[str, ...]
    week: str
    places: tuple[str, ...]


SENSES = (
    Sense("sleep", "alarm sleep wake bedtime clock", ("night", "morning"), "any", ("home",)),
    Sense(
        "commute",
        "subway train bus metro transit rail taxi ferry road bridge navigation ride transportation transport map maps "
        "parking gas station cycling commute traffic bike scooter hail moving",
        ("morning", "afternoon", "evening"),
        "weekday",
        ("transit", "work"),
    ),
    Sense(
        "work",
        "office work meeting email mail document documents building professional factory government calendar coworking "
        "notes scan conference convention design studio",
        ("morning", "midday", "afternoon"),
        "weekday",
        ("work",),
    ),
    Sense(
        "study",
        "school college university library student learning course study academic law reading read book books "
        "bookstore language dictionary education",
        ("morning", "midday", "afternoon", "evening"),
        "weekday",
        ("work", "home"),
    ),
    Sense("breakfast", "coffee café cafe bagel donut breakfast bakery tea", ("morning",), "any", ("work", "transit")),
    Sense(
        "meal",
        "restaurant joint diner sandwich pizza burger deli bodega food steakhouse noodle ramen taco burrito salad soup "
        "snack falafel chicken wings delivery takeout recipe cooking order dessert cupcake ice cream gastropub",
        ("midday", "evening"),
        "any",
        ("work", "home", "leisure"),
    ),
    Sense(
        "night out",
        "bar nightlife brewery beer club comedy concert music venue karaoke casino party smoke pub",
        ("evening", "night"),
        "weekend",
        ("leisure",),
    ),
    Sense(
        "fitness",
        "gym fitness exercise run running pool sport sports athletic yoga bowling step steps workout stadium "
        "match racetrack campground",
        ("morning", "evening"),
        "any",
        ("leisure", "home"),
    ),
    Sense(
        "shopping",
        "store shop mall market shopping drugstore pharmacy clothing electronics coupon supermarket salon barbershop "
        "spa laundry tanning cosmetics toy goods",
        ("midday", "afternoon", "evening"),
        "weekend",
        ("leisure", "home"),
    ),
    Sense(
        "outdoors",
        "park garden beach plaza outdoors playground scenic zoo harbor marina river museum gallery art historic site "
        "sculpture neighborhood lookout photo camera photography",
        ("midday", "afternoon"),
        "weekend",
        ("leisure",),
    ),
    Sense(
        "screen",
        "video videos animation movie movies tv gaming game games live stream streaming theater cinema short watch "
        "watching arcade film drama entertainment",
        ("midday", "evening", "night"),
        "any",
        ("home", "leisure"),
    ),
    Sense("music", "music podcast audio radio listen", ("morning", "afternoon", "evening"), "any", ("transit", "home")),
    Sense(
        "social",
        "chat message messaging call phone social contact video-call friends dating forum",
        ("morning", "midday", "afternoon", "evening"),
        "any",
        ("home", "work", "transit", "leisure"),
    ),
    Sense("home", "home residential apartment condo private housing smart", ("evening", "night"), "any", ("home",)),
    Sense(
        "information",
        "weather news stock search browser browse calculator translate",
        ("morning", "midday"),
        "any",
        ("home", "transit", "work"),
    ),
    Sense("money", "bank payment pay wallet transfer bill financial", ("midday", "afternoon"), "any", ("leisure",)),
    Sense(
        "travel", "hotel travel airport flight trip lounge booking rest", ("morning", "afternoon"), "any", ("transit",)
    ),
    Sense(
        "health",
        "medical health doctor hospital center diary meditation",
        ("morning", "afternoon"),
        "weekday",
        ("work",),
    ),
    Sense("faith", "church temple shrine synagogue spiritual", ("morning",), "weekend", ("leisure",)),
)
_OF_WORD = {word: i for i, sense in enumerate(SENSES) for word in reversed(sense.words.split())}


def senses_of(label: str) -> tuple[Sense, ...]:
    """The senses of a label's words, in reading order; none for unknown words."""
    found: dict[int, None] = {}
    for word in re.findall(r"[\w-]+", label.lower()):
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            if form in _OF_WORD:
                found[_OF_WORD[form]] = None
                break
    return tuple(SENSES[i] for i in found)
