"""Vocabulary pruning: the same model with embedding and output rows for the domain's tokens only.

Kept are all byte tokens, all added tokens but reserved ones, every token of the domain's texts, the most basic
everyday word pieces (so that places named after the export mostly keep their pieces too), and with each token its
*derivation*: every symbol that byte-pair merging makes on the way from its bytes or characters to it. Merges whose
parts and result are kept stay, in order. Any text still encodes, at worst byte by byte, and decodes to itself.

Why a domain text keeps its pieces: words (to SentencePiece, whole texts) are merged one by one, and at each step the
leftmost pair of the lowest rank joins. Symbols join only with neighbors inside the token that they end in, so a word's
derivation is that of its final tokens, and all merges that it applies are kept. Assume that the full and the pruned
merge table have led to the same symbols so far. The pruned one offers a subset of the full one's merges, in the same
order, that holds the full one's choice: it makes the same choice. When the full table has no merge left, neither has
its subset. With `ignore_merges` (Llama 3) a word of the vocabulary is one token at once: such words of domain texts are
kept, and pruning adds no words.

Reads and writes model folders; knows no export format. `merges` has the two kinds of vocabularies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.export.prune.merges import KEEP_HINT, CannotPrune, Merges, read_merges
from edge_behavior.export.prune.words import everyday_pieces
from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.folder import WEIGHTS_INDEX, open_weights, weight_files
from edge_behavior.hf.tokenizers import plain_encoder
from edge_behavior.train.run.folder import read_json
from edge_behavior.util.progress import progress_bar

# Everyday word pieces beside the domain's own; benchmarks/results/pruning.md has what they cost and keep.
EXTRA_TOKENS = 4096
# Kernels take rows in blocks (llama.cpp's of 8, GPUs' of 64); everyday pieces fill up.
_ROW_MULTIPLE = 64
# Names for tokens to come, which no model was trained with: 6,242 of Gemma's, some 250 of Llama 3's.
_RESERVED = re.compile(r"<(unused\d+|\|reserved_special_token_\d+\|)>")
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MATRICES = ("model.embed_tokens.weight", "lm_head.weight")
_BLOCK_ROWS = 1024
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class PrunePlan:
    """Which rows stay.

    Attributes:
        kept: Old ids that stay, ascending, shape [K]; a token's new id is its position here.
        rows: Embedding rows before, N.
        places: Number of places whose names are covered.
        domain_tokens: Distinct tokens in the domain's texts.
        extra_tokens: Rows added for everyday word pieces.
        tokenizer: The pruned tokenizer.json.
    """

    kept: NDArray[np.int64]
    rows: int
    places: int
    domain_tokens: int
    extra_tokens: int
    tokenizer: dict[str, Any] = field(repr=False)

    def new_ids(self, ids: Iterable[int]) -> list[int]:
        """Ids of the pruned vocabulary.

        Raises:
            EdgebError: an id that was dropped.
        """
        old = np.asarray(list(ids), dtype=np.int64)
        at = np.searchsorted(self.kept, old)
        lost = old[self.kept[np.minimum(at, len(self.kept) - 1)] != old]
        if len(lost):
            raise EdgebError(f"token {int(lost[0])} was pruned", KEEP_HINT)
        return [int(i) for i in at]

    def summary(self) -> dict[str, int]:
        """What the manifest records of the vocabulary."""
        return {
            "kept": len(self.kept),
            "of": self.rows,
            "places": self.places,
            "domain_tokens": self.domain_tokens,
            "extra_tokens": self.extra_tokens,
        }


def plan_pruning(
    tokenizer: Any,
    rows: int,
    texts: Sequence[str],
    places: int,
    extra_tokens: int = EXTRA_TOKENS,
    needed: Iterable[int | None] = (),
) -> PrunePlan:
    """Choose the rows to keep, and check that `texts` keep their pieces.

    Args:
        tokenizer: The model's, as transformers loads it.
        rows: Its embedding rows.
        texts: Segments, see `domain_texts`.
        places: Number of places in them, for the record.
        extra_tokens: How many everyday word pieces to keep beside them.
        needed: Further ids that the runtime uses; None and ids without a row are ignored.

    Raises:
        CannotPrune: see `read_merges` and `Merges.check_scores`; or a text that would be tokenized differently.
        EdgebError: `extra_tokens` is negative.
    """
    if extra_tokens < 0:
        raise EdgebError(f"extra_tokens is {extra_tokens}", "use 0 or more")
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = read_merges(fields)
    vocab = merges.vocab
    names = {i: token for token, i in vocab.items()}
    encode = plain_encoder(tokenizer)
    domain = {i for text in texts for i in encode(text)}
    kept = {i for i in needed if i is not None and 0 <= i < rows}
    kept.update(_added_ids(tokenizer, fields))
    kept.update(vocab[token] for token in merges.always)
    kept.update(vocab[symbol] for i in domain for symbol in merges.derivation(names[i]))
    # Also of added tokens: see `merges`.
    kept.update([vocab[char] for i in kept for char in names.get(i, "") if char in vocab])
    base = len(kept)
    pieces = everyday_pieces(merges.results(), lambda text: (names[i] for i in encode(text)), texts, merges.text)
    symbols = (symbol for piece in pieces for symbol in merges.derivation(piece))
    while len(kept) - base < extra_tokens or len(kept) % _ROW_MULTIPLE:
        symbol = next(symbols, None)
        if symbol is None:
            break
        kept.add(vocab[symbol])
    ids = np.asarray(sorted(kept), dtype=np.int64)
    plan = PrunePlan(ids, rows, places, len(domain), len(kept) - base, _pruned_tokenizer(fields, merges, ids))
    merges.check_scores(plan.tokenizer["model"]["vocab"])
    _check_pieces(plan, encode, texts)
    return plan


def _added_ids(tokenizer: Any, fields: dict[str, Any]) -> list[int]:
    """Ids of the added tokens that stay: all but reserved ones that neither tokenizer nor chat template names."""
    named = [getattr(tokenizer, role, None) for role in _ROLES]
    named += [tokenizer.chat_template, fields.get("post_processor"), fields.get("padding")]
    text = json.dumps(named, ensure_ascii=False)
    added = [(int(token["id"]), token["content"]) for token in fields["added_tokens"]]
    return [i for i, content in added if not _RESERVED.fullmatch(content) or content in text]


def write_pruned(model_dir: Path, plan: PrunePlan, out_dir: Path) -> None:
    """Write the pruned copy of a model folder, one block of rows in memory at a time.

    Args:
        model_dir: config.json, safetensors weights and the fast tokenizer that the plan was made for.
        out_dir: Folder to write, directly.

    Raises:
        EdgebError: missing or damaged files, or a tokenizer that does not read back from its files as planned.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json"):
        if (model_dir / name).is_file():
            _write_json(out_dir / name, _renumbered(read_json(model_dir / name), plan))
    load_tokenizer(model_dir).save_pretrained(out_dir)
    _write_json(out_dir / "tokenizer.json", plan.tokenizer)
    settings = read_json(out_dir / "tokenizer_config.json")
    # tokenizer.json has the same table; one is enough.
    settings.pop("added_tokens_decoder", None)
    stay = {token["content"] for token in plan.tokenizer["added_tokens"]}
    for name, value in settings.items():
        if isinstance(value, list):
            settings[name] = [part for part in value if part in stay or not _RESERVED.fullmatch(str(part))]
    _write_json(out_dir / "tokenizer_config.json", settings)
    _check_tokenizer(load_tokenizer(out_dir), plan)
    files = weight_files(model_dir)
    total = 0
    with progress_bar("Pruning", sum(file.stat().st_size for file in files), unit_bytes=True) as advance:
        for file in files:
            with open_weights(file):  # refuses a damaged header
                total += _write_weights(file, out_dir / file.name, plan, advance)
    if (model_dir / WEIGHTS_INDEX).is_file():
        index = read_json(model_dir / WEIGHTS_INDEX)
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        _write_json(out_dir / WEIGHTS_INDEX, index)


