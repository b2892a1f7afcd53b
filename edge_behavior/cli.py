"""The `edgeb` command: parse, dispatch to a command module, print errors. Imports nothing heavy."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer
from typer.exceptions import Abort, Exit, TyperException

from edge_behavior import __version__
from edge_behavior.commands import ablate, bench, data, demo, evaluate, export, predict, relabel, train
from edge_behavior.errors import EdgebError

app = typer.Typer(
    help="""From a behavior log to an on-device model that predicts what the user does next.

    edgeb data import log.csv --format csv --out data/mine

    edgeb train --recipe qwen2-1.5b --data data/mine --out runs/mine

    edgeb export runs/mine --quant q4 --out mine.gguf

    edgeb predict mine.gguf --history today.csv --at 2024-05-01T18:00 --place home
    """,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data.app, name="data")
app.command("train")(train.train_command)
app.command("ablate")(ablate.ablate_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("export")(export.export_command)
app.command("inspect")(export.inspect_command)
app.command("relabel")(relabel.relabel_command)
app.command("predict")(predict.predict_command)
app.command("demo")(demo.demo_command)
app.command("bench")(bench.bench_command)
app.command("doctor")(bench.doctor_command)

_INTERRUPTED = 130
_RESUME = "an interrupted `edgeb train` goes on with --resume"
# What importing llama-cpp-python raises where its library is missing, or made for another processor or C library.
_NO_LIBRARY = ("Failed to load shared library", "Shared library with base name")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeb {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a gate failed, 2 user input or environment, 130 interrupted."""
    # A machine without a network should not wait for a hub; log noise does not belong on a user's screen.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # bitsandbytes offers faster CPU kernels at import, used or not.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Deprecations between libraries are not the user's.
    warnings.simplefilter("ignore", FutureWarning)
    try:
        code = app(standalone_mode=False) or 0
        # Typer turns Ctrl-C into this code.
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except EdgebError as error:
        _fail(str(error.message), error.hint, error.exit_code)
    except Exit as error:
        sys.exit(error.exit_code)
    except TyperException as error:
        # Usage errors: typer shows the command's usage line and the reason.
        show = getattr(error, "show", None)
        if show is None:
            _fail(str(error), "", 2)
        else:
            show()
        sys.exit(2)
    except (KeyboardInterrupt, Abort):
        _fail("interrupted", _RESUME, _INTERRUPTED)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("edge_behavior"):
            raise
        _fail(f"the package '{error.name}' is not installed", _extra_hint(error.name), 2)
    except (OSError, RuntimeError) as error:
        if str(error).startswith(_NO_LIBRARY):
            _fail(f"llama-cpp-python does not work: {error}", _reinstall_hint(), 2)
        if not isinstance(error, OSError):
            raise
        # Disk full, permission denied and the like are the environment's; the message names the file.
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), "check space and permissions", 2)


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
    print(f"edgeb: {one_line}" + (f" ({' '.join(hint.split())})" if hint else ""), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
