"""Another candidate list for a finished bundle: same weights, no training.

The model scores any text, so a label is as good as its words are familiar to it. Knows label files and bundles;
nothing of training or prediction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_behavior import __version__
from edge_behavior.bundle.bundle import require_gguf, verify_bundle
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.candidates import CandidateSet, same_looking
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import clean_label
from edge_behavior.errors import EdgebError, nearest, system_error
from edge_behavior.export.gguf.grammar import Vocabulary
from edge_behavior.util.files import check_file, new_file
from edge_behavior.util.progress import progress_bar

# A label and its training count; None where the list says nothing of it.
Listed = tuple[str, int | None]
_FORMATS = "write one label per line, or a .json file with a list of labels or an object of label: count"


def read_labels(path: Path) -> list[Listed]:
    """Read a label list: one label per line, or JSON in a `.json` file (a list, or an object of label: count).

    Empty lines are skipped; labels are cleaned as those of logs are.

    Raises:
        EdgebError: naming file and line (or entry, in JSON): unreadable, an unusable label, a bad count, two labels
            that are the same or differ only by case or space, fewer than two labels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise EdgebError(f"cannot read label file {path}: {error.strerror}", _FORMATS) from None
    except UnicodeDecodeError:
        raise EdgebError(f"{path} is not UTF-8 text", _FORMATS) from None
    rows = _json_rows(text, path) if path.suffix == ".json" else _lines(text, path)
    found: list[Listed] = []
    seen: dict[str, str] = {}
    for where, raw, count in rows:
        try:
            label = clean_label(raw)
        except EdgebError as error:
            raise EdgebError(f"{where}: {error.message}", error.hint) from None
        key = same_looking(label)
        if key in seen:
            raise EdgebError(f"{where}: the label '{label}' is there already ({seen[key]})", "list every label once")
        seen[key] = where.removeprefix(f"{path}:").removeprefix(f"{path}, ")
        found.append((label, count))
    if len(found) < 2:
        raise EdgebError(f"{path} lists {len(found)} label(s)", "predicting needs at least two")
    return found


def new_candidates(
    old: CandidateSet, labels: Sequence[Listed] | None, add: Sequence[str] = (), drop: Sequence[str] = ()
) -> CandidateSet:
    """The new candidate set.

    A count that is not given is the label's old one, and 0 for a label that was no candidate.

    Args:
        old: The bundle's candidates.
        labels: The new list; None starts from the old one.
        add: Labels to append.
        drop: Labels to leave out.

    Raises:
        EdgebError: a label to drop that is not there, one to add that is, fewer than two labels left.
    """
    counts: dict[str, int] = dict(zip(old.labels, old.counts, strict=True))
    listed = list(labels) if labels is not None else [(label, None) for label in old.labels]
    present = {same_looking(label) for label, _ in listed}
    for label in map(clean_label, add):
        if same_looking(label) in present:
            raise EdgebError(f"--add '{label}': it is a candidate already", "leave it out")
        present.add(same_looking(label))
        listed.append((label, None))
    names = [label for label, _ in listed]
    for label in map(clean_label, drop):
        if label not in names:
            raise EdgebError(f"--drop '{label}': it is no candidate", nearest(label, names))
    dropped = set(map(clean_label, drop))
    kept = [
        (label, counts.get(label, 0) if count is None else count) for label, count in listed if label not in dropped
    ]
    return CandidateSet(tuple(label for label, _ in kept), tuple(count for _, count in kept))


