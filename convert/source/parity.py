"""Verify that a converted graph computes what its source computes: run both on the same samples, compare every output.

The source runs in its own framework, in a process of its own (run_source.py).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.source.identify import SourceKind
from convert.source.options import DEFAULT_OPTIONS, SourceOptions
from convert.source.resource_limits import Limits, run_limited
from edgewright.contracts.samples import Samples, Tensors, read_npz, write_npz
from edgewright.contracts.variant import Measured, Tolerance
from edgewright.errors import ParityError

FLOAT_TOLERANCE = 1e-4
"""Largest relative difference of a float32 graph from its source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """Difference of one output from the source's; the worst sample has the largest absolute difference."""

    name: str
    max_absolute_difference: float
    max_relative_difference: float
    worst_sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Contents of `reports/parity.json`."""

    sample_count: int
    generated_samples: bool
    tolerance: float
    passed: bool
    agreement: float
    accuracy: float | None
    outputs: tuple[OutputDifference, ...]


def run_source(
    kind: SourceKind,
    source: Path,
    samples: Samples,
    outputs: Sequence[str],
    options: SourceOptions = DEFAULT_OPTIONS,
    limits: Limits | None = None,
) -> Tensors:
    """Return the source model's outputs, by the names of the graph's outputs.

    Raises:
        ModelError: the framework cannot load or run the model.
        OperationError: the framework's process crashed, or reached a limit and was stopped.
        ParityError: source and graph have different numbers of outputs.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        inputs_path, outputs_path = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        write_npz(inputs_path, {f"input_{index}": array for index, array in enumerate(samples.inputs.values())})
        files = [str(source.resolve()), str(inputs_path), str(outputs_path)]
        command = [sys.executable, "-m", "convert.run_source", kind.value, *files, *options.arguments]
        run_limited(command, limits or Limits.of_this_machine(), source, doing="running it in its own framework")
        arrays = read_npz(outputs_path)
    if len(arrays) != len(outputs):
        raise ParityError(f"{source} has {len(arrays)} outputs, but its graph has {len(outputs)}: {', '.join(outputs)}")
    return {name: arrays[f"output_{index}"] for index, name in enumerate(outputs)}


def report_on(
    expected: Tensors, actual: Tensors, accuracy: Measured, *, tolerance: float = FLOAT_TOLERANCE, generated: bool
) -> ParityReport:
    """Return the report of a comparison; `generated` records that the samples were not the user's."""
    return ParityReport(
        sample_count=accuracy.sample_count,
        generated_samples=generated,
        tolerance=tolerance,
        passed=accuracy.max_relative_difference <= tolerance,
        agreement=accuracy.agreement,
        accuracy=accuracy.accuracy,
        outputs=tuple(_difference(name, expected[name], array) for name, array in actual.items()),
    )


def check(report: ParityReport, source: Path) -> None:
    """Check that the graph is within the tolerance.

    Raises:
        ParityError: it is not; the message names the worst output and sample.
    """
    if report.passed:
        return
    advice = "compare on real samples with --samples" if report.generated_samples else "report this model"
    worst = max(report.outputs, key=lambda output: output.max_relative_difference)
    raise ParityError(
        f"{source}: the converted graph must be within {report.tolerance:g} of the source, but output {worst.name} "
        f"differs by {worst.max_relative_difference:.3g} at sample {worst.worst_sample}: "
        f"{advice}, or accept it with --allow-mismatch"
    )


def float_tolerance(accuracy: Measured) -> Tolerance:
    """Return the tolerance of float variants; it is wider only where the user accepted a mismatch."""
    return Tolerance(
        max_relative_difference=max(FLOAT_TOLERANCE, 2 * accuracy.max_relative_difference),
        min_agreement=1.0 if accuracy.agreement == 1.0 else max(0.0, accuracy.agreement - 0.1),
    )


def _difference(name: str, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> OutputDifference:
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).reshape(len(expected), -1).max(axis=1)
    scale = float(np.abs(expected.astype(np.float64)).max()) or 1.0
    return OutputDifference(
        name=name,
        max_absolute_difference=float(difference.max()),
        max_relative_difference=float(difference.max()) / scale,
        worst_sample=int(difference.argmax()),
    )
