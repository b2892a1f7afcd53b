"""Golden vectors over LiteRT bundles, converted on the spot: what `goldens` writes, for the other engine.

    python -m tests.android.litert_goldens FOLDER

needs the packages of `edgeb export --format litert`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.population import PopulationTable
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.writer import write_gguf
from tests import helpers, litert_files
from tests.android.golden import litert_cases, npu_cases
from tests.android.golden.texts import LABELS
from tests.android.goldens import bundle_of, golden_of
from tests.label_sets import many_labels
from tests.unit.export.conftest import gemma3, gemma_tokenizer

CACHE = 2048


def write_litert_goldens(folder: Path) -> Path:
    """Write everything into a folder; returns golden.json.

    Raises:
        EdgebError: a package that converts is missing, or it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = helpers.tokenizer(LABELS, size=700)
    model = helpers.model(tokens)
    model.config.max_position_embeddings = CACHE
    backbone = helpers.save(model, tokens, folder / "backbone")
    write_gguf(backbone, folder / "plain.gguf", "f32")
    plain = partial(_write, backbone, folder / "plain.gguf")
    eos = int(tokens.eos_token_id)
    windowed_tokens = gemma_tokenizer()
    windowed = helpers.save(gemma3(len(windowed_tokens)), windowed_tokens, folder / "windowed")
    write_gguf(windowed, folder / "windowed.gguf", "f32")
    prefix = PromptLayout(name="prefix", list_candidates=False, history_length=5)
    bundles = [
        bundle_of(folder, folder / "stream.tflite", plain, PromptLayout(), eos),
        bundle_of(folder, folder / "full.tflite", plain, PromptLayout(history_length=6), eos, full=True),
        bundle_of(folder, folder / "instruct.tflite", plain, PromptLayout("instruct", history_length=5), eos),
        # Nodes for several passes behind a prompt, and a session's window that outgrows the context.
        bundle_of(
            folder,
            folder / "many.tflite",
            plain,
            PromptLayout(list_candidates=False),
            eos,
            labels=many_labels(150),
            context_length=768,
        ),
        bundle_of(folder, folder / "tight.tflite", plain, PromptLayout(list_candidates=False), eos, context_length=512),
        # Layers that attend to the last 24 positions.
        bundle_of(
            folder,
            folder / "windowed.tflite",
            partial(_write, windowed, folder / "windowed.gguf"),
            prefix,
            int(windowed_tokens.eos_token_id),
            labels=LABELS[:8],
            architecture="gemma3",
        ),
        # By calls of one size, as an NPU has them: it has contexts beside it, which nothing runs.
        bundle_of(folder, folder / "npu.tflite", partial(plain, with_contexts=True), PromptLayout(), eos),
    ]
    return golden_of(folder, bundles, litert_cases.refused(folder), "stream.tflite")


def _write(
    backbone: Path,
    tokenizer: Path,
    manifest: Manifest,
    out: Path,
    population: PopulationTable | None = None,
    with_contexts: bool = False,
) -> Any:
    written = read_manifest(litert_files.converted(backbone, tokenizer, manifest, out, CACHE, population))
    if with_contexts:
        npu_cases.write_folder(out, written)
    return written


if __name__ == "__main__":
    print(write_litert_goldens(Path(sys.argv[1])))
