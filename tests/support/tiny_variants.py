"""Small variants on disk, for tests that load, measure and serve them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import (
    LayerKind,
    Precision,
    TensorSpec,
    Tolerance,
    VariantConfig,
    VariantDirectory,
    size_of_weights_and_graph,
)

FEATURES, HIDDEN, CLASSES = 6, 5, 3


def tiny_weights() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the deterministic weights of featurizer and head."""
    generator = np.random.default_rng(7)
    first = generator.standard_normal((FEATURES, HIDDEN)).astype(np.float32)
    second = generator.standard_normal((HIDDEN, CLASSES)).astype(np.float32)
    return first, second


def tiny_samples(count: int) -> npt.NDArray[np.float32]:
    """Return deterministic inputs for the tiny network."""
    return np.random.default_rng(11).standard_normal((count, FEATURES)).astype(np.float32)


def expected_scores(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Compute what the tiny network must answer, without any runtime."""
    first, second = tiny_weights()
    scores = np.maximum(x.astype(np.float64) @ first, 0) @ second
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return result


def make_variant(path: Path, *, batch: int | str = "N", name: str = "fp32", **config: Any) -> VariantDirectory:
    """Write a two-layer classifier with its weights in separate files, as convert writes them."""
    path.mkdir(parents=True)
    first, second = tiny_weights()
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["hidden"], name="featurizer"),
        helper.make_node("Relu", ["hidden"], ["features"], name="relu"),
        helper.make_node("MatMul", ["features", "w2"], ["logits"], name="head"),
        helper.make_node("Softmax", ["logits"], ["scores"], name="softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
        [
            _outside("w1", first, path / LayerKind.FEATURIZER_WEIGHTS.file_name),
            _outside("w2", second, path / LayerKind.HEAD_WEIGHTS.file_name),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (path / LayerKind.GRAPH.file_name).write_bytes(model.SerializeToString())
    return VariantDirectory.write(path, make_config(name, batch, size_bytes=size_of_weights_and_graph(path), **config))


def make_config(name: str = "fp32", batch: int | str = "N", **changes: Any) -> VariantConfig:
    """Return the config of the tiny network, with some fields changed."""
    fields: dict[str, Any] = {
        "variant": name,
        "backend": "onnxruntime",
        "precision": Precision.FP32,
        "inputs": (TensorSpec(name="x", dtype="float32", shape=(batch, FEATURES)),),
        "outputs": (TensorSpec(name="scores", dtype="float32", shape=(batch, CLASSES)),),
        "tolerance": Tolerance(max_relative_difference=1e-4, min_agreement=1.0),
        "size_bytes": 1000,
    }
    return VariantConfig(**{**fields, **changes})


def write_golden(directory: Path, inputs: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> Path:
    """Write golden samples for the tiny network and return their directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_npz(directory / LayerKind.GOLDEN_INPUTS.file_name, {"x": inputs})
    write_npz(directory / LayerKind.GOLDEN_OUTPUTS.file_name, {"scores": outputs})
    return directory


def _outside(name: str, weights: npt.NDArray[np.float32], path: Path) -> TensorProto:
    """Write weights to `path` and return the initializer that points there."""
    path.write_bytes(weights.tobytes())
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=weights.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", path.name), ("offset", "0"), ("length", str(weights.nbytes))):
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    return tensor
