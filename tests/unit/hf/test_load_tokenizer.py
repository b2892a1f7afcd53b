"""A tokenizer is read as its tokenizer.json has it, whatever class its settings name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.gguf_vocab import check_tokenizer, read_vocab
from tests.unit.export.conftest import SMALL_TOKENIZERS

TEXT = "(Mon 20, home, Short Video)\n12:45 über 2024!"


@pytest.mark.parametrize(
    "named", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"]
)
@pytest.mark.parametrize("kind", ["smollm", "llama3"])
def test_the_class_that_is_named_changes_nothing(kind: str, named: str, tmp_path: Path) -> None:
    """SmolLM2 is published as a GPT2Tokenizer, which Transformers 5 builds without the step that splits digits."""
    saved = SMALL_TOKENIZERS[kind]()
    saved.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": named}))
    loaded = load_tokenizer(tmp_path)
    assert loaded(TEXT).input_ids == saved(TEXT).input_ids
    assert (loaded.bos_token_id, loaded.eos_token_id) == (saved.bos_token_id, saved.eos_token_id)
    assert read_vocab(loaded, len(saved)) == read_vocab(saved, len(saved))


@pytest.mark.parametrize("kind", SMALL_TOKENIZERS)
def test_supported_ones_pass_the_check_of_the_file_alone(kind: str, tmp_path: Path) -> None:
    SMALL_TOKENIZERS[kind]().save_pretrained(tmp_path)
    check_tokenizer(tmp_path)


def test_older_files_leave_fields_out(tmp_path: Path) -> None:
    SMALL_TOKENIZERS["smollm"]().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    fields = json.loads(file.read_text())
    del fields["pre_tokenizer"]["pretokenizers"][1]["use_regex"]
    del fields["model"]["ignore_merges"]
    file.write_text(json.dumps(fields))
    check_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    check_tokenizer(tmp_path)
