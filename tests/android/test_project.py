"""The Android project without Android's tools: resources, manifest, Gradle files and their pins, by reading them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from edge_behavior import __version__
from edge_behavior.runtime.npu.package import PINNED
from tests.android.project import (
    ANDROID,
    APP,
    DEMO,
    LIBRARY,
    LOGIC,
    MAIN,
    RESOURCES,
    ROOT,
    SCREENS,
    parsed,
    strings,
    text_of,
)

USAGE = "android.permission.PACKAGE_USAGE_STATS"
TOOLS = "{http://schemas.android.com/tools}"
# What the manifest of LiteRT's AAR asks for, as its sources have it.
LITERT = {"android.permission.FOREGROUND_SERVICE", "android.permission.FOREGROUND_SERVICE_DATA_SYNC"}


def permissions(path: Path) -> list[str]:
    """Names of all permissions that a manifest asks for."""
    spoken = [e for e in parsed(path).iter() if "permission" in e.tag]
    return [str(e.get(f"{ANDROID}name")) for e in spoken if e.get(f"{TOOLS}node") != "remove"]


def test_nothing_leaves_the_phone() -> None:
    asked = {path.parts[-4]: permissions(path) for path in DEMO.glob("*/src/main/AndroidManifest.xml")}
    assert asked.pop("usage") == [USAGE]
    assert set(map(tuple, asked.values())) == {()}
    # Only the flavour of that name gets the module that asks.
    assert list(APP.glob("*/AndroidManifest.xml")) == [MAIN / "AndroidManifest.xml"]
    users = [path for path in DEMO.glob("*/build.gradle.kts") if 'project(":usage")' in text_of(path)]
    assert users == [DEMO / "app" / "build.gradle.kts"]
    assert re.findall(r'(\S+)\(project\(":usage"\)\)', text_of(users[0])) == ['"usageImplementation"']
    assert "isDefault = true" in text_of(users[0]).split('create("plain")')[1].split("}")[0]
    application = parsed(MAIN / "AndroidManifest.xml").find("application")
    assert application is not None
    assert application.get(f"{ANDROID}allowBackup") == "false"
    assert application.get(f"{ANDROID}fullBackupContent") == "false"
    rules = parsed(RESOURCES / "xml" / "data_extraction_rules.xml")
    assert [rule.tag for rule in rules] == ["cloud-backup", "device-transfer"]
    for rule in rules:
        assert {item.tag for item in rule} == {"exclude"}
        assert {item.get("domain") for item in rule} == {"root", "file", "database", "sharedpref", "external"}


def test_what_a_library_would_ask_for_is_taken_out() -> None:
    removed = [
        str(e.get(f"{ANDROID}name"))
        for e in parsed(MAIN / "AndroidManifest.xml").iter("uses-permission")
        if e.get(f"{TOOLS}node") == "remove"
    ]
    assert set(removed) == LITERT
    guide = text_of(ROOT / "docs" / "android.md")
    assert all(f'android:name="{name}" tools:node="remove"' in guide for name in LITERT)


def test_flavours_have_the_same_parts() -> None:
    files = [{path.name for path in (APP / name / "kotlin").rglob("*.kt")} for name in ("plain", "usage")]
    assert files[0] == files[1] == {"EventSources.kt"}
    declared = [
        set(re.findall(r"fun \w+\(.*?\): [^ ]+", text_of(next((APP / name / "kotlin").rglob("*.kt")))))
        for name in ("plain", "usage")
    ]
    assert declared[0] == declared[1] != set()


def test_only_the_launcher_may_start_a_screen() -> None:
    exported = {
        part.get(f"{ANDROID}name"): part.get(f"{ANDROID}exported")
        for kind in ("activity", "receiver")
        for part in parsed(MAIN / "AndroidManifest.xml").iter(kind)
    }
    assert exported.pop(".AssistantActivity") == "true"
    assert set(exported.values()) == {"false"}
    classes = {path.stem for path in SCREENS}
    assert {str(name).lstrip(".") for name in exported} <= classes


def test_the_widget_is_never_on_a_locked_screen() -> None:
    category = parsed(RESOURCES / "xml" / "suggestion_widget.xml").get(f"{ANDROID}widgetCategory")
    assert set(str(category).split("|")) == {"home_screen", "not_keyguard"}


def test_the_logic_knows_no_android() -> None:
    assert len(LOGIC) >= 10
    usage = (DEMO / "usage" / "src" / "main").rglob("logic/*.kt")
    for path in [*LOGIC, *usage, *(DEMO / "core" / "src" / "main").rglob("*.kt")]:
        assert re.findall(r"^import (androidx?\.\S+)", text_of(path), re.MULTILINE) == [], path.name
    for path in SCREENS:
        assert "import androidx." not in text_of(path), path.name


def test_json_is_read_without_regular_expressions() -> None:
    """On Android each search copies the whole text, so that thousands of numbers would take seconds."""
    source = DEMO / "core" / "src" / "main" / "kotlin" / "dev" / "edgeb" / "core" / "Json.kt"
    assert re.findall("Regex|Pattern|Matcher", text_of(source)) == []


def test_gradle_takes_versions_from_the_catalog_and_packages_from_two_places() -> None:
    catalog = text_of(DEMO / "gradle" / "libs.versions.toml")
    pinned = dict(re.findall(r'^(\w+) = "([\w.]+)"$', catalog, re.MULTILINE))
    assert pinned.keys() >= {"agp", "kotlin", "ndk", "cmake", "compileSdk", "targetSdk", "minSdk", "junit"}
    # r29 as it was released; llama.cpp's example names its first beta.
    assert pinned["ndk"] == "29.0.14206865"
    settings = text_of(DEMO / "settings.gradle.kts")
    assert set(re.findall(r"^\s+(\w+)\(\)$", settings, re.MULTILINE)) == {"google", "mavenCentral"}
    included = re.findall(r'"(:\w+)"', settings)
    assert included == [":core", ":runtime", ":coroutines", ":usage", ":app"]
    aliases = {name.replace("-", ".") for name in re.findall(r"^([\w-]+) = \{", catalog, re.MULTILINE)}
    for module in [DEMO, *(DEMO / name.lstrip(":") for name in included)]:
        build = text_of(module / "build.gradle.kts")
        for reference in re.findall(r"libs\.plugins\.([\w.]+)\)|libs\.([a-z]+)\)", build):
            assert "".join(reference) in aliases, f"{module.name}: {reference}"
        for version in re.findall(r"libs\.versions\.(\w+)\.get", build):
            assert version in pinned, f"{module.name}: {version}"
        assert "://" not in build


def test_native_build_is_the_pinned_llama_cpp_for_two_abis() -> None:
    build = text_of(DEMO / "runtime" / "build.gradle.kts")
    for option in ("FLEXIBLE_PAGE_SIZES=ON", "STL=c++_shared", "LLAMA_CPP_CACHE="):
        assert option in build
    assert set(re.findall(r'"(arm64-v8a|x86_64|armeabi-v7a|x86)"', build)) == {"arm64-v8a", "x86_64"}
    cmake = text_of(DEMO / "runtime" / str(re.findall(r'path\("(.+)"\)', build)[0]))
    for option in ("GGML_NATIVE OFF", "GGML_BACKEND_DL ON", "GGML_CPU_ALL_VARIANTS ON"):
        assert f"set({option} CACHE" in cmake
    pin = re.findall(r"llama-cpp-python==([\d.]+)", text_of(ROOT / "pyproject.toml"))
    assert re.findall(r"llama-cpp-python ([\d.]+\d)", cmake) == pin
    assert re.search(r"set\(LLAMA_CPP_COMMIT [0-9a-f]{40}\)", cmake)
    # A commit's hash is checked by git; an archive would need a hash of its own.
    assert re.search(r"fetch;.*;\$\{LLAMA_CPP_GIT\};\$\{LLAMA_CPP_COMMIT\}", cmake)
    assert re.findall(r"\bURL\b|GIT_TAG", cmake) == []


def test_switches_of_the_native_build_are_properties() -> None:
    """What gradle.properties names, runtime/build.gradle.kts hands on, and CMake knows."""
    properties = dict(re.findall(r"^edgeb\.(\w+)=(true|false)$", text_of(DEMO / "gradle.properties"), re.MULTILINE))
    build = text_of(DEMO / "runtime" / "build.gradle.kts")
    cmake = text_of(DEMO / "runtime" / "src" / "main" / "cpp" / "CMakeLists.txt")
    # The third is the app's: which libraries it packages.
    assert set(properties) == {"kleidiai", "openmp", "npu"}
    assert 'gradleProperty("edgeb.npu")' in text_of(DEMO / "app" / "build.gradle.kts")
    for name in ("kleidiai", "openmp"):
        assert f'-DEDGEB_{name.upper()}=${{switch("{name}")}}' in build
        assert f"option(EDGEB_{name.upper()} " in cmake
        assert f"${{EDGEB_{name.upper()}}}" in cmake


def test_libraries_for_the_npu_are_of_the_compilers_versions() -> None:
    """What the app packages is no older than what compiles contexts; the dispatch library has LiteRT's version."""
    catalog = text_of(DEMO / "gradle" / "libs.versions.toml")
    # The former package holds libraries of the latter version.
    assert (PINNED, re.findall(r'^qnn = "(.+)"$', catalog, re.MULTILINE)) == ("onnxruntime-qnn==2.7.0", ["2.51.0"])
    assert re.search(r'name = "litert-npu-runtime-qualcomm", version\.ref = "litert" }', catalog)
    assert re.search(r'group = "com\.qualcomm\.qti", name = "qnn-runtime", version\.ref = "qnn" }', catalog)
    library = parsed(DEMO / "runtime" / "src" / "main" / "AndroidManifest.xml").find("application/uses-native-library")
    assert library is not None
    assert library.get(f"{ANDROID}name") == "libcdsprpc.so"
    assert library.get(f"{ANDROID}required") == "false"


