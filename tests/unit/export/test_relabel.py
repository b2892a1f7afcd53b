"""Another candidate list for a bundle: the same model, the list's own errors, and nothing left behind."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge_behavior.bundle.bundle import read_manifest, read_population, verify_bundle
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.bundle.population import PopulationInfo
from edge_behavior.cli import app
from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.fusion import GroupWeights, Mixture
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.relabel import new_candidates, read_labels, relabel_bundle
from edge_behavior.fit.population import count_population
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers
from tests.label_sets import label_sets

WHEN = datetime(2030, 3, 18, 20)
OLD = CandidateSet.of(helpers.LABELS, range(10, 10 + len(helpers.LABELS)))
HABITS = Mixture(
    HabitsConfig(half_life=7), dict.fromkeys(GROUPS, GroupWeights(1.0, 0.5, 0.0)), "fused", {"natural": 0.4}
)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = helpers.tokenizer()
    folder = tmp_path_factory.mktemp("relabel")
    write_gguf(helpers.save(helpers.model(tokens), tokens, folder / "m"), folder / "m.gguf", "f32")
    return folder / "m.gguf"


def bundle_of(gguf: Path, out: Path, **changes: Any) -> Path:
    manifest = Manifest(
        created_with="edgeb 0.0.1", candidates=OLD, layout=PromptLayout(list_candidates=False), bos_id=None, eos_id=0,
        architecture="qwen2", quantization="F32", context_length=4096, training={"name": "tiny"},
        evaluation={"natural": {"overall": 0.3}}, base_model=BaseModelInfo("x", None, "00"),
    )  # fmt: skip
    write_bundle(gguf, replace(manifest, **changes), out)
    return out


@pytest.fixture(scope="module")
def bundle(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(gguf, tmp_path_factory.mktemp("bundle") / "old.gguf")


def log_probs(path: Path, labels: list[str]) -> dict[str, float]:
    """Full-vocabulary log-probability of each of `path`'s candidates after a history of behaviors in `labels`."""
    history = helpers.diary(6, 1, labels)
    with Predictor.load(path, threads=1, exact_math=True, verify=False, prefix_cache=False) as predictor:
        found = predictor.log_probs(history, WHEN, "DK")
        return dict(zip(predictor.manifest.candidates.labels, found.tolist(), strict=True))


class TestPredictions:
    """Where the prompt does not list the candidates, a label's probability does not depend on the others."""

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(order=st.permutations(helpers.LABELS), kept=st.integers(2, len(OLD)), extra=label_sets(5))
    def test_any_other_list(self, bundle: Path, tmp_path: Path, order: list[str], kept: int, extra: list[str]) -> None:
        known = {"".join(x.split()).casefold() for x in helpers.LABELS}
        new = [*order[:kept], *(x for x in extra if "".join(x.split()).casefold() not in known)]
        candidates = new_candidates(OLD, [(label, None) for label in new])
        relabel_bundle(bundle, candidates, tmp_path / "new.gguf", force=True)
        common = order[:2]
        before, after = log_probs(bundle, common), log_probs(tmp_path / "new.gguf", common)
        assert list(after) == new
        shared = order[:kept]
        np.testing.assert_allclose([after[x] for x in shared], [before[x] for x in shared], atol=1e-4)

    def test_a_reduced_list_is_the_old_distribution_restricted(self, bundle: Path, tmp_path: Path) -> None:
        new = helpers.LABELS[2:6]
        relabel_bundle(bundle, new_candidates(OLD, [(x, None) for x in new]), tmp_path / "new.gguf")
        history = helpers.diary(5, 2, new)
        with (
            Predictor.load(bundle, threads=1, exact_math=True) as before,
            Predictor.load(tmp_path / "new.gguf", threads=1, exact_math=True) as after,
        ):
            expected = before.predict(history, WHEN, "DK", None, options=PredictOptions(only=new))
            found = after.predict(history, WHEN, "DK", None)
        assert [r.behavior for r in found.ranked] == [r.behavior for r in expected.ranked]
        np.testing.assert_allclose(
            [r.probability for r in found.ranked], [r.probability for r in expected.ranked], atol=1e-4
        )

    @pytest.mark.parametrize("name", ["stream", "prefix", "instruct"])
    def test_where_the_prompt_lists_them(self, gguf: Path, tmp_path: Path, name: str) -> None:
        old = bundle_of(gguf, tmp_path / "old.gguf", layout=PromptLayout(name=name))
        report = relabel_bundle(old, new_candidates(OLD, None, ["買い物"], ["Bar"]), tmp_path / "new.gguf").to_dict()
        assert report["listed_in_prompt"]
        with Predictor.load(tmp_path / "new.gguf", threads=1) as predictor:
            prediction = predictor.predict(helpers.diary(4, 0, ["Video", "買い物"]), WHEN, "DK", None)
            assert name == "instruct" or "買い物" in predictor.manifest.static_prompt
        assert {r.behavior for r in prediction.ranked} == {*helpers.LABELS, "買い物"} - {"Bar"}
        assert log_softmax(np.log([r.probability for r in prediction.ranked])).max() <= 0


