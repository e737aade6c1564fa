"""The search keeps as few layers in float as the budget needs, and continues after an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from accel.evaluate import reference_outputs
from accel.first_run import FirstRuns
from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, load_samples
from edgewright.contracts.variant import LayerKind
from edgewright.errors import ParityError
from quantize.calibration.sqnr import tensor_sqnr
from quantize.int8 import mixed_precision
from quantize.int8.int8 import Int8Settings
from quantize.int8.mixed_precision import Journal, SearchResult, make_mixed, search
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import QuantizationResult, Scheme
from tests.support.quantize_builds import fresh_build, training_samples

COSTS = {"a": 0.05, "b": 0.002, "c": 0.03, "d": 0.0}


def measured(kept: Sequence[str]) -> float:
    return 0.9 - sum(cost for name, cost in COSTS.items() if name not in kept)


def test_the_search_keeps_only_the_layers_that_the_budget_needs() -> None:
    assert search(["b", "a", "c", "d"], 0.895, measured) == SearchResult(("a", "c"), measured(["a", "c"]))


def test_no_layer_is_kept_if_all_int8_is_within_the_budget() -> None:
    assert search(list(COSTS), 0.8, measured) == SearchResult((), measured([]))


def test_a_budget_that_cannot_be_met_is_an_error() -> None:
    with pytest.raises(ParityError) as raised:
        search(list(COSTS), 0.95, measured)
    assert str(raised.value) == (
        "mixed must predict 95.00% correctly, but it reaches only 90.00% with all layers but one in float: "
        "allow more with --max-drop, or use fp16"
    )


def some_samples(build: BuildDirectory) -> Samples:
    return load_samples(training_samples(), build.record.inputs).slice(0, 200)


def mixed(build: BuildDirectory, target: Path, *, max_drop: float) -> QuantizationResult:
    samples = some_samples(build)
    reference = reference_outputs(build.variant("fp32"), samples)
    with FirstRuns() as first_runs:
        return make_mixed(
            build, samples, target, settings=Int8Settings(), max_drop=max_drop, reference=reference, first_runs=first_runs
        )


def journal_of(build: BuildDirectory) -> Journal:
    return wire.decode((build.reports / "mixed-journal.json").read_bytes(), Journal, what="journal")


def with_a_broken_layer(build: BuildDirectory) -> BuildDirectory:
    """Spread the weights of one layer so far apart that eight bits cannot represent them."""
    path = build.graph / LayerKind.HEAD_WEIGHTS.file_name
    graph = onnx.load(build.graph / LayerKind.GRAPH.file_name, load_external_data=False)
    hidden = next(tensor for tensor in graph.graph.initializer if tensor.name == "hidden/kernel")
    place = {entry.key: entry.value for entry in hidden.external_data}
    start, length = int(place["offset"]), int(place["length"])
    raw = bytearray(path.read_bytes())
    weights = np.frombuffer(bytes(raw[start : start + length]), np.float32).reshape(tuple(hidden.dims)).copy()
    weights[0] = 60.0  # one input, a border pixel that hardly varies, now dominates all others
    raw[start : start + length] = weights.tobytes()
    path.write_bytes(bytes(raw))
    return build


def test_only_the_layer_that_eight_bits_cannot_represent_stays_in_float_with_its_reason(tmp_path: Path) -> None:
    build = with_a_broken_layer(fresh_build(tmp_path / "build"))
    (tmp_path / "made").mkdir()
    made = mixed(build, tmp_path / "made", max_drop=0.02)
    assert made.float_fallbacks[0].node == "hidden/Gemm"
    assert len(made.float_fallbacks) == 2  # and the softmax
    assert "dB at the outputs, the 1st lowest of 4 layers; all int8 scores" in made.float_fallbacks[0].reason
    weights = {tensor.name for tensor in onnx.load(tmp_path / "made" / "graph.onnx").graph.initializer}
    assert "hidden/kernel" in weights
    assert "stem/Conv/kernel/q" in weights


def test_an_interrupted_search_continues_from_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = fresh_build(tmp_path / "build")
    (tmp_path / "made").mkdir()
    calls: list[object] = []

    def interrupted(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tensor_sqnr(*arguments)

    monkeypatch.setattr(mixed_precision, "tensor_sqnr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mixed(build, tmp_path / "made", max_drop=0.01)
    assert len(journal_of(build).sqnr_db) == 2
    mixed(build, tmp_path / "made", max_drop=0.01)
    assert len(calls) == 3 + 2
    mixed(build, tmp_path / "made", max_drop=0.02)
    assert len(calls) == 5


def test_other_samples_start_a_new_journal(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    settings = Int8Settings()
    build.write_report("mixed-journal", mixed_precision.open_journal(build, some_samples(build), settings))
    key = journal_of(build).key
    assert mixed_precision.open_journal(build, some_samples(build), settings).key == key
    assert mixed_precision.open_journal(build, some_samples(build).slice(0, 100), settings).key != key


def test_the_default_budget_of_mixed_is_half_a_point(tmp_path: Path) -> None:
    made = quantize(fresh_build(tmp_path / "build"), QuantizeOptions(scheme=Scheme.MIXED, samples=training_samples())).variant
    assert made.config.measured is not None
    assert made.config.precision.value == "mixed"
