"""A whole training run: backbone, A-Tuning, pool, B-Tuning, evaluation, report. Every stage skips what is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import set_seed

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import SPLITS, Dataset, EventTable
from edge_behavior.data.verify import verify
from edge_behavior.hf.finite import KEEP_F32, beyond_f16, check_weights
from edge_behavior.train.evaluate_run import evaluate_models
from edge_behavior.train.preflight import check_inputs
from edge_behavior.train.recipe import Recipe, StageConfig
from edge_behavior.train.rows.batches import batch_order, batched
from edge_behavior.train.rows.conversations import Conversations, generated_conversations, read_conversations
from edge_behavior.train.rows.lazy import JoinedRows, KeptRows, OrderedRows, Rows
from edge_behavior.train.rows.samples import behavior_rows
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.inputs import located, pinned
from edge_behavior.train.run.metrics import write_metrics
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.run.stage_record import SCRATCH, done_stages, finish
from edge_behavior.train.run.start import start_run
from edge_behavior.train.stages.a_tuning import as_dataset, flows_padding_free, train_sft
from edge_behavior.train.stages.b_tuning import train_dpo
from edge_behavior.train.stages.keep_best import KeepBest
from edge_behavior.train.stages.pool import choose_pairs, chosen_rows, preference_rows, score_pool, write_pairs
from edge_behavior.train.trainer.failures import explained
from edge_behavior.train.trainer.lora import lora_config
from edge_behavior.train.trainer.processes import console, idle_gpus, is_main, release_memory, state, wait
from edge_behavior.train.trainer.progress import progress_bar
from edge_behavior.util.cpus import usable_threads

# Fewer events are read in a moment.
_LARGE = 10_000_000


class Training:
    """One run in progress: what its stages share. With several processes each of them runs every stage."""

    def __init__(self, recipe: Recipe, dataset: Dataset, run: RunFolder) -> None:
        own = torch.get_num_threads()
        threads = usable_threads(recipe.threads, own)
        if recipe.threads is not None or threads < own:
            torch.set_num_threads(threads)
        self.recipe, self.dataset, self.run = recipe, dataset, run
        self._train, self._validation = dataset.events("train"), dataset.events("validation")
        self.models = RunModels(run, recipe.backbone)

    def execute(self) -> None:
        """All stages in order; finished ones are skipped."""
        stages: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
            ("backbone", self._build_backbone),
            ("a_tuning", self._a_tuning),
            ("b_tuning", self._b_tuning),
            ("evaluation", self._evaluate),
            ("report", self._report),
        )
        for name, stage in stages:
            if self.run.done(name) is not None:
                console().print(f"{name}: done before")
            else:
                set_seed(self.recipe.seed)
                started = perf_counter()
                try:
                    report = stage()
                except Exception as error:
                    clear = explained(error, name, self.recipe, self.run.path)
                    if clear is None:
                        raise
                    raise clear from None
                release_memory()
                if is_main():
                    seconds = round(perf_counter() - started, 1)
                    finish(self.run, name, {**report, "seconds": seconds}, self.recipe)
            if is_main():
                self._tidy(name)
            wait()

    def _tidy(self, stage: str) -> None:
        """Drop what only an unfinished stage needs; checkpoints hold pickled state."""
        for name in SCRATCH:
            shutil.rmtree(self.run.path / stage / name, ignore_errors=True)
        if stage == "evaluation":
            shutil.rmtree(self.run.path / stage, ignore_errors=True)

    def _logs(self, stage: str) -> Path:
        return self.run.path / "logs" / stage

    def _build_backbone(self) -> dict[str, Any]:
        if self.recipe.backbone.path is not None:
            return {}
        from edge_behavior.train.standin.model import build_standin

        folder, building = self.run.path / "backbone", self.run.path / ".backbone"
        if is_main():
            shutil.rmtree(building, ignore_errors=True)
        report = build_standin(
            self.recipe, self.dataset.candidates, self.dataset.places, building, self._logs("backbone")
        )
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        return report

    def _a_tuning(self) -> dict[str, Any]:
        recipe, stage = self.recipe, self.recipe.a_tuning
        folder = self.run.path / "a_tuning"
        if stage.method == "none":
            adapter = get_peft_model(self._checked_backbone(), lora_config(recipe.lora))
            if is_main():
                adapter.save_pretrained(str(folder / "adapter"))
            return {"method": "none"}
        epochs, counts = a_tuning_rows(self._train, self.models.encoder, self.models.tokenizer, recipe)
        held_out = behavior_rows(
            self._validation, self.models.encoder, stage, recipe.evaluation.validation_targets, seed=recipe.seed
        )
        per_epoch, steps = steps_of(stage, len(epochs[0]), len(epochs))
        model = self._checked_backbone()
        by_length = not flows_padding_free(model, stage)
        rows = [_batched_rows(rows, stage, recipe.seed + i, by_length) for i, rows in enumerate(epochs)]
        validation = _batched_rows(held_out, stage, recipe.seed, True)
        result = train_sft(
            model, self.models.tokenizer, as_dataset(rows), as_dataset([validation]), recipe, "a_tuning", per_epoch,
            steps, folder, self._logs("a_tuning"),
        )  # fmt: skip
        return {"method": stage.method, **counts, **result}

    def _checked_backbone(self) -> Any:
        """The backbone in memory, its weights looked at once."""
        model = self.models.load("untuned")
        beyond = check_weights(model, self.run.backbone)
        if beyond and self.recipe.backbone.export != "none":
            console().print(f"edgeb: {beyond_f16(self.run.backbone, beyond)}: {KEEP_F32}", markup=False, soft_wrap=True)
        return model

    def _b_tuning(self) -> dict[str, Any]:
        recipe, stage = self.recipe, self.recipe.b_tuning
        folder = self.run.path / "b_tuning"
        model = self.models.load("a_tuning", trainable=True)
        if stage.method == "none":
            if is_main():
                model.save_pretrained(folder / "adapter")
            return {"method": "none"}
        pool = score_pool(model, self.models.encoder, self._train, recipe, folder / "pool")
        pairs, summary = choose_pairs(pool, self._train, recipe)
        if summary["without_sample"]:
            console().print(
                f"no training window shows {', '.join(summary['without_sample'])}: B-Tuning cannot balance them"
            )
        if is_main():
            write_pairs(self.run.path / "pairs.jsonl", pairs, self._train, self.models.encoder)
        rows = preference_rows(pairs, self._train, self.models.encoder)
        per_epoch, steps = steps_of(stage, len(rows), stage.epochs)
        every = max(1, round(per_epoch / stage.evals_per_epoch))
        keep = KeepBest(model, self.models.encoder, self._validation, recipe, folder / "best", every)
        passes = range(max(1, int(np.ceil(stage.epochs))))
        if stage.method == "dpo":
            lengths = [len(row["prompt_ids"]) for row in rows]
            ordered = [r for i in passes for r in batched(rows, lengths, stage.batch_size, recipe.seed + i, False)]
            result = train_dpo(
                model, self.models.tokenizer, ordered, recipe, steps, folder, self._logs("b_tuning"), [keep]
            )
        else:
            answers = KeptRows(chosen_rows(rows))
            epochs = [_batched_rows(answers, stage, recipe.seed + i, False) for i in passes]
            result = train_sft(
                model, self.models.tokenizer, as_dataset(epochs), None, recipe, "b_tuning", per_epoch, steps, folder,
                self._logs("b_tuning"), [keep],
            )  # fmt: skip
        keep.recall(result["steps"])
        keep.keep(folder / "adapter")
        kept = {"method": stage.method, "best_step": keep.best_step, "validation": keep.history}
        return {**summary, **result, **kept}

    def _evaluate(self) -> dict[str, Any]:
        length, shards = self.run.layout.history_length, self.run.path / "evaluation"
        found = evaluate_models(self.dataset, self.recipe, self.models, length, shards)
        if is_main():
            write_metrics(self.run, found)
        return {}

    def _report(self) -> dict[str, Any]:
        from edge_behavior.train.report.card import write_card
        from edge_behavior.train.report.page import write_report

        if is_main():
            write_report(self.run, self.dataset)
            write_card(self.run, self.dataset)
        return {}


def _batched_rows(rows: Rows, stage: StageConfig, seed: int, by_length: bool) -> Rows:
    return OrderedRows(rows, batch_order(rows.lengths, stage.batch_size, seed, by_length))


def a_tuning_rows(
    train: EventTable, encoder: PromptEncoder, tokenizer: Any, recipe: Recipe
) -> tuple[list[Rows], dict[str, Any]]:
    """Rows of every epoch of stage 1 (a fresh draw each), conversations at the end, and what they count."""
    stage = recipe.a_tuning
    wanted = max(1, int(np.ceil(stage.epochs)))
    if stage.aux_ratio:
        turns = (
            read_conversations(Path(stage.aux_path))
            if stage.aux_path
            else generated_conversations(train.candidates.labels, recipe.seed)
        )
        conversations = Conversations(turns, tokenizer)
    epochs: list[Rows] = []
    targets, auxiliary = 0, 0
    for epoch in range(wanted):
        seed = recipe.seed + 1000 * epoch
        rows = behavior_rows(train, encoder, stage, stage.max_targets, seed)
        targets += int(rows.targets.sum())
        epochs.append(rows)
        if stage.aux_ratio:
            longest = stage.aux_max_tokens or int(rows.lengths.max())
            extra = conversations.sample(round(stage.aux_ratio * len(rows)), longest, seed)
            auxiliary += len(extra)
            epochs[-1] = JoinedRows([rows, extra])
    tokens = sum(int(rows.lengths.sum()) for rows in epochs)
    counts = {
        "sequences_per_epoch": len(epochs[0]),
        "targets_per_epoch": targets // wanted,
        "conversations_per_epoch": auxiliary // wanted,
        "tokens_per_epoch": tokens // wanted,
    }
    return epochs, counts


def steps_of(stage: StageConfig, rows_per_epoch: int, epochs: float) -> tuple[int, int]:
    """Optimizer steps of one epoch and of the whole stage."""
    per_epoch = max(1, -(-rows_per_epoch // stage.batch_size))
    total = max(1, round(per_epoch * min(stage.epochs, epochs)))
    return per_epoch, min(total, stage.max_steps or total)


def train(
    recipe: Recipe, dataset: Dataset, out: Path, resume: bool = False, began: Callable[[], None] = lambda: None
) -> RunFolder:
    """Run the recipe on a dataset; `began` is called once the run folder is there.

    Raises:
        EdgebError: bad recipe, data or backbone; the run folder then holds what was finished.
    """
    state()
    if more := idle_gpus():
        console().print(f"one of {more + 1} GPUs is used: start with torchrun --nproc-per-node {more + 1} to use all")
    recipe = located(recipe, out) if resume else pinned(recipe)
    check_inputs(recipe, dataset, done_stages(RunFolder.open(out)) if resume else ())
    if is_main():
        _verify(dataset)
    run = start_run(recipe, dataset, out, resume)
    if is_main():
        began()
    Training(recipe, dataset, run).execute()
    return run


def _verify(dataset: Dataset) -> None:
    """See that the events are those that were imported; large logs with a progress bar."""
    events = sum(int(dataset.info["splits"][split]["events"]) for split in SPLITS)
    if events < _LARGE:
        verify(dataset)
        return
    with progress_bar() as bar:
        task = bar.add_task("verify the dataset", total=events, note="events")
        verify(dataset, lambda read: bar.update(task, advance=read))
