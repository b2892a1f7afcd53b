"""Looks into shared libraries before a phone does: page alignment, machine, needed libraries, JNI functions.

    python android_demo/tools/elf_lint.py [--jni NativeLlama.kt]... LIB.so ...

Every loadable segment has to be aligned to 16 KB, as Android's kernels with such pages and Google Play ask for. With
--jni the first library has to export one function for every `external fun` of these files, and no others. Exits with 1
and one line per fault. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = 16384
MACHINES = {62: "x86-64", 183: "aarch64"}
_LOAD, _DYNAMIC, _DYNSYM = 1, 2, 11
_NEEDED, _STRTAB = 1, 5


@dataclass(frozen=True)
class Library:
    """What a 64-bit little-endian shared library says of itself.

    Attributes:
        machine: Name of the CPU architecture.
        alignments: Alignment of every loadable segment, bytes.
        needed: Names of the libraries it loads.
        exports: Names of the functions and objects it defines for others.
    """

    machine: str
    alignments: tuple[int, ...]
    needed: tuple[str, ...]
    exports: tuple[str, ...]


def read_library(path: Path) -> Library:
    """Read a library's headers.

    Raises:
        ValueError: not a 64-bit little-endian ELF file, or a damaged one.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path} is not a 64-bit little-endian ELF file")
    try:
        machine = struct.unpack_from("<H", data, 18)[0]
        segment_at, section_at = struct.unpack_from("<QQ", data, 32)
        segment_size, segments, section_size, sections = struct.unpack_from("<HHHH", data, 54)
        heads = [struct.unpack_from("<IIQQQQQQ", data, segment_at + i * segment_size) for i in range(segments)]
        tables = [struct.unpack_from("<IIQQQQIIQQ", data, section_at + i * section_size) for i in range(sections)]
        needed, exports = _dynamic(data, heads), _exports(data, tables)
    except (struct.error, StopIteration):
        raise ValueError(f"{path} is damaged") from None
    alignments = tuple(head[7] for head in heads if head[0] == _LOAD)
    return Library(MACHINES.get(machine, str(machine)), alignments, needed, exports)


def jni_names(kotlin: Path) -> list[str]:
    """Names of the C functions behind the `external fun`s of a Kotlin object."""
    text = kotlin.read_text(encoding="utf-8")
    package = re.search(r"^package ([\w.]+)", text, re.MULTILINE)
    owner = re.search(r"\bobject (\w+)", text)
    if package is None or owner is None:
        raise ValueError(f"{kotlin} declares no object in a package")
    prefix = f"Java_{package[1].replace('.', '_')}_{owner[1]}_"
    return sorted(prefix + name for name in re.findall(r"\bexternal fun (\w+)", text))


def faults(path: Path, jni: list[str] | None = None) -> list[str]:
    """What is wrong with a library; empty if nothing is.

    Args:
        path: The library.
        jni: The functions it has to export, and no others; None where that is not asked.
    """
    try:
        library = read_library(path)
    except ValueError as error:
        return [str(error)]
    found = [f"{path}: a segment is aligned to {a} bytes, not {PAGE}" for a in library.alignments if a % PAGE]
    if not library.alignments:
        found.append(f"{path}: nothing to load")
    if jni is not None:
        found += [f"{path}: {name} is not exported" for name in jni if name not in library.exports]
        found += [f"{path}: {name} is exported" for name in library.exports if name not in jni]
    return found


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="check shared libraries for Android")
    parser.add_argument(
        "--jni", type=Path, action="append", help="Kotlin file with external functions of the first library"
    )
    parser.add_argument("libraries", type=Path, nargs="+")
    chosen = parser.parse_args()
    wanted = [name for kotlin in chosen.jni for name in jni_names(kotlin)] if chosen.jni else None
    found = []
    for i, path in enumerate(chosen.libraries):
        wrong = faults(path, wanted if i == 0 else None)
        found += wrong
        if not wrong:
            library = read_library(path)
            print(f"{path.name}: {library.machine}, {len(library.alignments)} segments aligned to 16 KB")
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def _dynamic(data: bytes, heads: list[tuple[int, ...]]) -> tuple[str, ...]:
    dynamic = next(head for head in heads if head[0] == _DYNAMIC)
    entries = [struct.unpack_from("<QQ", data, at) for at in range(dynamic[2], dynamic[2] + dynamic[5], 16)]
    strings = next(value for tag, value in entries if tag == _STRTAB)
    holder = next(head for head in heads if head[0] == _LOAD and head[3] <= strings < head[3] + head[5])
    start = strings - holder[3] + holder[2]
    return tuple(_text(data, start + value) for tag, value in entries if tag == _NEEDED)


def _exports(data: bytes, tables: list[tuple[int, ...]]) -> tuple[str, ...]:
    symbols = next(table for table in tables if table[1] == _DYNSYM)
    strings = tables[symbols[6]][4]
    found = []
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, info, _, section = struct.unpack_from("<IBBH", data, at)
        # Global or weak, and defined here.
        if info >> 4 and section:
            found.append(_text(data, strings + name))
    return tuple(sorted(found))


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("utf-8")


if __name__ == "__main__":
    sys.exit(main())
