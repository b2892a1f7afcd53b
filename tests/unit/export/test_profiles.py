"""Profiles: what ships reads back, flags win, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edge_behavior.errors import EdgebError
from edge_behavior.export.profiles import ExportProfile, load_profile, profile_names


def test_the_default_profile_is_the_defaults() -> None:
    assert load_profile() == ExportProfile()


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    (tmp_path / "again.yaml").write_text(profile.to_yaml(), encoding="utf-8")
    assert load_profile(str(tmp_path / "again.yaml")) == profile
    text = next(Path(__file__).parents[3].joinpath("export/configs").glob(f"{name}.yaml")).read_text(encoding="utf-8")
    assert text.startswith("# edgeb export ")


def test_every_field_is_in_the_default_file() -> None:
    path = Path(__file__).parents[3] / "export" / "configs" / "default.yaml"
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == ExportProfile().model_dump()


def test_flags_win(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("quant: q5\nparity: {max_kl: 1}\n", encoding="utf-8")
    path = str(tmp_path / "p.yaml")
    flags = {"quant": "q8", "parity.enforce": False, "prune": None}
    found = load_profile(path, flags)
    assert (found.quant, found.parity.max_kl, found.parity.enforce, found.prune) == ("q8", 1.0, False, "auto")
    assert load_profile(path).quant == "q5"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("parity: {max_flip: 0.1}", "unknown profile field 'parity.max_flip'", "parity.max_flips"),
        ("parity: {max_flips: 2}", "parity.max_flips = 2: ", "export/configs"),
        ("quant: [", ":1: not valid YAML", "indentation"),
        ("- quant", "a profile is a mapping", "shipped"),
    ],
)
def test_mistakes(text: str, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(EdgebError) as caught:
        load_profile(str(tmp_path / "p.yaml"))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_no_such_profile(tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match=r"no export profile named 'phone'.*phone-cpu"):
        load_profile("phone")
    with pytest.raises(EdgebError, match="no profile file"):
        load_profile(str(tmp_path / "none.yaml"))
