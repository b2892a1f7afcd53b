#!/bin/sh
# `make setup`: an environment with the tested versions of everything, or one line that says what this machine lacks.
#
#   .ci/setup.sh VENV            check, make the environment, install
#   .ci/setup.sh --check VENV    only check
#
# PYTHON names the interpreter (python3), CC and CXX the compilers, CMAKE_ARGS is added to what llama.cpp is built with.
# Exits with 1 where something is missing. It lies here because people and CI prepare a checkout alike, and the folders
# at the top are the package's parts. Plain sh: macOS and Debian have no other shell in common.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
root="$(dirname "$here")"
python="${PYTHON:-python3}"
# Seen: an environment of 2.3 GB, 6 GB with a torch for GPUs; 1.3 GB in the temporary folder.
venv_gb=4
temporary_gb=2

missing() {
    echo "setup: $1" >&2
    exit 1
}

check_python() {
    command -v "$python" > /dev/null || missing "no $python on the PATH: install Python, or name one: make setup PYTHON=python3.11"
    "$python" -c '' > /dev/null 2>&1 || missing "$python does not run: install Python, or name one: make setup PYTHON=python3.11"
    # For example: requires-python = ">=3.10,<3.14". Plain edgeb runs on 3.10, what trains (TRL) does not.
    newest="$(($(sed -n 's/^requires-python = ".*,<3\.\([0-9]*\)"$/\1/p' "$root/pyproject.toml") - 1))"
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, int(sys.argv[1])))' "$newest" \
        || missing "$python is $("$python" --version 2>&1), make setup needs Python 3.11 to 3.$newest: name one: make setup PYTHON=python3.11"
    "$python" -c 'import ensurepip, venv' 2> /dev/null \
        || missing "$python has no venv module: install it (Debian and Ubuntu: apt-get install python3-venv)"
}

# The first of the given commands that exists.
first() {
    for name in "$@"; do
        if command -v "$name" > /dev/null; then
            echo "$name"
            return
        fi
    done
}

# The compilers as CMake would choose them.
find_compilers() {
    CC="${CC:-$(first cc gcc clang)}"
    CXX="${CXX:-$(first c++ g++ clang++)}"
    export CC CXX
}

check_compilers() {
    find_compilers
    with="Debian and Ubuntu: apt-get install build-essential; macOS: xcode-select --install"
    [ -n "$CC" ] || missing "no C compiler on the PATH, llama.cpp is built here: install one ($with), or set CC"
    [ -n "$CXX" ] || missing "no C++ compiler on the PATH, llama.cpp is built here: install one ($with), or set CXX"
    probe="$(mktemp -d)"
    trap 'rm -rf "$probe"' EXIT
    printf '#include <stdlib.h>\nint main(void) { return 0; }\n' > "$probe/c.c"
    printf '#include <vector>\nint main() { return 0; }\n' > "$probe/cxx.cpp"
    # Unquoted: CC="ccache gcc" is common. Installed does not mean complete: headers may be missing, or macOS's tools.
    $CC -o "$probe/c" "$probe/c.c" > /dev/null 2>&1 || missing "the C compiler ($CC) cannot compile a program: $with"
    $CXX -std=c++17 -o "$probe/cxx" "$probe/cxx.cpp" > /dev/null 2>&1 \
        || missing "the C++ compiler ($CXX) cannot compile a C++17 program: $with"
}

# Kilobytes a folder's file system has free.
free_kb() {
    df -Pk "$1" | awk 'NR == 2 { print $4 }'
}

check_disk() {
    # What an environment has already taken, it does not take again.
    taken=0
    if [ -d "$venv" ]; then taken="$(du -sk "$venv" | cut -f 1)"; fi
    folder="$(dirname "$venv")"
    [ "$(($(free_kb "$folder") + taken))" -ge "$((venv_gb * 1000 * 1000))" ] \
        || missing "less than $venv_gb GB free in $folder, where the environment goes: free some"
    temporary="${TMPDIR:-/tmp}"
    [ -d "$temporary" ] || missing "the temporary folder $temporary does not exist: make it, or set TMPDIR to another"
    [ "$(free_kb "$temporary")" -ge "$((temporary_gb * 1000 * 1000))" ] \
        || missing "less than $temporary_gb GB free in $temporary, where pip builds: free some, or set TMPDIR to another folder"
}

check() {
    check_python
    check_disk
    check_compilers
}

install() {
    "$venv/bin/python" -m pip install --quiet "$@"
}

make_venv() {
    # Another Python's environment is made anew: its packages would be of no use.
    version='import sys; print(sys.version_info[:3])'
    clear=
    if [ -e "$venv" ] && [ "$("$venv/bin/python" -c "$version" 2> /dev/null)" != "$("$python" -c "$version")" ]; then
        clear=--clear
    fi
    "$python" -m venv $clear "$venv"
    install --upgrade pip
}

# llama.cpp is built for this CPU. pip remembers a built wheel by its source alone, and so would hand out one that was
# built for another CPU, by another compiler or with other flags: each of these has a cache of its own.
install_llama_cpp() {
    CMAKE_ARGS="$("$venv/bin/python" "$here/cmake_args.py")"
    export CMAKE_ARGS
    built_for="$(
        {
            uname -sm
            grep -E '^(model name|flags|CPU part|Features)' /proc/cpuinfo || sysctl -n machdep.cpu.brand_string || true
            $CC --version
            $CXX --version
            # Where this checkout lies changes nothing.
            echo "$CMAKE_ARGS ${CFLAGS:-} ${CXXFLAGS:-}" | sed "s|$here|.ci|g"
        } 2> /dev/null | sort -u | cksum | cut -d ' ' -f 1
    )"
    # Where pip keeps no cache, it says so and names no folder.
    folder="$("$venv/bin/python" -m pip cache dir 2> /dev/null || true)"
    cache=--no-cache-dir
    if [ -n "$folder" ]; then cache="--cache-dir=$folder/edgeb/$built_for"; fi
    # What an environment was built for before stays installed otherwise: its version is the same.
    note="$venv/llama_cpp.built_for"
    again=
    if [ "$(cat "$note" 2> /dev/null)" != "$built_for" ]; then
        again=--force-reinstall
        echo "setup: llama.cpp, built for this CPU unless it was before (minutes)" >&2
    fi
    install "$cache" --no-deps $again \
        "$(sed -n 's/^ *"\(llama-cpp-python==[0-9.]*\)",$/\1/p' "$root/pyproject.toml")"
    echo "$built_for" > "$note"
}

only=
if [ "${1:-}" = --check ]; then
    only=check
    shift
fi
venv="${1:?usage: setup.sh [--check] VENV}"
case "$venv" in /*) ;; *) venv="$PWD/$venv" ;; esac
check
if [ -n "$only" ]; then exit; fi
make_venv
# First what a platform may not have at all: minutes of compiling would be in vain.
install --constraint "$here/requirements.lock" torch
install_llama_cpp
echo "setup: the packages of requirements.lock" >&2
install --constraint "$here/requirements.lock" --editable "$root[dev]"
