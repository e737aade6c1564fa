"""Score images with a variant that states its preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgewright.batch.driver import run_job
from edgewright.batch.job import BatchJob
from edgewright.contracts.variant import (
    LayerKind,
    Precision,
    Preprocessing,
    TensorSpec,
    Tolerance,
    VariantConfig,
    VariantDirectory,
)

CONFIG = VariantConfig(
    variant="fp32",
    backend="onnxruntime",
    precision=Precision.FP32,
    inputs=(TensorSpec(name="x", dtype="float32", shape=("N", 4, 4, 3), axes=("batch", "height", "width", "channels")),),
    outputs=(TensorSpec(name="mean", dtype="float32", shape=("N", 3)),),
    tolerance=Tolerance(max_relative_difference=1.0, min_agreement=0.0),
    size_bytes=1,
    labels=("red", "green", "blue"),
    preprocessing=Preprocessing(resize_height=4, resize_width=4, scale=1 / 255),
)


@pytest.fixture
def variant(tmp_path: Path) -> Path:
    """Return a variant that computes the mean of each channel."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0)],
        "means",
        [value("x", TensorProto.FLOAT, ["N", 4, 4, 3])],
        [value("mean", TensorProto.FLOAT, ["N", 3])],
    )
    folder = tmp_path / "fp32"
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / LayerKind.GRAPH.file_name))
    VariantDirectory.write(folder, CONFIG)
    return folder


def test_images_are_prepared_and_one_that_cannot_be_decoded_fails_alone(variant: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for place, colour in enumerate([(255, 0, 0), (0, 51, 0), (0, 0, 102)]):
        Image.new("RGB", (8, 8), colour).save(folder / f"{place}.png")
    (folder / "3.png").write_bytes(b"\x89PNG but no more")
    (folder / "4.png").symlink_to(tmp_path / "nowhere.png")
    report = run_job(BatchJob(model=str(variant), input=(str(folder),), output=str(tmp_path / "out")))
    found = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert found.column("file").to_pylist() == [str(folder / f"{place}.png") for place in range(3)]
    assert found.column("label").to_pylist() == ["red", "green", "blue"]
    np.testing.assert_allclose(found.column("mean").to_pylist(), np.diag([1, 0.2, 0.4]), atol=1e-6)
    assert (report.succeeded, report.failed) == (3, 2)
    assert {group.items for group in report.errors} == {(str(folder / "3.png"),), (str(folder / "4.png"),)}
