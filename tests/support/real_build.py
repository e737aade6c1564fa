"""A build directory whose variants are real graphs of a tiny classifier, with golden samples computed without a runtime."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, write_record
from edgewright.contracts.variant import Measured, VariantDirectory
from tests.support.tiny_variants import expected_scores, make_config, make_variant, tiny_samples, write_golden


def make_real_build(path: Path) -> BuildDirectory:
    """Write a build directory with the single variant fp32."""
    config = make_config()
    with BuildDirectory.creating(path) as staging:
        record = BuildRecord(
            source_kind="onnx",
            source_digest=wire.digest_of(b"the tiny network"),
            inputs=config.inputs,
            outputs=config.outputs,
            tolerance=config.tolerance,
        )
        write_record(staging, record)
        samples = tiny_samples(8)
        write_golden(staging / "graph", samples, expected_scores(samples).astype(np.float32))
    build = BuildDirectory.open(path)
    with build.creating_variant("fp32") as staging:
        made = make_variant(staging / "made")
        shutil.copytree(made.path, staging, dirs_exist_ok=True)
        shutil.rmtree(made.path)
        measured = Measured(sample_count=8, agreement=1.0, max_relative_difference=1e-7, accuracy=0.875)
        VariantDirectory.write(staging, replace(made.config, measured=measured))
    return build
