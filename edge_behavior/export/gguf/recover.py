"""Which tensors to keep at 8 bits where fewer hurt the tail, found by measurement.

All tensors of one kind (every layer's `attn_v`, say) are kept together. One trial per kind measures its gain; kinds are
then added by gain per byte while the file stays small enough. Knows nothing of models: trials are run by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.export.parity.gate import RecoveryTrial

_LAYER = re.compile(r"^blk\.\d+")
_EIGHT_BITS = ("Q8_0", "F16", "F32", "BF16")


def kinds(path: Path) -> tuple[str, ...]:
    """Kinds of tensors that a quantized file holds in fewer than 8 bits: endings like `.attn_v.weight`, whole names."""
    from gguf import GGMLQuantizationType

    with GgufFile(path) as file:
        tensors = file.tensor_table().tensors
        names = [t.name for t in tensors if GGMLQuantizationType(t.kind).name not in _EIGHT_BITS]
    return tuple(dict.fromkeys(_LAYER.sub("", name) for name in names))


def keep_sensitive(
    found: Sequence[str], trial: Callable[[tuple[str, ...]], RecoveryTrial], largest: int
) -> tuple[RecoveryTrial, list[RecoveryTrial]]:
    """The best set of kinds to keep within a size.

    Args:
        found: Kinds to choose from.
        trial: Measures a set of them.
        largest: Bytes the file may take.

    Returns:
        The best trial, which keeps nothing if nothing helps, and all trials in order.
    """
    best = base = trial(())
    trials = [base, *(trial((kind,)) for kind in found)]
    gains = {t.kept[0]: (base.loss - t.loss) / max(t.size - base.size, 1) for t in trials[1:]}
    for kind in sorted(found, key=gains.__getitem__, reverse=True):
        if gains[kind] <= 0:
            break
        wanted = (*best.kept, kind)
        tried = next((t for t in trials if t.kept == wanted), None)
        if tried is None:
            tried = trial(wanted)
            trials.append(tried)
        if tried.size <= largest and tried.loss < best.loss:
            best = tried
    return best, trials
