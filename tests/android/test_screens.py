"""The app's resources and screens without Android's tools, by reading them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.android import screens
from tests.android.project import (
    ANDROID,
    DEMO,
    LAYOUTS,
    LOGIC,
    MAIN,
    RESOURCES,
    SCREENS,
    XML,
    parsed,
    strings,
    text_of,
    values,
)


def in_style(view: ElementTree.Element, attribute: str) -> str | None:
    """What a view has, itself or by its style and that one's parents."""
    held = view.get(attribute if attribute == "style" else f"{ANDROID}{attribute}")
    name = str(view.get("style")).removeprefix("@style/")
    styles = values()["style"]
    while held is None and name in styles:
        items = {str(item.get("name")): item.text for item in styles[name]}
        held = items.get(f"android:{attribute}")
        name = str(styles[name].get("parent"))
    return held


def identity(view: ElementTree.Element) -> str:
    return str(view.get(f"{ANDROID}id")).removeprefix("@+id/")


def layout_id(path: Path) -> str:
    return path.stem if path.parent.name == "layout" else f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", LAYOUTS, ids=layout_id)
def test_screens_can_be_touched_and_heard(path: Path) -> None:
    code = "\n".join(text_of(screen) for screen in SCREENS)
    for view in parsed(path).iter():
        name = identity(view)
        if view.tag in TOUCHED:
            heights = (in_style(view, "layout_height"), in_style(view, "minHeight"))
            assert "@dimen/touch" in heights, f"{path.name}: {name} may be lower than 48dp"
        if view.tag == "ImageButton":
            is_named = view.get(f"{ANDROID}contentDescription") is not None
            described = re.search(rf"describe\([^,]+, R\.id\.{name},", code)
            assert is_named or described, f"{path.name}: {name} is not described"
            assert in_style(view, "layout_width") == "@dimen/touch"
        if view.tag in ("AutoCompleteTextView", "Spinner"):
            labels = [v for v in parsed(path).iter() if v.get(f"{ANDROID}labelFor") == f"@+id/{name}"]
            assert len(labels) == 1, f"{path.name}: {name} has no label"
        if view.tag == "Button":
            named = view.get(f"{ANDROID}text") is not None or re.search(rf"R\.id\.{name}\)? as (TextView|Button)", code)
            assert named, f"{path.name}: {name} has no words"
        # Words are in strings.xml, where they can be translated.
        for attribute in ("text", "hint", "contentDescription"):
            assert view.get(f"{ANDROID}{attribute}", "@string/").startswith("@string/")
    assert values()["dimen"]["touch"].text == "48dp"


@pytest.mark.parametrize("path", LAYOUTS, ids=layout_id)
def test_words_have_room_at_twice_their_size(path: Path) -> None:
    """Sizes in sp, heights that grow, and at most one view in a row that is as wide as its words."""
    for view in parsed(path).iter():
        if view.tag in WORDS:
            assert in_style(view, "layout_height") == "wrap_content", f"{path.name}: {identity(view)} may be cut"
            size = in_style(view, "textSize")
            assert size is None or size.endswith("sp")
            assert in_style(view, "singleLine") is None
            assert in_style(view, "ellipsize") is None
        children = list(view)
        wide = [c for c in children if c.tag in WORDS and in_style(c, "layout_width") == "wrap_content"]
        if view.tag == "LinearLayout" and in_style(view, "orientation") != "vertical":
            shares = [c for c in children if in_style(c, "layout_weight") is not None]
            assert len(wide) <= 2, f"{path.name}: {[identity(c) for c in wide]} push each other out"
            assert not wide or shares, f"{path.name}: nothing in the row gives way"


def test_screens_turn_round_for_languages_written_from_the_right() -> None:
    for path in [*LAYOUTS, *RESOURCES.glob("values*/styles.xml")]:
        found = re.findall(r"android:\w*(?:Left|Right)\b|gravity=\"(?:left|right)", text_of(path))
        assert found == [], path.name
    application = parsed(MAIN / "AndroidManifest.xml").find("application")
    assert application is not None
    assert application.get(f"{ANDROID}supportsRtl") == "true"
    for name in ("ic_before", "ic_after"):
        assert parsed(RESOURCES / "drawable" / f"{name}.xml").get(f"{ANDROID}autoMirrored") == "true"


