"""Cost of scoring B-Tuning's pool: the label trie under a tree mask, labels on a cached prompt, or labels one by one.

    python -m benchmarks.pool_scoring --data 37=SYNTH --data 199=NYC --model tiny --model 0.5b-2 --tokenizer FOLDER

The three methods score the same windows in one process and take turns:

- `trie` is `score_windows`, as B-Tuning scores its pool: the static part of the prompt once, then every window and all
  labels in one forward pass, in batches.
- `cached` evaluates the static part once and every prompt once, then each label separately on the prompts' cached keys
  and values, for a batch of windows at a time.
- `labels` evaluates every pair of window and label as a separate sequence, in batches sorted by length.

All have the same bound on tokens per forward pass and normalize over the full vocabulary, at label positions only.
Models have seeded random weights: `tiny` is the `tiny` recipe's stand-in, `0.5b-N` is Qwen2-0.5B's geometry with N of
its 24 layers. The scores must agree. Adds to results/pool_scoring.json and rewrites the .md.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks import model_05b
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.scoring import TOKENS_PER_PASS
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.recipe import load_recipe
from edge_behavior.train.rows.samples import window_prompt
from edge_behavior.train.rows.windows import WindowSet, draw_formats
from edge_behavior.train.stages.scoring import ScoringPass, score_windows
from edge_behavior.train.standin.model import architecture, standin_tokenizer
from edge_behavior.train.trainer.backbone import load_tokenizer

RESULTS = Path(__file__).parent / "results"
# Largest product of rows and vocabulary for the other two methods; `trie` computes its logits in tiles.
MAX_LOGITS = 1 << 26
METHODS = ("trie", "cached", "labels")
# The small random weights of a new model would give every label nearly the same score.
SPREAD = 3.0
TARGET = 10.0
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One model and one dataset."""

    model: Any
    encoder: PromptEncoder
    table: EventTable

    def prompts(self, targets: NDArray[np.int64]) -> list[list[int]]:
        """Prompt ids, as in `score_windows`."""
        return [window_prompt(self.table, self.encoder, int(target)) for target in targets]


def by_trie(case: Case, targets: NDArray[np.int64]) -> Scores:
    """[n, B] by the package's own pass."""
    windows = WindowSet(case.table, targets, draw_formats(case.encoder, len(targets), 0))
    return score_windows(case.model, case.encoder, windows, ScoringPass("trie")).log_probs