def test_the_screen_of_licenses_names_what_the_apk_holds() -> None:
    """KleidiAI by the switch of the native build, LiteRT by the app's dependencies."""
    build = text_of(DEMO / "app" / "build.gradle.kts")
    fields = dict(re.findall(r'buildConfigField\("boolean", "(\w+)", (.+)\)', build))
    has_litert = str("runtimeOnly(libs.litert)" in build).lower()
    assert fields == {"KLEIDIAI": 'providers.gradleProperty("edgeb.kleidiai").get()', "LITERT": f'"{has_litert}"'}
    screen = text_of(MAIN / "kotlin" / "dev" / "edgeb" / "assistant" / "BenchmarkActivity.kt")
    assert "EngineLicense.shipped(BuildConfig.KLEIDIAI, BuildConfig.LITERT)" in screen


def test_libraries_are_published_with_one_version() -> None:
    """Group and version stand in gradle.properties alone, and are Python's."""
    properties = dict(re.findall(r"^(group|version)=(.+)$", text_of(DEMO / "gradle.properties"), re.MULTILINE))
    assert properties == {"group": "dev.edgeb", "version": __version__}
    for module in ("core", "runtime", "coroutines"):
        build = text_of(DEMO / module / "build.gradle.kts")
        assert "`maven-publish`" in build
        assert re.search(r'^description = ".+"$', build, re.MULTILINE)
        assert "explicitApi()" in build
        assert "alias(libs.plugins.dokka)" in build
    for path in DEMO.glob("*/build.gradle.kts"):
        assert __version__ not in text_of(path), path
        assert "MavenPublication" not in text_of(path), path
    assert text_of(DEMO / "build.gradle.kts").count("register<MavenPublication>") == 1


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_everything_public_is_documented(path: Path) -> None:
    """By KDoc of its own, or as a property of its class."""
    lines = text_of(path).splitlines()
    properties = set(re.findall(r"@property (\w+)", text_of(path)))
    for i, line in enumerate(lines):
        found = re.match(r" *(?:@\w+ )*public (?:[a-z]+ )*?(?:class|interface|object|fun|val|var)\b(?: (\w+))?", line)
        if found is None or "companion object" in line:
            continue
        above = i - 1
        while lines[above].strip().startswith("@"):
            above -= 1
        assert lines[above].strip().endswith("*/") or found[1] in properties, f"{path.name}:{i + 1}: {line.strip()}"


