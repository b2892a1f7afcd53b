"""Pending: an interrupted command says so (cli.main prints nothing with typer >= 0.29)."""

import subprocess
import sys


def test_interrupted_in_a_fresh_process():
    code = (
        "import sys, signal, os; from edge_behavior import cli; import edge_behavior.bench.doctor as d\n"
        "d.examine = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['edgeb', 'doctor']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip().startswith("edgeb: interrupted")
