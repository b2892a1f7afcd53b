"""`edgeb train --dry-run`: what a run would process, whether it fits, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.geometry import Geometry, geometry
from edge_behavior.train.plan.counts import Counts, count
from edge_behavior.train.plan.memory import Device, Memory, Needs, changed, other_gpu, precision, this_device
from edge_behavior.train.plan.speed import Times, times
from edge_behavior.train.preflight import check_context, check_data, check_model
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.inputs import located
from edge_behavior.train.trainer.backbone import open_backbone
from edge_behavior.train.trainer.batch_split import check_shares
from edge_behavior.train.trainer.packed import packs_type
from edge_behavior.train.trainer.precision import Computing, chosen_dtype
from edge_behavior.train.trainer.processes import world_size


@dataclass(frozen=True)
class Plan:
    """What a run would take.

    `times` are None where the device is not here or its memory does not suffice; `computing` where the recipe names a
    dtype, and on a GPU.
    """

    counts: Counts
    sizes: Geometry
    processes: int
    device: Device
    needs: Needs
    times: Times | None
    refusal: EdgebError | None
    computing: Computing | None = None

    def document(self) -> dict[str, Any]:
        """The plan as `--json` has it: bytes and seconds."""
        device, spent, refusal = self.device, self.times, self.refusal
        return {
            **self.counts.shown,
            "processes": self.processes,
            "parameters": self.sizes.parameters,
            "adapter_parameters": self.sizes.adapter,
            **({"dtype": self.computing.dtype, "dtype_because": self.computing.why} if self.computing else {}),
            "memory": {
                "device": device.kind,
                "device_name": device.name,
                "available": device.available,
                "stages": self.needs,
                "total": max(parts["total"] for parts in self.needs.values()),
            },
            "time": spent and {"stages": spent.stages, "total": spent.total, "measured_on": spent.measured_on},
            "refusal": refusal and {"message": refusal.message, "hint": refusal.hint},
        }


def plan(recipe: Recipe, dataset: Dataset, device_memory: str | None = None, processes: int | None = None) -> Plan:
    """The plan of one run; see `Planner`."""
    return Planner(dataset, device_memory, processes).plan(recipe)


class Planner:
    """Plans runs on one dataset. What runs of the same backbone have in common is opened and timed once.

    Args:
        device_memory: Plan for a GPU with this much memory ("24GiB") in place of this machine's device.
        processes: Plan for so many, with a device each (CPU processes share this machine); None: as many as were
            started.
    """

    def __init__(self, dataset: Dataset, device_memory: str | None = None, processes: int | None = None) -> None:
        self._dataset, self._memory, self._processes = dataset, device_memory, processes or world_size()
        self._opened: dict[str, tuple[Any, Any]] = {}
        self._computing: dict[str, Computing] = {}
        self._speeds: dict[str, tuple[float, str]] = {}

    def plan(self, recipe: Recipe) -> Plan:
        """Count a run's work and estimate its memory and time.

        A stand-in's tokenizer is trained for the count (seconds); its weights are not. No weight of a backbone is read.

        Raises:
            EdgebError: as the run itself would, for bad data, a missing backbone or a batch that cannot be shared.
        """
        recipe, processes, dataset = located(recipe), self._processes, self._dataset
        check_shares(recipe, processes)
        device = this_device() if self._memory is None else other_gpu(self._memory)
        if device.kind == "cpu" and processes > 1:
            device = replace(device, name=f"{device.name}, for each process,", available=device.available // processes)
        if recipe.backbone.quantize == "4bit" and device.kind == "cpu":
            hint = "set backbone.quantize=none, or plan for a GPU with --device-memory 24GiB"
            raise EdgebError("backbone.quantize=4bit needs a CUDA GPU", hint)
        check_model(recipe)
        check_data(recipe, dataset)
        # A stand-in's tokenizer depends on the layout and the seed.
        backbone = f"{recipe.backbone.model_dump_json()} {recipe.layout.model_dump_json()} {recipe.seed}"
        if backbone not in self._opened:
            self._opened[backbone] = _backbone(recipe, dataset)
        config, tokenizer = self._opened[backbone]
        encoder = encoder_for(tokenizer, recipe.layout.layout(dataset.has_places, tokenizer), dataset.candidates)
        check_context(dataset, encoder, config)
        sizes = geometry(config, recipe.lora)
        computing = None
        if device.kind == "cpu" and recipe.backbone.dtype == "auto":
            if backbone not in self._computing:
                self._computing[backbone] = chosen_dtype(recipe.backbone, config)
            computing = self._computing[backbone]
            recipe = changed(recipe, {"backbone.dtype": computing.dtype})
        packs = device.kind == "cpu" and packs_type(config) and recipe.b_tuning.padding_free is not False
        counts = count(recipe, dataset, encoder, tokenizer, packs)
        memory = Memory(sizes, counts, device, processes)
        refusal, spent = memory.refusal(recipe), None
        if device.here and refusal is None:
            how, key = precision(recipe, sizes, device), f"{backbone} {recipe.lora.model_dump_json()}"
            spent = times(recipe, counts, sizes, how, device.kind, processes, self._speeds.get(key))
            self._speeds[key] = spent.speed, spent.measured_on
        return Plan(counts, sizes, processes, device, memory.needs(recipe), spent, refusal, computing)


def _backbone(recipe: Recipe, dataset: Dataset) -> tuple[Any, Any]:
    """Configuration and tokenizer, of the recipe's backbone or of its stand-in."""
    if recipe.backbone.path is not None:
        return open_backbone(recipe.backbone, fetch=False)
    from edge_behavior.train.standin.model import architecture, standin_tokenizer

    made = standin_tokenizer(recipe, dataset.candidates, dataset.places)
    return architecture(recipe.backbone, made), made
