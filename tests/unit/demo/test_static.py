"""The page's files, read as text: nothing inline, nothing from elsewhere, colors that can be read."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import edge_behavior.demo
from edge_behavior.demo.server import _FILES

STATIC = Path(edge_behavior.demo.__file__).parent / "static"
PAGE = (STATIC / "index.html").read_text(encoding="utf-8")
CSS = (STATIC / "app.css").read_text(encoding="utf-8")
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(STATIC.glob("*.js"))}
# Text on what it stands on: WCAG 2 AA asks for 4.5, for parts of controls and graphics for 3.
TEXT = [
    ("ink", "ground"), ("ink", "card"), ("ink", "screen"), ("ink", "sheet"), ("ink", "tint"), ("muted", "ground"),
    ("muted", "card"), ("muted", "screen"), ("muted", "sheet"), ("muted", "tint"), ("accent", "ground"),
    ("accent", "card"), ("accent", "screen"), ("accent", "sheet"), ("accent", "tint"), ("on-accent", "accent"),
    ("down", "sheet"), ("down", "tint"), ("error", "card"), ("error", "sheet"), ("error", "tint"),
    ("error", "error-tint"),
]  # fmt: skip
GRAPHICS = [
    ("edge", "card"), ("edge", "sheet"), ("edge", "screen"), ("edge", "tint"), ("bar", "tint"), ("bar", "card"),
    ("bar-off", "sheet"), ("bar-off", "card"), ("focus", "ground"), ("focus", "card"), ("focus", "screen"),
    ("focus", "sheet"), ("focus", "tint"),
]  # fmt: skip


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.script_text = ""
        self.feed(PAGE)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style"):
            self.script_text += data.strip()

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.found if "id" in attributes]


PARSED = Elements()


def colors(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[:2]
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light))
    return found if scheme == "light" else {**found, **dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", dark))}


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two #rrggbb colors."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_wcag_s() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back", "least"), [*((f, b, 4.5) for f, b in TEXT), *((f, b, 3.0) for f, b in GRAPHICS)]
)
def test_colors_can_be_told_apart(scheme: str, front: str, back: str, least: float) -> None:
    found = colors(scheme)
    assert contrast(found[front], found[back]) >= least


def test_dark_changes_every_color_of_light() -> None:
    light, dark = colors("light"), colors("dark")
    assert {name for name in light if light[name] == dark[name]} == set()


def test_the_server_serves_all_files_and_no_other() -> None:
    assert {file for file, _ in _FILES.values()} == {path.name for path in STATIC.iterdir()}


def test_nothing_inline() -> None:
    assert PARSED.script_text == ""
    attributes = {name for _, given in PARSED.found for name in given}
    assert not {name for name in attributes if name.startswith("on") or name == "style"}
    assert not {tag for tag, _ in PARSED.found} & {"style", "iframe", "object", "embed", "base"}


def test_nothing_from_elsewhere() -> None:
    links = [given[name] for _, given in PARSED.found for name in ("src", "href") if name in given]
    assert {link for link in links if link and not link.startswith("#")} == {"icon.svg", "app.css", "app.js"}
    for text in (CSS, *SCRIPTS.values()):
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)


def test_scripts_never_make_markup_of_text() -> None:
    for name, text in SCRIPTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )


def test_scripts_find_what_they_look_for() -> None:
    ids = PARSED.ids()
    assert len(ids) == len(set(ids))
    used = {name for text in SCRIPTS.values() for name in re.findall(r'find\("([a-z-]+)"\)', text)}
    assert used <= set(ids)
    assert len(used) > 20


def test_every_control_has_a_name() -> None:
    """Inside a label, or named by `label for` or aria-label; buttons by their text."""
    inside, fors, open_labels = set(), set(), 0
    for tag, given in PARSED.found:
        if tag == "label":
            fors.add(given.get("for"))
    for label in re.findall(r"<label\b.*?</label>", PAGE, re.DOTALL):
        inside |= set(re.findall(r'id="([a-z-]+)"', label))
        open_labels += 1
    assert open_labels == PAGE.count("<label")
    controls = [given for tag, given in PARSED.found if tag in ("input", "select", "textarea")]
    nameless = [c["id"] for c in controls if c["id"] not in inside | fors and not c.get("aria-label")]
    assert nameless == []
    for name in re.findall(r'aria-(?:labelledby|describedby)="([a-z -]+)"', PAGE):
        assert set(name.split()) <= set(PARSED.ids())
