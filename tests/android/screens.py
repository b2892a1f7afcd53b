"""Each screen of the phone's app as its view tree, from the layout files: `python -m tests.android.screens`.

Writes android_demo/prove/SCREENS.md. Android draws the screens; here only their files are read.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree

from tests.android.project import ANDROID, DEMO, RESOURCES, parsed, strings

SCREENS = {
    "activity_assistant": "Screen 1. On windows of 720dp and more, day and choices are in columns of their own.",
    "activity_add_event": "Adds an event, or puts one right.",
    "activity_benchmark": "Screen 2: model, measurement, log.",
    "widget": "The home screen's widget.",
    "item_suggestion": "A row of `suggestions`.",
    "item_event": "A row of `timeline`.",
}
_HEAD = """# The app's screens, as their files have them

Written by `python -m tests.android.screens`. A line is a view: its kind, its id, and what it says or is described by;
`…` is set by the program. Indented views lie inside. Tests check that all that is touched is 48dp high, is described
and has a label, that words have room at twice their size, and that colours stand out. Nothing was drawn: a picture of a
screen takes Android's own code.
"""


def described(name: str) -> str:
    """A screen's view tree as a Markdown block."""
    return "\n".join(["    " + line for line in _lines(name, 0, strings())])


def _lines(name: str, depth: int, texts: dict[str, str]) -> list[str]:
    return _view(parsed(RESOURCES / "layout" / f"{name}.xml"), depth, texts)


def _view(view: ElementTree.Element, depth: int, texts: dict[str, str]) -> list[str]:
    if view.tag == "include":
        return _lines(str(view.get("layout")).removeprefix("@layout/"), depth, texts)
    parts = [view.tag]
    identity = view.get(f"{ANDROID}id")
    if identity is not None:
        parts.append(identity.removeprefix("@+id/"))
    words = [view.get(f"{ANDROID}{name}") for name in ("text", "hint", "contentDescription")]
    said = [texts[word.removeprefix("@string/")] for word in words if word is not None]
    if said:
        parts.append("“" + " / ".join(said) + "”")
    elif view.tag in ("TextView", "Button", "ImageButton"):
        parts.append("…")
    label = view.get(f"{ANDROID}labelFor")
    if label is not None:
        parts.append(f"(labels {label.removeprefix('@+id/')})")
    if view.get(f"{ANDROID}accessibilityLiveRegion") is not None:
        parts.append("(read aloud when it changes)")
    found = ["  " * depth + " ".join(parts)]
    for child in view:
        found += _view(child, depth + 1, texts)
    return found


def page() -> str:
    """All screens."""
    return _HEAD + "".join(f"\n## {name}\n\n{about}\n\n{described(name)}\n" for name, about in SCREENS.items())


def main() -> int:
    """Write the page."""
    (DEMO / "prove" / "SCREENS.md").write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
