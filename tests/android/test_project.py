"""The Android project without Android's tools: resources, manifest, Gradle files and their pins, by reading them."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from android_demo.tools.sample import MOST_BYTES
from android_demo.tools.sample import main as make_sample
from edge_behavior import __version__
from edge_behavior.bundle.bundle import read_manifest, verify_bundle
from edge_behavior.records.history import read_history
from edge_behavior.runtime.npu.package import PINNED
from tests.android import screens

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "android_demo"
MAIN = DEMO / "app" / "src" / "main"
RESOURCES = MAIN / "res"
APP = MAIN.parent
# What the plain app is built from; the other flavour puts a module and a file in the place of one.
SCREENS = sorted([*(MAIN / "kotlin").rglob("*.kt"), *(APP / "plain" / "kotlin").rglob("*.kt")])
LOGIC = sorted((MAIN / "kotlin" / "dev" / "edgeb" / "assistant" / "logic").glob("*.kt"))
LIBRARY = sorted(path for name in ("core", "runtime", "coroutines") for path in (DEMO / name / "src").rglob("*.kt"))
LIBRARY = [path for path in LIBRARY if "test" not in path.relative_to(DEMO).parts]
XML = sorted([*RESOURCES.rglob("*.xml"), *DEMO.glob("*/src/main/AndroidManifest.xml")])
LAYOUTS = sorted(RESOURCES.glob("layout*/*.xml"))
ANDROID = "{http://schemas.android.com/apk/res/android}"
# What a layout may give a view that is touched, where no style does.
TOUCHED = ("Button", "ImageButton", "SeekBar", "AutoCompleteTextView", "Spinner")
WORDS = ("TextView", "Button", "AutoCompleteTextView")
USAGE = "android.permission.PACKAGE_USAGE_STATS"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def parsed(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()


def values(folder: str = "values") -> dict[str, dict[str, ElementTree.Element]]:
    """Kind to name to element of what the files of a values folder define."""
    found: dict[str, dict[str, ElementTree.Element]] = {}
    for path in (RESOURCES / folder).glob("*.xml"):
        for item in parsed(path):
            assert item.get("name") not in found.get(item.tag, {}), f"{item.tag} {item.get('name')} is there twice"
            found.setdefault(item.tag, {})[str(item.get("name"))] = item
    return found


def defined() -> dict[str, set[str]]:
    """Kind to names of every resource of the app."""
    found = {kind: set(items) for kind, items in values().items()}
    for path in RESOURCES.rglob("*.xml"):
        folder = path.parent.name.split("-")[0]
        if folder != "values":
            found.setdefault(folder, set()).add(path.stem)
    found["id"] = {name for path in LAYOUTS for name in re.findall(r'android:id="@\+id/(\w+)"', text_of(path))}
    return found


def referenced() -> Iterator[tuple[Path, str, str]]:
    """File, kind and name of every resource that code and XML refer to."""
    for path in SCREENS:
        for kind, name in re.findall(r"(?<!android\.)\bR\.(\w+)\.(\w+)", text_of(path)):
            yield path, kind, name
    for path in XML:
        for kind, name in re.findall(r'[">]@\+?(\w+)/([\w.]+)["<]', text_of(path)):
            yield path, kind, name


def test_every_resource_referred_to_exists_and_every_one_defined_is_used() -> None:
    there, used = defined(), set()
    for path, kind, name in referenced():
        assert name in there.get(kind, set()), f"{path.name} refers to {kind} {name}"
        used.add((kind, name))
    parents = {("style", str(style.get("parent"))) for style in values()["style"].values()}
    unused = {(kind, name) for kind, names in there.items() for name in names} - used - parents
    assert unused == set()


def test_code_gives_strings_the_arguments_they_take() -> None:
    strings = {name: "".join(item.itertext()) for name, item in values()["string"].items()}
    code = "\n".join(text_of(path) for path in SCREENS)
    calls = re.findall(r"getString\(\s*R\.string\.(\w+)(,|\))", code)
    assert len(calls) > 15
    for name, after in calls:
        assert ("%1$s" in strings[name] or "%1$d" in strings[name]) == (after == ","), name


def permissions(path: Path) -> list[str]:
    """Names of all permissions that a manifest speaks of."""
    return [str(e.get(f"{ANDROID}name")) for e in parsed(path).iter() if "permission" in e.tag]


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


def in_style(view: ElementTree.Element, attribute: str) -> str | None:
    """What a view has, itself or by its style and that one's parents."""
    held = view.get(attribute if attribute == "style" else f"{ANDROID}{attribute}")
    name = str(view.get("style")).removeprefix("@style/")
    styles = values()["style"]
    while held is None and name in styles:
        items = {str(item.get("name")): item.text for item in styles[name]}
        held = items.get(f"android:{attribute}")
        name = str(styles[name].get("parent"))
    return held


