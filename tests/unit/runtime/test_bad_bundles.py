"""Bad bundles and bad questions: a clear error, a living process, and a good prediction right afterwards."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edge_behavior import cli
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.gguf_file import KEY_CANDIDATES, KEY_MANIFEST, KEY_MANIFEST_HASH, KEY_VERSION, write_bundle
from edge_behavior.bundle.gguf_header import GgufFile, pack_entry
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.records.history import write_history
from edge_behavior.runtime.predictor import Predictor
from tests import helpers

WHEN = datetime(2024, 3, 18, 20)
HISTORY = [
    BehaviorEvent("home", datetime(2024, 3, 18, 8), "Video"),
    BehaviorEvent("DK", datetime(2024, 3, 18, 9), "Bar"),
]
Change = Callable[[bytes, Path], bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 512 positions as plain.gguf, and with a manifest as good.gguf."""
    made, tokens = tmp_path_factory.mktemp("bad"), helpers.tokenizer()
    model = helpers.model(tokens)
    model.config.max_position_embeddings = 512
    write_gguf(helpers.save(model, tokens, made / "m"), made / "plain.gguf", "f32")
    manifest = Manifest(
        created_with="edgeb test", candidates=CandidateSet.of(helpers.LABELS), layout=PromptLayout(), bos_id=None,
        eos_id=int(tokens.eos_token_id), architecture="qwen2", quantization="F32", context_length=512,
        base_model=BaseModelInfo("x", None, "00"),
    )  # fmt: skip
    write_bundle(made / "plain.gguf", manifest, made / "good.gguf")
    return made


@pytest.fixture(scope="module")
def alive(folder: Path) -> Iterator[Predictor]:
    with Predictor.load(folder / "good.gguf", threads=1, prefix_cache=False) as predictor:
        yield predictor


@pytest.fixture(autouse=True)
def good_predictions_go_on(alive: Predictor) -> Iterator[None]:
    """Whatever a test does, the predictor that was there before says what it said before."""
    before = alive.predict(HISTORY, WHEN, "home", None)
    yield
    after = alive.predict(HISTORY, WHEN, "home", None)
    assert [r.behavior for r in after.ranked] == [r.behavior for r in before.ranked]
    assert [r.probability for r in after.ranked] == pytest.approx([r.probability for r in before.ranked], abs=1e-3)


