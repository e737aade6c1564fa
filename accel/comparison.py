"""Compare outputs with those of the source model and with true labels.

One definition of distance for conversion, evaluation, quantization and the golden check (`Tolerance` in `contracts/variant.py`).
Every element of every output counts:

    max_relative_difference   floats and quantized tensors: largest |actual - expected| of a channel over the channel's largest
                              |expected|; others: the share of elements that differ, or 1 for any difference where the graph
                              computes without floats; the largest of all outputs
    agreement                 share of equal classes per sample, position or pixel, of equal elements, or of overlapping boxes;
                              the smallest of all outputs that have one (measures.py)
    error                     root mean square difference over the standard deviation, of outputs of values; the largest
    constant                  outputs that are the same for all samples although the source's are not
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.backends.backend import Session
from accel.differences import OutputComparison, compare_output
from accel.measures import Judgement, decisions, judgements, labelled
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.stored_arrays import Gathered
from edgewright.contracts.variant import Measure, Measured, TensorSpec
from edgewright.errors import ParityError, SamplesError

BATCH_SIZE = 32

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The distance of outputs from the expected ones."""

    max_relative_difference: float
    agreement: float | None
    """None if no output predicts classes."""
    error: float | None = None
    """None without an output of values."""
    outputs: tuple[OutputComparison, ...] = ()

    @property
    def constant(self) -> tuple[str, ...]:
        """The outputs that carry no information although the source's do."""
        return tuple(output.name for output in self.outputs if output.constant)


def run_all(session: Session, samples: Samples, *, batch_size: int = BATCH_SIZE) -> Tensors:
    """Run a session over all samples in batches; return the outputs in the order of the graph, on disk if they are large."""
    gathered: dict[str, Gathered] = {}
    for batch in samples.batches(batch_size):
        for name, array in session.run(batch.inputs).items():
            gathered.setdefault(name, Gathered(samples.count)).append(array)
    return {name: parts.whole() for name, parts in gathered.items()}


def measure_outputs(
    expected: Tensors, actual: Tensors, labels: npt.NDArray[np.int64] | None, specs: Sequence[TensorSpec] = ()
) -> Measured:
    """Compare outputs with the source model's and with the true labels; `labels` None leaves the accuracy out.

    Raises:
        ParityError: the outputs cannot be compared, or hold NaN where the source does not.
        SamplesError: the labels do not fit the model.
    """
    return measured(compare_outputs(expected, actual, specs), expected, actual, labels, specs)


def measured(
    comparison: Comparison,
    expected: Tensors,
    actual: Tensors,
    labels: npt.NDArray[np.int64] | None,
    specs: Sequence[TensorSpec] = (),
) -> Measured:
    """Return a comparison as the measurement of a variant, with the accuracy on `labels`."""
    return Measured(
        sample_count=len(next(iter(actual.values()))),
        agreement=comparison.agreement,
        max_relative_difference=comparison.max_relative_difference,
        accuracy=None if labels is None else accuracy(expected, actual, labels, specs),
        error=comparison.error,
    )


def compare_outputs(expected: Tensors, actual: Tensors, specs: Sequence[TensorSpec] = ()) -> Comparison:
    """Measure the distance of `actual` from `expected`; `specs` are the outputs as the conversion recorded them.

    Raises:
        ParityError: an output is missing, has the wrong shape, or holds NaN or infinity where the source does not.
    """
    for name, array in actual.items():
        _check_comparable(name, expected.get(name), array)
    missing = sorted(set(expected) - set(actual))
    if missing:
        raise ParityError(f"output {missing[0]} is missing; found {', '.join(actual)}")
    judged = judgements(expected, specs)
    outputs = tuple(compare_output(name, expected[name], array, judged[name]) for name, array in actual.items())
    return Comparison(
        max_relative_difference=max(output.max_relative_difference for output in outputs),
        agreement=min((output.agreement for output in outputs if output.agreement is not None), default=None),
        error=max((output.error for output in outputs if output.error is not None), default=None),
        outputs=outputs,
    )


def accuracy(expected: Tensors, actual: Tensors, labels: npt.NDArray[np.int64], specs: Sequence[TensorSpec] = ()) -> float:
    """Return the share of predicted classes that are the true ones; `expected` are the source's outputs for the same samples.

    Raises:
        SamplesError: no output predicts classes, or the labels have the wrong shape or classes.
    """
    judged = judgements(expected, specs)
    name, judgement = _checked_labels(judged, actual, labels)
    return float(np.mean(decisions(actual[name], judgement) == labels))


def quality(measured: Measured) -> tuple[str, float]:
    """Return the name and the value of the measure that a drop is taken of; 1 is a variant without any loss."""
    if measured.accuracy is not None:
        return "accuracy", measured.accuracy
    kept = [("agreement with the float model", measured.agreement), ("the values' precision", _precision(measured.error))]
    name, value = min(((name, value) for name, value in kept if value is not None), key=lambda item: item[1], default=("", 1.0))
    return name, value


def _precision(error: float | None) -> float | None:
    return None if error is None else max(0.0, 1.0 - error)


def _checked_labels(judged: Mapping[str, Judgement], outputs: Tensors, labels: npt.NDArray[np.int64]) -> tuple[str, Judgement]:
    """Return the output that the labels belong to, after comparing their shape and range with it."""
    name = labelled(judged)
    if name is None:
        raise SamplesError(f"labels need an output that predicts classes, but {_listed(judged)}: leave the labels out")
    judgement = judged[name]
    shape = decisions(outputs[name][:1], judgement).shape[1:]
    if labels.shape[1:] != shape:
        expected = ", ".join(map(str, (len(outputs[name]), *shape)))
        raise SamplesError(
            f"labels must have the shape [{expected}], one class for each decision of output {name}, "
            f"but they have the shape [{', '.join(map(str, labels.shape))}]"
        )
    classes = judgement.classes(outputs[name].shape)
    if judgement.measure is not Measure.EXACT and (labels.min() < 0 or labels.max() >= classes):
        raise SamplesError(
            f"labels must be class indices from 0 to {classes - 1}, but they range from {labels.min()} to {labels.max()}"
        )
    return name, judgement


def _listed(judged: Mapping[str, Judgement]) -> str:
    forms = {name: "a copy of an input" if one.measure is Measure.COPY else one.measure.value for name, one in judged.items()}
    return ", ".join(f"{name} holds {form}" for name, form in forms.items())


def _check_comparable(name: str, expected: _Array | None, actual: _Array) -> None:
    if expected is None:
        raise ParityError(f"output {name} is not among the expected outputs")
    if expected.shape != actual.shape:
        raise ParityError(f"output {name} must have shape {list(expected.shape)}, but it has {list(actual.shape)}")
