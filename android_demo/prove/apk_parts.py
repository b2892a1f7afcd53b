"""The steps of apk.sh that Debian has no tool for: the manifest, the list of classes in a dex file, the zip file.

Uses nothing beyond Python's standard library.
"""

from __future__ import annotations

import re
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from elf_lint import read_library

NAMESPACE = "http://schemas.android.com/apk/res/android"
MERGED = "{http://schemas.android.com/tools}node"
# Newer than Debian's framework resources (API 29); AGP with compileSdk 36 knows them.
TOO_NEW = ("dataExtractionRules",)
TOO_NEW_FLAGS = {"widgetCategory": "not_keyguard"}
ABIS = {"aarch64": "arm64-v8a", "x86-64": "x86_64"}


def main(step: str, *arguments: str) -> None:
    """Run one step."""
    steps = {"manifest": manifest, "resources": resources, "build-config": build_config, "dex": dex, "pack": pack}
    steps[step](*map(Path, arguments))


def manifest(demo: Path, out: Path) -> None:
    """Write the manifest with what AGP takes from the Gradle files, less what the framework does not know."""
    gradle = (demo / "app" / "build.gradle.kts").read_text(encoding="utf-8")
    versions = (demo / "gradle" / "libs.versions.toml").read_text(encoding="utf-8")
    properties = (demo / "gradle.properties").read_text(encoding="utf-8")
    ElementTree.register_namespace("android", NAMESPACE)
    root = ElementTree.parse(demo / "app" / "src" / "main" / "AndroidManifest.xml").getroot()
    root.set("package", one(r'namespace = "(.+)"', gradle))
    root.set(f"{{{NAMESPACE}}}versionCode", one(r"versionCode = (\d+)", gradle))
    root.set(f"{{{NAMESPACE}}}versionName", one(r"(?m)^version=(.+)$", properties))
    sdk = ElementTree.Element("uses-sdk")
    sdk.set(f"{{{NAMESPACE}}}minSdkVersion", one(r'minSdk = "(\d+)"', versions))
    sdk.set(f"{{{NAMESPACE}}}targetSdkVersion", one(r'targetSdk = "(\d+)"', versions))
    root.insert(0, sdk)
    # AGP's manifest merger takes them out, whatever a library asks for.
    for element in [child for child in root if child.get(MERGED) == "remove"]:
        root.remove(element)
    for element in root.iter():
        for name in TOO_NEW:
            if element.attrib.pop(f"{{{NAMESPACE}}}{name}", None) is not None:
                print(f"left out, newer than the framework resources: {element.tag} {name}")
    out.write_text(ElementTree.tostring(root, encoding="unicode"), encoding="utf-8")


def resources(demo: Path, out: Path) -> None:
    """Copy the app's resources, less the flags that the framework does not know."""
    shutil.copytree(demo / "app" / "src" / "main" / "res", out)
    for path in sorted(out.glob("xml/*.xml")):
        text = path.read_text(encoding="utf-8")
        for name, flag in TOO_NEW_FLAGS.items():
            text, found = re.subn(rf'(android:{name}="[^"]*)\|{flag}\b', r"\1", text)
            if found:
                print(f"left out, newer than the framework resources: {path.name} {name} {flag}")
        path.write_text(text, encoding="utf-8")


def build_config(demo: Path, gen: Path) -> None:
    """Write the class that AGP makes of the app's buildConfigField lines; Gradle's properties give the values."""
    gradle = (demo / "app" / "build.gradle.kts").read_text(encoding="utf-8")
    properties = (demo / "gradle.properties").read_text(encoding="utf-8")
    package = one(r'namespace = "(.+)"', gradle)
    lines = []
    for kind, name, value in re.findall(r'buildConfigField\("(\w+)", "(\w+)", (.+)\)\n', gradle):
        named = re.fullmatch(r'providers\.gradleProperty\("(.+)"\)\.get\(\)', value)
        given = value.strip('"') if named is None else one(rf"(?m)^{re.escape(named[1])}=(.+)$", properties)
        lines.append(f"    public static final {kind} {name} = {given};\n")
    path = gen.joinpath(*package.split("."), "BuildConfig.java")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"package {package};\n\npublic final class BuildConfig {{\n{''.join(lines)}}}\n", encoding="utf-8")


def dex(path: Path, manifest_path: Path) -> None:
    """Check that a dex file has every class that the manifest names, and no call that Android cannot make."""
    data = path.read_bytes()
    if data[:4] != b"dex\n":
        raise SystemExit(f"{path} is no dex file")
    classes = dex_classes(data)
    root = ElementTree.parse(manifest_path).getroot()
    package = root.get("package")
    named = [
        element.get(f"{{{NAMESPACE}}}name", "")
        for element in root.iter()
        if element.tag in ("application", "activity", "receiver")
    ]
    for name in named:
        wanted = f"{package}{name}".replace(".", "/")
        if f"L{wanted};" not in classes:
            raise SystemExit(f"the manifest names {name}, and the dex file has no {wanted}")
    if b"LambdaMetafactory" in data:
        raise SystemExit("the dex file refers to LambdaMetafactory, which Android does not have")
    ours = sum(1 for name in classes if name.startswith("Ldev/edgeb/"))
    print(
        f"dex version {data[4:7].decode()}: {len(classes)} classes, {ours} of them ours, among them {', '.join(named)}"
    )


def dex_classes(data: bytes) -> set[str]:
    """Descriptors of the classes that a dex file defines."""
    string_count, string_at, type_count, type_at = struct.unpack_from("<4I", data, 56)
    class_count, class_at = struct.unpack_from("<2I", data, 96)
    strings = struct.unpack_from(f"<{string_count}I", data, string_at)
    types = struct.unpack_from(f"<{type_count}I", data, type_at)
    found = set()
    for i in range(class_count):
        at = strings[types[struct.unpack_from("<I", data, class_at + 32 * i)[0]]]
        # The length in UTF-16 units, a variable-length number, comes first.
        while data[at] & 0x80:
            at += 1
        found.add(data[at + 1 : data.index(b"\0", at + 1)].decode("utf-8"))
    return found


def pack(bare: Path, dex_path: Path, folder: Path, resources: Path, out: Path) -> None:
    """Add classes, libraries and Java's resources to what aapt2 made; libraries and the table are not compressed."""
    with zipfile.ZipFile(bare) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.infolist():
            stored = item.filename.endswith(".arsc")
            target.writestr(item.filename, source.read(item), zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
        target.write(dex_path, "classes.dex")
        for path in sorted(each for each in resources.rglob("*") if each.is_file()):
            target.write(path, str(path.relative_to(resources)))
        for path in shared(folder):
            target.write(path, f"lib/{abi(path)}/{path.name}", zipfile.ZIP_STORED)
    if any("libc.so.6" in read_library(path).needed for path in shared(folder)):
        print("the libraries are glibc's and cannot load on Android: this checks packaging, nothing more")


def shared(folder: Path) -> list[Path]:
    """The libraries to package: Android takes only names that end in .so."""
    return sorted(folder.glob("*.so"))


def abi(path: Path) -> str:
    """Android's name of the processor that a library is for."""
    return ABIS[read_library(path).machine]


def one(pattern: str, text: str) -> str:
    """The only group of the first match."""
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"nothing matches {pattern}")
    return found[1]


if __name__ == "__main__":
    main(*sys.argv[1:])
