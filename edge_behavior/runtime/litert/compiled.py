"""A LiteRT file compiled by the ai-edge-litert package: its signatures as functions over arrays of the host.

Knows shapes and names, not what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.accelerator import CPU, Accelerator, in_words
from edge_behavior.runtime.lifetime import never_freed_in_children
from edge_behavior.runtime.litert.host_memory import HostMemory
from edge_behavior.runtime.litert.package import load_litert, open_model, quiet_run

# What LiteRT says where an accelerator leaves operations to the CPU.
_PARTLY = "Some ops are not accelerated"
_Arrays = Mapping[str, NDArray[Any]]


class CompiledGraph:
    """A LiteRT file compiled for the CPU, or for an accelerator that takes all of it.

    Args:
        path: The file; LiteRT ignores what edgeb put behind the model.
        threads: CPU threads.
        needed: Names of signatures that it must have.
        accelerator: What runs it.

    Attributes:
        engine: Package and version.

    Raises:
        EdgebError: ai-edge-litert is missing, LiteRT cannot load the file, with its own message, a signature is
            missing, or the accelerator is not there or leaves a part of the graph to the CPU.
    """

    def __init__(self, path: Path, threads: int, needed: Sequence[str] = (), accelerator: Accelerator = CPU) -> None:
        litert = load_litert()
        self.engine = f"ai-edge-litert {litert.__version__}"
        self._memory = HostMemory(litert)
        # Buffers of every bound signature, and the model they belong to.
        self._bound: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        try:
            self._model = open_model(litert, str(path), threads, accelerator)
            self._signatures = self._model.get_signature_list()
            whole = accelerator == CPU or self._model.is_fully_accelerated()
        except RuntimeError as error:
            raise _refused(path, accelerator, _reason(error)) from None
        if not whole:
            raise _refused(path, accelerator, _PARTLY)
        self._path = path
        missing = sorted(set(needed) - self._signatures.keys())
        if missing:
            raise EdgebError(f"{path}: the model has no signature '{missing[0]}'", "export it again")
        never_freed_in_children(self, CompiledGraph._native)

    def bind(self, name: str, inputs: _Arrays, outputs: _Arrays) -> Callable[[], None]:
        """A function that runs a signature once, reading and writing these arrays in place.

        Args:
            name: The signature.
            inputs: Aligned arrays (`buffers`) by tensor name; those that the signature does not take are left out.
            outputs: Likewise, all of them.

        Raises:
            EdgebError: the file has no such signature, or one with other tensors. The function raises it if LiteRT
                fails.
        """
        known = self._signatures.get(name)
        if known is None or not set(known["inputs"]) <= set(inputs) or set(known["outputs"]) != set(outputs):
            raise EdgebError(f"{self._path}: signature '{name}' is not as the bundle says", "export it again")
        inputs = {key: inputs[key] for key in known["inputs"]}
        self._check_shapes(self._model.get_input_tensor_details(name), inputs, name)
        self._check_shapes(self._model.get_output_tensor_details(name), outputs, name)
        made: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self._bound.append((name, *made))
        for arrays, create, buffers in (
            (inputs, self._model.create_input_buffer_by_name, made[0]),
            (outputs, self._model.create_output_buffer_by_name, made[1]),
        ):
            for key, value in arrays.items():
                buffers[key] = self._memory.wrap(value, create(name, key))
        return partial(self._run, len(self._bound) - 1)

    def close(self) -> None:
        """Free model and buffers."""
        for _, inputs, outputs in self._bound:
            for buffer in (*inputs.values(), *outputs.values()):
                self._memory.free(buffer)
        self._bound.clear()
        self._model = None

    def _run(self, index: int) -> None:
        name, inputs, outputs = self._bound[index]
        try:
            with quiet_run():
                self._model.run_by_name(name, inputs, outputs)
        except RuntimeError as error:
            raise EdgebError(
                f"LiteRT could not evaluate the prompt: {_reason(error)}", "load the bundle again"
            ) from None

    def _check_shapes(self, details: Mapping[str, Any], arrays: _Arrays, name: str) -> None:
        for key, value in arrays.items():
            shape = tuple(details[key]["shape"])
            if shape != value.shape:
                raise EdgebError(
                    f"{self._path}: signature '{name}' takes {key} of shape {shape}, not {value.shape}",
                    "export it again",
                )

    def _native(self) -> list[object]:
        return [self._bound, self._model]


def _refused(path: Path, accelerator: Accelerator, reason: str) -> EdgebError:
    """Why LiteRT does not load a file; of an accelerator it says little."""
    if accelerator == CPU:
        return EdgebError(f"LiteRT cannot load {path}: {reason}", "export it again")
    name = in_words(accelerator)
    if _PARTLY in reason:
        reason, hint = f"the {name} does not take all of it", "export it again with --format litert, or use the CPU"
    else:
        # Its message is a line of its source.
        reason, hint = (
            f"there is no {name}, or it does not take the model",
            f"install the {name}'s driver, or use the CPU",
        )
    return EdgebError(f"LiteRT cannot run {path} on the {name}: {reason}", hint)


def _reason(error: RuntimeError) -> str:
    """The innermost of LiteRT's messages, which stand below each other."""
    lines = str(error).strip().splitlines()
    return lines[-1].lstrip("└ ") if lines else "no reason given"
