"""Merge a LoRA adapter into its backbone and check that the logits stay the same.

The result is an ordinary model folder. Knows PEFT and Transformers; knows no export format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.hf.architectures import load_config, load_tokenizer
from edge_behavior.hf.find import find_backbone
from edge_behavior.hf.finite import KEEP_F32, beyond_f16, check_weights
from edge_behavior.hf.folder import first_line, open_weights, weight_files

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PROBE_LENGTH = 24
# Largest accepted difference between adapter and merged logits, relative to the largest logit.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_OTHER_BASE = "the adapter was trained on another backbone: pass that one"


@dataclass(frozen=True)
class Probe:
    """A few token ids and the model's logits for them, to check later steps against.

    Attributes:
        ids: Token ids, length T.
        logits: Next-token logits after every id, shape [T, V].
        difference: Largest |adapter logit - merged logit| seen when merging; 0.0 without an adapter.
    """

    ids: list[int]
    logits: NDArray[np.float32]
    difference: float


@dataclass(frozen=True)
class MergeOptions:
    """How to merge.

    Attributes:
        dtype: "float32", "float16" or "bfloat16": the precision to merge, check and save in.
        stored: "f32" or "f16": what the weights have to fit into later.
        revision: Hub revision of the backbone.
        probe_ids: Token ids to compare logits on; by default ids spread over the vocabulary.
    """

    dtype: str = "float32"
    stored: str = "f32"
    revision: str | None = None
    probe_ids: Sequence[int] = ()


def merge_dtype(parameters: int) -> str:
    """float32 where it fits into memory; float16 rounds once, as the converted file does anyway."""
    import psutil

    return "float32" if parameters * 4 * 1.3 < psutil.virtual_memory().available else "float16"


def merge_adapter(
    base: str | Path,
    adapter: Path | None,
    out_dir: Path,
    options: MergeOptions | None = None,
    observe: Callable[[str, Any], None] | None = None,
) -> Probe:
    """Save backbone plus adapter as one model folder with its tokenizer.

    Args:
        base: Folder or hub name of the backbone.
        adapter: Folder of a PEFT LoRA adapter, or None to save the backbone alone.
        out_dir: Folder to write, directly.
        options: How to merge.
        observe: Called with "adapter" and the model before merging, then with "merge" and the merged model.

    Returns:
        The logits before merging, which the converted file must reproduce.

    Raises:
        EdgebError: missing or damaged files, weights that are not finite or do not fit, an adapter for another
            backbone, or merged logits that differ.
    """
    from safetensors import SafetensorError

    options = options or MergeOptions()
    base_dir = find_backbone(base, options.revision)
    config = load_config(base_dir)
    weight_files(base_dir)
    tokenizer = load_tokenizer(base_dir)
    if adapter is not None:
        _check_adapter(adapter, base)
    model = load_model(base_dir, options.dtype, f"the backbone {base}")
    beyond = check_weights(model, str(base))
    if beyond and options.stored == "f16":
        raise EdgebError(beyond_f16(str(base), beyond), KEEP_F32)
    ids = list(options.probe_ids) or _spread_ids(int(config.vocab_size))
    observe = observe or (lambda stage, seen: None)
    if adapter is None:
        probe = Probe(ids, model_logits(model, ids), 0.0)
        observe("adapter", model)
    else:
        _check_shapes(model, adapter)
        model, probe = _merge(model, adapter, ids, options.dtype, observe)
    observe("merge", model)
    try:
        with _no_progress_bars():
            model.save_pretrained(out_dir)
        tokenizer.save_pretrained(out_dir)
    except SafetensorError as error:
        raise EdgebError(f"cannot write the merged model: {first_line(error)}", "free some disk space") from None
    return probe


def load_model(folder: Path, dtype: str, what: str) -> Any:
    """A model folder as any tool loads it, on the CPU.

    Args:
        folder: With safetensors weights.
        dtype: "float32", "float16" or "bfloat16", whatever the folder's.
        what: The model in the message: "the backbone x".

    Raises:
        EdgebError: it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with _no_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
    except Exception as error:  # safetensors, shape and type errors of many classes
        raise EdgebError(f"cannot load {what}: {first_line(error)}", "check or download its files") from None
    return loaded


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Hide Transformers' own progress bars."""
    from transformers.utils import logging as module

    logging: Any = module  # untyped functions
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _merge(
    model: Any, adapter: Path, ids: list[int], dtype: str, observe: Callable[[str, Any], None]
) -> tuple[Any, Probe]:
    from peft import PeftModel

    try:
        adapted: Any = PeftModel.from_pretrained(model, str(adapter), is_trainable=False, local_files_only=True)
    except Exception as error:  # PEFT passes on whatever torch raises
        raise EdgebError(
            f"cannot put the adapter {adapter} on the backbone: {first_line(error)}", _OTHER_BASE
        ) from None
    before = model_logits(adapted, ids)
    observe("adapter", adapted)
    merged = adapted.merge_and_unload(safe_merge=True)
    difference = logit_difference(before, model_logits(merged, ids))
    limit = TOLERANCES[dtype] * max(1.0, float(np.abs(before).max()))
    if not difference <= limit:
        raise EdgebError(
            f"merging {adapter} changed the logits by {difference:.3g} (limit {limit:.3g})",
            "merge in float32 or report it",
        )
    return merged, Probe(ids, before, difference)


