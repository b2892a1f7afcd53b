"""`edgeb` as a process among others: its streams, whatever they are, and the signals it gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

DOCUMENT = {"label": "Café 日本 \N{SPEECH BALLOON} – ≤ …", "path": "/tmp/alt\udcfc", "number": "123,456,789"}
CHILD = """
import os, signal, sys
from pathlib import Path
from edge_behavior import cli
import edge_behavior.bench.doctor as doctor
from edge_behavior.util.files import new_file, new_folder

def examine():
    {body}

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.{hangups})
doctor.examine = examine
sys.argv = ["edgeb", *{arguments!r}]
cli.main()
"""


def child(
    body: str, *arguments: str, shell: str = "", hangups: str = "SIG_DFL", **options: object
) -> subprocess.CompletedProcess[str]:
    """A process whose `edgeb doctor` does what `body` says; `shell` redirects its streams.

    It takes hangups as a terminal's processes do, even where these tests run under nohup.
    """
    code = CHILD.format(body=body, arguments=arguments or ("doctor",), hangups=hangups)
    command = [sys.executable, "-c", code]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    variables = {"COLUMNS": "80", **options.pop("env", {})}  # type: ignore[dict-item]
    environment = {**os.environ, **variables}
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60, "env": environment}
    return subprocess.run(command, check=False, **{**defaults, **options})  # type: ignore[call-overload]


class TestStreams:
    @pytest.mark.parametrize(
        ("encoding", "env"),
        [
            ("cp1252", {"PYTHONIOENCODING": "cp1252"}),
            ("ascii", {"PYTHONIOENCODING": "ascii:strict"}),
            ("utf-8", {"PYTHONIOENCODING": "utf-8"}),
            ("utf-16", {"PYTHONIOENCODING": "utf-16"}),
            ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ],
        ids=str,
    )
    def test_any_encoding(self, encoding, env):
        body = f"return {DOCUMENT!a}"
        as_json = child(body, "doctor", "--json", env=env)
        assert (as_json.returncode, as_json.stderr) == (0, b"")
        assert json.loads(as_json.stdout.decode(encoding)) == DOCUMENT
        table = child(body, env=env)
        assert (table.returncode, table.stderr) == (0, b"")
        shown = table.stdout.decode(encoding)
        assert "123,456,789" in shown
        assert "/tmp/alt\\xfc" in shown
        failed = child(
            "from edge_behavior.errors import EdgebError; raise EdgebError('no \\u65e5\\u672c /alt\\udcfc')", env=env
        )
        assert failed.returncode == 2
        assert failed.stderr.decode(encoding).startswith("edgeb: no ")
        assert failed.stderr.decode(encoding).endswith("/alt\\xfc\n")

    def test_progress_bars_in_ascii(self):
        body = (
            "from edge_behavior.util.progress import progress_bar\n"
            "    with progress_bar('Gr\\xf6\\xdfe', 2) as advance: advance(2)\n"
            "    return {}"
        )
        done = child(body, env={"PYTHONIOENCODING": "ascii", "FORCE_COLOR": "1"})
        assert done.returncode == 0
        assert b"2/2" in done.stderr
        assert b"Traceback" not in done.stderr

    @pytest.mark.parametrize("arguments", [("doctor",), ("doctor", "--json"), ("--help",), ("--version",)], ids=str)
    @pytest.mark.parametrize("size", [1, 100_000])
    def test_a_reader_that_has_gone(self, arguments, size):
        reading, writing = os.pipe()
        os.close(reading)
        done = child(f"return {{str(i): 'x' for i in range({size} // 40)}}", *arguments, stdout=writing)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_closed_streams(self, closed):
        body = "print('noise', file=sys.stderr); os.write(1, b''); os.write(2, b''); return {'a': 'b'}"
        done = child(body, shell=closed)
        assert done.returncode == 0
        assert (b"Traceback" in done.stderr, b"noise" in done.stdout) == (False, False)
        assert (done.stdout != b"") == (">&-" not in closed or closed == "2>&-")

    def test_a_file_does_not_get_the_number_of_a_closed_stream(self, tmp_path):
        body = f"file = open({str(tmp_path / 'f')!r}, 'w'); os.write(1, b'x'); os.write(2, b'x'); return {{}}"
        assert child(body, shell="<&- >&- 2>&-").returncode == 0
        assert (tmp_path / "f").read_bytes() == b""

    def test_an_error_with_closed_streams(self):
        for closed in ("2>&-", ">&-", "<&- >&- 2>&-"):
            done = child("from edge_behavior.errors import EdgebError; raise EdgebError('x')", shell=closed)
            assert (done.returncode, done.stdout) == (2, b"")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full disk at hand")
    def test_a_full_disk(self):
        for arguments in (("doctor",), ("doctor", "--json"), ("--help",)):
            done = child("return {'a': 'b'}", *arguments, shell="> /dev/full")
            assert done.returncode == 2
            assert done.stderr.startswith(b"edgeb: the disk is full (")
            assert len(done.stderr.splitlines()) == 1
        assert child("return {}", "nonsense", shell="2> /dev/full").returncode == 2

    @pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}, {"NO_COLOR": "1"}, {"COLUMNS": "0"}], ids=str)
    def test_odd_terminals(self, env):
        done = child("return {'part': '123,456,789'}", env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"123,456,789" in done.stdout

    @pytest.mark.parametrize("env", [{"TERMINAL_WIDTH": "wide"}, {"COLUMNS": "\N{SUPERSCRIPT TWO}"}], ids=str)
    def test_help_in_odd_terminals(self, env):
        done = child("return {}", "--help", env=env)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
class TestSignals:
    @pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
    def test_they_end_it_in_order(self, tmp_path, name, code):
        """A shell's background jobs start with Ctrl-C ignored, so the child takes its default first."""
        body = (
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"    out = Path({str(tmp_path)!r})\n"
            "    with new_folder(out / 'd'), new_file(out / 'f', replace=False):\n"
            f"        os.kill(os.getpid(), signal.{name})\n"
            "        signal.pause()"
        )
        done = child(body)
        assert (done.returncode, done.stdout) == (code, b"")
        assert len(done.stderr.splitlines()) == 1
        said = b"edgeb: interrupted" if name == "SIGINT" else f"edgeb: ended by {name}".encode()
        assert done.stderr.startswith(said)
        assert list(tmp_path.iterdir()) == []

    def test_a_second_one_does_not_wait(self):
        end = "os.kill(os.getpid(), signal.SIGTERM)"
        body = f"try: {end}; signal.pause()\n    finally: {end}"
        assert child(body).returncode == -signal.SIGTERM

    def test_nohup(self):
        done = child("os.kill(os.getpid(), signal.SIGHUP); return {}", hangups="SIG_IGN")
        assert done.returncode == 0

    def test_a_launcher_s_processes_die_at_once(self):
        """torchrun sends SIGTERM to the rest when one fails; a handler would wait for a collective that never ends."""
        done = child("os.kill(os.getpid(), signal.SIGTERM); return {}", env={"LOCAL_RANK": "0"})
        assert done.returncode == -signal.SIGTERM
