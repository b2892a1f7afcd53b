"""What of a backbone can be refused before torch and Transformers are imported, which takes seconds.

Reads config.json, tokenizer.json, file names and a GGUF file's header. Everything that it refuses, the checks of
`hf.architectures` and `trainer.backbone` refuse as well; they look deeper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_behavior.bundle.gguf_header import ARRAY, GgufFile
from edge_behavior.errors import EdgebError
from edge_behavior.hf.architectures import check_architecture
from edge_behavior.hf.find import find_backbone, gguf_file
from edge_behavior.hf.folder import check_no_pickle, read_model_json
from edge_behavior.hf.gguf_tokenizer import known_pre_tokenizer
from edge_behavior.hf.gguf_vocab import UnsupportedBackboneError, check_tokenizer
from edge_behavior.hf.gguf_weights import known_architecture
from edge_behavior.train.recipe import BackboneConfig

# Settings that change logits after the output layer, or attention scores, by the value that changes nothing.
_LOGITS: dict[str, Any] = {
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "logits_soft_cap": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
}


def first_look(settings: BackboneConfig) -> None:
    """Refuse a recipe's backbone for what its small files say; of a hub model they are downloaded.

    Raises:
        EdgebError: no such backbone, an unsupported architecture or tokenizer (with the list), pickled weights; with
            `export: none` only what cannot be trained or scored.
    """
    if settings.path is None:
        return
    file = gguf_file(settings.path)
    if file is not None:
        _look_into(file)
        return
    folder = find_backbone(settings.path, settings.revision, weights=False)
    check_no_pickle(folder)
    if settings.export == "none":
        check_logits(read_model_json(folder / "config.json"), f"{folder}/config.json")
        return
    with telling_of_export():
        check_architecture(folder)
        check_tokenizer(folder)


@contextmanager
def telling_of_export() -> Iterator[None]:
    """Adds to a refusal that only concerns export how to train all the same."""
    try:
        yield
    except UnsupportedBackboneError as error:
        raise EdgebError(error.message, f"{error.hint}; backbone.export=none trains without exporting") from None


def check_logits(config: Mapping[str, Any], where: str) -> None:
    """Refuse a backbone whose logits are not those of its output layer, which is what label tries are scored by.

    Args:
        config: A configuration's fields.
        where: Named in the message.

    Raises:
        EdgebError: naming the field.
    """
    for part in (config, config.get("text_config") or {}):
        for field, neutral in _LOGITS.items():
            value = part.get(field, neutral)
            if value not in (None, neutral):
                raise EdgebError(
                    f"{where}: {field} = {value!r} scales or caps logits, which scoring does not follow",
                    "use a backbone that does neither, such as Qwen3, Llama or Gemma 3",
                )


def _look_into(file: Path) -> None:
    try:
        with GgufFile(file) as header:
            values = {e.key: header.value(e) for e in header.metadata() if e.kind != ARRAY}
    except EdgebError as error:
        raise EdgebError(error.message, "download it again") from None
    known_architecture(file, values)
    known_pre_tokenizer(values)
