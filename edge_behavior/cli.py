"""The `edgeb` command: dispatches to the command modules and prints errors. Imports nothing heavy."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer
from typer.exceptions import Abort, Exit, TyperException

from edge_behavior import __version__
from edge_behavior.commands import ablate, bench, compare, data, demo, evaluate, export, predict, relabel, train
from edge_behavior.errors import EdgebError, system_error
from edge_behavior.util.path_command import PathCommand
from edge_behavior.util.terminal import prepare_streams, silence_stdout

app = typer.Typer(
    help="""From a behavior log to an on-device model that predicts a user's next behavior.

    A log has one event per row: user, time, place, behavior. Import it, tune a model, export one file for the phone
    (a bundle), and predict:

        edgeb data import log.csv --format csv --out data/mine

        edgeb train --recipe qwen2-1.5b --data data/mine --out runs/mine

        edgeb export runs/mine --quant q4 --out mine.gguf

        edgeb predict mine.gguf --history today.csv --at 2024-05-01T18:00 --place home

    Without a log, try it on simulated users, with a small model that is built locally:

        edgeb data synth --out data/synth

        edgeb train --recipe tiny --data data/synth --out runs/synth
    """,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data.app, name="data")
app.command("train", cls=PathCommand)(train.train_command)
app.command("ablate", cls=PathCommand)(ablate.ablate_command)
app.command("compare", cls=PathCommand)(compare.compare_command)
app.command("evaluate", cls=PathCommand)(evaluate.evaluate_command)
app.command("export", cls=PathCommand)(export.export_command)
app.command("inspect", cls=PathCommand)(export.inspect_command)
app.command("relabel", cls=PathCommand)(relabel.relabel_command)
app.command("predict", cls=PathCommand)(predict.predict_command)
app.command("demo", cls=PathCommand)(demo.demo_command)
app.command("bench", cls=PathCommand)(bench.bench_command)
app.command("doctor", cls=PathCommand)(bench.doctor_command)

_INTERRUPTED = 130
_RESUME = "continue an interrupted `edgeb train` with --resume, ablate and compare by running them again"
_BY_SIGNAL = 128
_BROKEN_PIPE = 141
# What importing llama-cpp-python raises if its library is missing, or built for another processor or C library.
_NO_LIBRARY = ("Failed to load shared library", "Shared library with base name")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeb {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 a quality gate failed, 2 user input or environment, 130 interrupted, 129 and 143 ended by
    SIGHUP and SIGTERM, 141 broken pipe.
    """
    # Keeps library logs and progress bars off the screen, and telemetry off the network.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # bitsandbytes advertises CPU kernels at import, used or not.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Matplotlib reports its font cache if the home folder is read-only.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # Deprecations between libraries do not concern the user.
    warnings.simplefilter("ignore", FutureWarning)
    prepare_streams()
    with _end_on_signals() as signals:
        try:
            code = app(standalone_mode=False, prog_name="edgeb") or 0
            # Typer returns this code for Ctrl-C.
            if code == _INTERRUPTED:
                raise KeyboardInterrupt
            # Reports a full disk, too.
            sys.stdout.flush()
            sys.exit(code)
        except EdgebError as error:
            _fail(str(error.message), error.hint, error.exit_code)
        except Exit as error:
            sys.exit(error.exit_code)
        except TyperException as error:
            context = getattr(error, "ctx", None)
            if type(error).__name__ == "NoArgsIsHelpError":
                with suppress(OSError):
                    print(error.format_message(), file=sys.stderr, flush=True)
                silence_stdout()
                sys.exit(2)
            hint = "" if context is None else f"see {context.command_path} --help"
            _fail(error.format_message().rstrip("."), hint, 2)
        except (KeyboardInterrupt, Abort):
            if signals:
                _fail(f"ended by {signal.Signals(signals[0]).name}", _RESUME, _BY_SIGNAL + signals[0])
            _fail("interrupted", _RESUME, _INTERRUPTED)
        except SystemExit as error:
            # Typer exits with 1 when the reader of a pipe has closed it.
            if isinstance(error.__context__, BrokenPipeError):
                _exit_on_broken_pipe()
            raise
        except BrokenPipeError:
            _exit_on_broken_pipe()
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("edge_behavior"):
                raise
            _fail(f"the package '{error.name}' is not installed", _extra_hint(error.name), 2)
        except MemoryError:
            _fail("out of memory", "close other programs, or use a machine with more memory", 2)
        except (OSError, RuntimeError) as error:
            if str(error).startswith(_NO_LIBRARY):
                _fail(f"llama-cpp-python does not work: {error}", _reinstall_hint(), 2)
            if not isinstance(error, OSError):
                raise
            failure = system_error(error)
            _fail(failure.message, failure.hint, 2)
        except UnicodeEncodeError as error:
            # Native libraries need UTF-8 names, but a file name may be any bytes.
            if not _has_undecodable_bytes(str(error.object)):
                raise
            _fail(f"{error.object}: the name is not UTF-8", "rename the file or folder", 2)


@contextmanager
def _end_on_signals() -> Iterator[list[int]]:
    """End the command on SIGTERM and SIGHUP as on Ctrl-C, so that it cleans up; yields a list of the received signals.

    A second signal kills it at once. Ignored signals stay ignored, as `nohup` wants, and the processes of a distributed
    launcher keep the default handlers, as it expects.
    """
    received: list[int] = []
    before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def end(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if "LOCAL_RANK" not in os.environ:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_undecodable_bytes(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _exit_on_broken_pipe() -> None:
    """Exit silently, as other programs do when `head` closes the pipe."""
    silence_stdout()
    sys.exit(_BROKEN_PIPE)


def _extra_hint(package: str) -> str:
    top = package.split(".")[0]
    extras = {"gguf": "export", "duckdb": "data", "pyarrow": "data", "matplotlib": "data"}
    extras |= dict.fromkeys(("onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai", "tokenizers"), "onnx")
    return f"pip install 'edgeb[{extras.get(top, 'train')}]'"


def _reinstall_hint() -> str:
    from importlib.metadata import version

    built = f"llama-cpp-python=={version('llama-cpp-python')}"
    return f"build it on this machine: pip install --force-reinstall --no-deps --no-cache-dir {built}"


def _fail(message: str, hint: str, code: int) -> None:
    one_line = " ".join(message.split())
    # A closed terminal accepts no message, and a full disk no more output.
    with suppress(OSError):
        print(f"edgeb: {one_line}" + (f" ({' '.join(hint.split())})" if hint else ""), file=sys.stderr, flush=True)
    silence_stdout()
    sys.exit(code)


if __name__ == "__main__":
    main()