class TestBundle:
    def test_only_the_list_and_what_was_measured_on_it_change(self, gguf: Path, tmp_path: Path) -> None:
        old = bundle_of(gguf, tmp_path / "old.gguf", vocabulary={"kept": 600, "of": 151_936})
        report = relabel_bundle(
            old, new_candidates(OLD, None, ["Zoo", "Video Chat"], ["Bar"]), tmp_path / "new.gguf"
        ).to_dict()
        before, after = read_manifest(old), verify_bundle(tmp_path / "new.gguf")
        assert after.candidates.labels == (*(x for x in helpers.LABELS if x != "Bar"), "Zoo", "Video Chat")
        assert after.candidates.counts == (10, 11, 12, 14, 15, 16, 17, 18, 0, 0)
        assert after.evaluation == {}
        same = ("layout", "training", "vocabulary", "base_model", "tensors_sha256", "tokenizer_sha256", "eos_id")
        assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
        with GgufFile(old) as a, GgufFile(tmp_path / "new.gguf") as b:
            assert a.tensor_table().tensors == b.tensor_table().tensors
        encoder = helpers.encoder(helpers.tokenizer())
        assert report == {
            "bundle": str(tmp_path / "new.gguf"),
            "bytes": (tmp_path / "new.gguf").stat().st_size,
            "labels": 10,
            "kept": 8,
            "dropped": ["Bar"],
            "added": [{"label": x, "tokens": len(encoder.label_ids(x)), "count": 0} for x in ("Zoo", "Video Chat")],
            "listed_in_prompt": False,
            "prompt_tokens": report["prompt_tokens"],
            "trie_tokens": report["trie_tokens"],
            "pruned_vocabulary": True,
            "fits": {"habits": "none", "population": "none", "balance": "none", "calibration": "none"},
            "population": None,
        }
        assert sorted(p.name for p in tmp_path.iterdir()) == ["new.gguf", "old.gguf"]

    def test_habits_stay_as_they_were_set(self, gguf: Path, tmp_path: Path) -> None:
        old = bundle_of(gguf, tmp_path / "old.gguf", habits=HABITS)
        relabel_bundle(old, new_candidates(OLD, None, ["Zoo"]), tmp_path / "new.gguf")
        assert read_manifest(tmp_path / "new.gguf").habits == replace(HABITS, measured={})

    def test_the_population_keeps_the_labels_that_stay(self, gguf: Path, tmp_path: Path) -> None:
        labels = list(OLD.labels)
        users = [[labels[(i + j) % len(labels)] for i in range(30)] for j in range(40)]
        table = count_population(replace(helpers.event_table(users, labels), candidates=OLD)).table
        plain, old = bundle_of(gguf, tmp_path / "plain.gguf"), tmp_path / "old.gguf"
        described = replace(read_manifest(plain), population=PopulationInfo.of(table, 40))
        write_bundle(gguf, described, old, population=table)
        new = new_candidates(OLD, [(label, None) for label in reversed(labels)], ["Zoo"], ["Bar"])
        report = relabel_bundle(old, new, tmp_path / "new.gguf").to_dict()
        expected = table.relabeled(new)
        assert report["population"] == (table.contexts, expected.contexts)
        found = read_population(tmp_path / "new.gguf")
        assert found is not None
        assert found.to_bytes() == expected.to_bytes()
        info = read_manifest(tmp_path / "new.gguf").population
        assert info is not None
        assert info.users == 40

    def test_the_calibration_is_of_the_old_list(self, gguf: Path, tmp_path: Path) -> None:
        held = CalibrationSet({"model": Calibration(2.0), "habits": Calibration()})
        old = bundle_of(gguf, tmp_path / "old.gguf", calibration=held)
        report = relabel_bundle(old, new_candidates(OLD, None, ["Zoo"]), tmp_path / "new.gguf").to_dict()
        assert report["fits"] == {"habits": "none", "population": "none", "balance": "none", "calibration": "dropped"}
        assert read_manifest(tmp_path / "new.gguf").calibration is None
        with Predictor.load(tmp_path / "new.gguf", threads=1) as predictor:
            assert not predictor.predict([], WHEN, "DK", 1).calibrated

    def test_the_fitted_balance_stays_and_what_was_measured_of_it_goes(self, gguf: Path, tmp_path: Path) -> None:
        held = FittedBalance(
            {"model": 0.5, "habits": 0.0},
            CalibrationSet({"model": Calibration(2.0), "habits": Calibration()}),
            {"n": 1},
        )
        old = bundle_of(gguf, tmp_path / "old.gguf", balance=held)
        new = new_candidates(OLD, None, ["Zoo"])
        assert relabel_bundle(old, new, tmp_path / "new.gguf").to_dict()["fits"]["balance"] == "kept"
        assert read_manifest(tmp_path / "new.gguf").balance == FittedBalance(held.fitted)
        with Predictor.load(tmp_path / "new.gguf", threads=1) as predictor:
            plain, raised = (
                predictor.predict([], WHEN, "DK", None, options=PredictOptions(balance=b)) for b in (0.0, "fitted")
            )
        assert (raised.balance, raised.calibrated) == (0.5, False)
        share = dict(zip(new.labels, 0.99 * new.shares + 0.01 / len(new), strict=True))
        weights = {r.behavior: r.probability / share[r.behavior] ** 0.5 for r in plain.ranked}
        assert {r.behavior: r.probability for r in raised.ranked} == pytest.approx(
            {label: weight / sum(weights.values()) for label, weight in weights.items()}, rel=1e-3
        )

    def test_the_command_says_what_stays(self, gguf: Path, tmp_path: Path) -> None:
        held = CalibrationSet({name: Calibration(2.0) for name in ("model", "habits", "fused")})
        fitted = FittedBalance(dict.fromkeys(held.sources, 0.5), held)
        bundle_of(gguf, tmp_path / "old.gguf", habits=HABITS, calibration=held, balance=fitted)
        words = ["relabel", str(tmp_path / "old.gguf"), "--add", "Zoo", "--out", str(tmp_path / "new.gguf")]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0
        said = " ".join(done.stdout.split())
        assert "kept: the habits' settings and fusion weights, the fitted balance" in said
        assert "dropped: the calibration" in said
        assert "only `edgeb export` fits a calibration anew" in said

    def test_in_place_only_with_force(self, gguf: Path, tmp_path: Path) -> None:
        path = bundle_of(gguf, tmp_path / "b.gguf")
        before = path.read_bytes()
        with pytest.raises(EdgebError, match="exists"):
            relabel_bundle(path, new_candidates(OLD, None, ["Zoo"]), path)
        assert path.read_bytes() == before
        relabel_bundle(path, new_candidates(OLD, None, ["Zoo"]), path, force=True)
        assert verify_bundle(path).candidates.labels[-1] == "Zoo"

    def test_a_list_that_does_not_fit_the_context(self, gguf: Path, tmp_path: Path) -> None:
        old = bundle_of(gguf, tmp_path / "old.gguf", layout=PromptLayout(), context_length=512)
        many = [(f"behavior number {i}", None) for i in range(300)]
        with pytest.raises(EdgebError, match=r"with these 300 labels has \d+ tokens, the model's context 512"):
            relabel_bundle(old, new_candidates(OLD, many), tmp_path / "new.gguf")

    def test_a_full_disk_leaves_nothing(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(source: Path, manifest: Manifest, out: Path, progress: Any, population: Any) -> None:
            out.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("edge_behavior.export.relabel.write_bundle", full)
        with pytest.raises(EdgebError, match="the disk is full"):
            relabel_bundle(bundle, new_candidates(OLD, None, ["Zoo"]), tmp_path / "sub" / "new.gguf")
        assert list((tmp_path / "sub").iterdir()) == []

    @pytest.mark.parametrize("force", [True, False])
    def test_a_device_is_no_output(self, bundle: Path, force: bool) -> None:
        with pytest.raises(EdgebError, match="/dev/null is a device"):
            relabel_bundle(bundle, OLD, Path("/dev/null"), force)

    def test_a_damaged_bundle_is_not_relabeled(self, bundle: Path, tmp_path: Path) -> None:
        damaged = bytearray(bundle.read_bytes())
        damaged[-9] ^= 4
        (tmp_path / "d.gguf").write_bytes(damaged)
        with pytest.raises(EdgebError, match="do not match"):
            relabel_bundle(tmp_path / "d.gguf", OLD, tmp_path / "new.gguf")
        with pytest.raises(EdgebError, match="is a folder"):
            relabel_bundle(bundle, OLD, tmp_path)
        with pytest.raises(EdgebError, match="cannot read"):
            relabel_bundle(tmp_path / "no.gguf", OLD, tmp_path / "new.gguf")
        assert not (tmp_path / "new.gguf").exists()


class TestLabelFiles:
    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("l.txt", "Video\r\n\n  Bar  \nCaf\u0065\u0301\n", [("Video", None), ("Bar", None), ("Café", None)]),
            ("l.txt", '["a"\n{"b": 1}', [('["a"', None), ('{"b": 1}', None)]),
            ("l.json", '["Video", "Bar"]', [("Video", None), ("Bar", None)]),
            ("l.json", '{"Video": 7, "Bar": 0}', [("Video", 7), ("Bar", 0)]),
            ("l.csv", "\ufeffA, b\nC\n", [("A, b", None), ("C", None)]),
        ],
    )
    def test_read(self, tmp_path: Path, name: str, content: str, expected: list[tuple[str, int | None]]) -> None:
        (tmp_path / name).write_bytes(content.encode())
        assert read_labels(tmp_path / name) == expected

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("l.txt", "", "l.txt lists 0 label"),
            ("l.txt", "\n \n", "l.txt lists 0 label"),
            ("l.txt", "Video\n", "l.txt lists 1 label"),
            ("l.txt", "Video\n\nBar\nVideo\n", r"l.txt:4: the label 'Video' is listed already \(1\)"),
            ("l.txt", "Video Call\nBar\nvideo  call\n", r"l.txt:3: the label 'video call' is listed already \(1\)"),
            ("l.txt", "Video\nB\x07ar\n", r"l.txt:2: behavior label .* control character U\+0007"),
            ("l.txt", "Video\na\u2028b\n", r"l.txt:2: .* control character U\+2028"),
            ("l.txt", "Video\n" + "x" * 201, "l.txt:2: behavior label .* has 201 characters"),
            ("l.json", "[]", "l.json lists 0 label"),
            ("l.json", '["Video", ""]', "l.json, entry 2: a behavior label is empty"),
            ("l.json", '["Video", 5]', "l.json, entry 2: 5 is not a label"),
            ("l.json", '["Video",\n"Bar"', "l.json:2: not JSON"),
            ("l.json", "[" * 200_000, "not JSON"),
            (
                "l.json",
                '{"Video": 1, "Bar": 2, "Video": 3}',
                r"entry 3: the label 'Video' is listed already \(entry 1\)",
            ),
            ("l.json", '{"Video": -1, "Bar": 2}', "entry 1: the count of 'Video' is -1"),
            ("l.json", '{"Video": true, "Bar": 2}', "the count of 'Video' is true"),
            ("l.json", '"Video"', "l.json is not a JSON list or object"),
            ("l.json", b"\xff\xfe", "l.json is not UTF-8"),
            ("no.txt", None, "cannot read label file .*no.txt: No such file"),
        ],
    )
    def test_refused(self, tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(EdgebError, match=message) as caught:
            read_labels(tmp_path / name)
        assert caught.value.hint


class TestNewList:
    def test_counts_are_kept_where_none_is_given(self) -> None:
        old = CandidateSet.of(["A", "B", "C"], [5, 3, 1])
        found = new_candidates(old, [("C", None), ("D", None), ("A", 9)], add=["E"], drop=["D"])
        assert (found.labels, found.counts) == (("C", "A", "E"), (1, 9, 0))

    @pytest.mark.parametrize(
        ("add", "drop", "message"),
        [
            (["a"], [], "--add 'a': already a candidate"),
            (["D", "D"], [], "--add 'D': already a candidate"),
            ([""], [], "a behavior label is empty"),
            ([], ["Alpha"], "--drop 'Alpha': not a candidate"),
            ([], ["A", "B"], "only 1 distinct"),
        ],
    )
    def test_refused(self, add: list[str], drop: list[str], message: str) -> None:
        with pytest.raises(EdgebError, match=message):
            new_candidates(CandidateSet.of(["A", "B", "C"]), None, add, drop)


class TestCommand:
    @pytest.fixture(autouse=True)
    def own_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.chdir(tmp_path)

    def run(self, *arguments: object) -> Any:
        result = CliRunner().invoke(app, ["relabel", *map(str, arguments)])
        if isinstance(result.exception, EdgebError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    def test_from_a_file(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "labels.json").write_text('{"Video": 3, "Zoo": 4}')
        report = json.loads(self.run(bundle, "--labels", "labels.json", "--out", "new.gguf", "--json").stdout)
        assert (report["labels"], report["kept"], report["bundle"]) == (2, 1, "new.gguf")
        assert verify_bundle(tmp_path / "new.gguf").candidates == CandidateSet.of(["Video", "Zoo"], [3, 4])

    def test_for_people(self, bundle: Path) -> None:
        out = self.run(bundle, "--add", "Zoo [big]", "--add", "Wald", "--drop", "Bar", "--out", "new.gguf").stdout
        assert "new.gguf: 10 labels, 8 kept, 2 new, 1 dropped" in out
        assert "+ Zoo [big]:" in out
        assert "- Bar" in out

    def test_refusals(self, bundle: Path, tmp_path: Path) -> None:
        with pytest.raises(EdgebError, match="no change was asked for"):
            self.run(bundle, "--out", "new.gguf")
        (tmp_path / "x.gguf").write_text("hello")
        with pytest.raises(EdgebError, match="not a GGUF"):
            self.run("x.gguf", "--add", "Zoo", "--out", "new.gguf")
        assert not (tmp_path / "new.gguf").exists()
