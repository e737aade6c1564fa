"""A tiny build directory: two variants with files of a few bytes, golden samples, no real graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, write_record
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import (
    LayerKind,
    Measured,
    Precision,
    TensorSpec,
    Tolerance,
    VariantConfig,
    VariantDirectory,
    size_of_weights_and_graph,
)

INPUT = TensorSpec(name="image", dtype="float32", shape=("N", 4))
OUTPUT = TensorSpec(name="scores", dtype="float32", shape=("N", 3))
TOLERANCE = Tolerance(max_relative_difference=1e-4, min_agreement=1.0)


def make_tiny_build(path: Path, *, featurizer: bytes = b"F" * 4096, head: bytes = b"H" * 64) -> BuildDirectory:
    """Write a build directory with variants fp32 and int8."""
    with BuildDirectory.creating(path) as staging:
        write_record(
            staging,
            BuildRecord(
                source_kind="keras",
                source_digest=wire.digest_of(featurizer + head),
                inputs=(INPUT,),
                outputs=(OUTPUT,),
                tolerance=TOLERANCE,
            ),
        )
        samples = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)
        write_npz(staging / "graph" / LayerKind.GOLDEN_INPUTS.file_name, {INPUT.name: samples})
        write_npz(staging / "graph" / LayerKind.GOLDEN_OUTPUTS.file_name, {OUTPUT.name: samples[:, :3]})
    build = BuildDirectory.open(path)
    add_variant(build, "fp32", Precision.FP32, featurizer, head)
    add_variant(build, "int8", Precision.INT8, featurizer[::4], head[::4])
    return build


def add_variant(build: BuildDirectory, name: str, precision: Precision, featurizer: bytes, head: bytes) -> None:
    """Add a variant without a valid graph."""
    with build.creating_variant(name) as staging:
        (staging / LayerKind.GRAPH.file_name).write_bytes(b"graph of " + name.encode())
        (staging / LayerKind.FEATURIZER_WEIGHTS.file_name).write_bytes(featurizer)
        (staging / LayerKind.HEAD_WEIGHTS.file_name).write_bytes(head)
        VariantDirectory.write(
            staging,
            VariantConfig(
                variant=name,
                backend="onnxruntime",
                precision=precision,
                inputs=(INPUT,),
                outputs=(OUTPUT,),
                tolerance=TOLERANCE,
                size_bytes=size_of_weights_and_graph(staging),
                labels=("a", "b", "c"),
                measured=Measured(sample_count=2, agreement=1.0, max_relative_difference=0.0),
            ),
        )
