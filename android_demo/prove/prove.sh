#!/usr/bin/env bash
# The phone's code on emulated aarch64 CPUs: cross-builds llama.cpp with its CPU variants, checks the libraries, and
# runs the conformance to Python's goldens on an aarch64 JVM under qemu-user, for CPUs with and without dot products.
#
#   make android-prove        on Debian, as any user; needs the packages named below, a JDK and the Python environment
#
# LLAMA_CPP_DIR names the source of llama.cpp; by default that of the pinned llama-cpp-python. BUNDLES names exported
# bundles by absolute paths, such as SmolLM2's with a short prompt, that are asked three windows each: minutes on every
# CPU. Writes RESULTS.md. What this does not prove is in android_demo/README.md. No time taken under qemu says anything of
# a phone.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
android="$(dirname "$here")"
work="$android/build/prove"
python="${PYTHON_BIN:-$(dirname "$android")/.venv/bin/python}"
cpus="${CPUS:-cortex-a53 cortex-a76 max}"
# Largest difference of a probability between this machine's CPU and another one.
tolerance="${TOLERANCE:-0.02}"
jobs="${JOBS:-2}"

for tool in aarch64-linux-gnu-g++ qemu-aarch64-static cmake ninja java javac apt-get dpkg-deb; do
    command -v "$tool" > /dev/null || {
        echo "$tool is missing: apt-get install g++-aarch64-linux-gnu qemu-user-static cmake ninja-build default-jdk-headless" >&2
        exit 2
    }
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
    # GCC 12 knows no SME; its variants are for CPUs that none of the emulated ones is.
    sed -i '/add_cpu_backend_variant.* SME)/d' "$work/llama.cpp.new/ggml/src/CMakeLists.txt"
    mv "$work/llama.cpp.new" "$work/llama.cpp"
fi

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
rm -rf "$work/goldens"
# shellcheck disable=SC2086
"$python" -m tests.android.goldens "$work/goldens" ${BUNDLES:-} > "$work/goldens.log" 2>&1
class_path="$("$python" -c 'from tests.android import host; print(host.build().class_path)')"

echo "== conformance"
backends="$(dirname "$(find "$work/native" -name 'libggml-cpu-*.so' | head -n 1)")"
# CPU, folder of llama.cpp's CPU variants
conformance() {
    qemu-aarch64-static -L "$work/root" -cpu "$1" "$java" -Xcheck:jni -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
        -Djava.library.path="$work/native" -cp "$class_path" dev.edgeb.core.ConformanceKt "$work/goldens" "$tolerance" "$2"
}
mkdir -p "$work/empty"
if conformance max "$work/empty" > "$work/empty.txt" 2>&1; then exit 1; fi
grep "found no library with code for this CPU" "$work/empty.txt" || { cat "$work/empty.txt" >&2; exit 1; }
for cpu in $cpus; do
    echo "-- $cpu"
    conformance "$cpu" "$backends" 2> "$work/$cpu.err" | tee "$work/$cpu.txt" || { cat "$work/$cpu.err" >&2; exit 1; }
    grep -q "checks agree" "$work/$cpu.txt"
done

{
    echo "# The phone's code on emulated aarch64 CPUs"
    echo
    echo "Written by \`make android-prove\`: an aarch64 OpenJDK 17 under qemu-user with \`-Xcheck:jni\`; JNI library and llama.cpp"
    echo "with its CPU variants cross-built by GCC $(aarch64-linux-gnu-g++ -dumpfullversion) for glibc. The goldens are Python's on x86-64;"
    echo "probabilities agree to $tolerance, rankings do where candidates differ by more. Not a phone, not bionic, not the NDK;"
    echo "qemu's times say nothing and are not here."
    echo
    echo "| CPU | variant that llama.cpp chose | checks | largest difference of a probability |"
    echo "|---|---|---:|---:|"
    for cpu in $cpus; do
        variant="$(sed -n 's/^CPU variant: //p' "$work/$cpu.txt")"
        checks="$(sed -n 's/^all \([0-9]*\) checks agree.*/\1/p' "$work/$cpu.txt")"
        largest="$(sed -n 's/^largest difference of a probability: //p' "$work/$cpu.txt")"
        echo "| $cpu | $variant | $checks | $largest |"
    done
    echo
    echo "Libraries, every loadable segment and the JNI functions checked:"
    echo
    sed 's/^/    /' "$work/lint.txt"
} > "$here/RESULTS.md"
cat "$here/RESULTS.md"
