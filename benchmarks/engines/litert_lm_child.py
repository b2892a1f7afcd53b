"""Score labels with LiteRT-LM: a question per line, {"prompt", "labels", "share"}, one line of milliseconds and scores.

    python -m benchmarks.engines.litert_lm_child MODEL.litertlm --threads 2

Run by `litert_lm` with the Python of another environment: imports nothing of edgeb, which is not there.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from time import perf_counter
from typing import Any


def score_apart(engine: Any, prompt: str, labels: list[str]) -> list[float]:
    """Log-probability of every label after a prompt, each in a session of its own: a scored text stays in the cache."""
    last = engine.detokenize(engine.tokenize(prompt)[-1:])
    found = []
    for label in labels:
        with engine.create_session(apply_prompt_template=False) as session:
            session.run_prefill([prompt])
            found.append(_scored(session, last, label))
    return found


def score_shared(engine: Any, prompt: str, labels: list[str]) -> list[float]:
    """The same with the prompt evaluated once: the C library can rewind a session, the Python API cannot."""
    ids = engine.tokenize(prompt)
    last = engine.detokenize(ids[-1:])
    found: list[float] = []
    rewind = engine._lib.litert_lm_session_rewind_to_step
    rewind.restype, rewind.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)
    with engine.create_session(apply_prompt_template=False) as session:
        session.run_prefill([prompt])
        for label in labels:
            if found and rewind(session._ptr, len(ids) - 1) != 0:
                raise RuntimeError("litert_lm_session_rewind_to_step failed")
            found.append(_scored(session, last, label))
    return found


def _scored(session: Any, last: str, label: str) -> float:
    # Mends LiteRT-LM #3561, see `litert_lm`.
    session.run_prefill([last])
    return float(session.run_text_scoring([label]).scores[0])


def answer_all(model: str, threads: int) -> None:
    """Answer until the questions end."""
    # Its libraries write to standard output, too: answers go where that led, and the rest nowhere.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import litert_lm

    litert_lm.set_min_log_severity(litert_lm.LogSeverity.FATAL)
    with litert_lm.Engine(model, backend=litert_lm.Backend.CPU(thread_count=threads)) as engine:
        for line in sys.stdin:
            question = json.loads(line)
            started = perf_counter()
            try:
                score = score_shared if question["share"] else score_apart
                scores = score(engine, question["prompt"], question["labels"])
                found: dict[str, Any] = {"ms": (perf_counter() - started) * 1000, "scores": scores}
            except RuntimeError as error:
                found = {"error": str(error)}
            answers.write(json.dumps(found) + "\n")
            answers.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the .litertlm file")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    answer_all(args.model, args.threads)


if __name__ == "__main__":
    main()
