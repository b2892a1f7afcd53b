#!/usr/bin/env bash
# The phone's code on emulated aarch64 CPUs: cross-builds llama.cpp with its CPU variants, checks the libraries, and
# runs the conformance to Python's goldens on an aarch64 JVM under qemu-user, for CPUs with and without dot products.
# LiteRT is not built: the library comes out of ai-edge-litert's wheel for aarch64, of the version that Python has here.
#
#   make android-prove        on Debian, as any user; needs the packages named below, a JDK and the Python environment
#
# LLAMA_CPP_DIR names the source of llama.cpp; by default that of the pinned llama-cpp-python. BUNDLES names exported
# bundles by absolute paths, such as SmolLM2's with a short prompt, that are asked three windows each: minutes on every
# CPU. ENGINES="llama" leaves LiteRT out, whose bundles need the packages of edgeb export --format litert; with "litert"
# alone the other engine's part of RESULTS.md stays as it is, and VARIANTS=armv8.0_1 saves most of the build: llama.cpp
# tokenizes there, and does little else. Writes RESULTS.md. What this does not prove is in android_demo/README.md. No time
# taken under qemu says anything of a phone.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
android="$(dirname "$here")"
work="$android/build/prove"
python="${PYTHON_BIN:-$(dirname "$android")/.venv/bin/python}"
cpus="${CPUS:-cortex-a53 cortex-a76 max}"
engines="${ENGINES:-llama litert}"
# Largest difference of a probability between this machine's CPU and another one, for GGUF and for LiteRT bundles.
tolerance="${TOLERANCE:-0.02}"
litert_tolerance="${LITERT_TOLERANCE:-0.001}"
jobs="${JOBS:-2}"

for tool in aarch64-linux-gnu-g++ qemu-aarch64-static cmake ninja java javac apt-get dpkg-deb; do
    command -v "$tool" > /dev/null || {
        echo "$tool is missing: apt-get install g++-aarch64-linux-gnu qemu-user-static cmake ninja-build default-jdk-headless" >&2
        exit 2
    }
done
for engine in $engines; do
    case "$engine" in
        llama) ;;
        litert) PYTHONPATH="$(dirname "$android")" "$python" -c '
import sys
from edge_behavior.errors import EdgebError
from edge_behavior.export.litert.worker import check_packages
try:
    check_packages()
except EdgebError as error:
    print(error, file=sys.stderr)
    sys.exit(2)' ;;
        *) echo "there is no engine '$engine': ENGINES names llama, litert or both" >&2; exit 2 ;;
    esac
done
mkdir -p "$work"

echo "== llama.cpp's source"
source="${LLAMA_CPP_DIR:-}"
if [ -z "$source" ]; then
    pin="$(sed -n 's/.*"\(llama-cpp-python==[0-9.]*\)".*/\1/p' "$(dirname "$android")/pyproject.toml" | head -n 1)"
    if [ ! -d "$work/sdist" ]; then
        "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$work/sdist.new" "$pin"
        tar -xzf "$work/sdist.new"/*.tar.gz -C "$work/sdist.new"
        mv "$work/sdist.new" "$work/sdist"
    fi
    source="$(echo "$work"/sdist/llama_cpp_python-*/vendor/llama.cpp)"
fi
if [ ! -d "$work/llama.cpp" ]; then
    mkdir -p "$work/llama.cpp.new"
    for part in CMakeLists.txt LICENSE cmake ggml include licenses scripts src vendor; do
        cp -r "$source/$part" "$work/llama.cpp.new/"
    done
    mv "$work/llama.cpp.new" "$work/llama.cpp"
fi
# GCC 12 knows no SME; its variants are for CPUs that none of the emulated ones is.
sed "/add_cpu_backend_variant.* SME)/d; /add_cpu_backend_variant(armv8/{/(\(${VARIANTS:-armv8.*}\)[ )]/!d}" \
    "$source/ggml/src/CMakeLists.txt" > "$work/CMakeLists.txt"
cmp -s "$work/CMakeLists.txt" "$work/llama.cpp/ggml/src/CMakeLists.txt" ||
    cp "$work/CMakeLists.txt" "$work/llama.cpp/ggml/src/CMakeLists.txt"

echo "== cross build"
JAVA_HOME="$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")"
export JAVA_HOME
cmake -G Ninja -S "$android/runtime/src/main/cpp" -B "$work/native" -DLLAMA_CPP_DIR="$work/llama.cpp" \
    -DCMAKE_TOOLCHAIN_FILE="$here/aarch64-linux.cmake" > "$work/configure.log"