@pytest.fixture
def edgeb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Runs the command line, wants exit code 2 and one line of error, and returns the line."""
    before = dict(os.environ)

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["edgeb", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("edgeb: ")]
        assert (left.value.code, out, len(lines)) == (2, "", 1), err
        assert "Traceback" not in err
        assert lines[0].endswith(")"), "no hint"
        return lines[0]

    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def question(tmp_path: Path) -> list[object]:
    write_history(tmp_path / "h.csv", HISTORY)
    return ["--history", tmp_path / "h.csv", "--at", "2024-03-18T20:00", "--place", "home", "--threads", 1]


def with_manifest(content: bytes, path: Path, edit: Callable[[dict[str, Any]], None], honest: bool = True) -> bytes:
    """The bundle with an edited manifest whose own hash and copies fit it (`honest`), as a buggy writer would."""
    import hashlib

    path.write_bytes(content)
    with GgufFile(path) as file:
        entries = list(file.metadata())
        fields = json.loads(str(file.value(next(e for e in entries if e.key == KEY_MANIFEST))))
        edit(fields)
        text = json.dumps(fields)
        replaced = {
            KEY_VERSION: pack_entry(KEY_VERSION, fields["schema_version"]),
            KEY_MANIFEST: pack_entry(KEY_MANIFEST, text),
            KEY_CANDIDATES: pack_entry(KEY_CANDIDATES, fields["candidates"]["labels"]),
        }
        if honest:
            replaced[KEY_MANIFEST_HASH] = pack_entry(KEY_MANIFEST_HASH, hashlib.sha256(text.encode()).hexdigest())
        table = file.tensor_table()
        body = b"".join(replaced.get(e.key, content[e.start : e.end]) for e in entries)
        head = content[:24] + body + content[table.start : table.end]
        return head + bytes(-len(head) % table.alignment) + content[table.data_start :]


def edited(edit: Callable[[dict[str, Any]], None], honest: bool = True) -> Change:
    return lambda content, path: with_manifest(content, path, edit, honest)


def labels(*names: str) -> Change:
    return edited(lambda f: f.update(candidates={"labels": list(names), "counts": [0] * len(names)}))


def flipped(share: float) -> Change:
    """One bit of the file, at a share of its length."""

    def flip(content: bytes, path: Path) -> bytes:
        damaged = bytearray(content)
        damaged[int(len(content) * share)] ^= 16
        return bytes(damaged)

    return flip


def misspelled(content: bytes, path: Path) -> bytes:
    at = content.index(b"Video", content.index(b"tokenizer.ggml.tokens"))
    return content[:at] + b"Vidgo" + content[at + 5 :]


def plain(content: bytes, path: Path) -> bytes:
    return (path.parent / "plain").read_bytes()


BAD: dict[str, tuple[Change, str]] = {
    "cut in the header": (lambda c, p: c[:5000], "is cut short"),
    "cut in the tensors": (lambda c, p: c[: len(c) // 2], "the tensors do not match"),
    "one byte short": (lambda c, p: c[:-1], "the tensors do not match"),
    "a flipped bit in the weights": (flipped(0.7), "the tensors do not match"),
    "a flipped bit in the vocabulary": (misspelled, "the tokenizer do not match"),
    "a GGUF without manifest": (plain, "is a GGUF but not an edgeb bundle"),
    "another program's GGUF": (lambda c, p: b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "not an edgeb bundle"),
    "no GGUF": (lambda c, p: b"PK\x03\x04" + c, "is not a GGUF file"),
    "empty": (lambda c, p: b"", "is an empty file"),
    "a newer manifest": (edited(lambda f: f.update(schema_version=2, new=1)), "written by a newer edgeb"),
    "an edited manifest": (edited(lambda f: f.update(eos_id=1), honest=False), "the manifest does not match its hash"),
    "no labels": (labels(), "only 0 distinct behavior label"),
    "one label": (labels("Video"), "only 1 distinct behavior label"),
    "a label twice": (labels("Video", "Bar", "Video"), "label 'Video' is listed twice"),
    "a label twice but for case": (labels("Video", "Bar", "VIDEO"), "differs from 'Video' only by case"),
    "an empty label": (labels("Video", ""), "a behavior label is empty"),
    "a label of two lines": (labels("Video", "a\nb"), "control character"),
    "a manifest without candidates": (
        edited(lambda f: f["candidates"].pop("counts")),
        "manifest.candidates: field 'counts' is missing",
    ),
    "another prompt": (edited(lambda f: f.update(static_prompt="Guess.")), "words the prompt differently"),
}


@pytest.fixture
def bad(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> tuple[Path, str]:
    change, message = BAD[request.param]
    (tmp_path / "plain").write_bytes((folder / "plain.gguf").read_bytes())
    path = tmp_path / "bad.gguf"
    content = change((folder / "good.gguf").read_bytes(), path)
    path.write_bytes(content)
    return path, message


@pytest.mark.parametrize("bad", BAD, indirect=True)
def test_a_bad_bundle_is_not_loaded(bad: tuple[Path, str], edgeb: Callable[..., str], question: list[object]) -> None:
    path, message = bad
    with pytest.raises(EdgebError, match=message) as caught:
        Predictor.load(path, threads=1)
    assert str(path) in caught.value.message or "label" in caught.value.message
    assert caught.value.hint
    for command in (["predict", path, *question], ["inspect", path]):
        assert message in edgeb(*command)


def test_the_edited_manifests_differ_in_nothing_else(folder: Path, tmp_path: Path) -> None:
    """What the tests above change is what makes them fail."""
    same = with_manifest((folder / "good.gguf").read_bytes(), tmp_path / "x", lambda fields: None)
    (tmp_path / "same.gguf").write_bytes(same)
    with Predictor.load(tmp_path / "same.gguf", threads=1, prefix_cache=False) as predictor:
        assert len(predictor.predict(HISTORY, WHEN, "home", None).ranked) == len(helpers.LABELS)


_UNVERIFIED = """
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.predictor import Predictor
for path in sys.argv[1:]:
    try:
        with Predictor.load(Path(path), threads=1, verify=False, prefix_cache=False) as predictor:
            predictor.predict([], datetime(2024, 1, 1), "home")
        print("worked")
    except EdgebError as error:
        print("refused")
