"""Properties of every scheme: accuracy, size, deterministic bytes, the cut, and a golden check that detects broken weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from accel.backends.choose import load_session
from accel.evaluate import evaluate_variant, reference_outputs
from accel.golden import check_golden
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import load_samples
from edgewright.contracts.variant import LayerKind
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.quantize_builds import (
    contents,
    fresh_build,
    held_out_samples,
    quantized_build,
    retrained_build,
    training_samples,
    variant,
)

SCHEMES = pytest.mark.parametrize("scheme", list(Scheme), ids=str)


@SCHEMES
def test_a_variant_keeps_the_accuracy_on_held_out_digits(scheme: Scheme) -> None:
    build = quantized_build()
    samples = load_samples(held_out_samples(), build.record.inputs)
    float_variant = build.variant("fp32")
    reference = reference_outputs(float_variant, samples)
    before = evaluate_variant(float_variant, samples, reference, backend="onnxruntime")[0].accuracy
    after = evaluate_variant(variant(scheme), samples, reference, backend="onnxruntime")[0].accuracy
    assert before is not None
    assert after is not None
    assert after >= before - 0.01


@SCHEMES
def test_a_variant_is_smaller_than_the_float_one(scheme: Scheme) -> None:
    assert variant(scheme).config.size_bytes < quantized_build().variant("fp32").config.size_bytes


@SCHEMES
def test_a_variant_is_valid_onnx_with_every_weight_outside(scheme: Scheme) -> None:
    path = variant(scheme).file(LayerKind.GRAPH)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    inside = [tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer if not tensor.external_data]
    zero_points = [tensor for tensor in inside if tensor.data_type != onnx.TensorProto.INT64]
    assert not any(onnx.numpy_helper.to_array(tensor).any() for tensor in zero_points)


@SCHEMES
def test_the_same_model_and_options_give_the_same_bytes(scheme: Scheme, tmp_path: Path) -> None:
    again = quantize(fresh_build(tmp_path / "again"), QuantizeOptions(scheme=scheme, samples=training_samples())).variant
    assert contents(again.path) == contents(variant(scheme).path)


@SCHEMES
def test_a_variant_passes_its_golden_check(scheme: Scheme) -> None:
    result = check_golden(load_session(variant(scheme)), variant(scheme), quantized_build().graph)
    assert result.failure is None


@SCHEMES
def test_a_variant_with_broken_weights_fails_its_golden_check(scheme: Scheme, tmp_path: Path) -> None:
    broken = fresh_build(tmp_path / "build")
    made = quantize(broken, QuantizeOptions(scheme=scheme, samples=training_samples())).variant
    weights = made.file(LayerKind.HEAD_WEIGHTS)
    raw = np.frombuffer(weights.read_bytes(), np.uint8)
    weights.write_bytes(raw[::-1].tobytes())
    result = check_golden(load_session(made), made, broken.graph)
    assert result.failure is not None


def test_a_retrained_head_leaves_graph_and_featurizer_of_every_variant_unchanged(tmp_path: Path) -> None:
    shutil.copytree(retrained_build().path, tmp_path / "build")
    build = BuildDirectory.open(tmp_path / "build")
    changed = {}
    for scheme in Scheme:
        made = quantize(build, QuantizeOptions(scheme=scheme, samples=training_samples())).variant
        kinds = [kind for kind in made.layers() if made.file(kind).read_bytes() != variant(scheme).file(kind).read_bytes()]
        changed[scheme] = kinds
    assert changed == {scheme: [LayerKind.HEAD_WEIGHTS] for scheme in Scheme}
