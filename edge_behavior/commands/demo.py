"""`edgeb demo`: try a bundle in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_behavior.commands.histories import HistoryTimeUnit, HistoryUser, HistoryZone


def demo_command(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Bundle, or a run folder (slower). Default: the last bundle.", show_default=False),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON with timestamp, place, behavior; one user, oldest first. Default: an empty day.",
            show_default=False,
        ),
    ] = None,
    user: HistoryUser = None,
    timezone: HistoryZone = None,
    time_unit: HistoryTimeUnit = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 0,
    host: Annotated[str, typer.Option(help="Loopback address to listen on; no other is accepted.")] = "127.0.0.1",
    open_page: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open", help="Open the browser. Default: where there is a screen.", show_default=False
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: physical cores.")] = None,
) -> None:
    """Try a bundle in the browser: a day's events, suggestions for what comes next, and what each prediction cost.

    Add events, accept or dismiss suggestions, change time and place, and watch the prediction follow. The page is
    served to this machine only, loads nothing from elsewhere and stores nothing. Ctrl-C ends it.

        edgeb demo tiny.gguf

        edgeb demo tiny.gguf --history today.csv --port 8000 --no-open
    """
    from edge_behavior.commands.histories import known_events
    from edge_behavior.commands.open import open_predictor
    from edge_behavior.core.times.clock import make_clock
    from edge_behavior.demo.assistant import Assistant
    from edge_behavior.demo.server import DemoServer
    from edge_behavior.records.history import read_history
    from edge_behavior.util.workspace import recall

    bundle = bundle or recall("bundle")
    clock = make_clock(timezone, time_unit)
    with open_predictor(bundle, threads) as predictor:
        manifest = predictor.manifest
        past = None if history is None else read_history(history, user, manifest.layout.places, clock)
        events = [] if past is None else known_events(past, manifest.candidates)[0]
        server = DemoServer(Assistant(predictor, bundle.name, events), host, port)
        try:
            typer.echo(server.url)
            typer.echo("The page is for this machine only. Ctrl-C ends it.", err=True)
            if _has_screen() if open_page is None else open_page:
                _open(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            # This is how the command ends; nothing was left undone.
            typer.echo("stopped", err=True)
        finally:
            server.server_close()


def _has_screen() -> bool:
    """Whether a graphical browser can open; a text browser would take over the terminal."""
    import os
    import sys

    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        typer.echo("no browser was found: open the address above", err=True)
