"""How much faster llama.cpp's extra buffers make a decode on this CPU, by weight format and number of tokens.

    python -m benchmarks.extra_buffers

A random model with the widths of Qwen2-0.5B and 6 layers; models with and without take turns, on one thread. Writes
results/extra_buffers.md. On a CPU without AMX it shows what a library that crashes on AMX costs until it is rebuilt.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from unittest.mock import patch

from transformers import Qwen2ForCausalLM

from edge_behavior.bench.timing import Machine
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.simulator.behaviors import LABELS, PLACES
from edge_behavior.export.gguf.quantize import quantize
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.runtime.llama.context import ContextOptions, LlamaContext
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.train.recipe import BackboneConfig
from edge_behavior.train.standin.everyday import EverydayText
from edge_behavior.train.standin.model import architecture, document_text, train_tokenizer

RESULTS = Path(__file__).parent / "results" / "extra_buffers.md"
FORMATS = ("f16", "q8", "q5", "q4", "q4_0")
TOKENS = (1, 8, 64, 256)
ROUNDS = 15


def make(folder: Path) -> Path:
    """An f16 file of random weights."""
    documents = islice(EverydayText(list(LABELS), list(PLACES), 0).documents(), 300)
    tokens = train_tokenizer((document_text(d, PromptLayout()) for d in documents), 600)
    config = architecture(BackboneConfig(hidden_size=896, layers=6, intermediate_size=4864), tokens)
    Qwen2ForCausalLM(config).save_pretrained(folder / "hf")
    tokens.save_pretrained(folder / "hf")
    write_gguf(folder / "hf", folder / "f16.gguf")
    return folder / "f16.gguf"


def compare(path: Path) -> dict[int, tuple[float, float]]:
    """Median milliseconds of one decode, with extra buffers and without, by its number of tokens."""
    taken: dict[int, tuple[list[float], list[float]]] = {count: ([], []) for count in TOKENS}
    with ExitStack() as stack:
        contexts = []
        for extra in (True, False):
            with patch("edge_behavior.runtime.llama.model.extra_buffers", return_value=extra):
                model = stack.enter_context(LlamaModel(path))
            contexts.append(stack.enter_context(LlamaContext(model, ContextOptions(max(TOKENS), threads=1))))
        for turn in range(ROUNDS):
            for count in TOKENS:
                # Alternate, since the second one finds the CPU caches full of the first one's weights.
                for which in (0, 1) if turn % 2 else (1, 0):
                    for repeat in range(2):
                        contexts[which].keep(0)
                        ms = contexts[which].decode(range(1, count + 1)) * 1000
                        if repeat:
                            taken[count][which].append(ms)
    return {count: (median(with_them), median(without)) for count, (with_them, without) in taken.items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    about = Machine.here(1)
    lines = [
        "# llama.cpp's extra buffers",
        "",
        f"By benchmarks/extra_buffers.py on {about.processor}, one thread, llama-cpp-python",
        f"{about.llama_cpp_python} ({about.llama_cpp_features}).",
        "Milliseconds of one decode with them → without them, medians; how many times longer without.",
        "",
        "| format | " + " | ".join(f"{count} token{'s' * (count > 1)}" for count in TOKENS) + " |",
        "|---|" + "---|" * len(TOKENS),
    ]
    with tempfile.TemporaryDirectory() as folder:
        source = make(Path(folder))
        for name in FORMATS:
            path = source
            if name != "f16":
                path = Path(folder) / f"{name}.gguf"
                quantize(source, path, name)
            cells = [f"{a:.1f} → {b:.1f} ({b / a:.2f})" for a, b in compare(path).values()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
