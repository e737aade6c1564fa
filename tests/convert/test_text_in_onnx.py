"""ONNX graphs of text compute the same after the conversion, on generated samples and on given ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from convert.from_onnx import read_onnx
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from tests.support.convert_networks import run_graph

STRING, FLOAT, INT64 = onnx.TensorProto.STRING, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
WORDS = np.array(["Rome", "OSLO", "École", "", "rome"], object)


def model(nodes: list[onnx.NodeProto], result: int, path: Path, shape: Any = ("N",), axes: Any = ("N",)) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("word", STRING, list(shape))],
        [helper.make_tensor_value_info("y", result, list(axes))],
        [numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")],
    )
    sets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 2)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=8), path)
    return path


def lower(result: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("StringNormalizer", ["word"], [result], case_change_action="LOWER", is_case_sensitive=1, **attributes)


def encoded(source: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("LabelEncoder", [source], ["y"], domain="ai.onnx.ml", **attributes)


def counted(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node(
        "TfIdfVectorizer",
        [source],
        [result],
        mode="TFIDF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1, 2],
        weights=[1.0, 2.0, 0.5],
        pool_strings=["rome", "oslo", "école"],
    )


CODES = {"keys_strings": ["rome", "oslo"], "values_int64s": [3, 4], "default_int64": -1}
GRAPHS = [
    pytest.param([lower("y")], STRING, np.array(["rome", "oslo", "école", "", "rome"], object), id="lower case"),
    pytest.param(
        [lower("y", locale="en_US.UTF-8")], STRING, np.array(["rome", "oslo", "école", "", "rome"], object), id="English"
    ),
    pytest.param([lower("t"), encoded("t", **CODES)], INT64, np.array([3, 4, -1, -1, 3]), id="codes"),
    pytest.param(
        [encoded("word", keys_strings=["Rome", ""], values_floats=[0.5, 2.0], default_float=-1.0)],
        FLOAT,
        np.array([0.5, -1, -1, 2, -1], np.float32),
        id="numbers",
    ),
]


@pytest.mark.parametrize(("nodes", "result", "expected"), GRAPHS)
def test_a_graph_of_text_computes_the_same(nodes: list[onnx.NodeProto], result: int, expected: Any, tmp_path: Path) -> None:
    (actual,) = run_graph(read_onnx(model(nodes, result, tmp_path / "m.onnx")), WORDS)
    np.testing.assert_array_equal(actual, expected)


def test_the_command_converts_a_vectorizer_of_text_and_compares_it_on_given_samples(tmp_path: Path) -> None:
    nodes = [
        lower("t"),
        helper.make_node("Constant", [], ["column"], value_ints=[-1, 1]),
        helper.make_node("Reshape", ["t", "column"], ["rows"]),
        counted("rows", "counts"),
        helper.make_node("MatMul", ["counts", "w"], ["y"]),
    ]
    source = model(nodes, FLOAT, tmp_path / "m.onnx", axes=("N", 2))
    write_npz(tmp_path / "s.npz", {"word": WORDS})
    arguments = ["convert", str(source), "--samples", str(tmp_path / "s.npz"), "-o", str(tmp_path / "build")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert [str(spec) for spec in BuildDirectory.open(tmp_path / "build").record.inputs] == ["word object[N]"]
    report = json.loads((tmp_path / "build" / "reports" / "parity.json").read_text("utf-8"))
    assert (report["sample_count"], report["passed"]) == (5, True)
    (actual,) = run_graph(read_onnx(source), WORDS)
    weights = np.array([[0, 1], [2, 3], [4, 5]], np.float32)
    counts = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 0.5], [0, 0, 0], [1, 0, 0]], np.float32)
    np.testing.assert_allclose(actual, counts @ weights, atol=1e-6)
