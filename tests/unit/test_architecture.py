"""Imports point one way, and core and runtime never import torch: read off the source, and checked by importing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edge_behavior

PACKAGE = Path(edge_behavior.__file__).parent
NAME = "edge_behavior"
ENTRY = {"cli", "__main__"}
PARTS = ("commands", "demo", "bench", "train", "export", "runtime", "hf", "data")
# What each part may import beside itself and the core (the top-level modules other than the entry points).
MAY_IMPORT = {
    "core": {"data"},
    "data": set(),
    "hf": set(),
    "runtime": {"data"},
    "export": {"runtime", "hf", "data"},
    "bench": {"runtime", "export", "data"},
    "train": {"data", "runtime", "hf"},
    "demo": {"runtime"},
    "commands": {"data", "runtime", "hf", "export", "train", "bench", "demo"},
    "cli": {"commands"},
}


def modules() -> dict[str, Path]:
    """Dotted name to file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def part_of(module: str) -> str:
    rest = module.split(".")[1:]
    if rest and rest[0] in ENTRY:
        return "cli"
    return rest[0] if rest and rest[0] in PARTS else "core"


def imported_by(module: str) -> set[str]:
    """Every module an import statement names, wherever in the file it stands."""
    path, found = MODULES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            # `from package import name` may name a module.
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return found


def own(module: str) -> set[str]:
    return {name for name in imported_by(module) if name == NAME or name.startswith(f"{NAME}.")}


def test_the_reader_of_imports_sees_them_all():
    assert f"{NAME}.commands.train" in imported_by(f"{NAME}.cli")
    assert f"{NAME}.runtime.llamacpp" in imported_by(f"{NAME}.runtime.predictor"), "an import inside a function"
    assert {part_of(m) for m in MODULES} == set(MAY_IMPORT)
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} == set(PARTS)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_one_way(part):
    allowed = {"core", part, *MAY_IMPORT[part]}
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if part_of(module) == part
        for name in own(module)
        if part_of(name) not in allowed
    ]
    assert wrong == []


def test_training_takes_only_the_scorer_from_the_runtime():
    taken = {
        name
        for module in MODULES
        if part_of(module) == "train"
        for name in own(module)
        if part_of(name) == "runtime"
    }  # fmt: skip
    assert taken == {f"{NAME}.runtime.torch_scorer"}


def test_the_demo_is_known_to_its_command_only():
    importers = {m for m in MODULES if part_of(m) != "demo" and any(part_of(name) == "demo" for name in own(m))}
    assert importers == {f"{NAME}.commands.demo"}


def test_nothing_imports_in_a_circle():
    def top_level(module: str) -> set[str]:
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        names = {
            f"{n.module}.{a.name}" if f"{n.module}.{a.name}" in MODULES else n.module or ""
            for n in tree.body
            if isinstance(n, ast.ImportFrom)
            for a in n.names
        }
        return {name for name in names if name in MODULES}

    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        if module not in done:
            for name in top_level(module):
                visit(name, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_the_core_knows_of_data_only_where_it_evaluates():
    users = {m for m in MODULES if part_of(m) == "core" and any(part_of(name) == "data" for name in own(m))}
    assert users == {f"{NAME}.evaluation"}


TORCH = {"torch", "transformers", "peft", "trl", "accelerate", "datasets"}
ONNX = {"onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai", "tokenizers"}
# The two parts of the runtime that are made of torch: batches for training, the reference for everyone.
TORCH_MODULES = (f"{NAME}.runtime.torch_scorer", f"{NAME}.runtime.torch_backend")
LIGHT = [
    m
    for m in MODULES
    if part_of(m) in ("core", "data", "runtime", "demo", "commands", "cli") and m not in TORCH_MODULES
]


@pytest.mark.parametrize("part", ["core", "runtime", "data", "demo"])
def test_no_torch_is_imported_not_even_inside_a_function(part):
    wrong = [
        f"{module} imports {name}"
        for module in LIGHT
        if part_of(module) == part
        for name in imported_by(module)
        if name.split(".")[0] in TORCH
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["pickle", "dill", "joblib", "cloudpickle", "shelve"])
def test_nothing_is_pickled(name):
    assert [m for m in MODULES if any(i.split(".")[0] == name for i in imported_by(m))] == []


def loaded_after(code: str) -> set[str]:
    """Top-level modules in memory after running `code` in a fresh interpreter."""
    code += "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_core_data_and_runtime_loads_no_torch():
    names = [m for m in LIGHT if not m.endswith("__main__")]
    assert f"{NAME}.runtime.llamacpp" in names
    found = loaded_after(f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert not found & {*TORCH, *ONNX, "matplotlib", "pandas", "gguf", "sklearn"}
    assert {"numpy", NAME} <= found


def test_the_torch_modules_are_what_loads_torch():
    for name, users in zip(TORCH_MODULES, ({"train", "export"}, {"commands"}), strict=True):
        assert "torch" in imported_by(name)
        importers = {m for m in MODULES if name in own(m)}
        assert importers
        assert {part_of(m) for m in importers} == users
