"""A bundle with a population's table: a GGUF key or a file of the folder, described and hashed by the manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from edge_behavior.bundle.bundle import read_manifest, read_population, verify_bundle
from edge_behavior.bundle.folder import MANIFEST_FILE, POPULATION_FILE, write_folder_manifest
from edge_behavior.bundle.gguf_file import KEY_POPULATION, write_bundle
from edge_behavior.bundle.population import PopulationInfo
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.errors import EdgebError
from tests import helpers
from tests.unit.bundle.test_manifest import manifest, write_plain
from tests.unit.core.test_population import CANDIDATES, TABLE, made

DESCRIBED = manifest(candidates=CANDIDATES, population=PopulationInfo.of(TABLE, 70))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_plain(tmp_path / "plain.gguf")


def in_gguf(tmp_path: Path) -> Path:
    path = tmp_path / "b.gguf"
    write_bundle(write_plain(tmp_path / "plain.gguf"), DESCRIBED, path, population=TABLE)
    return path


def in_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    write_folder_manifest(folder, DESCRIBED, population=TABLE)
    return folder


BOTH = pytest.mark.parametrize("write", [in_gguf, in_folder])


@BOTH
def test_there_and_back(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    held = verify_bundle(path)
    assert held == read_manifest(path)
    assert held.population == PopulationInfo.of(TABLE, 70)
    assert json.loads(held.to_json())["population"]["users"] == 70
    found = read_population(path)
    assert found is not None
    assert found.to_bytes() == TABLE.to_bytes()


def test_as_other_readers_see_it(tmp_path: Path) -> None:
    field = gguf.GGUFReader(in_gguf(tmp_path)).fields[KEY_POPULATION]
    assert bytes(field.contents()) == TABLE.to_bytes()


@BOTH
def test_the_weights_hash_is_that_of_a_bundle_without(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    before = read_manifest(path)
    if path.is_dir():
        write_folder_manifest(path, replace(before, population=None))
        assert not (path / POPULATION_FILE).exists()
        after = path
    else:
        after = tmp_path / "none.gguf"
        write_bundle(path, replace(before, population=None), after)
    assert read_population(after) is None
    assert verify_bundle(after) == replace(before, population=None)


@BOTH
def test_damage(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    file = path / POPULATION_FILE if path.is_dir() else path
    content = bytearray(file.read_bytes())
    content[content.index(TABLE.to_bytes()) + 40] ^= 1
    file.write_bytes(content)
    with pytest.raises(EdgebError, match="does not match its hash"):
        read_population(path)
    with pytest.raises(EdgebError, match="does not match its hash"):
        verify_bundle(path)


def test_table_and_description_need_each_other(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.gguf"
    other = made({})
    for described, table in ((DESCRIBED, None), (DESCRIBED, other), (replace(DESCRIBED, population=None), TABLE)):
        with pytest.raises(EdgebError, match="not the one that the manifest describes"):
            write_bundle(plain, described, out, population=table)
    assert not out.exists()
    good = in_gguf(tmp_path).read_bytes()
    out.write_bytes(good.replace(KEY_POPULATION.encode(), b"edgeb.populatioN"))
    with pytest.raises(EdgebError, match=r"'edgeb\.population' and the manifest's 'population' need each other"):
        read_manifest(out)


def test_a_folder_s_table_that_is_not_listed(tmp_path: Path) -> None:
    folder = in_folder(tmp_path)
    (folder / POPULATION_FILE).unlink()
    with pytest.raises(EdgebError, match=r"population\.bin is missing"):
        verify_bundle(folder)
    write_folder_manifest(folder, replace(DESCRIBED, population=None))
    fields = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    (folder / POPULATION_FILE).write_bytes(b"")
    fields["files"][POPULATION_FILE] = "0" * 64
    (folder / MANIFEST_FILE).write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(EdgebError, match=r"'population\.bin' and the manifest's 'population' need each other"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["population"].pop("users"), r"manifest\.population: field 'users' is missing"),
        (lambda d: d["population"].update(bytes=-1), "'bytes' is -1"),
        (lambda d: d["population"].update(contexts=True), "'contexts' is True"),
        (lambda d: d["population"].update(more=1), "unknown field 'more'"),
        (lambda d: d["population"]["config"].update(min_users=0), "population setting 'min_users' is 0"),
        (lambda d: d["population"].update(contexts=99), "has 5 contexts, not 99"),
        (lambda d: d["population"].update(sha256="0" * 64), "does not match its hash"),
        (lambda d: d.update(population=3), "field 'population' is 3"),
    ],
)
def test_a_description_that_is_none(change: Callable[[dict], object], message: str, tmp_path: Path) -> None:
    good, bad = in_gguf(tmp_path), tmp_path / "bad.gguf"

    class Edited(type(DESCRIBED)):  # type: ignore[misc]
        def to_json(self) -> str:
            held = json.loads(super().to_json())
            change(held)
            return json.dumps(held)

    values = {name: getattr(read_manifest(good), name) for name in DESCRIBED.__dataclass_fields__}
    write_bundle(good, Edited(**values), bad, population=TABLE)
    with pytest.raises(EdgebError, match=message):
        verify_bundle(bad)


def test_of_another_candidate_set(tmp_path: Path) -> None:
    out = tmp_path / "b.gguf"
    few = replace(DESCRIBED, candidates=CandidateSet.of(helpers.LABELS))
    write_bundle(write_plain(tmp_path / "plain.gguf"), few, out, population=TABLE)
    with pytest.raises(EdgebError, match="is of 4 candidates with places, the bundle of 9"):
        verify_bundle(out)