def tree(path: Path) -> list[tuple[str, str]]:
    """Kind and id of all views of a layout, with what it includes in its place."""
    found: list[tuple[str, str]] = []
    for view in parsed(path).iter():
        if view.tag == "include":
            part = str(view.get("layout")).removeprefix("@layout/")
            found += tree(RESOURCES / "layout" / f"{part}.xml")
        else:
            found.append((view.tag, identity(view)))
    return found


def test_wide_screens_show_the_same_views() -> None:
    wide = list(RESOURCES.glob("layout-*/*.xml"))
    assert [path.name for path in wide] == ["activity_assistant.xml"]
    for path in wide:
        named = [sorted(v for v in tree(p) if v[1] != "None") for p in (path, RESOURCES / "layout" / path.name)]
        assert named[0] == named[1]
        # Two columns that scroll by themselves.
        assert sum(kind == "ScrollView" for kind, _ in tree(path)) == 2


def test_screens_are_as_described() -> None:
    """prove/SCREENS.md has the view tree of every screen: `python -m tests.android.screens` writes it."""
    assert text_of(DEMO / "prove" / "SCREENS.md") == screens.page()


def test_slider_has_the_steps_of_the_threshold() -> None:
    slider = next(parsed(RESOURCES / "layout" / "part_choices.xml").iter("SeekBar"))
    steps = re.findall(r"const val STEPS = (\d+)", "".join(text_of(path) for path in LOGIC))
    assert [slider.get(f"{ANDROID}max")] == steps


def test_night_has_every_colour_that_is_not_the_icons() -> None:
    day, night = values()["color"], values("values-night")["color"]
    assert set(day) - set(night) == {"icon_background"}
    assert all(day[name].text != night[name].text for name in night)
    assert set(values("values-night")["style"]) <= set(values()["style"])


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two opaque colours like #FFRRGGBB."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (3, 5, 7))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("folder", ["values", "values-night"])
def test_text_stands_out(folder: str) -> None:
    colours = {name: str(item.text) for name, item in values(folder)["color"].items()}
    assert contrast("#FF000000", "#FFFFFFFF") == pytest.approx(21)
    for name in ("text", "text_faint", "accent", "warning"):
        for behind in ("background", "card"):
            assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)


def defined() -> dict[str, set[str]]:
    """Kind to names of every resource of the app."""
    found = {kind: set(items) for kind, items in values().items()}
    for path in RESOURCES.rglob("*.xml"):
        folder = path.parent.name.split("-")[0]
        if folder != "values":
            found.setdefault(folder, set()).add(path.stem)
    found["id"] = {name for path in LAYOUTS for name in re.findall(r'android:id="@\+id/(\w+)"', text_of(path))}
    return found


def referenced() -> Iterator[tuple[Path, str, str]]:
    """File, kind and name of every resource that code and XML refer to."""
    for path in SCREENS:
        for kind, name in re.findall(r"(?<!android\.)\bR\.(\w+)\.(\w+)", text_of(path)):
            yield path, kind, name
    for path in XML:
        for kind, name in re.findall(r'[">]@\+?(\w+)/([\w.]+)["<]', text_of(path)):
            yield path, kind, name


def test_every_resource_referred_to_exists_and_every_one_defined_is_used() -> None:
    there, used = defined(), set()
    for path, kind, name in referenced():
        assert name in there.get(kind, set()), f"{path.name} refers to {kind} {name}"
        used.add((kind, name))
    parents = {("style", str(style.get("parent"))) for style in values()["style"].values()}
    unused = {(kind, name) for kind, names in there.items() for name in names} - used - parents
    assert unused == set()


def test_code_gives_strings_the_arguments_they_take() -> None:
    texts = strings()
    code = "\n".join(text_of(path) for path in SCREENS)
    calls = re.findall(r"getString\(\s*R\.string\.(\w+)(,|\))", code)
    assert len(calls) > 15
    for name, after in calls:
        assert ("%1$s" in texts[name] or "%1$d" in texts[name]) == (after == ","), name


# What a layout may give a view that is touched, where no style does.
TOUCHED = ("Button", "ImageButton", "SeekBar", "AutoCompleteTextView", "Spinner")
WORDS = ("TextView", "Button", "AutoCompleteTextView")
