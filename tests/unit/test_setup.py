"""What `make setup` decides: what a machine lacks, how llama.cpp is built; and the lock covers what edgeb asks for."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import bare

ROOT = Path(__file__).resolve().parents[2]
PREPARE = ROOT / ".ci"
pytestmark = [
    pytest.mark.skipif(not PREPARE.is_dir(), reason="not a checkout: there is no .ci"),
    pytest.mark.skipif(sys.version_info < (3, 11), reason="make setup needs Python 3.11"),
]
LOCK = (PREPARE / "requirements.lock") if PREPARE.is_dir() else Path(os.devnull)
AMX = "processor : 0\nflags\t\t: fpu avx512_vnni amx_bf16 amx_tile amx_int8\n"
NO_AMX = "processor : 0\nflags\t\t: fpu avx2 fma\nbugs : amx_int8_of_another_line\n"
ARM = "processor : 0\nFeatures\t: fp asimd i8mm\n"

Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH of a bare machine with a Python, two compilers that compile anything, and much free disk."""
    folder = bare.folder(tmp_path / "bin")
    os.symlink(sys.executable, folder / "python3")
    for name in ("cc", "c++"):
        bare.stand_in(folder, name)
    disk(folder, {})
    return folder


def disk(folder: Path, free: Mapping[str, int]) -> None:
    """A `df` by which folders with such a name in their path have so many gigabytes free, and all others 50."""
    cases = "".join(f"*{name}*) free={gigabytes}000000 ;; " for name, gigabytes in free.items())
    bare.stand_in(
        folder, "df", f'case "$2" in {cases} *) free=50000000 ;; esac; echo head; echo "/dev/x 1 1 $free 1% /"'
    )


@pytest.fixture
def check(tools: Path, tmp_path: Path) -> Check:
    """Run the checks alone, as `make setup` does first."""
    (tmp_path / "tmp").mkdir()

    def check(**environment: str) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": str(tools), "TMPDIR": str(tmp_path / "tmp"), **environment}
        script = [str(PREPARE / "setup.sh"), "--check", str(tmp_path / "checkout" / ".venv")]
        return subprocess.run(script, capture_output=True, text=True, check=False, env=variables)

    (tmp_path / "checkout").mkdir()
    return check


def assert_missing(done: subprocess.CompletedProcess[str], pattern: str) -> None:
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert re.fullmatch(f"setup: {pattern}\n", done.stderr), done.stderr


def test_a_machine_with_everything(check: Check, tmp_path: Path) -> None:
    done = check()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "checkout").iterdir()) == []


def test_no_python(check: Check, tools: Path) -> None:
    (tools / "python3").unlink()
    assert_missing(check(), "no python3 on the PATH: .*PYTHON=.*")


def test_a_python_that_is_only_a_stand_in(check: Check, tools: Path) -> None:
    bare.stand_in(tools, "python3.11", "echo 'no such version'; exit 127")
    assert_missing(check(PYTHON="python3.11"), "python3.11 does not run: .*")


@pytest.mark.parametrize(
    ("version", "fits"),
    [((2, 7), 0), ((3, 9), 0), ((3, 10), 0), ((3, 11), 1), ((3, 13), 1), ((3, 14), 0), ((4, 11), 0)],
)
def test_python_versions(check: Check, tools: Path, version: tuple[int, int], fits: int) -> None:
    """The given code is run by this Python, told that it is another one."""
    told = f"import sys; sys.version_info = ({version[0]}, {version[1]}, 7); "
    run = f'shift; code="$1"; shift; exec {shlex.quote(sys.executable)} -c "{told}$code" "$@"'
    script = f'case "$1" in --version) echo Python {version[0]}.{version[1]}.7 ;; *) {run} ;; esac'
    bare.stand_in(tools, "other", script)
    done = check(PYTHON="other")
    if fits:
        assert done.returncode == 0, done.stderr
    else:
        assert_missing(
            done, rf"other is Python {version[0]}\.{version[1]}\.7, make setup needs Python 3\.11 to 3\.13: .*"
        )


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_no_venv_module(check: Check, tools: Path, module: str) -> None:
    """As on Debian without python3-venv."""
    script = f'[ "$1" = -c ] && case "$2" in *{module}*) exit 1 ;; esac; exec {shlex.quote(sys.executable)} "$@"'
    bare.stand_in(tools, "debians", script)
    assert_missing(check(PYTHON="debians"), "debians has no venv module: .*apt-get install python3-venv.*")