def _pruned_tokenizer(fields: dict[str, Any], merges: Merges, kept: NDArray[np.int64]) -> dict[str, Any]:
    """tokenizer.json with the kept tokens only, renumbered."""
    new = {int(old): i for i, old in enumerate(kept)}
    vocab = {text: new[i] for text, i in merges.vocab.items() if i in new}
    pairs = [list(pair) for pair in merges.kept(vocab)]
    result = {**fields, "model": {**fields["model"], "vocab": vocab, "merges": pairs}}
    result["added_tokens"] = [
        {**token, "id": new[token["id"]]} for token in fields["added_tokens"] if token["id"] in new
    ]
    if fields.get("padding"):
        result["padding"] = {**fields["padding"], "pad_id": new[fields["padding"]["pad_id"]]}
    if fields.get("post_processor"):
        result["post_processor"] = _renumbered_steps(fields["post_processor"], new)
    return result


def _renumbered_steps(step: dict[str, Any], new: dict[int, int]) -> dict[str, Any]:
    kind = step["type"]
    if kind == "Sequence":
        return {**step, "processors": [_renumbered_steps(part, new) for part in step["processors"]]}
    if kind == "TemplateProcessing":
        tokens = {
            name: {**token, "ids": [new[i] for i in token["ids"]]} for name, token in step["special_tokens"].items()
        }
        return {**step, "special_tokens": tokens}
    if kind != "ByteLevel":
        raise CannotPrune(f"the tokenizer's post-processor {kind} may hold token ids", KEEP_HINT)
    return step