def logit_difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Largest absolute difference; infinite where the shapes differ or a value is not a number."""
    if expected.shape != found.shape:
        return float("inf")
    difference = float(np.abs(expected - found).max())
    return difference if np.isfinite(difference) else float("inf")


def model_logits(model: Any, ids: list[int]) -> NDArray[np.float32]:
    """Next-token logits of a Transformers or PEFT model after every id, shape [T, V]."""
    import torch

    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    result: NDArray[np.float32] = logits.float().numpy()
    return result


def _spread_ids(vocab_size: int) -> list[int]:
    """Random ids from the whole vocabulary, the same every time."""
    return [int(i) for i in np.random.default_rng(0).integers(0, vocab_size, PROBE_LENGTH)]


def _check_adapter(adapter: Path, base: str | Path) -> None:
    """Refuse an adapter folder whose files are missing, that is no LoRA, or that names another backbone."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter / name).is_file():
            raise EdgebError(f"the adapter file {adapter / name} is missing", "pass a stage folder of a finished run")
    try:
        settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgebError(
            f"cannot read {adapter / ADAPTER_CONFIG}: {first_line(error)}", "train the stage again"
        ) from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise EdgebError(f"{adapter} is not a LoRA adapter", "pass a stage folder of a finished run")
    named = settings.get("base_model_name_or_path")
    # Folders move, so only two hub names, neither of them a folder here, can contradict each other.
    hub_names = [n for n in (named, base) if isinstance(n, str) and n.count("/") == 1 and not Path(n).exists()]
    if len(hub_names) == 2 and named != base:
        raise EdgebError(f"the adapter {adapter} is for {named}, not for {base}", _OTHER_BASE)


def _check_shapes(model: Any, adapter: Path) -> None:
    """Refuse an adapter whose modules the backbone lacks or has in another shape."""
    modules = dict(model.named_modules())
    layers, checked = model.config.num_hidden_layers, 0
    with open_weights(adapter / ADAPTER_WEIGHTS) as weights:
        for key in weights.keys():  # noqa: SIM118
            match = _LORA_KEY.fullmatch(key)
            if match is None:
                continue
            name, side = match["module"], match["side"]
            module = modules.get(name)
            if module is None or not hasattr(module, "in_features"):
                raise EdgebError(f"{adapter}: the backbone ({layers} layers) has no linear layer '{name}'", _OTHER_BASE)
            shape = weights.get_slice(key).get_shape()
            found, width = (shape[1], module.in_features) if side == "A" else (shape[0], module.out_features)
            if found != width:
                raise EdgebError(f"{adapter}: '{name}' is {found} wide, the backbone's is {width}", _OTHER_BASE)
            checked += 1
    if not checked:
        raise EdgebError(f"{adapter / ADAPTER_WEIGHTS} holds no LoRA weights", "train the stage again")
