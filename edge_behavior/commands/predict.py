"""`edgeb predict`: rank the candidates for one history and one next context."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_behavior.core import DEFAULT_TOP_K


def predict_command(
    bundle: Annotated[
        Path, typer.Argument(help="Bundle made by `edgeb export`, or a run folder (slower).", show_default=False)
    ],
    at: Annotated[str, typer.Option(help="Local time to predict for, like 2012-05-01T18:00.", show_default=False)],
    place: Annotated[
        str | None,
        typer.Option(help="Where the user is then; not for a bundle without places.", show_default=False),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="CSV or JSON with timestamp, place, behavior; one user, oldest first.", show_default=False),
    ] = None,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Predict for a user of whom nothing is known.")
    ] = False,
    user: Annotated[
        str | None, typer.Option(help="Whose events to take from a history of several users.", show_default=False)
    ] = None,
    unknown: Annotated[
        str, typer.Option(help="Events whose behavior is not in the candidate set: skip or refuse.")
    ] = "skip",
    timezone: Annotated[
        str | None,
        typer.Option(
            help="Zone of the user, like Europe/Berlin, for a history whose times carry an offset or count from 1970; "
            "as-written keeps each time's own wall clock. Default: local times.",
            show_default=False,
        ),
    ] = None,
    time_unit: Annotated[
        str | None,
        typer.Option(help="What the history's numbers count from 1970: s, ms, us or ns.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(help="Candidates to show; 0 for all.")] = DEFAULT_TOP_K,
    scoring: Annotated[str, typer.Option(help="exact (full-vocabulary) or masked (grammar-constrained).")] = "exact",
    source: Annotated[
        str | None,
        typer.Option(help="model, habits or fused. Default: what the bundle found best.", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Rank this candidate only; may be repeated.", show_default=False)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave this candidate out; may be repeated.", show_default=False)
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Evaluate every candidate, not just until the top is proven.")
    ] = False,
    precision: Annotated[
        float | None,
        typer.Option(help="Say whether to suggest the first, so that it is right this often.", show_default=False),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Name the candidates among which the truth is this often.", show_default=False),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The source's own probabilities, not calibrated.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: physical cores.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Say what the user does next: candidates with their probabilities.

    Only the candidate set is decoded, so an answer is always one of its labels. Candidates are evaluated until the top
    ones are proven; probabilities are then lower bounds that miss at most what is "not looked at". They are calibrated
    where the bundle is; `edgeb inspect` names the precisions and coverages it knows. A bundle whose log had no places
    takes no --place, and reads none from the history.

        edgeb predict tiny.gguf --history today.csv --at 2024-03-18T20:00 --place home

        edgeb predict tiny.gguf --history today.csv --at 2024-03-18T20:00 --place home --top 3 --json

        edgeb predict tiny.gguf --history today.csv --at 2024-03-18T20:00 --place home --precision 0.8 --coverage 0.9

    docs/data.md says what a history file may look like. What is odd about one is told on stderr.
    """
    from edge_behavior.commands.histories import asked_note, known_events
    from edge_behavior.commands.open import open_predictor
    from edge_behavior.commands.output import emit
    from edge_behavior.core.clock import make_clock, parse_time
    from edge_behavior.errors import EdgebError
    from edge_behavior.records.history import check_unknown, read_history
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
    )
    when = parse_time(at, "--at")
    if (history is None) != no_history:
        what = "no history was named" if history is None else "both --history and --no-history"
        raise EdgebError(what, "pass --history FILE, or --no-history for a user of whom nothing is known")
    check_unknown(unknown)
    clock = make_clock(timezone, time_unit)
    # Read before the model is: who gives no place means a bundle without, which the prediction checks.
    past = None if history is None else read_history(history, user, place is not None, clock)
    with open_predictor(bundle, threads) as predictor:
        events, skipped = ([], []) if past is None else known_events(past, predictor.manifest.candidates, unknown)
        asked_note(events, when)
        prediction = predictor.predict(
            events,
            when,
            place,
            top or None,
            options=options,
        )
    document: dict[str, Any] = {
        "predictions": [{"behavior": r.behavior, "probability": r.probability} for r in prediction.ranked],
        "scoring": prediction.scoring,
        "source": prediction.source,
        "calibrated": prediction.calibrated,
        "unexpanded": prediction.unexpanded,
        "tokens_evaluated": prediction.tokens_evaluated,
        "latency_ms": round(prediction.latency_ms, 3),
        "skipped_events": [{"line": s.line, "behavior": s.behavior} for s in skipped],
        "bundle": str(bundle),
    }
    if precision is not None:
        document |= {"precision": precision, "suggest": prediction.suggest}
    if coverage is not None:
        document |= {"coverage": coverage, "likely": list(prediction.likely or ())}

    def show() -> None:
        from rich.markup import escape

        from edge_behavior.evaluation.tables import candidates_table
        from edge_behavior.util.terminal import open_console

        console = open_console()
        console.print(candidates_table(document["predictions"], prediction.likely))
        if coverage is not None:
            console.print(f"[bold]likely[/] at coverage {coverage:g}: {escape(', '.join(document['likely']))}")
        if precision is not None:
            said = "[bold green]suggest[/] the first" if prediction.suggest else "[bold]stay silent[/]"
            console.print(f"{said} at precision {precision:g}")
        console.print(
            f"{prediction.source}{', calibrated' if prediction.calibrated else ''}, {prediction.scoring} scoring, "
            f"{prediction.tokens_evaluated} tokens, "
            f"{prediction.latency_ms:.1f} ms; at most {prediction.unexpanded:.1%} not looked at"
        )

    emit(document, as_json, show)
