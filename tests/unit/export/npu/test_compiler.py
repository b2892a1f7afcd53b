"""What the compiler wrote, read from files made by hand, and the tool with a script in its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.bundle.npu_chips import chip_named
from edge_behavior.errors import EdgebError
from edge_behavior.export.npu import compiler
from edge_behavior.export.npu.compiler import compile_model, read_compiled
from edge_behavior.export.npu.options import NpuOptions, call_size, chip_table
from edge_behavior.runtime.npu.package import NpuPackage
from tests.command import invoked

schema: Any = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="no ai-edge-litert")
flexbuffers: Any = pytest.importorskip("flatbuffers.flexbuffers")
flatbuffers: Any = pytest.importorskip("flatbuffers")

CHIP = chip_named("sm8650")
TENSORS = ("step_8_mask", "step 8/k:0", "step_8_new_k_0_output", "step_8_logits;output")


def compiled_file(path: Path, operators: list[str]) -> Path:
    """A `.tflite` with a signature over such operators: `DISPATCH_OP`, or LiteRT's own."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version = 3
    graph.tensors = []
    for name in TENSORS:
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, [1, 8]
        graph.tensors.append(tensor)
    graph.operators, model.operatorCodes = [], []
    for i, name in enumerate(operators):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        if name == "DISPATCH_OP":
            code.customCode, code.builtinCode = name, schema.BuiltinOperator.CUSTOM
            options = {"bytecode_offset": 40, "bytecode_size": 60, "name": "qnn_partition_0"}
            operator.customOptions = list(flexbuffers.Dumps(options))
        else:
            code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        operator.opcodeIndex, operator.inputs, operator.outputs = i, [1, 0], [2, 3]
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [0, 1], [2, 3]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "step_8", 0
    signature.inputs, signature.outputs = [], []
    for where, names in ((signature.inputs, ("mask", "k_0")), (signature.outputs, ("new_k_0", "logits"))):
        for name in names:
            named = schema.TensorMapT()
            named.name, named.tensorIndex = name, {"mask": 0, "k_0": 1, "new_k_0": 2, "logits": 3}[name]
            where.append(named)
    model.subgraphs, model.signatureDefs, model.buffers = [graph], [signature], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_a_context_is_found_with_its_tensors(tmp_path: Path) -> None:
    file = compiled_file(tmp_path / "v75.tflite", ["DISPATCH_OP"])
    found = read_compiled(file, CHIP, 121, 7)
    assert (found.context_offset, found.context_bytes, found.graph) == (40, 60, "qnn_partition_0")
    assert (found.file, found.bytes, found.operators, found.memory) == (file.name, file.stat().st_size, 121, 7)
    # In the operation's order, under the names that are left in the binary.
    assert list(found.inputs.items()) == [("k_0", "step_8_k_0"), ("mask", "step_8_mask")]
    assert found.outputs == {"new_k_0": "step_8_new_k_0_output", "logits": "step_8_logits_output"}


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        (["EMBEDDING_LOOKUP", "DISPATCH_OP"], "left to the CPU are EMBEDDING_LOOKUP$"),
        (["CUMSUM", "DISPATCH_OP", "CUMSUM", "GELU"], r"left to the CPU are CUMSUM \(2\), GELU$"),
        (["DISPATCH_OP", "DISPATCH_OP"], "it falls into 2 parts"),
    ],
)
def test_operators_left_to_the_cpu_are_named(tmp_path: Path, operators: list[str], message: str) -> None:
    with pytest.raises(EdgebError) as error:
        read_compiled(compiled_file(tmp_path / "v75.tflite", operators), CHIP, 9, 7)
    assert re.search(message, error.value.message)