def test_every_failure_of_the_library_has_a_code() -> None:
    """A host app acts upon the code; the default is for exceptions of its own."""
    for path in LIBRARY:
        source = text_of(path)
        for found in re.finditer(r"(?<![\w.])EdgebException\(", source):
            if path.name == "Errors.kt":
                continue
            depth, at = 1, found.end()
            while depth:
                depth += {"(": 1, ")": -1}.get(source[at], 0)
                at += 1
            line = source.count("\n", 0, found.start()) + 1
            assert re.search(r"ErrorCode\.|error\.code", source[found.end() : at]), f"{path.name}:{line}"


def test_native_failures_have_codes_that_there_are() -> None:
    kotlin = text_of(DEMO / "core" / "src" / "main" / "kotlin" / "dev" / "edgeb" / "core" / "Errors.kt")
    known = set(re.findall(r"^    ([A-Z_]+),?$", kotlin, re.MULTILINE))
    support = text_of(DEMO / "runtime" / "src" / "main" / "cpp" / "jni_support.h")
    named = re.findall(r'constexpr const char \* k\w+ = "([A-Z_]+)"', support)
    assert len(named) >= 8
    assert set(named) <= known


def test_licenses_of_native_libraries_are_packaged() -> None:
    folder = DEMO / "runtime" / "src" / "main" / "resources" / "dev" / "edgeb" / "runtime" / "licenses"
    kotlin = text_of(DEMO / "runtime" / "src" / "main" / "kotlin" / "dev" / "edgeb" / "runtime" / "EngineLicense.kt")
    named = {name for listed in re.findall(r"listOf\(([^()]*)\)", kotlin) for name in re.findall(r'"(.+?)"', listed)}
    assert named == {path.stem for path in folder.glob("*.txt")}
    assert "The ggml authors" in text_of(folder / "llama.cpp.txt")
    assert text_of(folder / "Apache-2.0.txt") in text_of(ROOT / "LICENSE")