@pytest.mark.parametrize(("gone", "language"), [("cc", "C"), ("c++", r"C\+\+")])
def test_no_compiler(check: Check, tools: Path, gone: str, language: str) -> None:
    (tools / gone).unlink()
    assert_missing(check(), rf"no {language} compiler on the PATH, .*build-essential.*")


@pytest.mark.parametrize(("broken", "language"), [("cc", "C"), ("c++", r"C\+\+")])
def test_a_compiler_without_its_headers(check: Check, tools: Path, broken: str, language: str) -> None:
    bare.stand_in(tools, broken, "echo 'stdlib.h: no such file' >&2; exit 1")
    assert_missing(check(), rf"the {language} compiler \({re.escape(broken)}\) cannot compile .*")


def test_other_compilers(check: Check, tools: Path) -> None:
    for old, new in (("cc", "clang"), ("c++", "clang++")):
        (tools / old).rename(tools / new)
    assert check().returncode == 0
    for name in ("clang", "clang++"):
        (tools / name).rename(tools / f"{name}-19")
    assert_missing(check(), "no C compiler.*")
    assert check(CC="clang-19", CXX="env clang++-19 -O1").returncode == 0
    assert_missing(check(CC="clang-19", CXX="clang++-20"), r"the C\+\+ compiler \(clang\+\+-20\) cannot compile .*")


@pytest.mark.skipif(shutil.which("c++") is None, reason="no c++ on the PATH")
def test_this_machines_compilers(check: Check, tools: Path) -> None:
    for name in ("cc", "c++"):
        bare.stand_in(tools, name, f'PATH={shlex.quote(os.environ["PATH"])} exec {shutil.which(name)} "$@"')
    assert check().returncode == 0


def test_a_full_disk(check: Check, tools: Path, tmp_path: Path) -> None:
    disk(tools, {"checkout": 3})
    assert_missing(check(), "less than 4 GB free in .*/checkout, where the environment goes: .*")
    disk(tools, {"checkout": 4})
    assert check().returncode == 0
    disk(tools, {"/tmp/pip": 1})
    (tmp_path / "tmp" / "pip").mkdir()
    assert_missing(
        check(TMPDIR=str(tmp_path / "tmp" / "pip")), "less than 2 GB free in .*/tmp/pip, where pip builds: .*TMPDIR.*"
    )
    assert_missing(check(TMPDIR=str(tmp_path / "gone")), "the temporary folder .*/gone does not exist: .*")


def test_an_environment_that_is_there_needs_less(check: Check, tools: Path, tmp_path: Path) -> None:
    (tmp_path / "checkout" / ".venv").mkdir()
    bare.stand_in(tools, "du", "printf '2400000\\tx\\n'")
    disk(tools, {"checkout": 2})
    assert check().returncode == 0
    disk(tools, {"checkout": 1})
    assert_missing(check(), "less than 4 GB .*")


@pytest.fixture
def setup(tools: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Run all of it with a Python that makes no environment and installs nothing: what pip was called with."""
    said, real = tmp_path / "said", shlex.quote(sys.executable)
    # Also the environment's Python; what is asked with -c and what is no module is run for real.
    script = f"""case "$2" in
        venv) for last in "$@"; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python"; exit ;;
        pip) if [ "$3" = cache ]; then echo "$PIP_CACHE"; else echo "$CMAKE_ARGS | $*" >> {said}; fi; exit ;;
        esac; exec {real} "$@\""""
    (tools / "python3").unlink()
    bare.stand_in(tools, "python3", script)
    (tmp_path / "check out").mkdir()

    def setup(**environment: str) -> list[str]:
        said.unlink(missing_ok=True)
        variables = {"PATH": str(tools), "TMPDIR": str(tmp_path), "PIP_CACHE": "/cache", **environment}
        script = [str(PREPARE / "setup.sh"), str(tmp_path / "check out" / ".venv")]
        subprocess.run(script, capture_output=True, text=True, check=True, env=variables)
        return said.read_text(encoding="utf-8").splitlines()

    return setup


