"""Distributed training: this process's rank, and what the processes exchange.

`accelerate launch` and `torchrun` start one process per GPU and set its rank; without them this is rank 0 of 1. Every
process runs the whole pipeline on the same rows; the main one writes the run folder.
"""

from __future__ import annotations

import gc
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from rich.console import Console

from edge_behavior.train.trainer.batch_split import equal_share
from edge_behavior.util.terminal import open_console

T = TypeVar("T")


def state() -> PartialState:
    """Accelerate's process state; the first call joins the group."""
    return PartialState(cpu=not torch.cuda.is_available())


def is_main() -> bool:
    """Whether this process writes files and shows progress."""
    return bool(state().is_main_process)


def rank() -> int:
    """This process's rank, below `world_size`."""
    return int(state().process_index)


def world_size() -> int:
    """Number of processes."""
    return int(state().num_processes)


def wait() -> None:
    """Barrier: return when every process has called this."""
    state().wait_for_everyone()


def gathered(items: list[T]) -> list[T]:
    """The items of all processes, by rank, on every process."""
    return list(gather_object(items)) if world_size() > 1 else items


def share_of(batch_size: int, what: str) -> int:
    """How many of a batch's sequences each process takes.

    Raises:
        EdgebError: the batch cannot be split equally.
    """
    return equal_share(batch_size, world_size(), what)


def idle_gpus() -> int:
    """GPUs of this machine that no process uses; 0 where a launcher has started several processes."""
    return max(torch.cuda.device_count() - 1, 0) if world_size() == 1 else 0


def shards_weights() -> bool:
    """Whether the launcher shards weights over the processes (FSDP)."""
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def release_memory() -> None:
    """Free the memory of finished models: trainers form reference cycles, and the allocator caches freed blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def console() -> Console:
    """A console on the main process's stderr; silent on the others."""
    return open_console(stderr=True, quiet=not is_main())
