"""Where the Android project keeps what, and its files read."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "android_demo"

MAIN = DEMO / "app" / "src" / "main"
RESOURCES = MAIN / "res"
APP = MAIN.parent
# What the plain app is built from; the other flavour puts a module and a file in the place of one.
SCREENS = sorted([*(MAIN / "kotlin").rglob("*.kt"), *(APP / "plain" / "kotlin").rglob("*.kt")])
LOGIC = sorted((MAIN / "kotlin" / "dev" / "edgeb" / "assistant" / "logic").glob("*.kt"))
LIBRARY = sorted(
    path
    for name in ("core", "runtime", "coroutines")
    for path in (DEMO / name / "src").rglob("*.kt")
    if "test" not in path.relative_to(DEMO).parts
)
XML = sorted([*RESOURCES.rglob("*.xml"), *DEMO.glob("*/src/main/AndroidManifest.xml")])
LAYOUTS = sorted(RESOURCES.glob("layout*/*.xml"))
ANDROID = "{http://schemas.android.com/apk/res/android}"


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


def strings() -> dict[str, str]:
    """Name to text of strings.xml."""
    return {name: "".join(item.itertext()) for name, item in values()["string"].items()}
