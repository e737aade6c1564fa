"""Prove that a converted graph says what its source says: run both on the same samples, compare every output.

The source runs in a process of its own (`source_runner.py`). Its answers on the first samples travel with every variant as the
golden samples, so a device can repeat the proof.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.source.identify import SourceKind
from convert.source.options import DEFAULT_OPTIONS, SourceOptions
from convert.source.resource_limits import Limits, run_limited
from edgewright.contracts.samples import Samples, Tensors, read_npz, write_npz
from edgewright.contracts.variant import LayerKind, Measured, TensorSpec, Tolerance
from edgewright.errors import ParityError

FLOAT_TOLERANCE = 1e-4
HALF_TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}
"""For sources that round to half precision (11 and 8 significant bits) after every layer, where the graph keeps float32."""
GOLDEN_COUNT = 32
LEAST_GENERATED = 8
_GENERATED_ELEMENTS = 1 << 20
"""Large images are worth fewer samples: running them takes longer than all else, and they travel as golden samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """How far one output is from the source's; the worst sample is the one with the largest absolute difference."""

    name: str
    max_absolute_difference: float
    max_relative_difference: float
    worst_sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """`reports/parity.json`."""

    sample_count: int
    generated_samples: bool
    tolerance: float
    passed: bool
    agreement: float
    accuracy: float | None
    outputs: tuple[OutputDifference, ...]


def generated_samples(inputs: Sequence[TensorSpec], rows: Mapping[str, int] | None = None) -> Samples:
    """Return the same 8 to 32 plausible samples every time, for a user who has none at hand.

    `rows` says of inputs that look up rows of a table how many there are (`index_inputs.py`).
    """
    elements = sum(math.prod(_sample_shape(spec)) for spec in inputs)
    count = min(max(_GENERATED_ELEMENTS // max(elements, 1), LEAST_GENERATED), GOLDEN_COUNT)
    generator = np.random.default_rng(0)
    return Samples({spec.name: _plausible(spec, count, generator, (rows or {}).get(spec.name)) for spec in inputs})


def run_source(
    kind: SourceKind,
    source: Path,
    samples: Samples,
    outputs: Sequence[str],
    options: SourceOptions = DEFAULT_OPTIONS,
    limits: Limits | None = None,
) -> Tensors:
    """Return the source model's outputs, under the graph's names.

    Raises:
        ModelError: the framework cannot load or run the model.
        OperationError: its process crashed, or reached a limit and was stopped.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        given, answer = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        write_npz(given, {f"input_{place}": array for place, array in enumerate(samples.inputs.values())})
        command = [
            sys.executable,
            "-m",
            "convert.run_source",
            kind.value,
            str(source.resolve()),
            str(given),
            str(answer),
            *options.arguments,
        ]
        run_limited(command, limits or Limits.of_this_machine(), source, doing="running it in its own framework")
        arrays = read_npz(answer)
    if len(arrays) != len(outputs):
        raise ParityError(f"{source} has {len(arrays)} outputs, but its graph has {len(outputs)}: {', '.join(outputs)}")
    return {name: arrays[f"output_{place}"] for place, name in enumerate(outputs)}


def report_on(
    expected: Tensors, found: Tensors, measured: Measured, *, tolerance: float = FLOAT_TOLERANCE, generated: bool
) -> ParityReport:
    """Return the report of a comparison."""
    return ParityReport(
        sample_count=measured.sample_count,
        generated_samples=generated,
        tolerance=tolerance,
        passed=measured.max_relative_difference <= tolerance,
        agreement=measured.agreement,
        accuracy=measured.accuracy,
        outputs=tuple(_difference(name, expected[name], array) for name, array in found.items()),
    )


def check(report: ParityReport, source: Path) -> None:
    """Raise `ParityError` when the graph is not the source, naming the worst output and sample."""
    if report.passed:
        return
    advice = "compare on real samples with --samples" if report.generated_samples else "report this model"
    worst = max(report.outputs, key=lambda one: one.max_relative_difference)
    raise ParityError(
        f"{source}: the converted graph must be within {report.tolerance:g} of the source, but output {worst.name} "
        f"differs by {worst.max_relative_difference:.3g} at sample {worst.worst_sample}: "
        f"{advice}, or accept it with --allow-mismatch"
    )


def float_tolerance(measured: Measured) -> Tolerance:
    """Return what float variants must keep; wider only where the user accepted a mismatch."""
    return Tolerance(
        max_relative_difference=max(FLOAT_TOLERANCE, 2 * measured.max_relative_difference),
        min_agreement=1.0 if measured.agreement == 1.0 else max(0.0, measured.agreement - 0.1),
    )


def write_golden(graph: Path, samples: Samples, outputs: Tensors) -> None:
    """Write the first samples and the source's answers beside the graph."""
    first = samples.slice(0, GOLDEN_COUNT)
    write_npz(graph / LayerKind.GOLDEN_INPUTS.file_name, first.inputs)
    write_npz(graph / LayerKind.GOLDEN_OUTPUTS.file_name, {name: array[:GOLDEN_COUNT] for name, array in outputs.items()})


def _difference(name: str, expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> OutputDifference:
    apart = np.abs(found.astype(np.float64) - expected.astype(np.float64)).reshape(len(expected), -1).max(axis=1)
    scale = float(np.abs(expected.astype(np.float64)).max()) or 1.0
    return OutputDifference(
        name=name,
        max_absolute_difference=float(apart.max()),
        max_relative_difference=float(apart.max()) / scale,
        worst_sample=int(apart.argmax()),
    )


def _sample_shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 16 for size in spec.shape[1:])


def _plausible(spec: TensorSpec, count: int, generator: np.random.Generator, rows: int | None) -> npt.NDArray[Any]:
    shape = (count, *_sample_shape(spec))
    dtype = np.dtype(spec.dtype)
    if rows is not None:
        return generator.integers(0, rows, shape).astype(dtype)
    if dtype.kind == "f":
        return generator.normal(size=shape).astype(dtype)
    return generator.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
