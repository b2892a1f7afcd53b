# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV   := .venv
PYTHON ?= python3
BIN    := $(CURDIR)/$(VENV)/bin
# torch's exact version keeps pip from fetching a newer build with gigabytes of GPU libraries.
TORCH  := torch==2.13.0
OUT    ?= out/demo
DEMO_FLAGS ?=

.PHONY: setup demo test test-all lint clean

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

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) out runs
