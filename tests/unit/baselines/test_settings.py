"""Settings of systems: typed and bounded, set by name, and what the authors state is theirs in the page's table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_behavior.baselines.language.registry import RIVALS
from edge_behavior.baselines.registry import SEQUENCE_SYSTEMS, systems
from edge_behavior.baselines.settings import (
    authors_settings,
    changed_settings,
    over,
    plain,
    settings_of,
    split_overrides,
)
from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare.registry import all_contenders, system_settings
from edge_behavior.train.recipe import LoraSettings

ROOT = Path(__file__).parents[3]
FILES = {file.stem: file for file in (ROOT / "train" / "configs" / "systems").glob("*.yaml")}


def test_every_rival_has_a_file_that_begins_with_its_command() -> None:
    assert FILES.keys() == RIVALS.keys()
    for name, file in FILES.items():
        first = file.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith(f"# edgeb compare --systems {name} ")
        assert ("--authors" in first) == bool(authors_settings(name))


@pytest.mark.parametrize("name", RIVALS)
def test_what_authors_state_are_settings_of_their_system(name: str) -> None:
    stated = authors_settings(name)
    found = changed_settings(RIVALS[name], stated, name)
    assert {key: over(plain(value), stated[key]) if isinstance(stated[key], dict) else stated[key]
            for key, value in found.items()} == {key: plain(value) for key, value in found.items()}  # fmt: skip
    # No more than differs is kept of a comparison.
    kept = system_settings(name, {}, authors=True)
    assert all(plain(settings_of(RIVALS[name])[key]) != value for key, value in kept.items())
    assert system_settings(name, kept) == kept
    assert system_settings(name, {}) == {}


def test_settings_are_typed_and_bounded() -> None:
    found = changed_settings(
        RIVALS["llara"],
        {"curriculum": 0, "lora": {"rank": 4, "alpha": 8}, "sasrec": {"hidden": 32}, "rates": [0.1, 0.2]},
        "--set llara",
    )
    assert (found["curriculum"], found["lora"], found["rates"]) == (0.0, LoraSettings(rank=4, alpha=8), (0.1, 0.2))
    assert (found["sasrec"].hidden, found["sasrec"].layers) == (32, 2)
    assert changed_settings(RIVALS["llara"], {"lora": None}, "x") == {"lora": None}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llara", {"curiculum": 1}, r"--set llara: unknown setting 'curiculum' .did you mean 'curriculum'"),
        ("llara", {"language": 1}, "unknown setting 'language'"),
        ("llara", {"curriculum": 1.5}, "--set llara.curriculum = 1.5: should be less than or equal to 1"),
        ("llara", {"curriculum": "much"}, "llara.curriculum = 'much': should be a valid number"),
        ("llara", {"rates": [2]}, r"llara.rates = \[2\]: should be less than 1"),
        ("llara", {"sasrec": 64}, "llara.sasrec = 64: it has settings itself .set --set llara.sasrec.NAME"),
        ("llara", {"sasrec": {"heads": 3}}, "llara.sasrec: a width of 64 cannot be split among 3 heads"),
        ("llara", {"sasrec": {"hiden": 3}}, "llara.sasrec: unknown setting 'hiden'"),
        ("llara", {"lora": {"rang": 3}}, "llara.lora = .*: extra inputs are not permitted"),
        ("tallrec", {"conversations": 1.5}, "tallrec.conversations = 1.5: should be a valid integer"),
        ("sasrec", {"config": {"context": False}}, "another system .compare sasrec_published"),
        ("plain", {"x": 1}, "--set plain: that system has no settings"),
    ],
)
def test_mistakes_are_one_line(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgebError, match=message):
        system_settings(name, changes)


def test_overrides_of_systems_are_told_from_those_of_the_recipe() -> None:
    words = ["a_tuning.epochs=2", "llara.curriculum=0", "llara.sasrec.hidden=16", "method=plain", "sasrec.rates=[0.01]"]
    recipe, found = split_overrides(words, all_contenders())
    assert recipe == ["a_tuning.epochs=2", "method=plain"]
    assert found == {"llara": {"curriculum": 0, "sasrec": {"hidden": 16}}, "sasrec": {"rates": [0.01]}}
    with pytest.raises(EdgebError, match=r"not of the form section\.key=value"):
        split_overrides(["llara"], all_contenders())


def test_settings_reach_the_systems() -> None:
    held = {"sasrec": {"config": {"hidden": 32}, "rates": [0.01]}, "llara": {"curriculum": 0.5}}
    known = all_contenders(settings=held)
    assert known["llara"].settings == {"curriculum": 0.5}  # type: ignore[attr-defined]
    made = systems(settings={"sasrec": changed_settings(SEQUENCE_SYSTEMS["sasrec"], held["sasrec"], "sasrec")})
    assert (made["sasrec"].rates, made["bert4rec"].rates) == ((0.01,), SEQUENCE_SYSTEMS["bert4rec"].rates)
    assert made["sasrec"].config.hidden == 32  # type: ignore[attr-defined]


def shown(value: Any) -> str:
    """A value as the page's table has it."""
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def rows() -> list[str]:
    """The page's table: what differs; of settings of settings only those."""
    found = []
    for name, kind in RIVALS.items():
        for key, theirs in yaml.safe_load(FILES[name].read_text(encoding="utf-8")).items():
            ours = plain(settings_of(kind)[key])
            here = {"lora": "the recipe's", "rates": "around the recipe's" if kind.tunes else "SASRec's"}.get(key)
            if isinstance(theirs, dict):
                other = {one: value for one, value in theirs.items() if ours is None or ours[one] != value}
                told = ", ".join(f"{one} {shown(value)}" for one, value in other.items())
                here = here or ", ".join(shown(ours[one]) for one in other)
            else:
                told = shown(theirs) if theirs != ours else ""
                here = here or shown(ours)
            found += [f"| `{name}` | {key} | {told} | {here} |"] if told else []
    return found


def test_the_page_has_what_the_files_state() -> None:
    page = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    table = re.search(r"^\| system \| setting \| theirs \| here \|\n\|.*\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    assert table is not None
    assert table[1].splitlines() == rows()


if __name__ == "__main__":
    print("\n".join(rows()))
