"""A build directory of a small residual network with a head, as convert and quantize write it, made in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from accel.backends.onnxruntime_cpu import OnnxRuntimeSession
from benchmarks.networks.npu_networks import INPUT, Float, Network, quantize, reference
from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, Cut, write_record
from edgewright.contracts.samples import Tensors, write_npz
from edgewright.contracts.variant import LayerKind, Precision, TensorSpec, Tolerance, VariantConfig, VariantDirectory

CLASSES = 5
TOLERANCE = Tolerance(max_relative_difference=0.2, min_agreement=0.5)


def make_npu_build(path: Path, *, count: int = 16) -> tuple[BuildDirectory, Float]:
    """Write variants fp32 and npu-int8 of a network of 3 x 8 x 8 images; return the build and its golden images."""
    network = Network(3, 8, 8)
    x = network.add("Relu", network.conv(INPUT, 3, 4, pads=[1, 1, 1, 1]))
    y = network.add("Relu", network.conv(x, 4, 4, pads=[1, 1, 1, 1]))
    features = network.add("Flatten", network.add("GlobalAveragePool", network.add("Add", x, y)))
    scores = network.add("Softmax", network.gemm(features, 4, CLASSES))
    plain, images = network.model(scores), network.images(count)
    (expected,) = reference(plain, images, [scores])
    spec = TensorSpec(name=INPUT, dtype="float32", shape=("N", 3, 8, 8))
    record = BuildRecord(
        source_kind="onnx",
        source_digest=wire.digest_of(b"a small network"),
        inputs=(spec,),
        outputs=(TensorSpec(name=scores, dtype="float32", shape=("N", CLASSES)),),
        tolerance=TOLERANCE,
        labels=tuple("abcde"),
        cut=Cut(tensors=(features,), featurizer_nodes=7, head_nodes=2),
    )
    with BuildDirectory.creating(path) as staging:
        write_record(staging, record)
        onnx.save(plain, staging / "graph" / LayerKind.GRAPH.file_name)
        write_npz(staging / "graph" / LayerKind.GOLDEN_INPUTS.file_name, {INPUT: images})
        write_npz(staging / "graph" / LayerKind.GOLDEN_OUTPUTS.file_name, {scores: np.asarray(expected)})
    build = BuildDirectory.open(path)
    add_variant(build, "fp32", Precision.FP32, plain)
    add_variant(build, "npu-int8", Precision.NPU_INT8, quantize(plain, images))
    return build, images


def make_build(path: Path, model: onnx.ModelProto, samples: Tensors) -> BuildDirectory:
    """Return a build with the variant fp32 of any `model`, whose golden samples are `samples` and what onnxruntime computes."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        node.name = node.output[0]
    session = OnnxRuntimeSession(
        onnxruntime.InferenceSession(named.SerializeToString(), providers=["CPUExecutionProvider"]), path, None
    )
    record = BuildRecord(
        source_kind="onnx",
        source_digest=wire.digest_of(b"a small network"),
        inputs=session.inputs,
        outputs=session.outputs,
        tolerance=TOLERANCE,
    )
    with BuildDirectory.creating(path) as staging:
        write_record(staging, record)
        onnx.save(named, staging / "graph" / LayerKind.GRAPH.file_name)
        write_npz(staging / "graph" / LayerKind.GOLDEN_INPUTS.file_name, samples)
        write_npz(staging / "graph" / LayerKind.GOLDEN_OUTPUTS.file_name, session.run(samples))
    build = BuildDirectory.open(path)
    add_variant(build, "fp32", Precision.FP32, named)
    return build


def add_variant(build: BuildDirectory, name: str, precision: Precision, model: onnx.ModelProto) -> None:
    """Add a variant whose graph holds its own weights."""
    with build.creating_variant(name) as folder:
        onnx.save(model, folder / LayerKind.GRAPH.file_name)
        VariantDirectory.write(
            folder,
            VariantConfig(
                variant=name,
                backend="onnxruntime",
                precision=precision,
                inputs=build.record.inputs,
                outputs=build.record.outputs,
                tolerance=TOLERANCE,
                size_bytes=(folder / LayerKind.GRAPH.file_name).stat().st_size,
                labels=build.record.labels,
            ),
        )
