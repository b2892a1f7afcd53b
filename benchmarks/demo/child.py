"""Runs a command as a child that is watched, and that Ctrl-C and SIGTERM reach exactly once."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence

LOOK_EVERY = 1.0


class EndedError(KeyboardInterrupt):
    """This process was told to end by another signal than Ctrl-C's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def run_child(command: Sequence[str], stdout: int | None, look: Callable[[], None]) -> tuple[int, str]:
    """Run a command to its end.

    It has a session of its own: the terminal would send Ctrl-C to it and to this process, which passes it on as well,
    and a second one would interrupt its cleaning up.

    Args:
        command: What to run.
        stdout: As `subprocess` takes it.
        look: Called every second meanwhile.

    Returns:
        Its exit code, and its output where `stdout` is a pipe.

    Raises:
        KeyboardInterrupt: this process was interrupted, and the child has ended.
    """
    child = subprocess.Popen(command, stdout=stdout, text=True, start_new_session=True)
    try:
        while True:
            try:
                text, _ = child.communicate(timeout=LOOK_EVERY)
            except subprocess.TimeoutExpired:
                look()
            else:
                return child.returncode, text or ""
    except KeyboardInterrupt as interrupt:
        # The signal that came: a shell's background jobs, say, ignore Ctrl-C's.
        child.send_signal(interrupt.number if isinstance(interrupt, EndedError) else signal.SIGINT)
        try:
            child.wait()
        except KeyboardInterrupt:
            child.kill()
            child.wait()
        raise
