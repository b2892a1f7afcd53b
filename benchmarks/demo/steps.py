"""The demo's steps: each is an `edgeb` command or two, shown with what is left of the whole."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.demo.child import run_child
from benchmarks.demo.clock import Clock, Work, scoring_work, training_works
from benchmarks.demo.day import TODAY
from benchmarks.demo.folder import SMOLLM2, STANDIN, State
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.comparison import Comparison
from edge_behavior.evaluation.tables import comparison_markdown, comparison_table
from edge_behavior.export.parity.samples import SampleSizes
from edge_behavior.export.profiles import DEFAULT_PROFILE, load_profile
from edge_behavior.fit.mixture import windows_wanted
from edge_behavior.train.methods import DEFAULT_METHOD
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.util.files import write_file
from edge_behavior.util.numbers import duration
from edge_behavior.util.terminal import open_console

RECIPES = {SMOLLM2: "smollm2-135m", STANDIN: "tiny"}
# For about twenty minutes on two cores in all. The stand-in's recipe has counts of its own.
_COUNTS = {
    SMOLLM2: (
        "a_tuning.max_targets=4000",
        "b_tuning.pool_per_behavior=6",
        "b_tuning.samples_per_behavior=3",
        "b_tuning.evals_per_epoch=1",
        "evaluation.per_user=2",
        "evaluation.per_behavior=1",
        "evaluation.validation_targets=80",
    ),
    STANDIN: (),
}
_PROFILES = {SMOLLM2: str(Path(__file__).with_name("smollm2.yaml"))}
# The default method's run is exported; the paper's two stages are its rival.
_METHODS = {"run": DEFAULT_METHOD, "two-stage": "two-stage"}
_EVENING = ("--at", "2024-03-18T20:05", "--place", "home")
# Models that an export scores on all of its windows, trained and quantized, and on some: merged, converted, pruned.
_COMPARED, _BETWEEN = 2, 3
_LOOK_AT = {
    "distribution.png": "how often each behavior occurs",
    "run/report.html": "curves and results of the run that was exported",
    "two-stage/report.html": "both stages' effect on head, medium and tail, the selected pairs",
    "behavior.gguf": "the bundle: one file, stock llama.cpp loads it",
    "table.md": "the table above",
}


class FailedError(Exception):
    """A command failed, and has said why."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"`edgeb {command}` failed")
        self.code = code