def relabel_bundle(bundle: Path, candidates: CandidateSet, out: Path, force: bool = False) -> dict[str, Any]:
    """Write a verified bundle with the same tensors and another candidate set.

    Evaluation and calibration are left out: they are of the old list, and probabilities are shared out among another
    one. Habits keep their settings and fusion weights, which belong to frequency groups, not to labels.

    Args:
        bundle: The bundle to take everything else from; checked against its hashes first.
        candidates: The new labels and counts, see `new_candidates`.
        out: The file to write; it may be `bundle` itself with `force`.
        force: Replace an existing `out`.

    Returns:
        A JSON-ready report: bundle, bytes, labels (how many), kept, dropped (labels), added ({label, tokens, count}
        each), listed_in_prompt (whether the prompt changes with the list), prompt_tokens (of a question without
        history), trie_tokens (most that one exact prediction evaluates beyond its prompt), pruned_vocabulary,
        calibration_dropped (whether there was one).

    Raises:
        EdgebError: a bundle that is damaged or refused, labels that the tokenizer cannot tell apart, a list that
            does not fit the model's context, an `out` that exists or cannot be written. Nothing is left behind.
    """
    check_file(out, force)
    require_gguf(bundle, "relabel rewrites GGUF files")
    size = _size(bundle)
    with progress_bar("Checking", size, unit_bytes=True) as advance:
        old = verify_bundle(bundle, advance)
    manifest = replace(
        old,
        created_with=f"edgeb {__version__}",
        candidates=candidates,
        evaluation={},
        habits=_unmeasured(old.habits),
        calibration=None,
    )
    with Vocabulary(bundle) as vocabulary:
        encoder = vocabulary.encoder(manifest)
        prompt = _check_fits(manifest, encoder)
        tokens = {label: len(encoder.label_ids(label)) for label in candidates.labels}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise system_error(error, f"cannot write {out}") from None
    with new_file(out, replace=force, durable=True) as temporary:
        with progress_bar("Writing", 2 * size, unit_bytes=True) as advance:
            write_bundle(bundle, manifest, temporary, advance)
        with progress_bar("Checking", size, unit_bytes=True) as advance:
            verify_bundle(temporary, advance)
        written = temporary.stat().st_size
    counts = dict(zip(candidates.labels, candidates.counts, strict=True))
    added = [label for label in candidates.labels if label not in old.candidates.labels]
    return {
        "bundle": str(out),
        "bytes": written,
        "labels": len(candidates),
        "kept": len(candidates) - len(added),
        "dropped": [label for label in old.candidates.labels if label not in counts],
        "added": [{"label": x, "tokens": tokens[x], "count": counts[x]} for x in added],
        "listed_in_prompt": lists_candidates(manifest),
        "prompt_tokens": prompt,
        "trie_tokens": len(encoder.trie.evaluated),
        "pruned_vocabulary": old.vocabulary is not None,
        "calibration_dropped": old.calibration is not None,
    }


def lists_candidates(manifest: Manifest) -> bool:
    """Whether the prompt names the candidates, so that another list changes every prediction a little."""
    return manifest.layout.name == "instruct" or manifest.layout.list_candidates


def _check_fits(manifest: Manifest, encoder: PromptEncoder) -> int:
    """Tokens of the longest question without history; refused where nothing of the context would be left."""
    asked = max(
        len(encoder.frame_ids(datetime(2024, 1, 1), "x", i)[0])
        + len(encoder.frame_ids(datetime(2024, 1, 1), "x", i)[1])
        for i in range(manifest.layout.formats)
    )
    prompt = len(encoder.static_ids) + asked
    longest = max(len(encoder.label_ids(label)) for label in manifest.candidates.labels)
    if prompt + longest > manifest.context_length:
        raise EdgebError(
            f"a prompt with these {len(manifest.candidates)} labels has {prompt} tokens, the model holds "
            f"{manifest.context_length}",
            "list fewer or shorter labels",
        )
    return prompt


def _unmeasured(habits: dict[str, Any] | None) -> dict[str, Any] | None:
    """The habits' settings without the numbers that were measured on the old list."""
    return None if habits is None else {**habits, "measured": {}}


def _lines(text: str, path: Path) -> list[tuple[str, str, int | None]]:
    # Not splitlines: a label that holds an odd separator is to be refused, not to be cut.
    lines = text.replace("\r\n", "\n").split("\n")
    return [(f"{path}:{number}", line, None) for number, line in enumerate(lines, 1) if line.strip()]


def _json_rows(text: str, path: Path) -> list[tuple[str, str, int | None]]:
    try:
        # Pairs, because an object that names a label twice would lose one.
        content = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise EdgebError(f"{path}:{line}: not JSON ({getattr(error, 'msg', error)})", _FORMATS) from None
    if not isinstance(content, list):
        raise EdgebError(f"{path} is not a JSON list or object", _FORMATS)
    rows: list[tuple[str, str, int | None]] = []
    for number, entry in enumerate(content, 1):
        label, count = entry if isinstance(content, _Pairs) else (entry, None)
        where = f"{path}, entry {number}"
        if not isinstance(label, str):
            raise EdgebError(f"{where}: {json.dumps(label)} is not a label", _FORMATS)
        if isinstance(content, _Pairs) and (type(count) is not int or count < 0):
            raise EdgebError(f"{where}: the count of '{label}' is {json.dumps(count)}", "counts are whole, 0 or more")
        rows.append((where, label, count))
    return rows


class _Pairs(list[Any]):
    """The (key, value) pairs of a JSON object, repeated keys included."""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise EdgebError(f"cannot read {path}: {error.strerror}", "pass a file that edgeb export wrote") from None
