"""Every variant scores a set of samples once: the printed numbers are those of the stored reports."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from accel import independence
from accel.backends.backend import Session
from accel.backends.onnxruntime_cpu import OnnxRuntime
from accel.evaluate_cli import command as evaluate
from edgewright.contracts.samples import Tensors, load_samples
from edgewright.contracts.variant import LayerKind, VariantDirectory
from quantize.cli import command as quantize
from quantize.quantization import QuantizeOptions, quantize_all
from quantize.scheme import Scheme
from tests.support.quantize_builds import digits_build, fresh_build, held_out_samples, quantized_build, training_samples

TRAINING_COUNT, HELD_OUT_COUNT = 400, 397


class CountingSession:
    """A session that counts the samples of every batch by variant; single samples are latency runs."""

    def __init__(self, real: Session, variant: str, scored: Counter[str]) -> None:
        self.describe, self.close = real.describe, real.close
        self._real, self._variant, self._scored = real, variant, scored

    def run(self, inputs: Tensors) -> Tensors:
        count = len(next(iter(inputs.values())))
        if count > 1:
            self._scored[self._variant] += count
        return self._real.run(inputs)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the samples that each variant scores in sessions of the onnxruntime backend."""
    load, counts = OnnxRuntime.load, Counter[str]()

    def load_counting(backend: OnnxRuntime, variant: VariantDirectory, *, threads: int | None) -> Session:
        return CountingSession(load(backend, variant, threads=threads), variant.config.variant, counts)

    monkeypatch.setattr(OnnxRuntime, "load", load_counting)
    return counts


def golden_count() -> int:
    build = digits_build()
    return load_samples(build.graph / LayerKind.GOLDEN_INPUTS.file_name, build.record.inputs).count


SCHEMES = pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.MXINT8, Scheme.NPU_INT8], ids=str)


@SCHEMES
def test_quantizing_scores_the_float_variant_and_the_new_one_once(scheme: Scheme, scored: Counter[str], tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    arguments = [str(build.path), "--scheme", scheme.value, "--samples", str(training_samples()), "--json"]
    assert CliRunner().invoke(quantize, arguments).exit_code == 0
    in_one_batch = 0 if scheme is Scheme.NPU_INT8 else 2 * independence.COUNT
    assert scored == {"fp32": TRAINING_COUNT, scheme.value: TRAINING_COUNT + golden_count() + in_one_batch}


def test_several_schemes_share_one_pass_of_the_float_variant(scored: Counter[str], tmp_path: Path) -> None:
    requests = [QuantizeOptions(scheme=scheme, samples=training_samples()) for scheme in (Scheme.INT8, Scheme.MXINT8)]
    quantize_all(fresh_build(tmp_path / "build"), requests)
    assert scored["fp32"] == TRAINING_COUNT


def test_evaluating_scores_each_variant_once(scored: Counter[str]) -> None:
    build = quantized_build()
    scored.clear()
    arguments = [str(build.path), "--samples", str(held_out_samples()), "--variant", "fp32", "--variant", "int8"]
    assert CliRunner().invoke(evaluate, arguments).exit_code == 0
    assert scored == {"fp32": HELD_OUT_COUNT, "int8": HELD_OUT_COUNT}


def test_the_printed_evaluations_are_the_stored_ones(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    arguments = [str(build.path), "--scheme", "int8", "--samples", str(training_samples()), "--json"]
    printed_float, printed_int8 = json.loads(CliRunner().invoke(quantize, arguments).output)
    assert printed_int8 == json.loads((build.reports / "quantize-int8.json").read_text("utf-8"))
    assert printed_int8 == json.loads((build.reports / "detail-int8.json").read_text("utf-8"))["evaluation"]
    assert printed_float == json.loads((build.reports / "detail-fp32.json").read_text("utf-8"))["evaluation"]