class Demo:
    """The demo in one folder.

    Args:
        out: The folder.
        state: What is done there.
    """

    def __init__(self, out: Path, state: State) -> None:
        self._out, self._state = out, state
        self._console, self._clock = open_console(), Clock()

    def run(self) -> None:
        """All steps that are not done, then the table.

        Raises:
            FailedError: a command failed.
        """
        model = "SmolLM2-135M-Instruct" if self._state.backbone == SMOLLM2 else "a stand-in backbone made here"
        steps: dict[str, tuple[str, Callable[[], None]]] = {
            "log": ("A log of simulated phone users", self._log),
            "plan": ("Plan: how long everything takes on this machine", self._plan),
            "run": (f"Train {model} on all behaviors", self._train),
            "two-stage": ("Train it in two stages, the paper's: anchors first, then pairs by DPO", self._train_rival),
            "export": ("Export: merge, convert, quantize, prove", self._export),
            "predict": ("Predict: Monday evening, at home; then as JSON, for a program", self._predict),
            "bench": ("Bench: what a prediction costs here", self._bench),
            "compare": ("Evaluate the bundle on the windows of both trainings", self._compare),
        }
        self._wind_up()
        for number, (name, (title, work)) in enumerate(steps.items(), 1):
            heading = f"{number}/{len(steps)}  {title}"
            if name in self._state.done:
                self._say(f"{heading}: done before", style="dim")
                continue
            left = f" (about {duration(self._clock.left)} left)" if self._clock.left else ""
            self._say(f"\n{heading}{left}", style="bold")
            self._do(name, work)
        self._show()

    def _do(self, name: str, work: Callable[[], None]) -> None:
        started, before = perf_counter(), self._state.seconds.get(name, 0.0)
        try:
            work()
            self._state.done.append(name)
        finally:
            self._state.seconds[name] = round(before + perf_counter() - started, 1)
            self._state.save(self._out)
        self._clock.drop(name)

    def _log(self) -> None:
        data = self._out / "data"
        if not data.exists():
            self._edgeb("data", "synth", "--users", "400", "--days", "28", "--seed", "1", "--out", data)
        picture = self._out / "distribution.png"
        self._edgeb("data", "describe", data, "--png", picture, "--top", "12", "--force")

    def _plan(self) -> None:
        for name in _METHODS:
            words = (*self._recipe_words(name, ()), "--data", str(self._out / "data"), "--dry-run", "--json")
            self._state.plans[name] = json.loads(self._edgeb("train", *words, stdout=subprocess.PIPE))
        self._wind_up()

    def _train(self) -> None:
        self._train_into("run", ())

    def _train_rival(self) -> None:
        # Both trainings tune the same backbone: a stand-in is not made twice.
        standin = self._out / "run" / "backbone"
        self._train_into(
            "two-stage", (f"backbone.path={standin}", "backbone.dtype=float32") if standin.exists() else ()
        )

    def _train_into(self, name: str, settings: Sequence[str]) -> None:
        run = self._out / name
        begun = (run / "run.json").is_file()
        what = ("--resume",) if begun else self._recipe_words(name, settings)

        def look() -> None:
            for stage in self._finished_stages(name):
                self._say(f"{stage} done, about {duration(self._clock.left)} left", style="bold")

        # Its tables come at the end, beside all others.
        self._edgeb("train", *what, "--data", self._out / "data", "--out", run, stdout=subprocess.DEVNULL, look=look)

    def _export(self) -> None:
        how = ("--profile", self._profile) if self._profile else ("--quant", "q4")
        if not self._bundle.exists():
            self._edgeb("export", self._out / "run", *how, "--out", self._bundle)

    def _predict(self) -> None:
        history = self._out / "today.csv"
        write_file(history, TODAY)
        self._edgeb("predict", self._bundle, "--history", history, *_EVENING)
        self._edgeb("predict", self._bundle, "--history", history, *_EVENING, "--top", "2", "--json")

    def _bench(self) -> None:
        self._edgeb("bench", self._bundle, "--repeats", str(self._state.asked["repeats"]))

    def _compare(self) -> None:
        recipe = RunFolder.open(self._out / "run").recipe
        windows, models = recipe.evaluation, (self._out / "run", self._out / "two-stage", self._bundle)
        flags = {"per-user": windows.per_user, "per-behavior": windows.per_behavior, "seed": recipe.seed}
        words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
        words += [] if windows.limit is None else ["--limit", str(windows.limit)]
        words += ["--data", str(self._out / "data"), "--json"]
        write_file(self._out / "table.json", self._edgeb("evaluate", *models, *words, stdout=subprocess.PIPE))

    def _show(self) -> None:
        file = self._out / "table.json"
        found = Comparison.from_dict(json.loads(file.read_text(encoding="utf-8")), str(file))
        write_file(self._out / "table.md", comparison_markdown(found.results))
        self._console.print("", comparison_table(found.results))
        self._say(f"\nDone in {duration(sum(self._state.seconds.values()))}. Look at:", style="bold")
        for name, what in _LOOK_AT.items():
            self._say(f"  {self._out / name}   {what}")
        command = [
            str(Path(sys.executable).with_name("edgeb")),
            "demo",
            str(self._bundle),
            "--history",
            str(self._out / "today.csv"),
        ]
        self._say("\nThe assistant as a page in your browser, with the day of the prediction:")
        self._say(f"  {shlex.join(command)}")

    def _wind_up(self) -> None:
        """Set the clock by the plan, if there is one, and by what is done."""
        plans = self._state.plans
        if not plans:
            return
        # The second training takes the backbone of the first.
        works = training_works("run", plans["run"]) + training_works("two-stage", plans["two-stage"], backbone=False)
        plan = plans["two-stage"]
        # Bench evaluates a whole prompt per repetition; the bundle is evaluated by exact and by masked scoring.
        bench, compare = self._state.asked["repeats"], 2 * plan["evaluation_windows"]
        works.append(self._export_work(plan))
        works += [scoring_work(name, count, plan) for name, count in (("bench", bench), ("compare", compare))]
        self._clock = Clock(works)
        for name in plans:
            self._finished_stages(name)
        for name in self._state.done:
            self._clock.drop(name)

    def _export_work(self, plan: Mapping[str, Any]) -> Work:
        """Comparing the models with the trained one, and fitting; both keep to the profile's minutes."""
        profile = load_profile(self._profile or DEFAULT_PROFILE)
        labels = len(Dataset.open(self._out / "data").candidates)
        sizes = SampleSizes.of(profile.parity, plan["parameters"])
        every = sizes.natural + sizes.per_behavior * labels
        between = every if sizes.between is None else min(sizes.between, every)
        windows = _COMPARED * every + _BETWEEN * between + profile.importance.prompts
        if (profile.habits, profile.calibrate) != ("off", "off"):
            windows += windows_wanted(labels, plan["parameters"])
        work = scoring_work("export", windows, plan)
        return work if profile.minutes is None else replace(work, planned=min(work.planned, 60 * profile.minutes))

    def _finished_stages(self, name: str) -> list[str]:
        """Tell the clock which stages of a training have finished; those that it did not know of."""
        try:
            done = RunFolder.open(self._out / name).state.done
        except EdgebError:  # not begun
            return []
        return [stage for stage in done if self._clock.finish(name, stage, float(done[stage].get("seconds", 0)))]

    @property
    def _recipe(self) -> str:
        return RECIPES[self._state.backbone]

    @property
    def _profile(self) -> str:
        """The export profile: as asked, else SmolLM2's, else none."""
        return str(self._state.asked["profile"]) or _PROFILES.get(self._state.backbone, "")

    @property
    def _bundle(self) -> Path:
        return self._out / "behavior.gguf"

    def _recipe_words(self, name: str, settings: Sequence[str]) -> list[str]:
        """Recipe, method and settings of a training, as words of `edgeb train`."""
        every = (*_COUNTS[self._state.backbone], *self._state.asked["set"], *settings)
        last = {setting.partition("=")[0]: setting for setting in every}
        set_ = [word for setting in last.values() for word in ("--set", setting)]
        return ["--recipe", self._recipe, "--method", _METHODS[name], *set_]

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, soft_wrap=True)

    def _edgeb(self, *words: str | Path, stdout: int | None = None, look: Callable[[], None] = lambda: None) -> str:
        """Show and run an `edgeb` command; what it printed, where `stdout` is a pipe.

        Raises:
            FailedError: it ended with an error.
        """
        arguments = [str(word) for word in words]
        self._say(f"$ edgeb {shlex.join(arguments)}", style="dim")
        # A pipe or file gets this line before what the command prints.
        self._console.file.flush()
        code, text = run_child([sys.executable, "-m", "edge_behavior", *arguments], stdout, look)
        look()
        if code:
            raise FailedError(arguments[0], code)
        return text
