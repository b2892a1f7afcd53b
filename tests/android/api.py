"""The public surface of the phone's library, out of the compiled classes, as text that is kept under version control.

    python -m tests.android.api

writes android_demo/api/*.api anew: commit them with the change that made them differ.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.android import host

API = host.ANDROID / "api"
MODULES = ("core", "runtime", "coroutines")
_TYPE = re.compile(r"^( *)((?:[a-z]+ )*)(?:class|interface|object)(?: (\w+))?(.*)$")
_MODIFIERS = {"public", "internal", "private", "data", "sealed", "enum", "open", "abstract", "companion", "inner"}
_TOP = re.compile(r"^public (?:[a-z]+ )*(?:fun|val|var) (?:<.*> )?(?:\w+\.)?(\w+)")
# What compilers add by themselves.
_GENERATED = re.compile(r"(getEntries|valueOf|values|component\d+)$")


@dataclass(frozen=True)
class PublicType:
    """A class that bytecode has, and what of it is public in Kotlin, which bytecode does not say of everything."""

    binary: str
    constructors: bool = True
    companion: bool = True
    # Of a file's functions and properties, which no class has; None for a class.
    names: tuple[str, ...] | None = None

    def shows(self, line: str) -> bool:
        """Whether a line of javap is of a public member."""
        if line.endswith("(kotlin.jvm.internal.DefaultConstructorMarker);"):
            return False
        name = line.split("(")[0].rstrip(";").split()[-1]
        if name == self.binary:
            return self.constructors
        # Names of internal members have a $ in them.
        if "$" in name or _GENERATED.match(name) or (name == "Companion" and not self.companion):
            return False
        return self.names is None or name in self.names


def dump(module: str, jar: Path) -> str:
    """Public classes of a module with their public members, sorted, as javap writes them."""
    types = sorted(public_types(module), key=lambda found: found.binary)
    command = ["javap", "-public", "-cp", str(jar), *(one.binary for one in types)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # In the order asked for; the line that names the file is not said of every class.
    classes = re.findall(r"^(public .*\{)\n((?:  .*\n)*)\}$", done.stdout, re.MULTILINE)
    assert len(classes) == len(types), done.stdout
    lines = []
    for one, (head, members) in zip(types, classes, strict=True):
        lines += [head, *sorted(line for line in members.splitlines() if one.shows(line)), "}", ""]
    return "\n".join(lines)


def public_types(module: str) -> Iterator[PublicType]:
    """The public types of a module, out of its sources, in which explicit API mode has all of them marked."""
    for path in sorted((host.ANDROID / module / "src" / "main" / "kotlin").rglob("*.kt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        package = next(line.split()[1] for line in lines if line.startswith("package "))
        names = tuple(found[1] for found in map(_TOP.match, lines) if found is not None)
        if names:
            yield PublicType(f"{package}.{path.stem}Kt", names=names)
        yield from _types(package, lines)


def _types(package: str, lines: Sequence[str]) -> Iterator[PublicType]:
    # Indentation, name and visibility of the types around a line.
    around: list[tuple[int, str, bool]] = []
    for at, line in enumerate(lines):
        found = _TYPE.match(line)
        if found is None or not set(found[2].split()) <= _MODIFIERS:
            continue
        indent, modifiers, rest = len(found[1]), found[2].split(), found[4]
        name = found[3] or ("Companion" if "companion" in modifiers else None)
        if name is None:
            continue
        while around and around[-1][0] >= indent:
            around.pop()
        is_public = "public" in modifiers and all(public for _, _, public in around)
        around.append((indent, name, is_public))
        if is_public:
            hidden = re.search(r"\b(internal|private) constructor", rest) is not None
            own = [other for other in lines[at:] if other.startswith(" " * (indent + 4) + "internal companion")]
            binary = f"{package}." + "$".join(each for _, each, _ in around)
            yield PublicType(binary, constructors=not hidden, companion=not own)


def main() -> None:
    """Write the files anew."""
    jar = host.build_library().jar
    API.mkdir(exist_ok=True)
    for module in MODULES:
        (API / f"{module}.api").write_text(dump(module, jar), encoding="utf-8")


if __name__ == "__main__":
    main()
