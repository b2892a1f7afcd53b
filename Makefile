# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV   := .venv
PYTHON ?= python3
BIN    := $(CURDIR)/$(VENV)/bin
# torch's exact version keeps pip from fetching a newer build with gigabytes of GPU libraries.
TORCH  := torch==2.13.0
OUT    ?= out/demo
DEMO_FLAGS ?=
ANDROID_TESTS ?=
TORTURE ?=

.PHONY: setup demo test test-all torture lint clean android-tools android-test android-prove android-apk

setup: $(VENV)/.done

# MTMD (images and sound) is the slowest part of llama.cpp to build and not used here.
$(VENV)/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	CMAKE_ARGS="$${CMAKE_ARGS:--DLLAVA_BUILD=OFF}" $(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	PATH="$(BIN):$$PATH" benchmarks/demo.sh "$(OUT)" $(DEMO_FLAGS)

test: setup lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: setup lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Corrupted files, fuzzed logs, kills, threads, malformed requests: an hour or so (benchmarks/torture).
torture: setup
	$(BIN)/python -m benchmarks.torture $(TORTURE)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A Kotlin compiler and CMake from PyPI, for machines that have a JDK and nothing else of Android's.
android-tools: setup android_demo/build/tools/.done

android_demo/build/tools/.done:
	$(BIN)/pip install --quiet --no-deps --target $(@D) kotlin-jupyter-kernel==0.19.0.944 cmake==3.31.6
	touch $@

# The phone's code on this machine's JVM, with every Kotlin compiler there is.
android-test: android-tools
	$(BIN)/python -m pytest tests/android $(ANDROID_TESTS)

# The same on emulated aarch64 CPUs, with a cross-built llama.cpp: minutes, on Debian (android_demo/prove/prove.sh).
android-prove: android-tools
	android_demo/prove/prove.sh

# The app as an APK by Debian's tools, with what android-prove cross-built: a packaging check (android_demo/prove/apk.sh).
android-apk:
	android_demo/prove/apk.sh --tools
	android_demo/prove/apk.sh

clean:
	rm -rf $(VENV) out runs
