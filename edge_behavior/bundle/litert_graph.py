"""What a host must know of a LiteRT bundle's graph: the sizes of its signatures, and how to make what they take.

A signature evaluates a fixed number N of new tokens, in a cache of C slots that the host fills: it takes the
embeddings of the new tokens, the rotary cosines and sines of their positions, an additive mask, and the keys and values
of every slot; it gives the new tokens' keys and values, which the host copies to slots of its choice. Slots and
positions are apart, so that the tokens of many labels lie beside each other. Knows no engine and no file.

Shapes, all float32 unless said otherwise, with D `hidden`, H `head_dim`, G `kv_heads`, V `vocabulary`:

- `embed_N`: `tokens` int32 [1, N]; gives `embeddings` [1, N, D].
- `step_N`: `embeddings` [1, N, D]; `cos` and `sin` [1, N, H]; `mask` [1, 1, N, C + N], zero where a token of a row sees
  the slot or new token of a column and `MASKED` elsewhere; `k_0`, `v_0`, `k_1`… [1, G, C, H]; with a sliding window
  also `cos_local`, `sin_local` and `mask_local`. Gives `logits` [1, N, V] and `new_k_0`, `new_v_0`, `new_k_1`… [1, G,
  N, H].
- `first_N`: the first tokens of a prompt, for an empty cache: takes what `step_N` takes but no cache, with a `mask` [1,
  1, N, N] in which no token sees one behind it; gives no logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_behavior.core.fields import DAMAGED_HINT, NULL, Kind, is_number, is_whole, read_fields, read_list
from edge_behavior.errors import EdgebError

# Added to attention scores: nothing is left of them in float32, and float16 can hold it.
MASKED = -30000.0
_FIELDS: Mapping[str, Kind] = {
    "sizes": list,
    "first_sizes": list,
    "cache": int,
    "layers": int,
    "hidden": int,
    "kv_heads": int,
    "head_dim": int,
    "vocabulary": int,
    "rope": list,
    "sliding": (dict, NULL),
}
_COUNTS = ("cache", "layers", "hidden", "kv_heads", "head_dim", "vocabulary")
_MOST = 1 << 31


@dataclass(frozen=True)
class SlidingWindow:
    """The layers that attend to the last tokens only.

    Attributes:
        window: How many positions a token sees, its own among them.
        rope: Their `LiteRtGraph.rope`.
    """

    window: int
    rope: tuple[float, ...]


@dataclass(frozen=True)
class LiteRtGraph:
    """The manifest's companion in a LiteRT bundle.

    Attributes:
        sizes: New tokens of the `step_N` signatures, ascending.
        first_sizes: New tokens of the `first_N` signatures, ascending, or none. Every size has its `embed_N`.
        cache: Slots of the cache.
        layers: Number of layers, and so of key and value tensors.
        hidden: Width of an embedding.
        kv_heads: Key and value heads per layer.
        head_dim: Width of a head.
        vocabulary: Logits per row.
        rope: Frequencies in radians per position, `head_dim` / 2 of them, each exact in float32. The angle of a token
            is position times frequency, in float32; `cos` holds the angles' cosines twice over, `sin` their sines.
        sliding: The sliding-window layers; None where every layer attends to the whole context.
    """

    sizes: tuple[int, ...]
    first_sizes: tuple[int, ...]
    cache: int
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rope: tuple[float, ...]
    sliding: SlidingWindow | None = None

    @property
    def embed_sizes(self) -> tuple[int, ...]:
        """New tokens of the `embed_N` signatures, ascending."""
        return tuple(sorted({*self.sizes, *self.first_sizes}))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, where: str = "graph") -> LiteRtGraph:
        """Read the object strictly.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, _FIELDS, where)
        for name in _COUNTS:
            if not is_whole(found[name], 1, _MOST):
                raise EdgebError(f"{where}: field '{name}' is {str(found[name])[:40]}", DAMAGED_HINT)
        sizes = _sizes(found["sizes"], f"{where}.sizes")
        if not sizes:
            raise EdgebError(f"{where}: 'sizes' is empty", DAMAGED_HINT)
        found |= {"sizes": sizes, "first_sizes": _sizes(found["first_sizes"], f"{where}.first_sizes")}
        found["rope"] = _rope(found["rope"], found["head_dim"], f"{where}.rope")
        if found["sliding"] is not None:
            inner = f"{where}.sliding"
            sliding = read_fields(found["sliding"], {"window": int, "rope": list}, inner)
            if not is_whole(sliding["window"], 1, _MOST):
                raise EdgebError(f"{inner}: field 'window' is {str(sliding['window'])[:40]}", DAMAGED_HINT)
            rope = _rope(sliding["rope"], found["head_dim"], f"{inner}.rope")
            found["sliding"] = SlidingWindow(sliding["window"], rope)
        return cls(**found)


def step_name(size: int) -> str:
    """The signature that evaluates so many new tokens and gives the logits of all."""
    return f"step_{size}"


def first_name(size: int) -> str:
    """The signature that evaluates so many tokens of a prompt's beginning for the cache alone."""
    return f"first_{size}"


def embed_name(size: int) -> str:
    """The signature that looks up so many embeddings."""
    return f"embed_{size}"


def _sizes(value: object, where: str) -> tuple[int, ...]:
    sizes = read_list(value, where, int)
    if any(not is_whole(size, 1, _MOST) for size in sizes) or sizes != sorted(set(sizes)):
        raise EdgebError(f"{where} is {str(sizes)[:60]}, not ascending sizes", DAMAGED_HINT)
    return tuple(sizes)


def _rope(value: object, head_dim: int, where: str) -> tuple[float, ...]:
    rope = read_list(value, where, (int, float), head_dim // 2)
    if not all(is_number(frequency, 0, 10) for frequency in rope):
        raise EdgebError(f"{where} holds a frequency that is none", DAMAGED_HINT)
    return tuple(float(frequency) for frequency in rope)
