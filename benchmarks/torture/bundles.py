"""Corrupted bundles, session files and snapshots: refused in one line, or the same answers as the intact file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.torture.supervised import DIFFERENT, REFUSED, SAME, Judge, Outcomes, judged
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.predictor import Prediction, PredictOptions, Predictor
from edge_behavior.runtime.session import Session
from edge_behavior.runtime.state_file import read_state, write_state
from tests import demo_bundle
from tests.unit.runtime.test_bad_bundles import with_manifest

KINDS = ("bundle", "bundle", "bundle", "session", "session", "snapshot")
_START = datetime(2024, 3, 18, 8)
_WHEN, _PLACE = datetime(2024, 3, 19, 20), "home"
_FOREIGN: tuple[Any, ...] = (None, -1, 0, 2**70, 1e300, "x", "", [], {}, [[]], True, {"a": {"b": []}})


def run(folder: Path, cases: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Judge `cases` corruptions of the three kinds of file."""
    prepare(folder)
    outcomes = Outcomes()
    for case, outcome in judged(make_judge, folder, cases):
        outcomes.add(KINDS[case % len(KINDS)], case, outcome)
        advance()
    return {"cases": cases, **outcomes.to_dict()}


def prepare(folder: Path) -> None:
    """A bundle with habits, fusion and calibration, a saved session of it, and its snapshot."""
    bundle = demo_bundle.make(folder)
    with Predictor.load(bundle, threads=1, prefix_cache=folder / "snapshots") as predictor:
        session = _observed(predictor)
        session.predict(_WHEN, _PLACE)
        session.save(folder / "whole.session")


def make_judge(folder: Path) -> Judge:
    """Judges a case by the answers of the intact files."""
    bundle, scratch = folder / "tiny.gguf", folder / "scratch"
    scratch.mkdir(exist_ok=True)
    [snapshot] = (folder / "snapshots").glob("*.state")
    whole = {
        "bundle": bundle.read_bytes(),
        "session": (folder / "whole.session").read_bytes(),
        "snapshot": snapshot.read_bytes(),
    }
    alive = Predictor.load(bundle, threads=1, prefix_cache=False)
    answer = _answer(alive)
    with_session = _said(_observed(alive).predict(_WHEN, _PLACE))

    def judge(case: int) -> str:
        kind, random_ = KINDS[case % len(KINDS)], random.Random(case)
        content = _corrupted(kind, whole[kind], random_, scratch)
        if kind == "bundle":
            (scratch / "bad.gguf").write_bytes(content)
            with Predictor.load(scratch / "bad.gguf", threads=1, prefix_cache=False) as predictor:
                return _compared(_answer(predictor), answer)
        if kind == "session":
            (scratch / "bad.session").write_bytes(content)
            # A bad file must not change the answers of the predictor that reads it.
            try:
                session = alive.restore(scratch / "bad.session")
            except EdgebError:
                return REFUSED if _close(_answer(alive), answer) else f"{DIFFERENT}: after a refusal"
            return _compared(_said(session.predict(_WHEN, _PLACE)), with_session)
        (scratch / "snapshots").mkdir(exist_ok=True)
        (scratch / "snapshots" / snapshot.name).write_bytes(content)
        with Predictor.load(bundle, threads=1, prefix_cache=scratch / "snapshots") as predictor:
            return _compared(_answer(predictor), answer)

    return judge


def _observed(predictor: Predictor) -> Session:
    session, labels = predictor.session(), predictor.manifest.candidates.labels
    for i in range(14):
        session.observe(
            BehaviorEvent(("home", "work")[i % 2], _START + timedelta(hours=i), labels[i * i % len(labels)])
        )
    return session


Said = list[tuple[str, float]]


def _answer(predictor: Predictor) -> Said:
    labels = predictor.manifest.candidates.labels
    history = [BehaviorEvent("home", _START + timedelta(hours=i), labels[i % len(labels)]) for i in range(4)]
    return _said(predictor.predict(history, _WHEN, _PLACE, None, options=PredictOptions(exhaustive=True)))


def _said(prediction: Prediction) -> Said:
    return [(r.behavior, r.probability) for r in prediction.ranked]


def _close(found: Said, wanted: Said) -> bool:
    """Equal but for rounding: the same tokens in other batches differ in the last digits."""
    return len(found) == len(wanted) and all(
        a == b and abs(p - q) < 1e-3 for (a, p), (b, q) in zip(found, wanted, strict=True)
    )


def _compared(found: Said, wanted: Said) -> str:
    return SAME if _close(found, wanted) else f"{DIFFERENT}: {found[:2]}, expected {wanted[:2]}"


def _corrupted(kind: str, content: bytes, random_: random.Random, scratch: Path) -> bytes:
    how = random_.choice((*_BYTES, None))
    if how is None:
        return _foreign(kind, content, random_, scratch)
    return how(content, random_)


def _flip(content: bytes, random_: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 8))):
        damaged[random_.randrange(len(damaged))] ^= 1 << random_.randrange(8)
    return bytes(damaged)


def _flip_in_the_head(content: bytes, random_: random.Random) -> bytes:
    at = random_.randrange(min(len(content), 4096))
    return content[:at] + bytes([content[at] ^ (1 << random_.randrange(8))]) + content[at + 1 :]


def _cut(content: bytes, random_: random.Random) -> bytes:
    return content[: random_.choice((random_.randrange(len(content)), random_.randrange(200), len(content) - 1))]


def _append(content: bytes, random_: random.Random) -> bytes:
    return content + random_.randbytes(random_.choice((1, 32, 4096)))


def _zero(content: bytes, random_: random.Random) -> bytes:
    at, length = random_.randrange(len(content)), random_.choice((1, 16, 512, 4096))
    return content[:at] + bytes(len(content[at : at + length])) + content[at + length :]


def _move(content: bytes, random_: random.Random) -> bytes:
    """One block of the file over another, as disks and downloads mix them up."""
    size = min(4096, len(content) // 3)
    source, target = (random_.randrange(len(content) - size) for _ in range(2))
    return content[:target] + content[source : source + size] + content[target + size :]


_BYTES = (_flip, _flip, _flip_in_the_head, _cut, _append, _zero, _move)


def _foreign(kind: str, content: bytes, random_: random.Random, scratch: Path) -> bytes:
    """A well-formed file, hashes included, with a field missing, unknown or of another type."""
    if kind == "bundle":
        return with_manifest(content, scratch / "whole.gguf", lambda fields: _change(fields, random_))
    whole, changed = scratch / "whole.state", scratch / "changed.state"
    whole.write_bytes(content)
    header, state = read_state(whole)
    _change(header, random_)
    if random_.random() < 0.3:
        state = state[: len(state) // 2]
    write_state(changed, json.loads(json.dumps(header, default=str).replace("Infinity", "1e999")), state)
    return changed.read_bytes()


def _change(fields: dict[str, Any], random_: random.Random) -> None:
    """Change one field, somewhere in the tree."""
    at, key = fields, random_.choice(list(fields))
    while isinstance(at[key], dict) and at[key] and random_.random() < 0.7:
        at = at[key]
        key = random_.choice(list(at))
    if key in ("schema_version", "candidates") and at is fields:
        # The writer used here needs both; the byte-level damage covers them.
        key = "created_with" if "created_with" in fields else key
    what = random_.randrange(3)
    if what == 0:
        del at[key]
    elif what == 1:
        at[f"{key}_of_another_version"] = random_.choice(_FOREIGN)
    else:
        others = [value for value in _FOREIGN if type(value) is not type(at[key])]
        at[key] = random_.choice(others)
