"""The pages under docs/ and beside the code: links resolve, lines fit, and commands take the flags that are shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from edge_behavior.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for f in ("README.md", "docs/*.md", "*/README.md") for p in ROOT.glob(f))
COLUMNS = 100
SOURCES = ("edge_behavior/**/*.py", "benchmarks/**/*.py", "android_demo/**/*.kt", "*/configs/*.yaml")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(command: Any, names: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """Every command's words, with the flags it takes."""
    if hasattr(command, "commands"):
        return {k: v for name, one in command.commands.items() for k, v in commands(one, (*names, name)).items()}
    return {names: {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}}


COMMANDS = commands(typer.main.get_command(app))


def shown(text: str) -> list[list[str]]:
    """The words of every `edgeb` command in a page's code blocks and inline code."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"(?:^ {4,}|`)(?:[A-Z_]+=\S+ )?edgeb ([^`\n#|]+)", joined, flags=re.MULTILINE)
    return [line.split() for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPage:
    def test_links_resolve(self, page: Path) -> None:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            target, _, anchor = "".join(link.split()).partition("#")
            if not target.startswith("https://"):
                file = (page.parent / target).resolve() if target else page
                assert file.exists(), link
                assert not anchor or anchor in anchors(file), link

    def test_lines_fit(self, page: Path) -> None:
        assert [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) > COLUMNS] == []

    def test_commands_take_the_flags_shown(self, page: Path) -> None:
        for words in shown(page.read_text(encoding="utf-8")):
            name = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS), None)
            assert name is not None or words == ["--help"], words
            flags = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert name is None or flags <= COMMANDS[name], words


def test_the_commands_shown_are_found() -> None:
    assert shown("    edgeb train --data D \\\n      --out R\n") == [["train", "--data", "D", "--out", "R"]]
    assert {"--recipe", "--set"} <= COMMANDS[("train",)]
    assert {"--format", "--group-column"} <= COMMANDS[("data", "import")]


def test_pages_named_in_the_sources_exist() -> None:
    named = [
        (str(file.relative_to(ROOT)), page)
        for pattern in SOURCES
        for file in ROOT.glob(pattern)
        for page in re.findall(r"\b(?:docs|train|export)/[\w-]+\.md", file.read_text(encoding="utf-8"))
    ]
    assert len(named) > 5
    assert [(file, page) for file, page in named if not (ROOT / page).exists()] == []