def test_wrapper_is_the_one_of_its_distribution() -> None:
    wrapper = DEMO / "gradle" / "wrapper"
    properties = text_of(wrapper / "gradle-wrapper.properties")
    assert "gradle-8.14.3-bin.zip" in properties
    # What Gradle publishes of 8.14.3: the distribution, and the wrapper.
    assert "distributionSha256Sum=bd71102213493060956ec229d946beee57158dbd89d0e62b91bca0fa2c5f3531" in properties
    published = "7d3a4ac4de1c32b59bc6a4eb8ecb8e612ccd0cf1ae1e99f66902da64df296172"
    assert hashlib.sha256((wrapper / "gradle-wrapper.jar").read_bytes()).hexdigest() == published
    for script, slash in ((DEMO / "gradlew", "/"), (DEMO / "gradlew.bat", "\\")):
        assert f"gradle{slash}wrapper{slash}gradle-wrapper.jar" in text_of(script)
    # cmd.exe misreads labels of scripts with bare line feeds.
    batch = (DEMO / "gradlew.bat").read_bytes()
    assert batch.count(b"\r\n") == batch.count(b"\n") > 50


def test_what_nobody_opens_is_said_in_a_sentence() -> None:
    """logic/Opening.kt, which JUnit tests, tells the launcher; nothing else of the app starts what a table names."""
    launcher = text_of(MAIN / "kotlin" / "dev" / "edgeb" / "assistant" / "SystemLauncher.kt")
    assert re.search(r"Toast\.makeText\(context, context\.getString\(R\.string\.cannot_open, behavior\)", launcher)
    assert strings()["cannot_open"] == "Nothing on this phone opens “%1$s”."
    assert [path.name for path in SCREENS if "action.action" in text_of(path)] == ["SystemLauncher.kt"]
