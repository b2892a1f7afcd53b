"""Texts that a pruned vocabulary must cover: the domain's own, and words likely in places named after the export.

Knows layouts, place names and the alphabet of byte-level tokenizers; knows nothing of models or of how a vocabulary is
pruned.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent
from edge_behavior.core.prompts import PromptLayout

# Words for kinds of places: on a phone most places are named after their kind.
PLACE_WORDS = """
of the and at in on by for to near & / - de la le del el san santa saint st 1st 2nd 3rd 4th 5th
home house apartment apartments flat dorm garage garden gardens work office desk meeting room studio lab factory
warehouse site plant
school university college campus class classroom library kindergarten nursery lecture hall
station train subway metro tram bus stop terminal airport gate ferry port harbor pier taxi car bike parking lot highway
parkway road street avenue boulevard lane drive square terrace bridge tunnel corner crossing way route transit commute
travel trip rail
store shop mall market supermarket grocery bakery butcher deli boutique outlet depot department pharmacy drugstore kiosk
bookstore bookshop hardware electronics furniture clothing shoe jewelry gift flower toy pet convenience gas petrol
charging restaurant cafe coffee tea bar pub brewery winery diner bistro brasserie canteen cafeteria grill kitchen pizza
pizzeria burger sushi noodle steakhouse barbecue seafood sandwich ice cream dessert juice food beer wine fast truck
gym fitness yoga pool swimming tennis golf football soccer basketball baseball hockey ski skating bowling climbing
stadium arena field track court club sports
park playground beach lake river forest mountain hill hills heights canyon trail camp campground zoo aquarium farm
island valley bay
hotel motel hostel resort suites inn lodge spa salon hair barber beauty massage sauna laundry
hospital clinic doctor dentist dental medical health veterinary care center centre
bank post police fire city town county state national public government embassy church temple mosque synagogue chapel
cathedral cemetery memorial community social service
museum gallery theater theatre cinema movie concert opera music art history historical science casino nightclub lounge
arcade event convention exhibition fair festival plaza palace tower building floor block district neighborhood village
downtown commons
north south east west northeast northwest southeast southwest central upper lower old new grand great royal little big
main first second third
leisure private friend friends family parents other unknown outdoor indoor elsewhere place area zone region
american italian french chinese japanese korean thai indian mexican spanish greek turkish german asian
"""


def domain_texts(layout: PromptLayout, candidates: CandidateSet, places: Sequence[str]) -> list[str]:
    """Segments with every word of every prompt: wordings, labels, all hours of the week, all places.

    A place stands between a space and punctuation, so one time per place and one place per time cover all pairs.
    """
    start = datetime(2024, 1, 1)
    names = list(dict.fromkeys((UNKNOWN_PLACE, *places)))
    pairs = [(start + timedelta(hours=hour), names[0]) for hour in range(7 * 24)]
    pairs += [(start, name) for name in names]
    labels = candidates.labels
    texts = [text for label in labels for text in layout.line(BehaviorEvent(names[0], start, label))]
    texts += [layout.answer(label) for label in labels]
    texts += [layout.context(when, place) for when, place in pairs]
    for wording in range(layout.formats):
        whole = layout.prompt([], start, names[0], labels, wording)
        texts += [*whole.static, *whole.body]
        # One label is enough from here on: a wording that lists all of them is long.
        for when, place in pairs:
            texts += layout.prompt([], when, place, labels[:1], wording).body
    return list(dict.fromkeys(texts))


def everyday_pieces(
    merged: Iterable[str],
    encode: Callable[[str], Iterable[str]],
    domain: Iterable[str],
    read: Callable[[str], str | None],
) -> Iterator[str]:
    """Tokens for place names to come, the most useful first, with repetitions.

    Kinds of places in lower and title case, two-digit numbers, then word beginnings in the tokenizer's merge order:
    capitalized ones in ASCII letters, and any in the other scripts of the domain. Of 13,451 proper names from dialogues
    this order keeps the pieces of 33 % with 4,096 tokens; merge order alone of 6 %.

    Args:
        merged: The results of a tokenizer's merges in order.
        encode: Its tokens for a text.
        domain: Texts whose scripts count.
        read: The text of a token; None if it is no whole text.
    """
    for word in PLACE_WORDS.split():
        yield from encode(f" {word}")
        yield from encode(f" {word.capitalize()}")
    for number in range(100):
        yield from encode(f"{number:02d}")
    scripts = _scripts(domain)
    for token in merged:
        text = read(token)
        if text is not None and _begins_a_name(text, scripts):
            yield token


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for, GPT-2's table.

    Printable bytes are themselves, the others follow from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _begins_a_name(text: str, scripts: set[str]) -> bool:
    word = text.removeprefix(" ")
    if not word or not all(_is_letter(char, scripts) for char in word):
        return False
    # Scripts without case are often written without spaces.
    if word.lower() == word.upper():
        return True
    return word != text and word[0].isupper() and not any(char.isupper() for char in word[1:])


def _is_letter(char: str, scripts: set[str]) -> bool:
    if char.isascii():
        return char.isalpha()
    return unicodedata.category(char)[0] in "LM" and _script(char) in scripts


def _scripts(texts: Iterable[str]) -> set[str]:
    """Scripts of all letters beyond ASCII, as their Unicode names begin."""
    return {_script(char) for char in {c for text in texts for c in text} if not char.isascii() and char.isalpha()}


def _script(char: str) -> str:
    return unicodedata.name(char, "").split(" ")[0]
