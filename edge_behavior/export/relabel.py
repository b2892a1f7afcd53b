"""Give a finished bundle another candidate list: same weights, no training.

The model scores any text, so a new label works as well as the model knows its words. Knows label files and bundles;
nothing of training or prediction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_behavior import __version__
from edge_behavior.bundle.bundle import read_population, require_gguf, verify_bundle
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.bundle.population import PopulationInfo
from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.candidates import CandidateSet, same_looking
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import clean_label
from edge_behavior.core.population import PopulationTable
from edge_behavior.errors import EdgebError, nearest, system_error
from edge_behavior.export.gguf.grammar import file_encoder
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.util.files import check_file, new_file
from edge_behavior.util.progress import progress_bar

# A label and its training count; None if the list does not give one.
Listed = tuple[str, int | None]
_FORMATS = "write one label per line, or a .json file with a list of labels or an object of label: count"


@dataclass(frozen=True)
class AddedLabel:
    """A label that the bundle did not have: its tokens with the terminator, and its training count."""

    label: str
    tokens: int
    count: int


@dataclass(frozen=True)
class RelabelReport:
    """What `edgeb relabel --json` prints.

    Attributes:
        bundle: The file written.
        bytes: Its size.
        labels: How many labels.
        kept: How many of them the old list had.
        dropped: Labels of the old list that are gone.
        added: Labels that are new.
        listed_in_prompt: Whether the prompt lists the candidates, and so changes with them.
        prompt_tokens: Of a prompt without history.
        trie_tokens: Most that one full scoring evaluates beyond its prompt.
        pruned_vocabulary: Whether the vocabulary was pruned for the old list.
        fits: What became of what export fitted and counted: `habits`, `population`, `balance` and `calibration` are
            `kept`, `dropped` or `none`. Nothing is fitted anew, since that takes a dataset's users.
        population: Contexts of the population's table, before and after; None where there was none.
    """

    bundle: Path
    bytes: int
    labels: int
    kept: int
    dropped: list[str]
    added: list[AddedLabel]
    listed_in_prompt: bool
    prompt_tokens: int
    trie_tokens: int
    pruned_vocabulary: bool
    fits: dict[str, str]
    population: tuple[int, int] | None

    def to_dict(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {**asdict(self), "bundle": str(self.bundle)}


def read_labels(path: Path) -> list[Listed]:
    """Read a label list: one label per line, or JSON in a `.json` file (a list, or an object of label: count).

    Empty lines are skipped; labels are cleaned like those of logs.

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
    entries = _json_entries(text, path) if path.suffix == ".json" else _text_entries(text, path)
    found: list[Listed] = []
    seen: dict[str, str] = {}
    for where, raw, count in entries:
        try:
            label = clean_label(raw)
        except EdgebError as error:
            raise EdgebError(f"{where}: {error.message}", error.hint) from None
        key = same_looking(label)
        if key in seen:
            raise EdgebError(f"{where}: the label '{label}' is listed already ({seen[key]})", "list every label once")
        seen[key] = where.removeprefix(f"{path}:").removeprefix(f"{path}, ")
        found.append((label, count))
    if len(found) < 2:
        raise EdgebError(f"{path} lists {len(found)} label(s)", "a prediction needs at least two")
    return found


def new_candidates(
    old: CandidateSet, labels: Sequence[Listed] | None, add: Sequence[str] = (), drop: Sequence[str] = ()
) -> CandidateSet:
    """The new candidate set.

    A label without a count keeps its old one; a label that was no candidate gets 0.

    Args:
        old: The bundle's candidates.
        labels: The new list; None starts from the old one.
        add: Labels to append.
        drop: Labels to leave out.

    Raises:
        EdgebError: a label to drop that is not a candidate, one to add that is, fewer than two labels left.
    """
    counts: dict[str, int] = dict(zip(old.labels, old.counts, strict=True))
    listed = list(labels) if labels is not None else [(label, None) for label in old.labels]
    present = {same_looking(label) for label, _ in listed}
    for label in map(clean_label, add):
        if same_looking(label) in present:
            raise EdgebError(f"--add '{label}': already a candidate", "leave it out")
        present.add(same_looking(label))
        listed.append((label, None))
    names = [label for label, _ in listed]
    for label in map(clean_label, drop):
        if label not in names:
            raise EdgebError(f"--drop '{label}': not a candidate", nearest(label, names))
    dropped = set(map(clean_label, drop))
    kept = [
        (label, counts.get(label, 0) if count is None else count) for label, count in listed if label not in dropped
    ]
    return CandidateSet(tuple(label for label, _ in kept), tuple(count for _, count in kept))


