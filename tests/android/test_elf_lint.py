"""The checks of shared libraries find what a phone would trip over, and nothing else."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.android import host

RUNTIME = host.ANDROID / "runtime" / "src" / "main" / "kotlin" / "dev" / "edgeb" / "runtime"
KOTLIN = RUNTIME / "NativeLlama.kt"
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on the PATH")


@pytest.fixture(scope="module")
def lint() -> ModuleType:
    spec = importlib.util.spec_from_file_location("elf_lint", host.ANDROID / "tools" / "elf_lint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    import sys

    sys.modules["elf_lint"] = module
    spec.loader.exec_module(module)
    return module


def library(folder: Path, names: list[str], page: int) -> Path:
    code, out = folder / "x.c", folder / "x.so"
    code.write_text("".join(f"void {name}(void) {{}}\n" for name in names), encoding="utf-8")
    flags = ["-shared", "-fPIC", "-nostdlib", f"-Wl,-z,max-page-size={page}"]
    subprocess.run(["gcc", *flags, "-o", str(out), str(code)], check=True)
    return out


@needs_compiler
def test_a_good_library_has_no_faults(lint: ModuleType, tmp_path: Path) -> None:
    names = lint.jni_names(KOTLIN)
    assert lint.faults(library(tmp_path, names, 16384), names) == []


@needs_compiler
def test_small_pages_are_a_fault(lint: ModuleType, tmp_path: Path) -> None:
    assert all("4096 bytes" in line for line in lint.faults(library(tmp_path, ["f"], 4096)))
    assert lint.faults(tmp_path / "x.so")


@needs_compiler
def test_every_function_and_no_other(lint: ModuleType, tmp_path: Path) -> None:
    names = lint.jni_names(KOTLIN)
    found = lint.faults(library(tmp_path, [*names[1:], "extra"], 16384), names)
    assert [line.split(": ")[1] for line in found] == [f"{names[0]} is not exported", "extra is exported"]


def test_names_come_from_kotlin(lint: ModuleType) -> None:
    declared = re.findall(r"external fun (\w+)", KOTLIN.read_text(encoding="utf-8"))
    assert len(declared) == len(set(declared)) > 10
    assert f"Java_dev_edgeb_runtime_NativeLlama_{declared[0]}" in lint.jni_names(KOTLIN)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(30), b"text" * 40])
def test_what_is_no_library(lint: ModuleType, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(content)
    assert len(lint.faults(path)) == 1


@pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))
def test_the_jni_library_exports_its_functions_and_nothing_else(lint: ModuleType) -> None:
    owners = [kotlin for kotlin in sorted(RUNTIME.glob("*.kt")) if "external fun" in kotlin.read_text(encoding="utf-8")]
    names = [name for kotlin in owners for name in lint.jni_names(kotlin)]
    assert len(owners) == 2
    assert lint.faults(host.build_native() / "libedgeb.so", names) == []
