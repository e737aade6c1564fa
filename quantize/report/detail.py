"""What the report tells of one variant beyond its evaluation: classes, changed predictions, noise, what stayed float."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from accel.backends.choose import load_session
from accel.evaluate import Evaluation
from accel.golden import predicted_labels
from accel.measure import run_all
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import LABELS, Samples, Tensors
from edgewright.contracts.stored_arrays import digest_of_array
from edgewright.contracts.variant import FLOAT_VARIANT, LayerKind, VariantDirectory
from edgewright.contracts.wire import decode, digest_of, encode
from edgewright.errors import PackageError
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.sqnr import LayerSqnr, layer_sqnr
from quantize.scheme import FloatFallback, QuantizationResult, float_graph

PREFIX = "detail-"
LARGEST_CLASS_COUNT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAccuracy:
    """How often samples of one class are recognised."""

    label: str
    count: int
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Samples that the float model and the variant call by different names."""

    before: str
    after: str
    count: int
    corrected: int | None
    """How many of them are right now; None without labels."""
    broken: int | None
    """How many of them were right before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantDetail:
    """`reports/detail-<variant>.json`."""

    samples: str
    """Digest of what it was measured on."""
    evaluation: Evaluation
    size_bytes: int
    classes: tuple[ClassAccuracy, ...]
    """Empty without labels."""
    changes: tuple[Change, ...]
    layers: tuple[LayerSqnr, ...]
    """In the order of the graph; empty for the float variant."""
    float_fallbacks: tuple[FloatFallback, ...]


def describe(
    build: BuildDirectory,
    variant: VariantDirectory,
    evaluation: Evaluation,
    samples: Samples,
    reference: Tensors,
    made: QuantizationResult,
) -> VariantDetail:
    """Measure what the report shows of a variant."""
    session = load_session(variant, backend=evaluation.backend)
    try:
        found = next(iter(run_all(session, samples).values()))
    finally:
        session.close()
    before, after = _predictions(next(iter(reference.values()))), _predictions(found)
    names = _names(build, found)
    return VariantDetail(
        samples=samples_digest(samples),
        evaluation=evaluation,
        size_bytes=variant.config.size_bytes,
        classes=_classes(after, samples, names),
        changes=_changes(before, after, samples, names) if names else (),
        layers=_layers(build, variant, samples, made),
        float_fallbacks=made.float_fallbacks,
    )


def read_details(build: BuildDirectory) -> dict[str, VariantDetail]:
    """Return what is known of each variant that the build still has, the float one first."""
    found = {}
    for variant in build.variants():
        path = build.reports / f"{PREFIX}{variant.config.variant}.json"
        if path.is_file():
            found[variant.config.variant] = decode(path.read_bytes(), VariantDetail, what=str(path), error=PackageError)
    return dict(sorted(found.items(), key=lambda item: (item[0] != FLOAT_VARIANT, item[0])))


def samples_digest(samples: Samples) -> str:
    """Return a digest of samples and labels, whatever file they lay in."""
    arrays = {**samples.inputs, **({} if samples.labels is None else {LABELS: samples.labels})}
    return digest_of(encode([digest_of_array(array) for _, array in sorted(arrays.items())]))


def _predictions(output: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    scores = output.reshape(len(output), -1)
    found: npt.NDArray[np.int64] = np.asarray(scores[:, 0] > 0.5 if scores.shape[1] == 1 else predicted_labels(output), np.int64)
    return found


def _names(build: BuildDirectory, output: npt.NDArray[Any]) -> list[str]:
    """Return the names of the classes; none where the outputs are no scores of classes."""
    count = max(2, int(np.prod(output.shape[1:], dtype=int)))
    if build.record.labels:
        return list(build.record.labels)
    return [str(place) for place in range(count)] if count <= LARGEST_CLASS_COUNT else []


def _classes(found: npt.NDArray[np.int64], samples: Samples, names: list[str]) -> tuple[ClassAccuracy, ...]:
    if samples.labels is None:
        return ()
    right = found == samples.labels
    return tuple(
        ClassAccuracy(label=_name(names, place), count=int(mine.sum()), accuracy=float(right[mine].mean()))
        for place in np.unique(samples.labels)
        for mine in [samples.labels == place]
    )


def _changes(
    before: npt.NDArray[np.int64], after: npt.NDArray[np.int64], samples: Samples, names: list[str]
) -> tuple[Change, ...]:
    changed = np.flatnonzero(before != after)
    counted = Counter((int(before[place]), int(after[place])) for place in changed)
    return tuple(
        Change(
            before=_name(names, old),
            after=_name(names, new),
            count=count,
            corrected=None if samples.labels is None else int(((samples.labels == new) & (before == old) & (after == new)).sum()),
            broken=None if samples.labels is None else int(((samples.labels == old) & (before == old) & (after == new)).sum()),
        )
        for (old, new), count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    )


def _name(names: list[str], place: int) -> str:
    return names[place] if place < len(names) else str(place)


def _layers(
    build: BuildDirectory, variant: VariantDirectory, samples: Samples, made: QuantizationResult
) -> tuple[LayerSqnr, ...]:
    if variant.config.variant == FLOAT_VARIANT:
        return ()
    model = made.reference_model or onnx.load(float_graph(build), load_external_data=False)
    reference = ObservedGraph.open(float_graph(build)) if made.reference_model is None else ObservedGraph(model)
    return tuple(layer_sqnr(model, reference, ObservedGraph.open(variant.file(LayerKind.GRAPH)), samples))
