"""`edgeb predict`: rank the candidates for one history and one next context."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_behavior.commands.open import AcceleratorOption, ChipOption
from edge_behavior.core import DEFAULT_TOP_K


def predict_command(
    bundle: Annotated[
        Path, typer.Argument(help="Bundle from `edgeb export`, or a run folder (slower).", show_default=False)
    ],
    at: Annotated[str, typer.Option(help="Local time to predict for, like 2012-05-01T18:00.", show_default=False)],
    place: Annotated[
        str | None,
        typer.Option(help="Where the user is at that time; not for a bundle without places.", show_default=False),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="CSV or JSON with timestamp, place, behavior; one user, oldest first.", show_default=False),
    ] = None,
    no_history: Annotated[bool, typer.Option("--no-history", help="Predict for a user without history.")] = False,
    user: Annotated[
        str | None, typer.Option(help="User to predict for, in a history of several users.", show_default=False)
    ] = None,
    unknown: Annotated[
        str, typer.Option(help="Events whose behavior is not in the candidate set: skip or refuse.")
    ] = "skip",
    timezone: Annotated[
        str | None,
        typer.Option(
            help="The user's zone, like Europe/Berlin, for times with an offset or counted from 1970; as-written keeps "
            "the wall clock and drops the offset. Default: times are local.",
            show_default=False,
        ),
    ] = None,
    time_unit: Annotated[
        str | None,
        typer.Option(help="Unit of times counted from 1970: s, ms, us or ns.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(help="Candidates to show; 0 for all.")] = DEFAULT_TOP_K,
    scoring: Annotated[
        str, typer.Option(help="exact (over the full vocabulary) or masked (grammar-constrained).")
    ] = "exact",
    source: Annotated[
        str | None,
        typer.Option(
            help="model, habits or fused. Default: the bundle's best on validation users.", show_default=False
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Rank only this candidate; repeatable.", show_default=False)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave this candidate out; repeatable.", show_default=False)
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Evaluate every candidate: exact probabilities, not lower bounds.")
    ] = False,
    precision: Annotated[
        float | None,
        typer.Option(
            help="Decide whether to suggest the first candidate, at this precision, like 0.8.", show_default=False
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="List the prediction set that holds the truth this often, like 0.9.", show_default=False),
    ] = None,
    balance: Annotated[
        str,
        typer.Option(
            help="Raise rare behaviors by this much: 0 (right most often) to 2, or fitted, which export chose."
        ),
    ] = "0",
    raw: Annotated[bool, typer.Option("--raw", help="Uncalibrated probabilities.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: physical cores.")] = None,
    accelerator: AcceleratorOption = None,
    chip: ChipOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Predict what the user does next: the top candidates with their probabilities.

    Decoding is constrained to the candidate set, so an answer is always one of its labels. Candidates are evaluated
    until the order of the top ones is proven; probabilities are then lower bounds, short by at most the share shown as
    not evaluated. They are calibrated if the bundle is; `edgeb inspect` lists its precision and coverage levels. A
    bundle whose log had no places takes no --place and ignores places in the history.

        edgeb predict tiny.gguf --history today.csv --at 2024-03-18T20:00 --place home

        edgeb predict tiny.gguf --history today.csv --at 2024-03-18T20:00 --place home --top 3 --json

        edgeb predict tiny.gguf --history today.csv --at 2024-03-18T20:00 --place home --precision 0.8 --coverage 0.9

        edgeb predict tiny.gguf --history today.csv --at 2024-03-18T20:00 --place home --balance fitted

    docs/data.md describes history files. Notes about odd ones go to stderr.
    """
    from edge_behavior.commands.histories import asked_note, known_events
    from edge_behavior.commands.open import open_predictor
    from edge_behavior.commands.output import emit
    from edge_behavior.core.balance import parse_balance
    from edge_behavior.core.times.clock import make_clock, parse_time
    from edge_behavior.errors import EdgebError
    from edge_behavior.records.history import check_unknown, read_history
    from edge_behavior.runtime.accelerator import NPU_EMULATED, in_words
    from edge_behavior.runtime.prediction import PredictOptions

    options = PredictOptions(
        scoring=scoring,
        source=source,
        only=only,
        exclude=exclude or (),
        exhaustive=exhaustive,
        calibrated=not raw,
        precision=precision,
        coverage=coverage,
        balance=parse_balance(balance),
    )
    when = parse_time(at, "--at")
    if (history is None) != no_history:
        what = "no history given" if history is None else "both --history and --no-history given"
        raise EdgebError(what, "pass --history FILE, or --no-history for a user without one")
    check_unknown(unknown)
    clock = make_clock(timezone, time_unit)
    # Read before the model is loaded. Without --place the bundle must have no places; `predict` checks that.
    past = None if history is None else read_history(history, user, place is not None, clock)
    with open_predictor(bundle, threads, accelerator, chip) as predictor:
        events, skipped = ([], []) if past is None else known_events(past, predictor.manifest.candidates, unknown)
        asked_note(events, when)
        prediction = predictor.predict(
            events,
            when,
            place,
            top or None,
            options=options,
        )
        evaluated_on, calls = predictor.accelerator, predictor.calls
    # Those of an emulator mean nothing.
    latency = None if evaluated_on == NPU_EMULATED else prediction.latency_ms
    document: dict[str, Any] = {
        "predictions": [{"behavior": r.behavior, "probability": r.probability} for r in prediction.ranked],
        "scoring": prediction.scoring,
        "source": prediction.source,
        "calibrated": prediction.calibrated,
        "balance": prediction.balance,
        "accelerator": evaluated_on,
        "unexpanded": prediction.unexpanded,
        "tokens_evaluated": prediction.tokens_evaluated,
        "latency_ms": None if latency is None else round(latency, 3),
        "skipped_events": [{"line": s.line, "behavior": s.behavior} for s in skipped],
        "bundle": str(bundle),
    }
    if latency is None:
        document["calls"] = calls
    if precision is not None:
        document |= {"precision": precision, "suggest": prediction.suggest}
    if coverage is not None:
        document |= {"coverage": coverage, "likely": list(prediction.likely or ())}

    def show() -> None:
        from rich.text import Text

        from edge_behavior.evaluation.tables import candidates_table
        from edge_behavior.util.terminal import open_console

        console = open_console()
        console.print(candidates_table(document["predictions"], prediction.likely))
        if coverage is not None:
            held = ", ".join(document["likely"])
            console.print(Text.assemble(("prediction set", "bold"), f" at coverage {coverage:g}: {held}"))
        if precision is not None:
            said = ("suggest", "bold green", " the first") if prediction.suggest else ("stay silent", "bold", "")
            console.print(Text.assemble(said[:2], f"{said[2]} at precision {precision:g}"))
        raised = f", balance {prediction.balance:g}" if prediction.balance else ""
        where = f" on the {in_words(evaluated_on)}" if evaluated_on else ""
        timed = f"{calls} calls, whose times mean nothing" if latency is None else f"{latency:.1f} ms"
        console.print(
            f"{prediction.source}{where}{', calibrated' if prediction.calibrated else ''}{raised}, "
            f"{prediction.scoring} scoring, {prediction.tokens_evaluated} tokens, "
            f"{timed}; at most {prediction.unexpanded:.1%} not evaluated"
        )

    emit(document, as_json, show)
