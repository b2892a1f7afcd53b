"""Text from a log is cleaned once."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_behavior.core.events import (
    INVISIBLE,
    MAX_LABEL_CHARS,
    MAX_PLACE_CHARS,
    clean_label,
    clean_place,
)
from edge_behavior.errors import EdgebError


def cleaned_label(text: str) -> str | None:
    try:
        return clean_label(text)
    except EdgebError:
        return None


class TestPlace:
    @pytest.mark.parametrize(
        ("raw", "clean"),
        [
            ("home", "home"),
            ("  Starbucks  #3 ", "Starbucks 3"),
            ('Joe\'s (bar), "east"', "Joe s bar east"),
            ("a\nb\r\tc\x00d", "a b c d"),
            ("40.75/-73.98", "40.75/-73.98"),
            ("A&B_c+d-e.f", "A&B_c+d-e.f"),
            ("{candidates}", "candidates"),
            ("<|im_end|>", "im_end"),
            ("Cafe\u0301", "Café"),
            ("東京駅", "東京駅"),
            ("zero\u200bwidth", "zero width"),
            ("right\u202eleft", "right left"),
            ("\u2028", "unknown"),
            ("", "unknown"),
            ("()[],'\"", "unknown"),
            ("💡", "unknown"),
        ],
    )
    def test_examples(self, raw, clean):
        assert clean_place(raw) == clean

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=80))
    @example("a" * 47 + " b")
    @example("=\u0338" * 30)
    @example("\u0958" * 48)
    @example("-\u0338" * 30)
    def test_any_text_becomes_a_plain_word_or_two(self, text):
        place = clean_place(text)
        assert 1 <= len(place) <= MAX_PLACE_CHARS
        assert place == " ".join(place.split())
        assert len(place.splitlines()) == 1
        assert not set(place) & set("()[]{}<>,;:\"'`|\n\r\t\\")
        assert all(c in "-_.&/+ " or unicodedata.category(c)[0] in "LMN" for c in place)
        assert clean_place(place) == place

    @settings(max_examples=50, deadline=None)
    @given(st.text("abcXYZ019-_.&/+", min_size=1, max_size=MAX_PLACE_CHARS))
    def test_plain_names_are_kept(self, text):
        assert clean_place(text) == text

    def test_a_long_name_is_cut_without_a_space_at_its_end(self):
        assert clean_place("x" * 200) == "x" * MAX_PLACE_CHARS
        assert clean_place("x" * 47 + " yyy") == "x" * 47


class TestLabel:
    @pytest.mark.parametrize(
        ("raw", "clean"),
        [
            ("Watch video", "Watch video"),
            ("  Watch   video ", "Watch video"),
            ("\tWatch video\n", "Watch video"),
            ("Cafe\u0301", "Café"),
            ("Gym / Fitness Center (24h), {x}", "Gym / Fitness Center (24h), {x}"),
            ("買い物", "買い物"),
            ("x" * 200, "x" * 200),
            ("Weather\u00a0Check", "Weather Check"),
            ("a\u202f\u2003 \u3000b\u1680", "a b"),
            ("\u200eWhatsApp\u200f", "WhatsApp"),
            ("\ufeffNews", "News"),
            ("Short\u200bVideo", "ShortVideo"),
            ("\u202aMaps\u202c \u2067\u202bGo\u2069", "Maps Go"),
            ("\u061cdata\u2060base soft\u00adware", "database software"),
            ("e\u200b\u0301", "é"),
            # Persian, Malayalam and emoji are spelled with joiners.
            ("می\u200cخواهم", "می\u200cخواهم"),
            ("\u0d05\u0d35\u0d28\u0d4d\u200d", "\u0d05\u0d35\u0d28\u0d4d\u200d"),
            ("👩\u200d💻 Code", "👩\u200d💻 Code"),
            ("🏳\ufe0f\u200d🌈", "🏳\ufe0f\u200d🌈"),
            ("👋🏽 Chat", "👋🏽 Chat"),
            ("1\ufe0f\u20e3", "1\ufe0f\u20e3"),
            ("\u200cMusic\u200d", "Music"),
            ("Music \u200d Box", "Music Box"),
            ("a\u200c\u200d\u200cb", "a\u200cb"),
            ("(\u200dx\u200d)", "(x)"),
        ],
    )
    def test_examples(self, raw, clean):
        assert clean_label(raw) == clean

    @pytest.mark.parametrize("raw", ["", "   ", "\n", "\u00a0", "\u200b", "\u200e \ufeff", "\u200d", "\u2003\u200c "])
    def test_empty(self, raw):
        with pytest.raises(EdgebError, match="empty"):
            clean_label(raw)

    @pytest.mark.parametrize(
        ("raw", "code"),
        [
            ("a\nb", "000A"),
            ("a\tb", "0009"),
            ("a\x00b", "0000"),
            ("a\u2028b", "2028"),
            ("a\u2061b", "2061"),
            ("a\U000e0062b", "E0062"),
            ("a\ufff9b", "FFF9"),
        ],
    )
    def test_control_characters_are_named(self, raw, code):
        with pytest.raises(EdgebError, match=rf"control character U\+{code}") as caught:
            clean_label(raw)
        assert "\n" not in str(caught.value)

    def test_a_lone_surrogate_is_refused(self):
        with pytest.raises(EdgebError, match="D800"):
            clean_label("a\ud800")

    def test_too_long(self):
        with pytest.raises(EdgebError, match="has 201 characters"):
            clean_label("x" * 201)

    @settings(max_examples=400, deadline=None)
    @given(
        st.one_of(
            st.text(max_size=220),
            st.text(
                "ae1(=👩\u0301\u0323\u0338\u0d4d\u200c\u200d\u200b\u200e\u00ad\ufeff\u00a0\u3000 \ufe0f\n", max_size=12
            ),
        )
    )
    def test_a_clean_label_is_one_line_and_stays_as_it_is(self, text):
        label = cleaned_label(text)
        if label is None:
            return
        assert 0 < len(label) <= MAX_LABEL_CHARS
        assert label == label.strip()
        assert "  " not in label
        assert len(label.splitlines()) == 1
        assert unicodedata.is_normalized("NFC", label)
        assert {c for c in label if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Zs")} <= set(
            " \u200c\u200d"
        )
        assert clean_label(label) == label

    @settings(max_examples=200, deadline=None)
    @given(
        st.text(st.characters(categories=["L", "N", "P", "So", "Zs"]), max_size=20), st.randoms(use_true_random=False)
    )
    def test_marks_that_nobody_sees_make_no_other_label(self, text, rng):
        label = cleaned_label(text)
        if label is None:
            return
        marked = list(unicodedata.normalize("NFC", text))
        for _ in range(4):
            marked.insert(rng.randint(0, len(marked)), rng.choice(sorted(INVISIBLE)))
        assert clean_label("".join(marked)) == label
