"""What a model folder or a GGUF file states about its license, and the card that carries it on.

Reads the front matter of README.md, and LICENSE, NOTICE and USE_POLICY files. Knows nothing of what licenses ask for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edge_behavior.core.license import MAX_TEXT, MAX_TEXTS, OTHER, TERMS, License, one_line, plain_text
from edge_behavior.util.markdown import markdown_text

CARD = "README.md"
# What the hub is asked for beside the model itself.
LICENSE_FILES = [CARD, "LICEN[CS]E*", "NOTICE*", "USE_POLICY*", "COPYING*"]
_TEXT_FILE = re.compile(r"(licen[cs]e|notice|use_policy|copying)[a-z0-9_.-]*", re.IGNORECASE)
_TEXT_ENDINGS = ("", ".txt", ".md", ".rst")
_FRONT_MATTER = re.compile(r"---\s*\n(.*?)\n---", re.DOTALL)
_MAX_CARD = 1 << 20


def read_license(folder: Path) -> License | None:
    """The license of the model in a folder; None where nothing there states one.

    A text that is too long for a bundle is replaced by a line that says so.
    """
    stated = _front_matter(folder / CARD)
    names = ("license", "license_name", "license_link", "author")
    id, name, link, author = (_text(stated.get(field)) for field in names)
    return License.stated(id, name, link, author, _texts(folder))


def gguf_license(metadata: Mapping[str, Any]) -> License | None:
    """The license that the metadata of a GGUF file states; None where they state none."""
    names = ("license", "license.name", "license.link")
    id, name, link = (_text(metadata.get(f"general.{key}")) for key in names)
    author = _text(metadata.get("general.author")) or _text(metadata.get("general.organization"))
    return License.stated(id, name, link, author)


def license_fields(found: License | None) -> dict[str, str]:
    """The license as the front matter of a model card has it; `unknown` where none is stated."""
    if found is None:
        return {"license": "unknown"}
    # "other" is what the hub knows for a license that has only a text; names are for these.
    known = found.id is not None and found.id.lower() in TERMS
    named = {} if known else {"license_name": found.name, "license_link": found.link}
    fields = {"license": found.id or OTHER, **named, "author": found.author}
    return {name: value for name, value in fields.items() if value is not None}


def license_markdown(found: License | None) -> str:
    """The paragraph of a card about the backbone's license; its first line is a sentence."""
    if found is None:
        return "The backbone states no license: ask its makers before you pass the model on."
    lines = [f"The backbone's license is {markdown_text(found.title)}. This model is a modified version of it."]
    if found.link is not None:
        lines.append(f"Terms: {markdown_text(found.link)}")
    if found.author is not None:
        lines.append(f"Backbone made by {markdown_text(found.author)}.")
    return "\n\n".join([*lines, *(markdown_text(line) for line in found.attribution)])


def write_license(folder: Path, title: str, found: License | None, about: str) -> None:
    """Write the card of an unpacked model, from which `read_license` reads the license again.

    Args:
        folder: The model folder.
        title: Name of the model.
        found: Its license.
        about: Where the model comes from, a sentence.
    """
    front = yaml.safe_dump(license_fields(found), sort_keys=False, allow_unicode=True)
    text = f"---\n{front}---\n\n# {markdown_text(one_line(title))}\n\n{markdown_text(about)}\n"
    (folder / CARD).write_text(text, encoding="utf-8")
    write_texts(folder, found)


def write_texts(folder: Path, found: License | None) -> None:
    """Write the texts of a license as files."""
    for name, text in ({} if found is None else found.texts).items():
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _front_matter(card: Path) -> dict[str, Any]:
    """The fields of a card's YAML head; empty where there is none that can be read."""
    if not card.is_file() or card.stat().st_size > _MAX_CARD:
        return {}
    head = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    try:
        fields = yaml.safe_load(head.group(1)) if head else None
    except yaml.YAMLError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _text(value: object) -> str | None:
    """A stated value; cards may list several licenses. `unknown` is what cards say for none."""
    if isinstance(value, list):
        value = ", ".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) and value.strip().lower() not in ("", "unknown") else None


def _texts(folder: Path) -> dict[str, str]:
    files = [
        path
        for path in sorted(folder.iterdir())
        if _TEXT_FILE.fullmatch(path.name) and path.suffix.lower() in _TEXT_ENDINGS and path.is_file()
    ]
    return {path.name: _readable(path) for path in files[:MAX_TEXTS]}


def _readable(path: Path) -> str:
    size = path.stat().st_size
    text = plain_text(path.read_text(encoding="utf-8", errors="replace")) if size <= MAX_TEXT else ""
    if size > MAX_TEXT or len(text.encode()) > MAX_TEXT:
        return f"This text has {size:,} bytes, a bundle carries up to {MAX_TEXT:,}: it is in the backbone's folder."
    return text
