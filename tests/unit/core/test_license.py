"""Licenses: what is known of stated ones, and that nothing of them reaches a terminal uncleaned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_behavior.core.license import MAX_FIELD, MAX_TEXT, NOT_STATED, TERMS, License, license_lines, plain_text
from edge_behavior.errors import EdgebError

GEMMA = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"


@pytest.mark.parametrize(
    ("stated", "attribution"),
    [
        ("gemma", (GEMMA,)),
        ("llama3", ("Built with Meta Llama 3", "Meta Llama 3 is licensed under the Meta Llama 3 Community License,")),
        ("Llama3.1", ("Built with Llama", "Llama 3.1 is licensed under the Llama 3.1 Community License,")),
        ("llama3.2", ("Built with Llama", "Llama 3.2 is licensed under the Llama 3.2 Community License,")),
        ("apache-2.0", ()),
        ("cc-by-4.0", ()),
    ],
)
def test_attribution_follows_the_stated_license(stated: str, attribution: tuple[str, ...]) -> None:
    found = License.stated(stated)
    assert found is not None
    assert found.id == stated
    assert len(found.attribution) == len(attribution)
    for line, expected in zip(found.attribution, attribution, strict=True):
        assert line.startswith(expected)
        if "licensed under" in line:
            assert line.endswith("Copyright © Meta Platforms, Inc. All Rights Reserved.")
    assert (found.link is not None) == (stated.lower() in TERMS)


def test_a_license_of_its_own_is_known_by_its_name() -> None:
    found = License.stated("other", "gemma-terms-of-use")
    assert found is not None
    assert found.attribution == (GEMMA,)
    assert found.lines == ["gemma-terms-of-use", "https://ai.google.dev/gemma/terms", GEMMA]
    research = License.stated("other", "qwen-research", "LICENSE")
    assert research is not None
    assert (research.link, research.attribution[0]) == ("LICENSE", "Built with Qwen")


def test_what_is_not_stated() -> None:
    assert License.stated(None, None, None, "Someone") is None
    assert License.stated(" \x00") is None
    assert license_lines(None) == [NOT_STATED]
    alone = License.stated(None, texts={"LICENSE": "Be kind."})
    assert alone is not None
    assert license_lines(alone) == ["see LICENSE"]


def test_round_trip() -> None:
    found = License.stated("llama3.2", author="Meta", texts={"LICENSE.txt": "line\r\nline\t2\n", "NOTICE": "©"})
    assert found is not None
    assert found.texts == {"LICENSE.txt": "line\nline    2", "NOTICE": "©"}
    assert found.title == "llama3.2 (Llama 3.2 Community License)"
    assert found.lines[1:3] == ["https://www.llama.com/llama3_2/license/", "made by Meta"]
    assert License.from_dict(json.loads(json.dumps(found.to_dict())), "x") == found


def test_stated_values_are_cleaned() -> None:
    found = License.stated("mit\x1b[31m\n", "a\u202eb" + "x" * 1000, texts={"LICENSE": "\x1b]0;evil\x07text\x9b"})
    assert found is not None
    assert found.id == "mit [31m"
    assert found.name is not None
    assert len(found.name) == MAX_FIELD
    assert found.texts == {"LICENSE": "]0;eviltext"}
    assert plain_text("a\n\n\tb\u2028c") == "a\n\n    bc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "\x1b[31m"}, "is no line of a license"),
        ({"link": ""}, "is no line of a license"),
        ({"name": "n" * (MAX_FIELD + 1)}, "is no line of a license"),
        ({"attribution": ["two\nlines"]}, "is no line of a license"),
        ({"attribution": [5]}, r"x.attribution\[0\] is 5, not str"),
        ({"texts": {"../LICENSE": "t"}}, "is no file name of a license"),
        ({"texts": {"LICENSE": "é" * (MAX_TEXT // 2 + 1)}}, "LICENSE is longer than 65536 bytes"),
        ({"texts": {"LICENSE": "\x07"}}, "holds control characters"),
        ({"texts": {"LICENSE": None}}, "x.texts"),
        ({"texts": {f"LICENSE{i}": "t" for i in range(9)}}, "has 9 texts"),
        ({"extra": 1}, "x: unknown field 'extra'"),
    ],
)
def test_bad_manifests_are_refused(change: dict[str, Any], message: str) -> None:
    stated = License.stated("mit")
    assert stated is not None
    with pytest.raises(EdgebError, match=message):
        License.from_dict({**stated.to_dict(), **change}, "x")
