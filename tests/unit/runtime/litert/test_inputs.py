"""What a call is given: masks, rotations, and arrays that the cache is kept in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edge_behavior.bundle.litert_graph import MASKED
from edge_behavior.runtime.litert.buffers import ALIGNMENT, SlotCache, aligned, aligned_stack
from edge_behavior.runtime.litert.inputs import Tokens, rotations, write_mask
from tests import helpers


def test_a_mask_by_hand() -> None:
    """A prompt of two tokens in slots 0 and 1; now a node, its child, and another node, in slots 4, 3 and 2."""
    visible = np.zeros((3, 6), dtype=bool)
    visible[:, :2] = True
    visible[0, 4] = visible[1, [4, 3]] = visible[2, 2] = True
    int32 = np.int32
    tokens = Tokens(np.array([7, 8, 9], int32), np.array([2, 3, 2], int32), np.array([4, 3, 2], int32), visible)
    mask = np.ones((4, 10), dtype=np.float32)
    write_mask(mask, tokens)
    expected = [
        # the cache's slots, then the call's own tokens, of which the last is padding
        [1, 1, 0, 0, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ]
    np.testing.assert_array_equal(mask, np.where(np.array(expected) == 1, 0, MASKED))
    write_mask(mask, tokens.part(1, 2))
    # Its parent is in the cache now.
    np.testing.assert_array_equal(mask[0] == 0, np.array([1, 1, 0, 0, 1, 0, 1, 0, 0, 0], dtype=bool))


def test_rotations_are_those_of_transformers() -> None:
    inner: Any = helpers.model(helpers.tokenizer()).model.rotary_emb
    cos, sin = inner(torch.zeros(1), torch.arange(50)[None])
    found = rotations(inner.inv_freq.tolist(), 50)
    np.testing.assert_allclose(found[0], cos[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(found[1], sin[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 7, 5), (1, 64)])
def test_arrays_are_aligned_and_apart(shape: tuple[int, ...]) -> None:
    whole = aligned_stack(5, shape, np.float32)
    for array in (*whole, aligned(shape, np.float32)):
        assert array.shape == shape
        assert array.flags.c_contiguous
        assert array.ctypes.data % ALIGNMENT == 0
        assert not array.any()
    whole[2] = 1
    assert [float(array.max()) for array in whole] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("slots", [[2, 3, 4], [4, 2, 7], [5]])
def test_rows_are_stored_where_they_belong(slots: list[int]) -> None:
    cache = SlotCache(2, 3, 8, 4)
    new = np.random.default_rng(0).random((4, 1, 3, 4, 4), dtype=np.float32)
    cache.store(new, np.array(slots, dtype=np.int32))
    np.testing.assert_array_equal(cache.tensors[:, :, :, slots], new[:, :, :, : len(slots)])
    others = sorted(set(range(8)) - set(slots))
    assert not cache.tensors[:, :, :, others].any()