cmake --build "$work/native" -j "$jobs"

echo "== libraries"
libraries="$work/native/libedgeb.so $(find "$work/native" -name 'lib*.so' ! -name libedgeb.so | sort)"
natives="$android/runtime/src/main/kotlin/dev/edgeb/runtime"
# shellcheck disable=SC2086
"$python" "$android/tools/elf_lint.py" --jni "$natives/NativeLlama.kt" --jni "$natives/NativeLiteRt.kt" \
    $libraries | tee "$work/lint.txt"

echo "== an aarch64 JVM"
if [ ! -d "$work/root" ]; then
    apt="$work/apt"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : > "$apt/status"
    cat > "$apt/apt.conf" << CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
CONF
    # Own state and cache: this machine's packages stay as they are.
    APT_CONFIG="$apt/apt.conf" apt-get -qq update
    APT_CONFIG="$apt/apt.conf" apt-get -qq install --yes --no-install-recommends --download-only openjdk-17-jre-headless
    mkdir -p "$work/root.new"
    for package in "$apt"/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$work/root.new"
    done
    # Links to /etc would lead to this machine's.
    find "$work/root.new/usr/lib/jvm" -type l -lname '/*' | while read -r link; do
        ln -sfn "$work/root$(readlink "$link")" "$link"
    done
    mv "$work/root.new" "$work/root"
fi
java="$(echo "$work"/root/usr/lib/jvm/java-17-openjdk-arm64/bin/java)"

echo "== goldens and classes"
cd "$(dirname "$android")"
class_path="$("$python" -c 'from tests.android import host; print(host.build().class_path)')"
backends="$(dirname "$(find "$work/native" -name 'libggml-cpu-*.so' | head -n 1)")"
# LiteRT reads what CPU it has from here, and crashes on the lines of another architecture, as this machine's are; qemu
# looks for files below its root first. CPU
pretend() {
    case "$1" in
        cortex-a53) part=0xd03 ;;
        cortex-a55) part=0xd05 ;;
        *) part=0xd0b ;;
    esac
    mkdir -p "$work/root/proc"
    for processor in 0 1; do
        printf '%s\t: %s\n' processor $processor "CPU implementer" 0x41 "CPU architecture" 8 "CPU variant" 0x0 \
            "CPU part" $part "CPU revision" 4
        echo
    done > "$work/root/proc/cpuinfo"
}
# CPU, goldens, tolerance, folder of llama.cpp's CPU variants, LiteRT's library
conformance() {
    pretend "$1"
    qemu-aarch64-static -L "$work/root" -cpu "$1" "$java" -Xcheck:jni -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
        -Djava.library.path="$work/native" -cp "$class_path" dev.edgeb.core.ConformanceKt "${@:2}"
}
compiler="GCC $(aarch64-linux-gnu-g++ -dumpfullversion)"
# Name of the goldens and of what is written, and the conformance's other arguments
on_every_cpu() {
    for cpu in $cpus; do
        # With SME as qemu 7.2 emulates it LiteRT's int8 calls of several tokens answer something else.
        if [ "$1 $cpu" = "litert max" ]; then cpu=max,sme=off; fi
        echo "-- $1 on $cpu"
        conformance "$cpu" "$work/$1-goldens" "${@:2}" 2> "$work/$1-$cpu.err" | tee "$work/$1-$cpu.txt" || {
            cat "$work/$1-$cpu.err" >&2
            exit 1
        }
        grep -q "checks agree" "$work/$1-$cpu.txt"
    done
}
# Name, sed's expression for the second column
table() {
    for cpu in $cpus; do
        if [ "$1 $cpu" = "litert max" ]; then cpu=max,sme=off; fi
        second="$(sed -n "$2" "$work/$1-$cpu.txt")"
        checks="$(sed -n 's/^all \([0-9]*\) checks agree.*/\1/p' "$work/$1-$cpu.txt")"
        largest="$(sed -n 's/^largest difference of a probability: //p' "$work/$1-$cpu.txt")"
        echo "| $cpu | $second | $checks | $largest |"
    done
}
# Folder of goldens: which bundles there are, and which of them have everything that a bundle can carry
bundles() {
    "$python" - "$1/golden.json" << 'END'
import json, sys, textwrap
from pathlib import Path
found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["bundles"]
names = {Path(one["file"]).stem: one["population"] is not None for one in found}
full = ", ".join(name for name, is_full in names.items() if is_full)
said = f"Bundles: {', '.join(names)}. With habits, people's table, fusion, calibration and balance: {full}."
if any(name.startswith("sasrec") for name in names):
    said += " Those named sasrec and bert4rec are sequence models, which Kotlin computes."
print(textwrap.fill(said, 118, break_on_hyphens=False))
END
}
# A part of RESULTS.md as it is, from its heading to the next
kept() {
    sed -n "/^## $1\$/,/^## /{/^## $1\$/p;/^## /!p}" "$here/RESULTS.md" | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
}