def by_cache(case: Case, targets: NDArray[np.int64]) -> Scores:
    """[n, B]: prompts once, then label by label on their cache."""
    model, encoder, prompts = case.model, case.encoder, case.prompts(targets)
    static, paths = len(encoder.static_ids), _paths(encoder)
    longest = max(map(len, paths))
    found = np.empty((len(prompts), len(paths)))
    with torch.inference_mode():
        for batch in _batches([len(p) - static + longest for p in prompts], MAX_LOGITS // longest // _vocab(model)):
            bodies = [prompts[i][static:] for i in batch]
            width = max(map(len, bodies))
            ids = torch.tensor([[0] * (width - len(b)) + b for b in bodies])
            real = torch.tensor([[1] * static + [0] * (width - len(b)) + [1] * len(b) for b in bodies])
            cache = model(input_ids=torch.tensor([encoder.static_ids]), use_cache=True, logits_to_keep=1).cache
            cache.batch_repeat_interleave(len(batch))
            positions = (real.cumsum(1) - 1)[:, static:].clamp(min=static)
            logits = model(
                input_ids=ids,
                attention_mask=real,
                position_ids=positions,
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            first = torch.log_softmax(logits[:, -1].float(), -1)
            for j, path in enumerate(paths):
                total = first[:, path[0]].double()
                if len(path) > 1:
                    label = torch.tensor([path[:-1]]).expand(len(batch), -1)
                    logits = model(
                        input_ids=label,
                        attention_mask=torch.cat([real, torch.ones_like(label)], 1),
                        position_ids=positions[:, -1:] + 1 + torch.arange(len(path) - 1),
                        cache=cache,
                        use_cache=True,
                    ).logits
                    rows = torch.log_softmax(logits.float(), -1)
                    total = total + rows[:, range(len(path) - 1), path[1:]].double().sum(1)
                    cache.crop(1 - len(path))
                found[batch, j] = total.numpy()
    return found


def by_labels(case: Case, targets: NDArray[np.int64]) -> Scores:
    """[n, B]: every label as a sequence of its own, in batches."""
    model, prompts, paths = case.model, case.prompts(targets), _paths(case.encoder)
    device = next(model.parameters()).device
    pairs = [(i, j) for i in range(len(prompts)) for j in range(len(paths))]
    found = np.empty((len(prompts), len(paths)))
    rows = max(1, MAX_LOGITS // _vocab(model))
    with torch.inference_mode():
        for batch in _batches([len(prompts[i]) + len(paths[j]) - 1 for i, j in pairs], len(pairs)):
            chosen = [pairs[k] for k in batch]
            # No logits are needed after a label's last token, so it is not evaluated.
            texts = [prompts[i] + paths[j][:-1] for i, j in chosen]
            width = max(map(len, texts))
            # Padding at the end: no real token can see it.
            ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            at = [
                (row, len(prompts[i]) - 1 + step) for row, (i, j) in enumerate(chosen) for step in range(len(paths[j]))
            ]
            wanted = torch.tensor([token for _, j in chosen for token in paths[j]], device=device)
            row_of, column = torch.tensor(at, device=device).unbind(1)
            asked = hidden[row_of, column]
            sums = torch.zeros(len(chosen), dtype=torch.float64, device=device)
            for start in range(0, len(asked), rows):
                part = slice(start, start + rows)
                log_probs = torch.log_softmax(model.lm_head(asked[part]).float(), -1)
                own = log_probs.gather(1, wanted[part, None])[:, 0].double()
                sums.index_add_(0, row_of[part], own)
            for (i, j), value in zip(chosen, sums.tolist(), strict=True):
                found[i, j] = value
    return found


SCORERS: dict[str, Callable[[Case, NDArray[np.int64]], Scores]] = {
    "trie": by_trie,
    "cached": by_cache,
    "labels": by_labels,
}


def tokens_evaluated(case: Case, targets: NDArray[np.int64]) -> dict[str, float]:
    """Tokens per window of each method, without padding or a shared static part."""
    encoder, prompts, paths = case.encoder, case.prompts(targets), _paths(case.encoder)
    whole = float(np.mean([len(p) for p in prompts]))
    body, asked = whole - len(encoder.static_ids), sum(len(path) - 1 for path in paths)
    return {
        "trie": body + len(encoder.trie.evaluated),
        "cached": body + asked,
        "labels": len(paths) * whole + asked,
    }


def _batches(costs: list[int], most: int) -> list[list[int]]:
    """Indices sorted by cost, cut so that no batch exceeds the bound on tokens or `most` rows."""
    batches: list[list[int]] = []
    for i in sorted(range(len(costs)), key=lambda i: costs[i]):
        if batches and (len(batches[-1]) + 1) * costs[i] <= TOKENS_PER_PASS and len(batches[-1]) < most:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _paths(encoder: PromptEncoder) -> list[list[int]]:
    return [encoder.trie.path(i) for i in range(encoder.trie.n_candidates)]


def _vocab(model: Any) -> int:
    return int(model.config.vocab_size)


def opened(name: str, dataset: Dataset, table: EventTable, tokenizer: Path | None, listed: bool) -> Case:
    """A model by name, for a dataset's candidates."""
    recipe = load_recipe("tiny")
    layout = PromptLayout("stream", list_candidates=listed)
    torch.manual_seed(0)
    if name == "tiny":
        tokens: Any = standin_tokenizer(recipe, dataset.candidates, dataset.places)
        config = architecture(recipe.backbone, tokens)
    elif tokenizer is None:
        raise SystemExit(f"{name} needs --tokenizer")
    else:
        tokens, whole = load_tokenizer(str(tokenizer)), model_05b.geometry().to_dict()
        # One entry per layer, derived again for fewer.
        del whole["layer_types"]
        config = Qwen2Config(**{**whole, "num_hidden_layers": int(name.partition("-")[2])})
    model: Any = Qwen2ForCausalLM(config)
    model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(SPREAD)
    return Case(model, encoder_for(tokens, layout, dataset.candidates), table)


def measure(case: Case, windows: dict[str, int], rounds: int, seed: int) -> dict[str, Any]:
    """Time the methods in turns; `windows` is how many each one scores per turn. The first call is not timed."""
    rng = np.random.default_rng(seed)
    eligible = natural_windows(case.table, case.encoder.layout.history_length)
    targets = rng.choice(eligible, max(windows.values()), replace=False)
    fewest = min(windows.values())
    scores = {method: SCORERS[method](case, targets[:fewest]) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    cpu: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            began, used = time.perf_counter(), time.process_time()
            SCORERS[method](case, targets[: windows[method]])
            seconds[method].append((time.perf_counter() - began) / windows[method])
            cpu[method].append((time.process_time() - used) / windows[method])
    tokens = tokens_evaluated(case, targets)
    trie = case.encoder.trie
    return {
        "labels": trie.n_candidates,
        "static_tokens": len(case.encoder.static_ids),
        "trie_tokens": len(trie.evaluated),
        "compared_windows": fewest,
        "ways": {
            method: {
                "windows_per_turn": windows[method],
                "seconds_per_window": seconds[method],
                "cpu_seconds_per_window": cpu[method],
                "windows_per_second": 1 / float(np.median(seconds[method])),
                "tokens_per_window": tokens[method],
                "times_the_trie": float(np.median(np.array(seconds[method]) / seconds["trie"])),
                "times_the_trie_cpu": float(np.median(np.array(cpu[method]) / cpu["trie"])),
                "max_difference": float(np.abs(scores[method] - scores["trie"]).max()),
                "same_first": float((scores[method].argmax(1) == scores["trie"].argmax(1)).mean()),
            }
            for method in METHODS
        },
        "score_spread": float(scores["trie"].std(1).mean()),
    }


def page(document: dict[str, Any]) -> str:
    lines = [
        "# Cost of scoring the pool",
        f"`{document['command']}`",
        "Windows per second of `score_windows` (`trie`), of a cached prompt with one label at a time (`cached`) and "
        "of a forward pass per label (`labels`), in turns in one process, one thread, float32 on a CPU, random "
        "weights. "
        "Times as long: the median over turns of wall time per window relative to `trie`, CPU time in brackets. "
        "Tokens per window exclude padding, and the static part where it is evaluated once for all. Difference: "
        "the largest over windows and labels, in nats of log p(y|x), against `trie`. The machine was not idle: "
        "compare the two ratios.",
    ]
    rows = [
        "| model | labels | static tokens | method | turns × windows | windows/s | tokens per window "
        "| times as long (CPU) | max difference |\n|---|---:|---:|---|---:|---:|---:|---:|---:|"
    ]
    reached = []
    for case in document["cases"]:
        for method, row in case["ways"].items():
            difference = "–" if method == "trie" else f"{row['max_difference']:.1e}"
            rows.append(
                f"| {case['model']} | {case['labels']} | {case['static_tokens']} | {method} | "
                f"{case['rounds']} × {row['windows_per_turn']} | "
                f"{row['windows_per_second']:.3g} | {row['tokens_per_window']:.0f} | {row['times_the_trie']:.1f} "
                f"({row['times_the_trie_cpu']:.1f}) | {difference} |"
            )
        reached.append(case["ways"]["labels"]["times_the_trie"])
    lines.append("\n".join(rows))
    verdict = "reached in every case" if min(reached) >= TARGET else "not reached in every case"
    lines.append(
        f"At least {TARGET:.0f} times faster than a forward pass per label: {verdict}, {min(reached):.1f} to "
        f"{max(reached):.1f} times. `0.5b-N` has Qwen2-0.5B's widths and vocabulary and N of its 24 layers; with fewer "
        "layers, the output matrix takes a larger share, which all methods pay equally per label position."
    )
    return "\n\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, metavar="NAME=DATASET")
    parser.add_argument("--model", action="append", required=True, metavar="tiny|0.5b-LAYERS")
    parser.add_argument("--tokenizer", type=Path, help="Hugging Face folder with the Qwen2 or Qwen2.5 tokenizer")
    parser.add_argument("--listed", action="store_true", help="name the candidates in the static part")
    parser.add_argument("--windows", type=int, nargs=3, default=[32, 8, 2], metavar=("TRIE", "CACHED", "LABELS"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "pool_scoring.json"
    held = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {"cases": []}
    windows = dict(zip(METHODS, args.windows, strict=True))
    for text in args.data:
        name, _, path = text.partition("=")
        dataset = Dataset.open(Path(path))
        table = dataset.events("test")
        for model in args.model:
            key = {"model": model, "data": name, "listed": args.listed}
            case = opened(model, dataset, table, args.tokenizer, args.listed)
            found = {**key, "rounds": args.rounds, **measure(case, windows, args.rounds, args.seed)}
            held["cases"] = [c for c in held["cases"] if any(c[k] != v for k, v in key.items())] + [found]
            document = {
                "command": "python -m benchmarks.pool_scoring --data NAME=DATASET … --model MODEL … --tokenizer FOLDER "
                "[--listed] [--windows TRIE CACHED LABELS]",
                "measured": time.strftime("%Y-%m-%d"),
                "machine": f"{platform.machine()}, one thread, torch {torch.__version__}",
                "cases": sorted(
                    held["cases"], key=lambda c: (c["model"] != "tiny", c["model"], c["labels"], c["listed"])
                ),
            }
            results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            (args.out / "pool_scoring.md").write_text(page(document), encoding="utf-8")
    print(page(document))


if __name__ == "__main__":
    main()
