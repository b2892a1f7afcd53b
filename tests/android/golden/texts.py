"""Labels, places, texts and times of the golden vectors: of many scripts, at the ends of ranges, hostile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_behavior.core.events import BehaviorEvent
from tests import helpers

# Beside the labels of other tests: other scripts, letters beyond 16 bits, what looks like structure.
LABELS = [*helpers.LABELS, "買い物", "Почта", "🎮 Game", "{context} {candidates}", "<|endoftext|>", "Naïve (a, b)"]
COUNTS = (900, 200, 30, 20, 10, 6, 4, 2, 1, 60, 45, 12, 3, 0, 8)
PLACES = [
    "DK", "home", "  a  b ", "", "Café Zürich", "Cafe\u0301", "東京 駅", "🎮🎮", "a(b)[c]{d}<e>", 'q"uo\'te',
    "tab\there\nline", "x" * 60, "é" * 47 + "🎮 b", "ａｂｃ", "½ ² Ⅳ", "-_.&/+", "<|endoftext|>", "<|im_start|>user",
    "null\x00byte",
    "مقهى", "ไทย กรุงเทพ", "𝟜𝟚 𐐷", "a\u200bb\u00a0c\u3000d", "a , b", "क्षेत्र", "word " * 20,
]  # fmt: skip
TEXTS = [
    *PLACES, "Task: Predict", " Video)\n", "<|endoftext|><|im_end|>", "\n\n  \t", "don't  we'll", "1234567890",
    "\u0007",
]  # fmt: skip
TIMES = [
    "1970-01-01T00:00", "1969-12-31T23:59", "2000-02-29T12:34", "2024-02-29T00:00", "2100-03-01T07:05",
    "1600-12-31T18:00",
    "2012-05-01T18:00", "2024-03-18T20:05", "0001-01-01T00:00", "9999-12-31T23:59",
]  # fmt: skip
# Behaviors as logs hold them: what nobody sees goes, what shapes a word or an emoji stays, what is no label is refused.
RAW_LABELS = [
    "Video", "  Watch   video ", "Cafe\u0301", "Weather\u00a0Check", "a\u202f\u2003 \u3000b\u1680",
    "\u200eWhatsApp\u200f", "\ufeffNews", "Short\u200bVideo", "\u202aMaps\u202c \u2067\u202bGo\u2069",
    "\u061cdata\u2060base soft\u00adware", "e\u200b\u0301", "می\u200cخواهم", "\u0d05\u0d35\u0d28\u0d4d\u200d",
    "👩\u200d💻 Code", "🏳\ufe0f\u200d🌈", "👋🏽 Chat", "1\ufe0f\u20e3", "\u200cMusic\u200d", "Music \u200d Box",
    "a\u200c\u200d\u200cb", "(\u200dx\u200d)", "\x1c\u2028a\x85\t", "=\u200d\u0338", "\u200e \u0301a", "x" * 200,
    "é" * 200, "e\u0301" * 200, "🎮" * 200, "x" * 201, "🎮" * 201, "", "\u00a0", "\u200b", "\u200d \u200c", "a\nb",
    "a\tb", "a\x00b", "a\u2028b", "a\u2061b", "a\U000e0062b", "a\ufff9b", "{context}", "<|im_end|>",
]  # fmt: skip
CROWDED = ["DK", "home", "Café Zürich", "東京 駅", "<|im_end|>"]
# Minutes between events: which orders a local clock may give.
STEPS = [
    [], [30, 0, 45], [30, -55], [30, -190, 20], [-1560], [-1561], [5, -1561, 7], [-1, -1], [0, -5, 0, -4], [-1, 5, -1],
    [-5, 2, -5, -5], [-9, -9, -9, 4], [-700] * 9, [10, -14400],
]  # fmt: skip
BAD_TIMES = [
    "", "2024-02-30T00:00", "2100-02-29T00:00", "2024-13-01T00:00", "2024-01-01T24:00", "2024-01-01T10:00Z", "x",
]  # fmt: skip


def diary(length: int, seed: int = 0, labels: Sequence[str] = LABELS) -> list[BehaviorEvent]:
    """Events in hostile places, too."""
    events = helpers.diary(length, seed, list(labels))
    for i in range(0, length, 3):
        events[i] = replace(events[i], place=PLACES[(7 * i + seed) % len(PLACES)])
    return events
