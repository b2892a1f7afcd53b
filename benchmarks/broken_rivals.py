"""Breaks what makes each of the paper's rivals itself, one place at a time, and runs the test that has to notice.

    python -m benchmarks.broken_rivals [--only NAME] --out benchmarks/results/broken_rivals.json

Works on a copy of the package and its tests, which first have to pass there as they are. A breakage that its test does
not notice ends the run with exit code 1, and so does one whose text is no longer in the source.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edge_behavior.util.markdown import markdown_table
from edge_behavior.util.progress import progress_bar

ROOT = Path(__file__).parents[1]
_SOURCE, _TESTS = "edge_behavior/baselines/language", "tests/unit/baselines/language"


@dataclass(frozen=True)
class Breakage:
    """One change to the source.

    Attributes:
        system: Whose mechanism it breaks.
        what: What is wrong after it.
        file: Module of baselines/language.
        old: Text in it, once.
        new: What stands there instead.
        test: Module and function that has to notice.
    """

    system: str
    what: str
    file: str
    old: str
    new: str
    test: str


BREAKAGES = [
    Breakage(
        "TALLRec",
        "no general data",
        "tallrec.py",
        "        fit.general(model, self.conversations)\n",
        "",
        "test_mechanisms.py::test_each_step_trains_what_is_its_own",
    ),
    Breakage(
        "TALLRec",
        "no behaviors",
        "tallrec.py",
        '        fit.tune(model, "text")\n',
        "",
        "test_mechanisms.py::test_each_step_trains_what_is_its_own",
    ),
    Breakage(
        "TALLRec",
        "frequent behaviors only",
        "fitting.py",
        '"targets": "all",',
        '"targets": "anchors",',
        "test_mechanisms.py::test_every_behavior_of_the_training_users_is_asked_for",
    ),
    Breakage(
        "LLaRA",
        "no curriculum: always hybrid",
        "llara.py",
        "self.curriculum else None, self.curriculum)",
        "self.curriculum else None, None)",
        "test_mechanisms.py::test_llaras_curriculum_ends_where_it_is_set",
    ),
    Breakage(
        "LLaRA",
        "the curriculum falls",
        "rows.py",
        "< rising",
        "< rising[::-1]",
        "test_rows.py::test_a_curriculum_goes_from_text_only_to_hybrid",
    ),
    Breakage(
        "LLaRA",
        "a state of the user, not an item's embedding",
        "llara.py",
        "F.embedding(behavior, self.events.item_vectors())",
        "self.events.states(behavior, event, target)",
        "test_vectors.py::test_llara_shows_the_embedding_of_the_behavior_before_each_line",
    ),
    Breakage(
        "LLaRA",
        "predictions show no vectors",
        "llara.py",
        "return fit.fitted(model, events if self.curriculum else None)",
        "return fit.fitted(model)",
        "test_mechanisms.py::test_vectors_in_predictions_are_of_the_events_before_the_target",
    ),
    Breakage(
        "LLaRA",
        "vectors at curriculum zero, too",
        "llara.py",
        'fit.tune(model, "hybrid", events if self.curriculum else None, self.curriculum)',
        'fit.tune(model, "hybrid", events, self.curriculum or 1.0)',
        "test_language_systems.py::test_llara_at_curriculum_zero_is_tallrec",
    ),
    Breakage(
        "CoLLM",
        "mapping and adapter are tuned together",
        "collm.py",
        "        model.freeze_language()\n",
        "",
        "test_mechanisms.py::test_each_step_trains_what_is_its_own",
    ),
    Breakage(
        "CoLLM",
        "no step on text",
        "collm.py",
        '        fit.tune(model, "text")\n',
        "",
        "test_mechanisms.py::test_each_step_trains_what_is_its_own",
    ),
    Breakage(
        "CoLLM",
        "an item's embedding, not the user's state",
        "collm.py",
        "self.events.states(behavior, event, target)",
        "self.events.item_vectors()[behavior]",
        "test_vectors.py::test_collm_shows_the_state_of_the_user_before_each_line",
    ),
    Breakage(
        "CoLLM",
        "vectors without being mapped",
        "collm.py",
        "if not self.mapped:",
        "if False:",
        "test_language_systems.py::test_collm_without_the_mapped_tokens_is_tallrec",
    ),
    Breakage(
        "CoLLM",
        "predictions show no vectors",
        "collm.py",
        "return fit.fitted(model, events)",
        "return fit.fitted(model)",
        "test_mechanisms.py::test_vectors_in_predictions_are_of_the_events_before_the_target",
    ),
    Breakage(
        "CoLLM, LLaRA, A-LLMRec",
        "vectors before a line know its event",
        "rows.py",
        "causal_row(self.columns[table], start, stop, self.symbol)",
        "causal_row(self.columns[table], start + 1, stop + 1, self.symbol)",
        "test_mechanisms.py::test_vectors_in_training_are_of_the_rows_own_events",
    ),
    Breakage(
        "CoLLM, LLaRA, A-LLMRec",
        "the sequence model is tuned along",
        "model.py",
        "self.events = events.requires_grad_(False)",
        "self.events = events.requires_grad_(True)",
        "test_mechanisms.py::test_each_step_trains_what_is_its_own",
    ),
    Breakage(
        "A-LLMRec",
        "an adapter on the language model",
        "a_llmrec.py",
        "fit.model(tuned=False)",
        "fit.model()",
        "test_mechanisms.py::test_each_step_trains_what_is_its_own",
    ),
    Breakage(
        "A-LLMRec",
        "no matching",
        "a_llmrec.py",
        "F.mse_loss(encoded[answers], told[answers])",
        "F.mse_loss(encoded[answers], encoded[answers])",
        "test_mechanisms.py::test_a_llmrecs_losses_are_those_of_the_paper",
    ),
    Breakage(
        "A-LLMRec",
        "no reconstruction",
        "a_llmrec.py",
        "_RECONSTRUCTED, _TOLD = 0.5, 0.2",
        "_RECONSTRUCTED, _TOLD = 0.0, 0.0",
        "test_mechanisms.py::test_a_llmrecs_losses_are_those_of_the_paper",
    ),
    Breakage(
        "A-LLMRec",
        "no rating",
        "a_llmrec.py",
        "F.cross_entropy(states @ decoded[:-1].T, answers)",
        "F.mse_loss(decoded[answers], decoded[answers])",
        "test_mechanisms.py::test_a_llmrecs_losses_are_those_of_the_paper",
    ),
    Breakage(
        "A-LLMRec",
        "the joint network goes on learning",
        "a_llmrec.py",
        "joint.requires_grad_(False)",
        "joint",
        "test_mechanisms.py::test_each_step_trains_what_is_its_own",
    ),
    Breakage(
        "A-LLMRec",
        "items stand where the user should",
        "a_llmrec.py",
        "torch.stack([items, self.user(self.events.states(behavior, event, target))], 2)",
        "torch.stack([items, items], 2)",
        "test_vectors.py::test_a_llmrec_shows_the_joint_embedding_and_the_state",
    ),
    Breakage(
        "LLM-ESR",
        "no semantic view",
        "llm_esr.py",
        "torch.cat([super().item_vectors(), self.collaborative], 1)",
        "torch.cat([self.collaborative, self.collaborative], 1)",
        "test_label_systems.py::test_llm_esrs_views_ask_each_other",
    ),
    Breakage(
        "LLM-ESR",
        "views do not ask each other",
        "llm_esr.py",
        "torch.cat([self._encoded(asked), self._encoded(asking)], -1)",
        "torch.cat([self._encoded(meaning), self._encoded(others)], -1)",
        "test_label_systems.py::test_llm_esrs_views_ask_each_other",
    ),
    Breakage(
        "LLM-ESR",
        "no distillation",
        "llm_esr.py",
        "self.distillation * F.mse_loss(own, mean)",
        "0 * F.mse_loss(own, mean)",
        "test_label_systems.py::test_llm_esr_is_trained_towards_similar_users",
    ),
    Breakage(
        "LLM-ESR",
        "similar users get a gradient",
        "llm_esr.py",
        "        with torch.no_grad():\n",
        "        if True:\n",
        "test_label_systems.py::test_llm_esr_draws_users_towards_similar_ones_that_stay_where_they_are",
    ),
    Breakage(
        "LLM-ESR",
        "the least similar users",
        "llm_esr.py",
        "np.argsort(-likeness, ",
        "np.argsort(likeness, ",
        "test_label_systems.py::test_similar_users_do_similar_things",
    ),
    Breakage(
        "LLM-ESR",
        "the second view begins at random",
        "llm_esr.py",
        "nn.Parameter(self._principal(config.hidden))",
        "nn.Parameter(torch.randn_like(self._principal(config.hidden)))",
        "test_label_systems.py::test_llm_esrs_second_view_begins_as_a_pca_of_the_first",
    ),
    Breakage(
        "LLM-ESR",
        "label embeddings learn",
        "label_views.py",
        'self.register_buffer("labels", ',
        "self.labels = nn.Parameter(",
        "test_label_systems.py::test_llm_esr_without_the_second_view_is_sasrec_on_frozen_embeddings",
    ),
    Breakage(
        "AlphaFuse",
        "the language part is learned",
        "alphafuse.py",
        'self.register_buffer("language", torch.from_numpy(np.pad(coordinates, ((0, 1), (0, 0)))))',
        "self.language = torch.nn.Parameter(torch.from_numpy(np.pad(coordinates, ((0, 1), (0, 0)))))",
        "test_label_systems.py::test_alphafuse_leaves_the_language_subspace_untouched",
    ),
    Breakage(
        "AlphaFuse",
        "numbers are learned over the language part",
        "alphafuse.py",
        "torch.cat([self.language, self.items.weight], 1)",
        "torch.cat([self.language + self.items.weight[:, :1], self.items.weight], 1)",
        "test_label_systems.py::test_alphafuse_leaves_the_language_subspace_untouched",
    ),
    Breakage(
        "AlphaFuse",
        "the smallest axes instead of the main ones",
        "alphafuse.py",
        "left[:, :kept] * ",
        "left[:, -kept:] * ",
        "test_label_systems.py::test_language_coordinates_keep_what_tells_labels_apart",
    ),
    Breakage(
        "AlphaFuse",
        "axes are not standardized",
        "alphafuse.py",
        "left[:, :kept] * np.sqrt",
        "left[:, :kept] * values[:kept] * np.sqrt",
        "test_label_systems.py::test_language_coordinates_keep_what_tells_labels_apart",
    ),
    Breakage(
        "PITuning",
        "no unlearning",
        "pituning.py",
        "loss + system.unlearning * unlearning",
        "loss + 0 * unlearning",
        "test_pituning.py::test_a_rare_behavior_keeps_its_share",
    ),
    Breakage(
        "PITuning",
        "unlearning does not stop at the user's own share",
        "pituning.py",
        "own).clamp(min=0).sum()",
        "own).sum()",
        "test_pituning.py::test_unlearning_is_what_is_predicted_too_often",
    ),
    Breakage(
        "PITuning",
        "no individual tuning",
        "pituning.py",
        "range(system.individual_steps)",
        "range(0)",
        "test_pituning.py::test_without_unlearning_it_is_plain_tuning",
    ),
    Breakage(
        "PITuning",
        "learns from the windows that it is asked about",
        "pituning.py",
        "np.arange(max(start, first - self._system.own_events), first)",
        "np.arange(max(start, first - self._system.own_events), int(targets[rows].max()) + 1)",
        "test_pituning.py::test_nothing_is_learned_from_the_windows_themselves",
    ),
    Breakage(
        "PITuning",
        "one user's layer goes on to the next",
        "pituning.py",
        "deepcopy(self._model.answer)",
        "self._model.answer",
        "test_pituning.py::test_without_unlearning_it_is_plain_tuning",
    ),
    Breakage(
        "PITuning",
        "no reconstruction",
        "pituning.py",
        "loss + self.reconstruction * F",
        "loss + 0 * F",
        "test_pituning.py::test_population_tuning_rebuilds_the_events_that_were_read",
    ),
    Breakage(
        "PITuning",
        "the language model's own weights are tuned",
        "pituning.py",
        "        in_float32(self.backbone)\n",
        "        self.backbone.requires_grad_(True)\n",
        "test_pituning.py::test_the_backbones_own_weights_stay_and_fits_are_read",
    ),
]


def main() -> None:
    """Break, test, and write what was noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON of all breakages; the table goes beside it")
    parser.add_argument("--only", help="systems with this in their name; OUT keeps the others")
    asked = parser.parse_args()
    out, only = asked.out, asked.only
    held = json.loads(out.read_text()) if only is not None and out.is_file() else []
    found = [one for one in held if only not in one["system"]]
    chosen = [one for one in BREAKAGES if only is None or only in one.system]
    with TemporaryDirectory() as made, progress_bar("breakages", len(chosen)) as advance:
        copy = Path(made)
        for name in ("edge_behavior", "train", "export", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if _fails(sorted({one.test for one in chosen}), copy):
            sys.exit("tests fail without any breakage")
        for one in chosen:
            found.append(_tried(one, copy))
            advance()
    out.write_text(json.dumps(found, indent=1) + "\n")
    rows = [[one["system"], one["what"], one["test"] if one["noticed"] else "**not noticed**"] for one in found]
    table = markdown_table(["system", "breakage", "test that fails"], rows, left=3)
    out.with_suffix(".md").write_text(
        "\n".join(["# The paper's rivals, broken on purpose", "", _COMMAND, "", *table, ""])
    )
    sys.exit(0 if all(one["noticed"] for one in found) else 1)


_COMMAND = "`python -m benchmarks.broken_rivals --out benchmarks/results/broken_rivals.json`"


def _tried(one: Breakage, copy: Path) -> dict[str, Any]:
    """Break the copy, run the test, mend it."""
    file = copy / _SOURCE / one.file
    whole = file.read_text()
    if whole.count(one.old) != 1:
        sys.exit(f"{one.system}, {one.what}: {one.old!r} is {whole.count(one.old)} times in {one.file}")
    file.write_text(whole.replace(one.old, one.new))
    try:
        noticed = _fails([one.test], copy)
    finally:
        file.write_text(whole)
    return {"system": one.system, "what": one.what, "test": one.test, "noticed": noticed}


def _fails(tests: list[str], copy: Path) -> bool:
    """Whether one of some tests fails in the copy."""
    options = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    asked = [sys.executable, "-m", "pytest", *options, *(f"{_TESTS}/{test}" for test in tests)]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(asked, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"{', '.join(tests)}: pytest ended with {done.returncode}\n{done.stdout[-3000:]}")
    return done.returncode == 1


if __name__ == "__main__":
    main()