class TestTheTool:
    """A script that does what LiteRT's tool does."""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NpuPackage:
        (tmp_path / "tools").mkdir()
        (tmp_path / compiler._PLUGIN).parent.mkdir(parents=True)
        (tmp_path / compiler._PLUGIN).touch()
        monkeypatch.setattr(compiler, "check_compiler", lambda: tmp_path)
        (tmp_path / "qnn").mkdir()
        (tmp_path / "qnn" / "libQnnSystem.so").write_text("system")
        return NpuPackage("python", tmp_path / "qnn", "2.7.0", "2.51.0")

    def write(self, package: NpuPackage, lines: str) -> None:
        tool = package.folder.parent / "tools" / "apply_plugin_main"
        tool.write_text(f"#!/bin/sh\n{lines}\n")
        tool.chmod(0o755)

    def test_compiles(self, package: NpuPackage, tmp_path: Path) -> None:
        made = compiled_file(tmp_path / "made.tflite", ["DISPATCH_OP"])
        self.write(
            package,
            f'echo "$@" > {tmp_path}/arguments; cat "${{LD_LIBRARY_PATH%%:*}}/libQnnLpai.so" > {tmp_path}/linked\n'
            f'for one in "$@"; do case "$one" in --o=*) cp {made} "${{one#--o=}}";; esac; done\n'
            'sleep 0.3; echo "INFO: Partitioned subgraph<0>, selected 121 ops, from a total of 121 ops. resulted in 1"',
        )
        found = compile_model(tmp_path / "model.tflite", CHIP, tmp_path / "v75.tflite", package)
        assert (found.file, found.operators) == ("v75.tflite", 121)
        # A shell's, and not its parent's.
        assert 1 << 17 < found.memory < 1 << 24
        assert "--soc_model=SM8650" in (tmp_path / "arguments").read_text()
        # The library that the package lacks is another one's name.
        assert (tmp_path / "linked").read_text() == "system"

    @pytest.mark.parametrize(
        ("lines", "reason"),
        [
            ("echo 'INFO: fine'; echo 'ERROR: [qnn.cc:7] error 1002'; exit 1", r"ERROR: \[qnn.cc:7\] error 1002"),
            ("kill -9 $$", "it ended with code -9"),
            ("exit 0", "it ended with code 0"),
        ],
    )
    def test_fails(self, package: NpuPackage, tmp_path: Path, lines: str, reason: str) -> None:
        self.write(package, lines)
        with pytest.raises(EdgebError, match=f"the compiler for sm8650 failed: {reason}"):
            compile_model(tmp_path / "model.tflite", CHIP, tmp_path / "v75.tflite", package)


class TestOptions:
    def test_parsed(self) -> None:
        assert NpuOptions.parse(None, None) is None
        assert NpuOptions.parse("sm8650", None) == NpuOptions((CHIP,))
        assert NpuOptions.parse("sm8650", 9) == NpuOptions((CHIP,), 9)
        assert call_size((1, 8, 32, 64)) == 32
        assert call_size((1, 8)) == 8

    def test_refused(self) -> None:
        for values, message in (
            (("sm8650", -1), "--npu-windows is -1"),
            ((None, 1), "--npu-windows without --npu"),
            ((None, None, "q8"), "--npu-quant without --npu"),
            (("sm8650", None, "f32"), "no weight format 'f32'"),
            (("sm8650", None, "q4"), "takes no 4-bit weights"),
        ):
            with pytest.raises(EdgebError, match=message):
                NpuOptions.parse(*values)
        with pytest.raises(EdgebError, match="at most 32"):
            call_size((64,))

    def test_other_formats(self, tmp_path: Path) -> None:
        with pytest.raises(EdgebError, match="--npu is for LiteRT bundles"):
            invoked("export", tmp_path, "--npu", "all")

    def test_the_list(self, tmp_path: Path) -> None:
        shown = invoked("export", "--npu", "list", "--json").stdout
        assert [chip["chip"] for chip in chip_table()] == [
            "sm8450", "sm8550", "sm8650", "sm8750", "sm8850",
        ]  # fmt: skip
        assert '"libQnnHtpV75Skel.so"' in shown
        assert "Snapdragon 8 Gen 3" in invoked("export", "--npu", "list").stdout
