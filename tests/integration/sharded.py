"""edgeb under accelerate's FSDP 2 in CPU processes: `torchrun … sharded.py train …`.

accelerate shards only where processes have GPUs. Here its state is told so once, when it decides; the weights are then
spread over gloo processes by the same code. Every sharding is reported on stderr.
"""

from __future__ import annotations

import sys
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from torch.nn import Module

_begin, _prepare = AcceleratorState.__init__, Accelerator._prepare_fsdp2


def begin(self: AcceleratorState, *arguments: Any, **named: Any) -> None:
    if not AcceleratorState._shared_state:
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    _begin(self, *arguments, **named)


def prepare(self: Accelerator, *arguments: Any) -> Any:
    prepared = _prepare(self, *arguments)
    for model in prepared:
        if isinstance(model, Module):
            parameters = list(model.parameters())
            print(f"sharded {sum(isinstance(p, DTensor) for p in parameters)} of {len(parameters)}", file=sys.stderr)
    return prepared


if __name__ == "__main__":
    AcceleratorState.__init__ = begin
    Accelerator._prepare_fsdp2 = prepare
    from edge_behavior.cli import main

    main()
