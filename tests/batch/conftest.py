"""Tables, images and scripts that batch jobs score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.batch_inputs import WEIGHTS, rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ONNX file that multiplies rows of four numbers by `WEIGHTS`."""
    path = tmp_path_factory.mktemp("model") / "linear.onnx"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "linear",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(WEIGHTS, "W")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Return a folder of three Parquet files with 250 rows."""
    folder = tmp_path / "in"
    folder.mkdir()
    for place, (start, count) in enumerate([(0, 100), (100, 100), (200, 50)]):
        pq.write_table(rows(count, start), folder / f"{place}.parquet", row_group_size=40)
    return folder


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes an entry script with this body of `run`."""

    def write(body: str, head: str = "") -> str:
        path = tmp_path / "score.py"
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        path.write_text(f"import os\n{head}\ndef init():\n    pass\n\ndef run(mini_batch):\n{lines}\n")
        return str(path)

    return write
