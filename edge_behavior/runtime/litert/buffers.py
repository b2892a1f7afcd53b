"""Arrays that native code reads and writes in place, and the cache made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
_Value = TypeVar("_Value", bound=np.generic)

# LiteRT takes host memory that begins at a multiple of this many bytes.
ALIGNMENT = 64
# Its kernels may read that far beyond a tensor's end.
_BEYOND = 128


def aligned(shape: Sequence[int], dtype: type[_Value]) -> NDArray[_Value]:
    """A zeroed array that LiteRT takes as it is."""
    whole: NDArray[_Value] = aligned_stack(1, shape, dtype)[0]
    return whole


def aligned_stack(count: int, shape: Sequence[int], dtype: type[_Value]) -> NDArray[_Value]:
    """A zeroed array [count, *shape]; each of the `count` is C-contiguous, and one that LiteRT takes."""
    plain = np.empty(shape, dtype=dtype)
    step = -(-(plain.nbytes + _BEYOND) // ALIGNMENT) * ALIGNMENT
    raw = np.zeros(count * step + ALIGNMENT, dtype=np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return np.ndarray((count, *shape), dtype, raw.data, offset, (step, *plain.strides))


class SlotCache:
    """Keys and values of every layer in slots that the host chooses.

    Args:
        layers: Number of layers.
        kv_heads: Heads per layer, G.
        slots: Number of slots, C.
        head_dim: Width of a head, H.

    Attributes:
        tensors: [2 · layers, 1, G, C, H]: keys and values in turn, layer by layer.
    """

    def __init__(self, layers: int, kv_heads: int, slots: int, head_dim: int) -> None:
        self.tensors = aligned_stack(2 * layers, (1, kv_heads, slots, head_dim), np.float32)

    def store(self, new: Floats32, slots: NDArray[np.int32]) -> None:
        """Copy new rows into slots.

        Args:
            new: [2 · layers, 1, G, N, H] as a call gave them, N at least the number of slots.
            slots: Where the first ones belong; the others are padding.
        """
        count = len(slots)
        first = int(slots[0])
        run = int(slots[-1]) - first == count - 1 and bool((np.diff(slots) == 1).all())
        # A slice is copied several times faster than indices.
        at: slice | NDArray[np.int32] = slice(first, first + count) if run else slots
        self.tensors[:, :, :, at] = new[:, :, :, :count]

    def to_bytes(self, count: int) -> bytes:
        """The first `count` slots: [2 · layers, G, count, H], little-endian float32."""
        return self.tensors[:, 0, :, :count].astype("<f4", copy=False).tobytes()

    def from_bytes(self, content: bytes, count: int) -> bool:
        """Read the first `count` slots; False, and nothing read, if the size is wrong."""
        target = self.tensors[:, 0, :, :count]
        if len(content) != target.nbytes:
            return False
        target[...] = np.frombuffer(content, dtype="<f4").reshape(target.shape)
        return True