echo "== conformance"
if [[ " $engines " == *" llama "* ]]; then
    rm -rf "$work/llama-goldens"
    # shellcheck disable=SC2086
    "$python" -m tests.android.goldens "$work/llama-goldens" ${BUNDLES:-} > "$work/goldens.log" 2>&1
    # By the names of the CPU variants, as inside an APK; LiteRT's tokenizer finds them in their folder.
    on_every_cpu llama "$tolerance" -
    {
        echo "## GGUF bundles"
        echo
        echo "llama.cpp with its CPU variants, cross-built by $compiler, chosen by their names. Probabilities agree to $tolerance."
        bundles "$work/llama-goldens"
        echo
        echo "| CPU | variant that llama.cpp chose | checks | largest difference of a probability, to 1e-6 |"
        echo "|---|---|---:|---:|"
        table llama 's/^CPU variant: //p'
    } > "$work/llama.md"
    {
        echo "## Libraries"
        echo
        echo "Every loadable segment and the JNI functions checked:"
        echo
        sed 's/^/    /' "$work/lint.txt"
    } > "$work/libraries.md"
else
    kept "GGUF bundles" > "$work/llama.md"
    kept "Libraries" > "$work/libraries.md"
fi
if [[ " $engines " == *" litert "* ]]; then
    version="$("$python" -c 'from importlib.metadata import version; print(version("ai-edge-litert"))')"
    litert="$work/litert-$version"
    if [ ! -d "$litert" ]; then
        "$python" -m pip download --quiet --no-deps --only-binary :all: --platform manylinux_2_27_aarch64 \
            --dest "$litert.new" "ai-edge-litert==$version"
        "$python" -m zipfile -e "$litert.new"/*.whl "$litert.new"
        mv "$litert.new" "$litert"
    fi
    mkdir -p "$work/litert-library"
    # Without the accelerators beside it.
    cp "$litert/ai_edge_litert/libLiteRt.so" "$work/litert-library/"
    rm -rf "$work/litert-goldens"
    "$python" -m tests.android.litert_goldens "$work/litert-goldens" > "$work/litert-goldens.log" 2>&1
    on_every_cpu litert "$litert_tolerance" "$backends" "$work/litert-library/libLiteRt.so"
    {
        echo "## LiteRT bundles"
        echo
        echo "libLiteRt.so as it is in ai-edge-litert $version's wheel for aarch64, on its CPU; the JNI library by $compiler;"
        echo "qemu $(qemu-aarch64-static --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p'). llama.cpp tokenizes. Probabilities agree to $litert_tolerance; impossible calls, failing runs"
        echo "and refused accelerators are among the checks."
        echo
        echo "| CPU | bundles | checks | largest difference of a probability, to 1e-6 |"
        echo "|---|---|---:|---:|"
        table litert '/^[a-z0-9-]*\.tflite: /{s/\.tflite.*//;H};${x;s/^\n//;s/\n/, /g;p}'
    } > "$work/litert.md"
else
    kept "LiteRT bundles" > "$work/litert.md"
fi

{
    echo "# The phone's code on emulated aarch64 CPUs"
    echo
    echo "Written by \`make android-prove\`: an aarch64 OpenJDK 17 under qemu-user with \`-Xcheck:jni\`; the JNI library cross-built"
    echo "for glibc. The goldens are Python's on x86-64; rankings agree where candidates differ by more than the tolerance."
    echo "Not a phone, not bionic, not the NDK; qemu's times say nothing and are not here."
    for part in llama litert libraries; do
        if [ -s "$work/$part.md" ]; then
            echo
            cat "$work/$part.md"
        fi
    done
} > "$work/RESULTS.md"
mv "$work/RESULTS.md" "$here/RESULTS.md"
cat "$here/RESULTS.md"