def relabel_bundle(bundle: Path, candidates: CandidateSet, out: Path, force: bool = False) -> RelabelReport:
    """Write a verified bundle with the same tensors and another candidate set.

    Evaluation and calibrations belong to the old list and are left out. Habits keep their settings and fusion weights,
    which belong to frequency groups, not to labels; so does the fitted balance, whose one number weighs whatever shares
    the new list's counts give. The population's table keeps the counts of the labels that stay.

    Args:
        bundle: The bundle to take everything else from; checked against its hashes first.
        candidates: The new labels and counts, see `new_candidates`.
        out: The file to write; it may be `bundle` itself with `force`.
        force: Replace an existing `out`.

    Raises:
        EdgebError: a bundle that is damaged or refused, labels that the tokenizer cannot tell apart, a list that
            does not fit the model's context, an `out` that exists or cannot be written. Nothing is left behind.
    """
    check_file(out, force)
    require_gguf(bundle, "relabel rewrites GGUF files of language models")
    size = _size(bundle)
    with progress_bar("Checking", size, unit_bytes=True) as advance:
        old = verify_bundle(bundle, advance)
    counted = read_population(bundle)
    relabeled = None if counted is None else counted.relabeled(candidates)
    manifest = replace(
        old,
        created_with=f"edgeb {__version__}",
        candidates=candidates,
        evaluation={},
        # Measured on the old list.
        habits=None if old.habits is None else replace(old.habits, measured={}),
        population=_described(old, relabeled),
        calibration=None,
        balance=None if old.balance is None else FittedBalance(old.balance.fitted),
    )
    with LlamaModel(bundle, vocab_only=True) as model:
        encoder = file_encoder(model, manifest)
        prompt = _check_fits(manifest, encoder)
        tokens = {label: len(encoder.label_ids(label)) for label in candidates.labels}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise system_error(error, f"cannot write {out}") from None
    with new_file(out, replace=force, durable=True) as temporary:
        with progress_bar("Writing", 2 * size, unit_bytes=True) as advance:
            write_bundle(bundle, manifest, temporary, advance, relabeled)
        with progress_bar("Checking", size, unit_bytes=True) as advance:
            verify_bundle(temporary, advance)
        written = temporary.stat().st_size
    counts = dict(zip(candidates.labels, candidates.counts, strict=True))
    added = [label for label in candidates.labels if label not in old.candidates.labels]
    return RelabelReport(
        bundle=out,
        bytes=written,
        labels=len(candidates),
        kept=len(candidates) - len(added),
        dropped=[label for label in old.candidates.labels if label not in counts],
        added=[AddedLabel(label, tokens[label], counts[label]) for label in added],
        listed_in_prompt=lists_candidates(manifest),
        prompt_tokens=prompt,
        trie_tokens=len(encoder.trie.evaluated),
        pruned_vocabulary=old.vocabulary is not None,
        fits={
            "habits": "none" if old.habits is None else "kept",
            "population": "none" if counted is None else "kept",
            "balance": "none" if old.balance is None else "kept",
            "calibration": "none" if old.calibration is None else "dropped",
        },
        population=None if counted is None or relabeled is None else (counted.contexts, relabeled.contexts),
    )


def _described(old: Manifest, table: PopulationTable | None) -> PopulationInfo | None:
    """What the manifest says of the relabeled table."""
    return None if old.population is None or table is None else PopulationInfo.of(table, old.population.users)


def lists_candidates(manifest: Manifest) -> bool:
    """Whether the prompt lists the candidates, so that another list changes every prediction a little."""
    return manifest.layout.name == "instruct" or manifest.layout.list_candidates


def _check_fits(manifest: Manifest, encoder: PromptEncoder) -> int:
    """Tokens of the longest prompt without history; refused if it leaves no room for the longest label."""
    frame = max(
        len(encoder.frame_ids(datetime(2024, 1, 1), "x", i)[0])
        + len(encoder.frame_ids(datetime(2024, 1, 1), "x", i)[1])
        for i in range(manifest.layout.formats)
    )
    prompt = len(encoder.static_ids) + frame
    longest = max(len(encoder.label_ids(label)) for label in manifest.candidates.labels)
    if prompt + longest > manifest.context_length:
        raise EdgebError(
            f"a prompt with these {len(manifest.candidates)} labels has {prompt} tokens, the model's context "
            f"{manifest.context_length}",
            "list fewer or shorter labels",
        )
    return prompt


def _text_entries(text: str, path: Path) -> list[tuple[str, str, int | None]]:
    # Not splitlines: a label with an odd separator is to be refused, not split.
    lines = text.replace("\r\n", "\n").split("\n")
    return [(f"{path}:{number}", line, None) for number, line in enumerate(lines, 1) if line.strip()]


def _json_entries(text: str, path: Path) -> list[tuple[str, str, int | None]]:
    try:
        # As pairs, since a dict would lose a label that is named twice.
        content = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise EdgebError(f"{path}:{line}: not JSON ({getattr(error, 'msg', error)})", _FORMATS) from None
    if not isinstance(content, list):
        raise EdgebError(f"{path} is not a JSON list or object", _FORMATS)
    entries: list[tuple[str, str, int | None]] = []
    for number, entry in enumerate(content, 1):
        label, count = entry if isinstance(content, _Pairs) else (entry, None)
        where = f"{path}, entry {number}"
        if not isinstance(label, str):
            raise EdgebError(f"{where}: {json.dumps(label)} is not a label", _FORMATS)
        if isinstance(content, _Pairs) and (type(count) is not int or count < 0):
            raise EdgebError(
                f"{where}: the count of '{label}' is {json.dumps(count)}", "a count is an integer of 0 or more"
            )
        entries.append((where, label, count))
    return entries


class _Pairs(list[Any]):
    """The (key, value) pairs of a JSON object, repeated keys included."""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise EdgebError(f"cannot read {path}: {error.strerror}", "pass a bundle made by edgeb export") from None
