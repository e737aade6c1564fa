"""A build directory of an ONNX graph without a conversion, for tests that need many: the graph is written as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from accel.backends.onnxruntime_cpu import load_graph
from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, write_record
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import (
    BackendName,
    LayerKind,
    Precision,
    Tolerance,
    VariantConfig,
    VariantDirectory,
    size_of_weights_and_graph,
)
from edgewright.graphs.files import write_graph

Array = npt.NDArray[Any]


def float_model(nodes: Sequence[onnx.NodeProto], constants: dict[str, Array], rows: Array) -> onnx.ModelProto:
    """Return a graph from `x`, of the shape of `rows`, to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *rows.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(numbers, name) for name, numbers in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def float_build(path: Path, model: onnx.ModelProto, rows: Array) -> BuildDirectory:
    """Write a build directory whose golden samples are `rows`."""
    with BuildDirectory.creating(path) as staging:
        write_graph(staging / "graph", ir.from_proto(model), lambda _node: True)
        variant = staging / "variants" / "fp32"
        variant.mkdir()
        write_graph(variant, ir.from_proto(model), lambda _node: True)
        session = load_graph(variant / LayerKind.GRAPH.file_name)
        write_npz(staging / "graph" / LayerKind.GOLDEN_INPUTS.file_name, {"x": rows})
        write_npz(staging / "graph" / LayerKind.GOLDEN_OUTPUTS.file_name, session.run({"x": rows}))
        tolerance = Tolerance(max_relative_difference=1e-4, min_agreement=1.0)
        digest = wire.digest_of(model.SerializeToString())
        record = BuildRecord(
            source_kind="onnx", source_digest=digest, tolerance=tolerance, inputs=session.inputs, outputs=session.outputs
        )
        write_record(staging, record)
        config = VariantConfig(
            variant="fp32",
            backend=BackendName.ONNXRUNTIME,
            precision=Precision.FP32,
            tolerance=tolerance,
            size_bytes=size_of_weights_and_graph(variant),
            inputs=session.inputs,
            outputs=session.outputs,
        )
        VariantDirectory.write(variant, config)
    return BuildDirectory.open(path)


def run(graph: onnx.ModelProto | Path, rows: Array) -> Array:
    """Return the output `y` on onnxruntime without its optimizer, which fuses no integer kernels."""
    source = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0])