def test_what_is_installed(setup: Callable[..., list[str]]) -> None:
    _, torch, llama, packages = setup(CMAKE_ARGS="-DGGML_BLAS=ON")
    assert re.search(r" install --quiet --constraint .*/requirements\.lock torch$", torch)
    assert re.fullmatch(
        r"-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_\S+ -DGGML_BLAS=ON.* \| "
        r"-m pip install --quiet --cache-dir=/cache/edgeb/\d+ --no-deps --force-reinstall llama-cpp-python==[0-9.]+",
        llama,
    )
    assert re.search(r" install --quiet --constraint .*/requirements\.lock --editable .*\[dev\]$", packages)


def test_a_built_wheel_is_for_one_cpu_one_compiler_and_its_flags(setup: Callable[..., list[str]], tools: Path) -> None:
    """pip's own cache would hand out whatever was built first."""

    def cache(**environment: str) -> str:
        found = re.search(r"--(no-)?cache-dir\S*", setup(**environment)[2])
        assert found is not None
        return found[0]

    usual = cache()
    assert cache() == usual
    others = [cache(CMAKE_ARGS="-DGGML_NATIVE=OFF"), cache(CFLAGS="-O1"), cache(CXXFLAGS="-O1")]
    bare.stand_in(tools, "cc", "echo cc 13")
    others.append(cache())
    (tools / "grep").unlink()
    bare.stand_in(tools, "grep", "echo 'model name : another'")
    others.append(cache())
    assert len({usual, *others}) == 6


def test_an_environment_is_built_anew_for_another_cpu(setup: Callable[..., list[str]]) -> None:
    """The installed version is the same, and pip would keep it."""

    def anew(**environment: str) -> bool:
        return "--force-reinstall" in setup(**environment)[2]

    assert anew()
    assert not anew()
    assert anew(CMAKE_ARGS="-DGGML_NATIVE=OFF")
    assert not anew(CMAKE_ARGS="-DGGML_NATIVE=OFF")
    assert anew()


def test_a_pip_without_a_cache(setup: Callable[..., list[str]]) -> None:
    assert " --no-cache-dir " in setup(PIP_CACHE="")[2]


@pytest.fixture(scope="module")
def cmake_args() -> Any:
    return runpy.run_path(str(PREPARE / "cmake_args.py"))["cmake_args"]


