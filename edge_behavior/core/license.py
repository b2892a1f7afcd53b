"""A backbone's license and the attribution that its terms ask for: what travels with every copy of the weights.

Terms are known by the license that is stated, never guessed from an architecture or a name. Reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_behavior.core.fields import NULL, Kind, read_fields, read_list
from edge_behavior.errors import EdgebError

# Longest field, in characters, and longest text, in bytes of UTF-8: the whole manifest is read at every start.
MAX_FIELD, MAX_TEXT, MAX_TEXTS = 400, 1 << 16, 8
NOT_STATED = "none is stated"
# What a card writes for a license of its own; `license_name` then tells which.
OTHER = "other"
_FIELDS: Mapping[str, Kind] = {
    "id": (str, NULL),
    "name": (str, NULL),
    "link": (str, NULL),
    "author": (str, NULL),
    "attribution": list,
    "texts": dict,
}
_TEXT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Terms:
    """What is known of a license: its name, where its text is, and the lines that must go with the weights."""

    name: str
    link: str
    attribution: tuple[str, ...] = ()


def _llama(version: str, link: str) -> Terms:
    license_name = f"{version} Community License"
    notice = f"{version} is licensed under the {license_name}, Copyright © Meta Platforms, Inc. All Rights Reserved."
    # Only the first of these licenses names the version here.
    built = f"Built with {version}" if version == "Meta Llama 3" else "Built with Llama"
    return Terms(license_name, link, (built, notice))


_GEMMA = Terms(
    "Gemma Terms of Use",
    "https://ai.google.dev/gemma/terms",
    ("Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",),
)
# By the identifier that Hugging Face's cards use, of the backbones that can be trained.
TERMS: Mapping[str, Terms] = {
    "apache-2.0": Terms("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "mit": Terms("MIT License", "https://opensource.org/license/mit"),
    "gemma": _GEMMA,
    "gemma-terms-of-use": _GEMMA,
    "llama3": _llama("Meta Llama 3", "https://www.llama.com/llama3/license/"),
    "llama3.1": _llama("Llama 3.1", "https://www.llama.com/llama3_1/license/"),
    "llama3.2": _llama("Llama 3.2", "https://www.llama.com/llama3_2/license/"),
    "llama3.3": _llama("Llama 3.3", "https://www.llama.com/llama3_3/license/"),
    "qwen-research": Terms(
        "Qwen Research License",
        "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE",
        (
            "Built with Qwen",
            "Qwen is licensed under the Qwen RESEARCH LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. "
            "All Rights Reserved.",
        ),
    ),
}


@dataclass(frozen=True)
class License:
    """The license of a pretrained model.

    Attributes:
        id: As its card or file states it, like "apache-2.0" or "llama3.2"; None where only a text is at hand.
        name: Its name.
        link: Where its text is.
        author: Who made the model.
        attribution: Lines that must be shown with the model.
        texts: License, notice and use policy by file name, as they came with the model.

    Raises:
        EdgebError: nothing is stated, a value that is too long, or one with control characters.
    """

    id: str | None = None
    name: str | None = None
    link: str | None = None
    author: str | None = None
    attribution: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = (self.id, self.name, self.link, self.author, *self.attribution)
        for value in values:
            if value is not None and (value != one_line(value) or not value):
                raise EdgebError(f"{value[:80]!r} is no line of a license", "state it in one line of plain text")
        if len(self.texts) > MAX_TEXTS:
            raise EdgebError(f"a license has {len(self.texts)} texts", f"keep up to {MAX_TEXTS}")
        for name, text in self.texts.items():
            if not _TEXT_NAME.fullmatch(name):
                raise EdgebError(f"{name[:80]!r} is no file name of a license", "rename the file")
            if text != plain_text(text) or len(text.encode()) > MAX_TEXT:
                raise EdgebError(
                    f"{name} is longer than {MAX_TEXT} bytes or holds control characters", "use a plain text"
                )

    @classmethod
    def stated(
        cls,
        id: str | None,
        name: str | None = None,
        link: str | None = None,
        author: str | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> License | None:
        """What a model states, completed by what is known of its license; None where it states nothing.

        Args:
            id: As stated; "other" leaves it to `name`.
            name: As stated.
            link: As stated.
            author: As stated.
            texts: By file name.
        """
        id, name, link, author = (one_line(value or "") or None for value in (id, name, link, author))
        texts = {file: plain_text(text) for file, text in (texts or {}).items()}
        if not (id or name or link or texts):
            return None
        key = (name if id is None or id.lower() == OTHER else id) or ""
        known = TERMS.get(key.lower())
        if known is None:
            return cls(id, name, link, author, (), texts)
        return cls(id, name or known.name, link or known.link, author, known.attribution, texts)

    @property
    def title(self) -> str:
        """Identifier and name in one line; the names of its texts where neither is known."""
        if self.id is None or self.id.lower() == OTHER:
            return self.name or self.link or f"see {', '.join(self.texts)}"
        return self.id if self.name in (None, self.id) else f"{self.id} ({self.name})"

    @property
    def lines(self) -> list[str]:
        """What to show with the model: title, link, author and attribution, a line each."""
        made_by = [] if self.author is None else [f"made by {self.author}"]
        link = [] if self.link is None or self.link == self.title else [self.link]
        return [self.title, *link, *made_by, *self.attribution]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of a manifest."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {**fields, "attribution": list(self.attribution), "texts": dict(self.texts)}

    @classmethod
    def from_dict(cls, values: object, where: str) -> License:
        """Read a manifest's object strictly.

        Raises:
            EdgebError: a field that is missing, unknown, of the wrong type, too long or not plain text.
        """
        found = read_fields(values, _FIELDS, where)
        lines = read_list(found.pop("attribution"), f"{where}.attribution", str)
        texts = found.pop("texts")
        read_list(list(texts.values()), f"{where}.texts", str)
        return cls(**found, attribution=tuple(lines), texts=texts)


def license_lines(found: License | None) -> list[str]:
    """`License.lines`, or that no license is stated."""
    return [NOT_STATED] if found is None else found.lines


def one_line(text: str) -> str:
    """Text on one line without control characters, at most `MAX_FIELD` long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_FIELD].rstrip()


def plain_text(text: str) -> str:
    """Text of several lines without other control characters, which a terminal would obey."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ").split("\n")
    return "\n".join("".join(c for c in line if c.isprintable()).rstrip() for line in lines).strip("\n")
