"""LiteRT-LM's own scoring as a rival, on the stock export of the same weights.

Both its packages live in environments of their own: litert-torch, which writes the `.litertlm`, and litert-lm-api,
which runs it. Either missing leaves the rival out.

LiteRT-LM scores one text per call, and the Python API can only take the whole prompt again for every text. Its C
library can rewind a session, so that a second rival evaluates the prompt once.
`run_text_scoring` of 0.18.1 is wrong: it rewinds the position twice (LiteRT-LM #3561). Running `run_prefill` again with
the prompt's last token before scoring mends it; that is what is timed. Scores are sums of log-probabilities over the
full vocabulary.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bench.engines.contender import Contender
from edge_behavior.bench.engines.rivals import Rival, RivalMaker
from edge_behavior.bench.engines.windows import Window
from edge_behavior.errors import EdgebError

_ROOT = Path(__file__).parents[2]
RECIPE = "dynamic_wi8_afp32"
_EXPORT_HINT = "pass --litert-python, a Python with litert-torch 0.10 and ai-edge-quantizer"
_RUN_HINT = "pass --litert-lm-python, a Python with litert-lm-api 0.18.1"


def stock_export(folder: Path, out: Path, python: str | None, cache: int, prefill: Sequence[int]) -> Path:
    """Write the stock `.litertlm` of a Hugging Face folder, int8 per channel, by `litert_torch.generative`; once.

    Args:
        folder: The model.
        out: Folder for it.
        python: Python of an environment with litert-torch; None if there is none.
        cache: Slots of its cache.
        prefill: Sizes of its prefill signatures: a prefill costs its signature's size.

    Raises:
        EdgebError: no such environment, or the export failed.
    """
    found = sorted(out.glob("*.litertlm"))
    if not found:
        if python is None:
            raise EdgebError("LiteRT-LM: nothing writes its file", _EXPORT_HINT)
        _export(python, folder, out, cache, prefill)
        found = sorted(out.glob("*.litertlm"))
    if not found:
        raise EdgebError(f"LiteRT-LM: the stock export left no .litertlm in {out}", _EXPORT_HINT)
    return found[0]


def scoring_rival(model: Path, python: str | None, threads: int, every: int, share: bool) -> RivalMaker:
    """What makes the rival.

    Args:
        model: The `.litertlm`.
        python: Python of an environment with litert-lm-api; None if there is none.
        threads: CPU threads.
        every: It is timed in every so many rounds.
        share: Evaluate the prompt once for all labels.
    """

    def make(contenders: Mapping[str, Contender], windows: Sequence[Window]) -> Rival:
        if python is None:
            raise EdgebError("LiteRT-LM: litert-lm-api is not installed", _RUN_HINT)
        contender = next(iter(contenders.values()))
        rival = ScoringRival(model, python, threads, contender, windows, share)
        rival.every = every
        return rival

    return make


class ScoringRival:
    """Every label scored by LiteRT-LM, in a process of its own that is asked window by window.

    Raises:
        EdgebError: it does not start.
    """

    def __init__(
        self, model: Path, python: str, threads: int, contender: Contender, windows: Sequence[Window], share: bool
    ) -> None:
        self.name = f"LiteRT-LM, every label scored{', prompt evaluated once' if share else ''}"
        self.on, self.scenario, self.every, self._share = model.name, "all", 1, share
        self.firsts: dict[int, int] = {}
        layout, labels = contender.encoder.layout, contender.encoder.candidates.labels
        self._prompts = [layout.prompt(w.history, w.when, w.place, labels).text for w in windows]
        self._labels = [layout.answer(label) + (layout.terminator or "") for label in labels]
        command = [python, "-m", "benchmarks.engines.litert_lm_child", str(model.resolve()), "--threads", str(threads)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=_ROOT
        )
        try:
            # Not timed: its first run prepares the weights.
            self._ask(len(windows) - 1, labels=1)
        except BaseException:
            self.close()
            raise

    def time(self, i: int) -> float:
        """See `Rival`."""
        answer = self._ask(i, len(self._labels))
        self.firsts[i] = int(np.argmax(answer["scores"]))
        return float(answer["ms"])

    def close(self) -> None:
        """See `Rival`."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _ask(self, i: int, labels: int) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        question = {"prompt": self._prompts[i], "labels": self._labels[:labels], "share": self._share}
        try:
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise EdgebError("LiteRT-LM: its process ended without an answer", _RUN_HINT)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EdgebError(f"LiteRT-LM: {answer['error']}", _RUN_HINT)
        return answer


def _export(python: str, folder: Path, out: Path, cache: int, prefill: Sequence[int]) -> None:
    command = [python, "-m", "benchmarks.engines.stock_export", str(folder.resolve()), str(out.resolve())]
    command += ["--recipe", RECIPE, "--cache", str(cache), "--prefill", *map(str, prefill)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, cwd=_ROOT)
    except OSError as error:
        raise EdgebError(f"LiteRT-LM: {python} does not start: {error.strerror}", _EXPORT_HINT) from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = said[-1][:300] if said else "no reason given"
        raise EdgebError(f"LiteRT-LM: the stock export failed: {reason}", _EXPORT_HINT)