@pytest.fixture
def compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the PATH whose cc and c++ take any flag."""
    for name in ("cc", "c++", "new-cc", "new-c++"):
        bare.stand_in(tmp_path / "compilers", name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'compilers'}:{os.environ['PATH']}")
    return tmp_path / "compilers"


def refuse(compilers: Path, *names: str) -> None:
    for name in names:
        bare.stand_in(compilers, name, 'case "$*" in *-mno-amx-int8*) exit 1 ;; esac')


def given_cpu(folder: Path, text: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    return path


OURS = ["-DLLAVA_BUILD=OFF", f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={PREPARE / 'llama_cpp.cmake'}"]
OFF = ["-DCMAKE_C_FLAGS=-mno-amx-int8", "-DCMAKE_CXX_FLAGS=-mno-amx-int8"]


def test_amx_is_left_out(cmake_args: Any, compilers: Path, tmp_path: Path) -> None:
    cpu = given_cpu(tmp_path, AMX)
    assert shlex.split(cmake_args({}, cpu)) == [*OURS, *OFF]
    assert shlex.split(cmake_args({"CMAKE_ARGS": "-DGGML_BLAS=ON -G Ninja"}, cpu)) == [
        *OURS, "-DGGML_BLAS=ON", "-G", "Ninja", *OFF,
    ]  # fmt: skip


@pytest.mark.parametrize("text", [NO_AMX, ARM, ""])
def test_other_cpus_build_as_they_did(cmake_args: Any, compilers: Path, tmp_path: Path, text: str) -> None:
    cpu = given_cpu(tmp_path, text)
    assert cmake_args({}, cpu) == shlex.join(OURS)
    assert cmake_args({"CMAKE_ARGS": "-DLLAVA_BUILD=ON"}, cpu) == f"{shlex.join(OURS)} -DLLAVA_BUILD=ON"


def test_without_a_cpuinfo(cmake_args: Any, compilers: Path, tmp_path: Path) -> None:
    """As on macOS."""
    assert cmake_args({"CMAKE_ARGS": "-DX='a b'"}, tmp_path / "none") == f"{shlex.join(OURS)} '-DX=a b'"


@pytest.mark.parametrize("old", [("cc",), ("c++",), ("cc", "c++")])
def test_a_compiler_that_does_not_know_the_flag(
    cmake_args: Any, compilers: Path, tmp_path: Path, old: tuple[str, ...]
) -> None:
    refuse(compilers, *old)
    cpu = given_cpu(tmp_path, AMX)
    assert cmake_args({}, cpu) == shlex.join(OURS)
    # The compilers that are asked are those that CMake takes.
    assert shlex.split(cmake_args({"CC": "new-cc -pipe", "CXX": "new-c++"}, cpu))[-2:] == OFF
    named = "-DCMAKE_C_COMPILER=new-cc -D CMAKE_CXX_COMPILER:FILEPATH=new-c++"
    assert shlex.split(cmake_args({"CMAKE_ARGS": named}, cpu))[-2:] == OFF
    assert "amx" not in cmake_args({"CC": "none-such", "CXX": "none-such"}, cpu)


@pytest.mark.parametrize(
    ("environment", "c", "cxx"),
    [
        ({"CMAKE_ARGS": "-DCMAKE_C_FLAGS='-O2 -g'"}, "-O2 -g -mno-amx-int8", "-mno-amx-int8"),
        ({"CMAKE_ARGS": "-D CMAKE_CXX_FLAGS:STRING=-O1"}, "-mno-amx-int8", "-O1 -mno-amx-int8"),
        ({"CFLAGS": "-O3", "CXXFLAGS": "-O1 -g"}, "-O3 -mno-amx-int8", "-O1 -g -mno-amx-int8"),
        ({"CMAKE_ARGS": "-DCMAKE_C_FLAGS=-g", "CFLAGS": "-O3"}, "-g -mno-amx-int8", "-mno-amx-int8"),
        ({"CMAKE_ARGS": "-DCMAKE_C_FLAGS=-g -DCMAKE_C_FLAGS=-O1"}, "-O1 -mno-amx-int8", "-mno-amx-int8"),
        ({"CMAKE_ARGS": "-DCMAKE_C_FLAGS="}, "-mno-amx-int8", "-mno-amx-int8"),
    ],
)
def test_the_flag_joins_the_users_flags(
    cmake_args: Any, compilers: Path, tmp_path: Path, environment: dict[str, str], c: str, cxx: str
) -> None:
    arguments = shlex.split(cmake_args(environment, given_cpu(tmp_path, AMX)))
    assert arguments[-2:] == [f"-DCMAKE_C_FLAGS={c}", f"-DCMAKE_CXX_FLAGS={cxx}"]


@given(st.lists(st.from_regex(r"-D[A-Z_]{1,9}=[^\x00]{0,9}", fullmatch=True), max_size=4))
def test_the_users_arguments_stay(cmake_args: Any, own: list[str]) -> None:
    written = shlex.join(own)
    assert shlex.split(cmake_args({"CMAKE_ARGS": written}, Path(os.devnull) / "none")) == [*OURS, *own]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def locked() -> dict[str, str]:
    """Name to version, one line each."""
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(found) == len(lines)
    return found


def test_the_lock_has_a_version_in_range_of_all_that_edgeb_asks_for(project: dict[str, Any]) -> None:
    lock, extras = locked(), dict(project["optional-dependencies"])
    # What may need an environment of its own is in none of these.
    assert extras.pop("litert-export")
    assert extras.pop("npu")
    wanted = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name != "edgeb":
            assert name in lock, name
            assert requirement.specifier.contains(lock[name]), f"{requirement} and {lock[name]}"


def test_the_lock_names_versions_and_neither_builds_nor_places() -> None:
    for version in locked().values():
        assert re.fullmatch(r"[0-9]+(\.(post)?[0-9]+)+", version), version