def _check_pieces(plan: PrunePlan, encode: Callable[[str], list[int]], texts: Sequence[str]) -> None:
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(json.dumps({**plan.tokenizer, "added_tokens": [], "post_processor": None}))
    for text in texts:
        if plain.encode(text, add_special_tokens=False).ids != plan.new_ids(encode(text)):
            raise CannotPrune(f"the pruned tokenizer would split {text[:60]!r} differently", KEEP_HINT)


def _check_tokenizer(tokenizer: Any, plan: PrunePlan) -> None:
    found = json.loads(tokenizer.backend_tokenizer.to_str())
    ids, expected = ({(token["content"], token["id"]) for token in f["added_tokens"]} for f in (found, plan.tokenizer))
    if ids != expected or any(found["model"][key] != plan.tokenizer["model"][key] for key in ("vocab", "merges")):
        raise EdgebError("the pruned tokenizer does not read back from its files as written", KEEP_HINT)


def _renumbered(settings: dict[str, Any], plan: PrunePlan) -> dict[str, Any]:
    """A config with the new size and token ids; ids without a row become null."""
    new = {int(old): i for i, old in enumerate(plan.kept)}
    found = dict(settings)
    for name, value in settings.items():
        if name == "vocab_size":
            found[name] = len(plan.kept)
        elif name.endswith("_token_id"):
            found[name] = [new[i] for i in value if i in new] if isinstance(value, list) else new.get(value)
    return found


def _write_weights(source: Path, target: Path, plan: PrunePlan, advance: Callable[[float], None]) -> int:
    """Copy a safetensors file with only the kept rows of embedding and output. Returns the bytes of its data."""
    with source.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    metadata = {"__metadata__": header.pop("__metadata__")} if "__metadata__" in header else {}
    order = sorted(header, key=lambda name: header[name]["data_offsets"])
    written, at = {}, 0
    for name in order:
        start, stop = header[name]["data_offsets"]
        shape, length = list(header[name]["shape"]), stop - start
        if name in _MATRICES:
            if shape[0] != plan.rows:
                raise EdgebError(f"{source}: '{name}' has {shape[0]} rows, not {plan.rows}", "check config.json")
            length = length // plan.rows * len(plan.kept)
            shape[0] = len(plan.kept)
        written[name] = {**header[name], "shape": shape, "data_offsets": [at, at + length]}
        at += length
    head = json.dumps({**metadata, **written}, separators=(",", ":")).encode()
    head = head.ljust(-(-len(head) // 8) * 8)
    with source.open("rb") as file, target.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            start, stop = (8 + size + offset for offset in header[name]["data_offsets"])
            if name in _MATRICES:
                matrix = np.memmap(source, np.uint8, "r", start, (plan.rows, (stop - start) // plan.rows))
                for first in range(0, len(plan.kept), _BLOCK_ROWS):
                    out.write(matrix[plan.kept[first : first + _BLOCK_ROWS]].tobytes())
            else:
                _copy(file, start, stop, out)
            advance(stop - start)
    return at


def _copy(file: BinaryIO, start: int, stop: int, out: BinaryIO) -> None:
    file.seek(start)
    while start < stop:
        start += out.write(file.read(min(_CHUNK, stop - start)))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
