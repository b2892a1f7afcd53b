"""The demo's page in a real browser, by keyboard only: events, suggestions, rules, hostile names, no way out."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import browser, demo_bundle
from tests.demo_bundle import LABELS, LENGTH, LONG, MARKUP, RIGHT_TO_LEFT

pytestmark = pytest.mark.skipif(
    browser.program() is None, reason="no Chromium here (apt-get install chromium): the page is not tried in a browser"
)
FIVE = "document.querySelectorAll('#suggestions li').length === 5"
RANKING = (
    "[...document.querySelectorAll('#suggestions li')]"
    ".map(l => [l.dataset.behavior, l.querySelector('.value').textContent])"
)
EVENTS = "[...document.querySelectorAll('#timeline .label')].map(l => l.textContent)"
FOCUS = "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    return demo_bundle.make(folder)


@contextmanager
def served(bundle: Path, *arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running `edgeb demo`: its address and process."""
    command = [sys.executable, "-m", "edge_behavior", "demo", str(bundle), "--no-open", "--threads", "1"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "EDGEB_HOME": str(bundle.parent)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err


class Page:
    """The page, used by keys."""

    def __init__(self, driven: browser.Browser, url: str) -> None:
        self.browser, self.url = driven, url
        driven.open("about:blank")
        driven.requests.clear()
        driven.complaints.clear()
        driven.look(1280, 900)
        driven.open(url)
        driven.wait(f"{FIVE} && document.getElementById('suggestions').ariaBusy === 'false'")

    def ranking(self) -> list[list[str]]:
        return list(self.browser.run(RANKING))

    def events(self) -> list[str]:
        return list(self.browser.run(EVENTS))

    def text(self, id_: str) -> str:
        return str(self.browser.run(f"document.getElementById('{id_}').textContent"))

    def focus(self) -> str:
        return str(self.browser.run(FOCUS))

    def tab_to(self, wanted: str, shift: bool = False) -> None:
        """Press Tab until the element with that id or class has the focus."""
        for _ in range(40):
            if self.focus() == wanted:
                return
            self.browser.press("Tab", shift=shift)
        raise AssertionError(f"no way to {wanted} by Tab")

    def type(self, text: str) -> None:
        self.browser.press(*text)

    def settle(self, *keys: str) -> None:
        """Press keys and wait for the prediction that they lead to."""
        self.browser.press(*keys)
        self.browser.wait("document.getElementById('suggestions').ariaBusy === 'false'")

    def assert_clean(self) -> None:
        """Nothing was complained about, and nothing left this machine."""
        assert self.browser.complaints == []
        assert self.browser.requests
        assert [request for request in self.browser.requests if not request.startswith(self.url)] == []


@pytest.fixture(scope="module")
def driven() -> Iterator[browser.Browser]:
    with browser.Browser() as started:
        yield started


@pytest.fixture
def page(bundle: Path, driven: browser.Browser) -> Iterator[Page]:
    with served(bundle) as (url, _):
        yield Page(driven, url)


@pytest.fixture
def hostile_page(bundle: Path, driven: browser.Browser, tmp_path: Path) -> Iterator[Page]:
    """A page that begins with events of every name, in places that were as bad in their log."""
    with (tmp_path / "day.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("timestamp", "place", "behavior"))
        places = (MARKUP, "\u202egnp.cod", "🏠 בית", "x" * 200)
        writer.writerows(
            (f"2024-03-18T{8 + i:02d}:00", places[i % len(places)], label) for i, label in enumerate(LABELS)
        )
    with served(bundle, "--history", tmp_path / "day.csv") as (url, _):
        yield Page(driven, url)


def test_a_day_by_keyboard(page: Page) -> None:
    assert page.events() == []
    assert "Nothing has happened yet" in page.text("empty")
    before = page.ranking()

    page.tab_to("place")
    page.tab_to("behavior")
    page.type("Video Call")
    page.settle("Enter")
    assert page.events() == ["Video Call"]
    after = page.ranking()
    assert after != before
    assert page.focus() == "behavior"
    assert page.browser.run("document.getElementById('behavior').value") == ""
    assert float(page.text("latency").split()[0]) > 0
    assert int(page.text("tokens")) > 0
    assert page.text("window") == "1"

    # Digits are text in a text field, and accept elsewhere.
    page.settle("2")
    assert page.events() == ["Video Call"]
    assert page.browser.run("document.getElementById('behavior').value") == "2"
    page.browser.press("Home", "Delete")
    page.tab_to("pick", shift=True)
    page.settle("2")
    assert page.events() == ["Video Call", after[1][0]]
    assert page.browser.run("document.querySelectorAll('#timeline .tag').length") == 1

    # Arrows move, Delete dismisses, Enter accepts.
    third = page.ranking()[2][0]
    page.browser.press("ArrowDown", "ArrowDown", "ArrowUp", "ArrowDown")
    page.settle("Delete")
    assert third not in [label for label, _ in page.ranking()]
    assert page.text("restore") == "Show 1 dismissed"
    assert page.focus() == "pick"
    first = page.ranking()[0][0]
    page.browser.press("Home")
    page.settle("Enter")
    assert page.events()[-1] == first
    assert page.browser.run("document.getElementById('restore').hidden")

    page.tab_to("undo", shift=True)
    page.settle("Enter")
    assert len(page.events()) == 2
    page.assert_clean()


def test_number_keys_can_be_switched_off(page: Page) -> None:
    page.tab_to("digits")
    page.browser.press("Space")
    page.settle("1")
    assert page.events() == []
    page.browser.press("Space")
    page.settle("1")
    assert len(page.events()) == 1
    page.assert_clean()


def test_time_place_and_rule(page: Page) -> None:
    page.tab_to("make-up")
    page.settle("Enter")
    assert len(page.events()) == 9
    assert page.browser.run("!document.getElementById('made-up').hidden")
    before, clock = page.ranking(), page.text("clock")

    page.tab_to("slider")
    page.settle("End")
    assert page.text("clock") > clock
    page.tab_to("place", shift=True)
    page.browser.run("document.activeElement.select()")
    page.settle(*"gym")
    assert page.text("where") == "gym"
    assert page.ranking() != before

    # The threshold is a promise about what is suggested.
    page.tab_to("threshold")
    page.settle("End")
    assert page.text("threshold-shown") == "100 %"
    assert page.text("verdict") == "Stays silent: nothing reaches 100 %."
    assert page.browser.run("document.querySelectorAll('#suggestions .suggested').length") == 0
    page.settle("Home")
    assert page.browser.run("document.querySelectorAll('#suggestions .suggested').length") == 5

    # By precision only the first, and never where that precision is not reached.
    page.browser.press("Tab")
    page.tab_to("precision")
    page.settle("ArrowDown")
    assert page.browser.run("document.getElementById('rule-precision').checked")
    assert page.text("verdict") == "Stays silent: not right 90 % of the time."
    page.settle("ArrowUp")
    assert page.browser.run("[...document.querySelectorAll('#suggestions li')].map(l => l.className)") == [
        "suggested", "", "", "", "",
    ]  # fmt: skip
    page.tab_to("coverage")
    page.settle("ArrowDown")
    assert page.text("likely-title").startswith("Prediction set at 80 % coverage: ")
    page.tab_to("source")
    page.settle("ArrowUp")
    assert page.text("answered") == "habits"
    assert page.text("tokens") == "0"
    page.assert_clean()


def test_a_late_answer_does_not_replace_a_newer_one(page: Page) -> None:
    """The first of two predictions is held back until the second is shown."""
    page.browser.run(
        "(() => { const real = fetch; let held = true; window.fetch = async (...asked) => {"
        " const answer = await real(...asked);"
        " if (held) { held = false; await new Promise(done => (window.letGo = done)); }"
        " return answer; }; })()"
    )
    page.tab_to("source")
    page.browser.press("ArrowUp")
    page.browser.wait("window.letGo !== undefined")
    page.browser.press("ArrowUp")
    page.browser.wait("document.getElementById('answered').textContent === 'model'")
    page.browser.run("letGo()")
    page.settle()
    assert page.text("answered") == "model"
    page.assert_clean()


def test_mistakes_are_explained(page: Page) -> None:
    page.tab_to("behavior")
    page.type("Vidio Call")
    page.settle("Enter")
    assert "did you mean 'Video Call'?" in page.text("problem")
    assert page.browser.run("document.getElementById('behavior').getAttribute('aria-invalid')") == "true"
    assert page.events() == []
    # The browser itself reports a refusal; it is the only complaint.
    assert [c for c in page.browser.complaints if "400" not in c] == []


def test_nothing_happens_at_a_time_that_is_not_whole(page: Page) -> None:
    def predictions() -> int:
        return sum(request.endswith("/api/predict") for request in page.browser.requests)

    page.tab_to("when")
    page.settle("Delete")
    assert page.browser.run("document.getElementById('when').value") == ""
    assert "incomplete" in page.text("problem")
    assert page.browser.run("document.getElementById('when').getAttribute('aria-invalid')") == "true"
    assert page.text("verdict").startswith("No prediction")
    assert page.ranking() == []
    before = predictions()

    # Neither an event, nor a suggestion's key, nor another place brings the old time back.
    page.tab_to("behavior")
    page.type("Video Call")
    page.settle("Enter")
    assert page.browser.run("document.getElementById('behavior').value") == "Video Call"
    page.tab_to("primary")
    page.settle("1")
    page.tab_to("place", shift=True)
    page.settle(*"gym")
    page.browser.wait("document.getElementById('suggestions').ariaBusy === 'false'")
    assert page.events() == []
    assert predictions() == before
    assert page.browser.run("document.getElementById('when').value") == ""
    assert "incomplete" in page.text("problem")

    page.browser.press("Tab")
    page.settle("3")
    page.browser.wait(FIVE)
    assert page.text("problem") == ""
    assert page.browser.run("document.getElementById('when').hasAttribute('aria-invalid')") is False
    page.tab_to("behavior")
    page.settle("Enter")
    assert page.events() == ["Video Call"]
    page.assert_clean()


def test_names_are_text(hostile_page: Page) -> None:
    page = hostile_page
    assert page.events() == LABELS
    assert page.browser.run("document.querySelectorAll('img, b, i, [onerror]').length") == 0
    assert page.browser.run("document.title") == "edgeb demo"
    for scheme, width in (("light", 1280), ("dark", 390)):
        page.browser.look(width, 900, scheme)
        # Long names wrap or are cut; the page does not grow sideways, nor a row of the phone.
        assert page.browser.run("document.documentElement.scrollWidth <= innerWidth")
        boxes = page.browser.run(
            "[...document.querySelectorAll('#timeline li, #suggestions li')].map(l => [l.getBoundingClientRect().right,"
            " l.closest('.screen').getBoundingClientRect().right])"
        )
        assert all(right <= edge for right, edge in boxes)
    values = page.browser.run("[...document.querySelectorAll('datalist option')].map(o => o.value)")
    assert {MARKUP, RIGHT_TO_LEFT, LONG.strip()} <= set(values)
    places = page.browser.run("[...document.querySelectorAll('#timeline .about')].map(l => l.textContent)")
    assert not any("<" in place or "\u202e" in place for place in places)
    # Right-to-left names stand in an element of their own direction.
    assert page.browser.run("document.querySelectorAll('#timeline bdi').length") == 2 * len(LABELS)
    page.browser.run("document.getElementById('source').value = 'habits'")
    page.tab_to("behavior")
    page.type("<img")
    page.assert_clean()


def test_every_stop_is_visible_and_named(hostile_page: Page) -> None:
    page = hostile_page
    stops = []
    page.browser.press("Tab")
    while (stop := page.focus()) != "BODY" and len(stops) < 40:
        stops.append(stop)
        ring = page.browser.run(
            "(() => { const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth] })()"
        )
        assert ring == ["solid", "3px"], stop
        page.browser.press("Tab")
    expected = [
        "skip", "undo", "start-over", "day-scroll", "pick", "place", *["when"] * 7,
        "slider", "behavior", "primary", "rule-threshold",
    ]  # fmt: skip
    assert [stop for stop in stops if stop != "dismiss"][: len(expected)] == expected
    tree = page.browser.send("Accessibility.getFullAXTree")["nodes"]
    names: dict[str, list[Any]] = {}
    for node in tree:
        focusable = any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", ()))
        if focusable and not node.get("ignored"):
            names.setdefault(node["role"]["value"], []).append(node["name"]["value"])
    assert all(name.strip() for role, found in names.items() if role != "RootWebArea" for name in found), names
    picks = [name for name in names["button"] if name.startswith("Accept suggestion")]
    assert len(picks) == 5
    assert all("%" in name for name in picks)
    assert len([name for name in names["button"] if name.startswith("Dismiss ")]) == 5
    page.assert_clean()


def test_a_long_day(page: Page) -> None:
    """More events than the window holds, by number keys alone."""
    page.tab_to("pick")
    for _ in range(LENGTH + 22):
        page.settle("1")
    assert len(page.events()) == LENGTH + 22
    assert int(page.text("window")) == LENGTH + 1
    page.assert_clean()


def test_a_server_that_is_gone(bundle: Path, driven: browser.Browser) -> None:
    with served(bundle) as (url, process):
        page = Page(driven, url)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        page.tab_to("slider")
        page.browser.press("End")
        page.browser.wait("!document.getElementById('offline').hidden")
        assert "does not answer" in page.text("offline")
        assert page.text("verdict") == "No prediction: edgeb does not answer."