"""


def test_llama_survives_truncations_that_nobody_checked(folder: Path, tmp_path: Path) -> None:
    """With verify=False; in a process of its own, should llama.cpp give up on all of it."""
    content = (folder / "good.gguf").read_bytes()
    with GgufFile(folder / "good.gguf") as file:
        table = file.tensor_table()
    cuts = [40, 3000, table.start, table.end - 40, table.end, table.data_start, table.data_start + 1, len(content) // 2]
    cuts += [len(content) - 4096, len(content) - 33, len(content) - 1, len(content)]
    paths = []
    for cut in cuts:
        paths.append(tmp_path / f"{cut}.gguf")
        paths[-1].write_bytes(content[:cut])
    done = subprocess.run(
        [sys.executable, "-c", _UNVERIFIED, *map(str, paths)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused"] * (len(cuts) - 1) + ["worked"]


class TestQuestions:
    @pytest.mark.parametrize(
        ("rows", "at", "message"),
        [
            (
                "2024-03-18T09:00,home,Vidio\n",
                "2024-03-18T20:00",
                "is this history for another bundle? did you mean 'Video",
            ),
            ("2024-03-18T09:00,home,Video\n2024-03-16T08:00,home,Bar\n", "2024-03-18T20:00", "h.csv:3: 2024-03-16T08"),
            ("2024-03-18T09:00,home,Video\n", "2024-03-17T06:59", "26 h 1 min before the last event"),
            ("2024-03-18T09:00,home,\n", "2024-03-18T20:00", "h.csv:2: a behavior label is empty"),
        ],
    )
    def test_on_the_command_line(
        self, folder: Path, edgeb: Callable[..., str], tmp_path: Path, rows: str, at: str, message: str
    ) -> None:
        (tmp_path / "h.csv").write_text("timestamp,place,behavior\n" + rows)
        question = ["--history", tmp_path / "h.csv", "--at", at, "--place", "home", "--threads", 1]
        assert message in edgeb("predict", folder / "good.gguf", *question)

    def test_a_history_that_overflows_the_context(
        self, folder: Path, alive: Predictor, edgeb: Callable[..., str], tmp_path: Path
    ) -> None:
        long = [BehaviorEvent("ж" * 48, datetime(2024, 3, 18, 8), "Video Call Group")] * 20
        with pytest.raises(EdgebError, match=r"the prompt has \d+ tokens.* the context holds"):
            alive.predict(long, WHEN, "home")
        write_history(tmp_path / "h.csv", long)
        question = ["--history", tmp_path / "h.csv", "--at", "2024-03-18T20:00", "--place", "home", "--threads", 1]
        assert "the context holds" in edgeb("predict", folder / "good.gguf", *question)

    def test_a_prompt_that_leaves_no_room_for_a_label(self, alive: Predictor) -> None:
        """Wherever the prompt ends, within a few tokens of the context's end: an answer or a clear refusal."""
        crowded = [BehaviorEvent("ж" * 24, WHEN, "Video")] * 5
        outcomes: list[int | str] = []
        for length in range(1, 49):
            try:
                outcomes.append(len(alive.predict(crowded, WHEN, "ж" * length, None).ranked))
            except EdgebError as error:
                outcomes.append(error.message)
        fits = outcomes.count(len(helpers.LABELS))
        assert 0 < fits < 48
        assert all("the context holds" in str(outcome) for outcome in outcomes[fits:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_length": -5}, "'context_length' is -5"),
        ({"context_length": 0}, "'context_length' is 0"),
        ({"eos_id": 5_000_000}, "'eos_id' is 5000000"),
        ({"eos_id": -1}, "'eos_id' is -1"),
        ({"bos_id": 1 << 40}, "'bos_id' is"),
    ],
)
def test_numbers_no_model_can_have(change: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    manifest = replace(read_manifest(folder / "good.gguf"), **change)
    write_bundle(folder / "plain.gguf", manifest, path)
    with pytest.raises(EdgebError, match=message):
        Predictor.load(path, threads=1)


@pytest.mark.parametrize("length", [1, 5, 63, 64])
def test_a_context_too_short_for_the_prompt(length: int, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    write_bundle(folder / "plain.gguf", replace(read_manifest(folder / "good.gguf"), context_length=length), path)
    with Predictor.load(path, threads=1, prefix_cache=False) as predictor:
        for _ in range(2):
            with pytest.raises(EdgebError, match="the context holds"):
                predictor.predict(HISTORY, WHEN, "DK")
