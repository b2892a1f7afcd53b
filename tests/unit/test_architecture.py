"""Rooms import one way, and the light ones never torch: read off the source, and checked by importing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import edge_behavior

PACKAGE = Path(edge_behavior.__file__).parent
NAME = "edge_behavior"
# A newcomer reads a room at one sitting, and a module as well.
ROOM_MODULES, MODULE_LINES = 15, 400


def modules() -> dict[str, Path]:
    """Dotted name to file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    """The top room of a module: `runtime` of `edge_behavior.runtime.llama.log`; the module itself in the root."""
    return module.split(".")[1] if module != NAME else NAME


def node_of(module: str) -> str:
    """What stands for a module in the graph: its folder, or itself where the folder has folders of its own.

    Rooms within a room import modules beside them, so that only the folders at the end of a path are one thing.
    """
    path = MODULES[module]
    nested = any((entry / "__init__.py").is_file() for entry in path.parent.iterdir())
    return (path if nested else path.parent).relative_to(PACKAGE).with_suffix("").as_posix()


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


def graph() -> dict[str, set[str]]:
    """Which rooms and modules each of them imports."""
    edges: dict[str, set[str]] = {node_of(module): set() for module in MODULES}
    for module in MODULES:
        edges[node_of(module)] |= {node_of(name) for name in own(module) if name in MODULES and name != NAME}
    return {node: below - {node} for node, below in edges.items()}


def test_the_reader_of_imports_sees_them_all():
    assert f"{NAME}.commands.train" in imported_by(f"{NAME}.cli")
    assert f"{NAME}.runtime.backends.llama" in imported_by(f"{NAME}.runtime.predictor"), "an import inside a function"
    some = {"core/times", "util", "bundle", "hf/tree", "data/importers", "train/stages", "train/pipeline"}
    assert some <= set(graph())


def test_rooms_import_one_way():
    # Every node is left after the nodes that it imports; a circle is what raises.
    list(TopologicalSorter(graph()).static_order())


def test_modules_of_a_room_import_one_way():
    """Imports inside functions are left out: they break the circles that remain at run time."""

    def top_level(module: str) -> set[str]:
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        names = {
            f"{n.module}.{a.name}" if f"{n.module}.{a.name}" in MODULES else n.module or ""
            for n in tree.body
            if isinstance(n, ast.ImportFrom)
            for a in n.names
        }
        return {name for name in names if name in MODULES and name != module}

    list(TopologicalSorter({module: top_level(module) for module in MODULES}).static_order())


@pytest.mark.parametrize(
    ("room", "below"),
    [
        ("core", {"errors"}),
        ("util", {"errors"}),
        ("records", {"core", "util", "errors"}),
        ("hf", {"core", "util", "errors"}),
        ("bundle", {"core", "util", "errors"}),
        ("data", {"records", "core", "util", "errors"}),
        ("runtime", {"bundle", "data", "hf", "core", "util", "errors"}),
        ("evaluation", {"runtime", "bundle", "data", "hf", "core", "util", "errors"}),
    ],
)
def test_the_lower_floors(room: str, below: set[str]):
    found = {room_of(name) for module in MODULES if room_of(module) == room for name in own(module) if name != NAME}
    assert found - {room} <= below


def test_training_takes_nothing_of_the_runtime_but_through_evaluation():
    taken = {name for module in MODULES if room_of(module) == "train" for name in own(module)}
    assert not {name for name in taken if room_of(name) in ("runtime", "export", "bench", "demo")}


def test_the_demo_is_known_to_its_command_only():
    importers = {m for m in MODULES if room_of(m) != "demo" and any(room_of(name) == "demo" for name in own(m))}
    assert importers == {f"{NAME}.commands.demo"}


def test_a_room_and_a_module_fit_one_sitting():
    rooms = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert {room.as_posix(): count for room, count in rooms.items() if count > ROOM_MODULES} == {}
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > MODULE_LINES} == {}


def test_every_room_says_what_it_is():
    assert [
        m for m, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ] == []


TORCH = {"torch", "transformers", "peft", "trl", "accelerate", "datasets"}
ONNX = {"onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai", "tokenizers"}
# What of the runtime is made of torch: a backend that is the reference for the others, and a predictor over it.
TORCH_MODULES = (f"{NAME}.runtime.backends.torch", f"{NAME}.runtime.torch_predictor")
# What a phone maker's server, a laptop without torch, or `edgeb predict` has to load.
LIGHT_ROOMS = (
    *("errors", "core", "util", "bundle", "records", "data", "evaluation", "runtime", "bench", "demo"),
    *("commands", "cli", "__main__"),
)
LIGHT = [m for m in MODULES if room_of(m) in LIGHT_ROOMS and m not in TORCH_MODULES]


@pytest.mark.parametrize("room", [room for room in LIGHT_ROOMS if room not in ("bench", "commands")])
def test_no_torch_is_imported_not_even_inside_a_function(room: str):
    wrong = [
        f"{module} imports {name}"
        for module in LIGHT
        if room_of(module) == room
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


def test_importing_the_light_rooms_loads_no_torch():
    names = [m for m in LIGHT if not m.endswith("__main__") and room_of(m) != "bench"]
    assert f"{NAME}.runtime.backends.llama" in names
    found = loaded_after(f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert not found & {*TORCH, *ONNX, "matplotlib", "pandas", "gguf", "sklearn"}
    assert {"numpy", NAME} <= found


@pytest.mark.parametrize("name", TORCH_MODULES)
def test_the_torch_modules_are_opened_by_the_commands_only(name: str):
    importers = {m for m in MODULES if name in own(m) and m not in TORCH_MODULES}
    assert {room_of(m) for m in importers} == {"commands"}
