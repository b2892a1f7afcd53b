"""The picture of `edgeb demo` in docs/integrate.md: a Monday evening on the page, after one accepted suggestion.

usage, from the checkout: python -m benchmarks.demo_page BUNDLE docs/demo.png [--dark] [--width 1280] [--height 1085]

Takes a bundle of the simulated log's labels, as `make demo` exports one (out/demo/behavior.gguf), and Chromium.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.demo.day import TODAY
from tests.browser import Browser, program

READY = (
    "document.querySelectorAll('#suggestions li').length === 5"
    " && document.getElementById('suggestions').ariaBusy === 'false'"
)


def use(page: Browser) -> None:
    """What a visitor may do: change the rule, accept the first suggestion, add an event."""
    page.wait(READY)
    page.run("document.getElementById('coverage').value = '0.8'")
    page.press("1")
    page.wait(f"document.querySelectorAll('#timeline .tag').length === 1 && {READY}")
    page.run("document.getElementById('behavior').focus()")
    page.press(*"Instant Messaging", "Enter")
    page.wait(f"document.querySelectorAll('#timeline .label').length === 9 && {READY}")
    page.run("document.activeElement.blur()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1085)
    options = parser.parse_args()
    if program() is None:
        sys.exit("demo_page: no Chromium here; install it first (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        history = Path(folder) / "today.csv"
        history.write_text(TODAY, encoding="utf-8")
        command = [sys.executable, "-m", "edge_behavior", "demo", str(options.bundle), "--history", str(history)]
        server = subprocess.Popen([*command, "--no-open"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                sys.exit(2)
            with Browser() as page:
                page.look(options.width, options.height, "dark" if options.dark else "light", scale=1.5)
                page.open(url)
                use(page)
                page.screenshot(options.out)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


if __name__ == "__main__":
    main()
