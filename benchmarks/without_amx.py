"""Runs a command as if this CPU had no AMX, so that results compare with those of CPUs that lack it.

    python -m benchmarks.without_amx python -m benchmarks.engines RUN --data DATA --work WORK --name NAME

On Linux a program asks the kernel before it uses AMX's tiles (arch_prctl, ARCH_REQ_XCOMP_PERM); a seccomp filter, which
the command and its children inherit, refuses. XNNPACK, oneDNN and onnxruntime then take AVX-512; llama.cpp is built
without AMX by `make setup`. x86-64 Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import struct
from pathlib import Path

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
# Classic BPF: load a word, jump if equal, return. Offsets are those of struct seccomp_data.
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_PROGRAM = (
    (_LOAD, 0, 0, _NUMBER),
    (_IF_EQUAL, 0, 3, _ARCH_PRCTL),
    (_LOAD, 0, 0, _FIRST_ARGUMENT),
    (_IF_EQUAL, 0, 1, _REQUEST_PERMISSION),
    (_RETURN, 0, 0, _REFUSE),
    (_RETURN, 0, 0, _ALLOW),
)


def refuse_amx() -> None:
    """Refuse AMX to this process and all that it starts.

    Raises:
        OSError: the kernel takes no filter.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in _PROGRAM))
    program = struct.pack("<HxxxxxxQ", len(_PROGRAM), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, program)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def is_refused() -> bool:
    """Whether this CPU has AMX, and the kernel refuses it to this process."""
    try:
        has = " amx_tile" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    if not has:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) != 0
    return bool(refused) and ctypes.get_errno() == errno.EPERM


def main() -> None:
    """Replace this process by the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, with its arguments")
    command = parser.parse_args().command
    if not command:
        parser.error("name a command")
    refuse_amx()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
