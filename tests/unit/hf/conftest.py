"""The small models and tokenizers of the export tests, which ask the same questions later."""

from __future__ import annotations

from tests.unit.export.conftest import llama_cpp_source, real_tokenizers, tiny_adapter, tiny_base

__all__ = ["llama_cpp_source", "real_tokenizers", "tiny_adapter", "tiny_base"]
