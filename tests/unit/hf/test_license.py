"""What a model folder or a GGUF file states about its license, and that a written card states it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_behavior.bundle.manifest import BaseModelInfo
from edge_behavior.core.license import MAX_TEXT, License
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.hf.gguf_weights import write_backbone
from edge_behavior.hf.license import gguf_license, license_fields, license_markdown, read_license, write_license
from tests.unit.export.conftest import qwen2, qwen2_tokenizer, save


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", License.stated("apache-2.0")),
        ("---\r\nlicense: gemma\r\n---\r\n", License.stated("gemma")),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: https://x.y/z\n---\n",
            License.stated("other", "own", "https://x.y/z"),
        ),
        ("---\nlicense: [mit, apache-2.0]\n---\n", License.stated("mit, apache-2.0")),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlicense: [a\n---\n", None),
        ("---\n- license\n---\n", None),
        ("---\nlicense: 5\n---\n", None),
        ("license: mit", None),
    ],
)
def test_cards(card: str, expected: License | None, tmp_path: Path) -> None:
    assert read_license(tmp_path) is None
    (tmp_path / "README.md").write_bytes(card.encode())
    assert read_license(tmp_path) == expected


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("terms\n")
    (tmp_path / "Notice.txt").write_bytes(b"caf\xe9\x1b[1m\n")
    (tmp_path / "USE_POLICY.md").write_text("p" * (MAX_TEXT + 1))
    (tmp_path / "LICENSE.pdf").write_bytes(b"%PDF")
    (tmp_path / "license_of_data").mkdir()
    (tmp_path / "licenses.json").write_text("{}")
    found = read_license(tmp_path)
    assert found is not None
    assert found.id is None
    assert found.texts == {
        "LICENSE": "terms",
        "Notice.txt": "caf\ufffd[1m",
        "USE_POLICY.md": "This text has 65,537 bytes, a bundle carries up to 65,536: it is in the backbone's folder.",
    }
    assert license_fields(found) == {"license": "other"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            {"general.license": "apache-2.0", "general.organization": "HuggingFaceTB"},
            License.stated("apache-2.0", author="HuggingFaceTB"),
        ),
        ({"general.license": "gemma", "general.author": "Google"}, License.stated("gemma", author="Google")),
        (
            {"general.license": "other", "general.license.name": "own", "general.license.link": "https://x.y"},
            License.stated("other", "own", "https://x.y"),
        ),
        # An architecture is no license.
        ({"general.architecture": "llama", "general.organization": "Meta"}, None),
    ],
)
def test_gguf_metadata(metadata: dict[str, Any], expected: License | None, tmp_path: Path) -> None:
    found = gguf_license(metadata)
    assert found == expected
    write_license(tmp_path, "M *1*\n# x", found, "Unpacked from a_b.gguf.")
    assert read_license(tmp_path) == expected
    text = (tmp_path / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == ("unknown" if found is None else found.id)
    assert "# M \\*1\\* # x\n" in text


@pytest.mark.parametrize(
    "stated",
    [None, License.stated("llama3.2", author="Meta"), License.stated("other", "own terms", "https://x.y/z", "A")],
)
def test_a_gguf_file_carries_it_to_the_folder_it_is_unpacked_to(stated: License | None, tmp_path: Path) -> None:
    tokenizer = qwen2_tokenizer()
    base = save(qwen2(len(tokenizer)), tokenizer, tmp_path / "base")
    write_gguf(base, tmp_path / "m.gguf", "f32", BaseModelInfo("org/base", stated, None))
    (tmp_path / "unpacked").mkdir()
    write_backbone(tmp_path / "m.gguf", tmp_path / "unpacked")
    found = read_license(tmp_path / "unpacked")
    # The author is the backbone's, not of what was made of it.
    assert found == (None if stated is None else replace(stated, author=None))
    assert "Unpacked by edgeb from m.gguf" in (tmp_path / "unpacked" / "README.md").read_text()


def test_cards_show_stated_text_literally() -> None:
    found = License.stated("other", "<script>`*a*`", "https://x.y/[z]", "A_b")
    shown = license_markdown(found)
    assert "<script>" not in shown
    assert "&lt;script&gt;\\`\\*a\\*\\`" in shown
    assert "states no license" in license_markdown(None)
    assert "Built with Llama" in license_markdown(License.stated("llama3.2"))