def identity(view: ElementTree.Element) -> str:
    return str(view.get(f"{ANDROID}id")).removeprefix("@+id/")


def layout_id(path: Path) -> str:
    return path.stem if path.parent.name == "layout" else f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", LAYOUTS, ids=layout_id)
def test_screens_can_be_touched_and_heard(path: Path) -> None:
    code = "\n".join(text_of(screen) for screen in SCREENS)
    for view in parsed(path).iter():
        name = identity(view)
        if view.tag in TOUCHED:
            heights = (in_style(view, "layout_height"), in_style(view, "minHeight"))
            assert "@dimen/touch" in heights, f"{path.name}: {name} may be lower than 48dp"
        if view.tag == "ImageButton":
            is_named = view.get(f"{ANDROID}contentDescription") is not None
            described = re.search(rf"describe\([^,]+, R\.id\.{name},", code)
            assert is_named or described, f"{path.name}: {name} is not described"
            assert in_style(view, "layout_width") == "@dimen/touch"
        if view.tag in ("AutoCompleteTextView", "Spinner"):
            labels = [v for v in parsed(path).iter() if v.get(f"{ANDROID}labelFor") == f"@+id/{name}"]
            assert len(labels) == 1, f"{path.name}: {name} has no label"
        if view.tag == "Button":
            named = view.get(f"{ANDROID}text") is not None or re.search(rf"R\.id\.{name}\)? as (TextView|Button)", code)
            assert named, f"{path.name}: {name} has no words"
        # Words are in strings.xml, where they can be translated.
        for attribute in ("text", "hint", "contentDescription"):
            assert view.get(f"{ANDROID}{attribute}", "@string/").startswith("@string/")
    assert values()["dimen"]["touch"].text == "48dp"


@pytest.mark.parametrize("path", LAYOUTS, ids=layout_id)
def test_words_have_room_at_twice_their_size(path: Path) -> None:
    """Sizes in sp, heights that grow, and at most one view in a row that is as wide as its words."""
    for view in parsed(path).iter():
        if view.tag in WORDS:
            assert in_style(view, "layout_height") == "wrap_content", f"{path.name}: {identity(view)} may be cut"
            size = in_style(view, "textSize")
            assert size is None or size.endswith("sp")
            assert in_style(view, "singleLine") is None
            assert in_style(view, "ellipsize") is None
        children = list(view)
        wide = [c for c in children if c.tag in WORDS and in_style(c, "layout_width") == "wrap_content"]
        if view.tag == "LinearLayout" and in_style(view, "orientation") != "vertical":
            shares = [c for c in children if in_style(c, "layout_weight") is not None]
            assert len(wide) <= 2, f"{path.name}: {[identity(c) for c in wide]} push each other out"
            assert not wide or shares, f"{path.name}: nothing in the row gives way"


def test_screens_turn_round_for_languages_written_from_the_right() -> None:
    for path in [*LAYOUTS, *RESOURCES.glob("values*/styles.xml")]:
        found = re.findall(r"android:\w*(?:Left|Right)\b|gravity=\"(?:left|right)", text_of(path))
        assert found == [], path.name
    assert parsed(MAIN / "AndroidManifest.xml").find("application").get(f"{ANDROID}supportsRtl") == "true"  # type: ignore[union-attr]
    for name in ("ic_before", "ic_after"):
        assert parsed(RESOURCES / "drawable" / f"{name}.xml").get(f"{ANDROID}autoMirrored") == "true"


def tree(path: Path) -> list[tuple[str, str]]:
    """Kind and id of all views of a layout, with what it includes in its place."""
    found: list[tuple[str, str]] = []
    for view in parsed(path).iter():
        if view.tag == "include":
            part = str(view.get("layout")).removeprefix("@layout/")
            found += tree(RESOURCES / "layout" / f"{part}.xml")
        else:
            found.append((view.tag, identity(view)))
    return found


def test_wide_screens_show_the_same_views() -> None:
    wide = list(RESOURCES.glob("layout-*/*.xml"))
    assert [path.name for path in wide] == ["activity_assistant.xml"]
    for path in wide:
        named = [sorted(v for v in tree(p) if v[1] != "None") for p in (path, RESOURCES / "layout" / path.name)]
        assert named[0] == named[1]
        # Two columns that scroll by themselves.
        assert sum(kind == "ScrollView" for kind, _ in tree(path)) == 2


def test_screens_are_as_described() -> None:
    """prove/SCREENS.md has the view tree of every screen: `python -m tests.android.screens` writes it."""
    assert text_of(DEMO / "prove" / "SCREENS.md") == screens.page()


def test_slider_has_the_steps_of_the_threshold() -> None:
    slider = next(parsed(RESOURCES / "layout" / "part_choices.xml").iter("SeekBar"))
    steps = re.findall(r"const val STEPS = (\d+)", "".join(text_of(path) for path in LOGIC))
    assert [slider.get(f"{ANDROID}max")] == steps


def test_night_has_every_colour_that_is_not_the_icons() -> None:
    day, night = values()["color"], values("values-night")["color"]
    assert set(day) - set(night) == {"icon_background"}
    assert all(day[name].text != night[name].text for name in night)
    assert set(values("values-night")["style"]) <= set(values()["style"])


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two opaque colours like #FFRRGGBB."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (3, 5, 7))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("folder", ["values", "values-night"])
def test_text_stands_out(folder: str) -> None:
    colours = {name: str(item.text) for name, item in values(folder)["color"].items()}
    assert contrast("#FF000000", "#FFFFFFFF") == pytest.approx(21)
    for name in ("text", "text_faint", "accent", "warning"):
        for behind in ("background", "card"):
            assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)


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


def sample() -> tuple[Path, Path]:
    """What the app brings along: model and log."""
    return MAIN / "assets" / "sample.gguf", MAIN / "assets" / "sample-day.csv"


def test_the_sample_is_a_bundle_that_can_do_everything_and_a_log_that_it_knows() -> None:
    bundle, log = sample()
    manifest = verify_bundle(bundle)
    assert bundle.stat().st_size < MOST_BYTES
    assert set(manifest.sources) == {"model", "habits", "fused"}
    assert manifest.calibration is not None
    assert manifest.population is not None
    events = read_history(log).events
    assert {event.behavior for event in events} <= set(manifest.candidates.labels)
    # Every weekday, whichever day it is on the phone.
    assert (events[-1].time.date() - events[0].time.date()).days in range(14, 21)
    assert not re.search(rb"/(tmp|home|root|work)/", bundle.read_bytes())


def test_what_accepting_opens_needs_no_permission_and_is_a_behavior() -> None:
    labels = read_manifest(sample()[0]).candidates.labels
    with (MAIN / "assets" / "actions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert row["behavior"] in labels
        assert row["action"].startswith("android.")
        # These two ask the calling app for a permission.
        assert not row["action"].endswith((".CALL", ".SET_ALARM"))


def test_what_nobody_opens_is_said_in_a_sentence() -> None:
    """logic/Opening.kt, which JUnit tests, tells the launcher; nothing else of the app starts what a table names."""
    launcher = text_of(MAIN / "kotlin" / "dev" / "edgeb" / "assistant" / "SystemLauncher.kt")
    assert re.search(r"Toast\.makeText\(context, context\.getString\(R\.string\.cannot_open, behavior\)", launcher)
    assert "".join(values()["string"]["cannot_open"].itertext()) == "Nothing on this phone opens “%1$s”."
    assert [path.name for path in SCREENS if "action.action" in text_of(path)] == ["SystemLauncher.kt"]


def test_sample_refuses_what_is_no_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_sample([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "behavior.gguf is missing" in capsys.readouterr().err
    (tmp_path / "behavior.gguf").write_bytes(sample()[0].read_bytes())
    assert make_sample([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
