"""Details of one variant for the report: accuracy per class, changed predictions, SQNR per layer, operators in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from accel.evaluate import Evaluation
from accel.measures import decisions, judgements, labelled
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import LABELS, Samples, Tensors
from edgewright.contracts.stored_arrays import digest_of_array
from edgewright.contracts.variant import FLOAT_VARIANT, LayerKind, VariantDirectory
from edgewright.contracts.wire import decode, digest_of, encode
from edgewright.errors import PackageError
from edgewright.progress import Progress, silent
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.sqnr import LayerSqnr, layer_sqnr
from quantize.scheme import FloatFallback, QuantizationResult, float_graph

PREFIX = "detail-"
LARGEST_CLASS_COUNT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAccuracy:
    """The accuracy on the samples of one class."""

    label: str
    count: int
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The samples that the float model predicts as `before` and the variant as `after`."""

    before: str
    after: str
    count: int
    corrected: int | None
    """Samples that only the variant predicts correctly; None without labels."""
    broken: int | None
    """Samples that only the float model predicts correctly; None without labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantDetail:
    """`reports/detail-<variant>.json`."""

    samples: str
    """Digest of the samples and their labels."""
    evaluation: Evaluation
    size_bytes: int
    classes: tuple[ClassAccuracy, ...]
    """Empty without labels."""
    changes: tuple[Change, ...]
    layers: tuple[LayerSqnr, ...]
    """In the order of the graph; empty for the float variant."""
    float_fallbacks: tuple[FloatFallback, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """The outputs of one scoring pass beside the reference outputs."""

    samples: Samples
    digest: str
    """Of `samples`, see `samples_digest`."""
    reference: Tensors
    """The outputs of the float variant."""
    outputs: Tensors
    """The outputs of the variant."""


def describe(
    build: BuildDirectory,
    variant: VariantDirectory,
    evaluation: Evaluation,
    scoring: Scoring,
    result: QuantizationResult,
    *,
    progress: Progress = silent,
) -> VariantDetail:
    """Return the details of a variant from its outputs; only the SQNR per layer needs another run, on some of the samples."""
    predictions = _predictions(build, scoring)
    return VariantDetail(
        samples=scoring.digest,
        evaluation=evaluation,
        size_bytes=variant.config.size_bytes,
        classes=() if predictions is None else _classes(predictions),
        changes=() if predictions is None else _changes(predictions),
        layers=_layers(build, variant, scoring.samples, result, progress),
        float_fallbacks=result.float_fallbacks,
    )


def read_details(build: BuildDirectory) -> dict[str, VariantDetail]:
    """Return the stored details of each variant that the build still has, the float one first."""
    details = {}
    for variant in build.variants():
        path = build.reports / f"{PREFIX}{variant.config.variant}.json"
        if path.is_file():
            details[variant.config.variant] = decode(path.read_bytes(), VariantDetail, what=str(path), error=PackageError)
    return dict(sorted(details.items(), key=lambda item: (item[0] != FLOAT_VARIANT, item[0])))


def samples_digest(samples: Samples) -> str:
    """Return a digest of samples and labels, independent of the file that they were read from."""
    arrays = {**samples.inputs, **({} if samples.labels is None else {LABELS: samples.labels})}
    return digest_of(encode([digest_of_array(array) for _, array in sorted(arrays.items())]))


@dataclass(frozen=True, slots=True)
class _Predictions:
    """The classes of all decisions, flat, by the float model and by the variant."""

    before: npt.NDArray[Any]
    after: npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None
    names: list[str]
    """Empty if there are too many classes."""


def _predictions(build: BuildDirectory, scoring: Scoring) -> _Predictions | None:
    """Return the predicted classes of the output that labels belong to; None if no output predicts classes."""
    judged = judgements(scoring.reference, build.record.outputs)
    name = labelled(judged)
    if name is None or scoring.reference[name].dtype.kind not in "fiu":
        return None
    before, after = (decisions(outputs[name], judged[name]) for outputs in (scoring.reference, scoring.outputs))
    labels = scoring.samples.labels
    return _Predictions(
        before.ravel().astype(np.int64),
        after.ravel().astype(np.int64),
        None if labels is None else labels.ravel(),
        _class_names(build, judged[name].classes(scoring.reference[name].shape)),
    )


def _class_names(build: BuildDirectory, count: int) -> list[str]:
    """Return the names of the classes; an empty list if there are too many columns to be scores of classes."""
    if build.record.labels:
        return list(build.record.labels)
    return [str(place) for place in range(count)] if count <= LARGEST_CLASS_COUNT else []


def _classes(predictions: _Predictions) -> tuple[ClassAccuracy, ...]:
    if predictions.labels is None:
        return ()
    correct = predictions.after == predictions.labels
    return tuple(
        ClassAccuracy(label=_name(predictions.names, place), count=int(members.sum()), accuracy=float(correct[members].mean()))
        for place in np.unique(predictions.labels)
        for members in [predictions.labels == place]
    )


def _changes(predictions: _Predictions) -> tuple[Change, ...]:
    if not predictions.names:
        return ()
    changed = np.flatnonzero(predictions.before != predictions.after)
    before, after = predictions.before[changed], predictions.after[changed]
    labels = None if predictions.labels is None else predictions.labels[changed]
    pairs, counts = np.unique(np.stack([before, after], axis=1), axis=0, return_counts=True)
    rows = zip(pairs.tolist(), counts.tolist(), strict=True)
    return tuple(
        _change(predictions.names, (old, new), count, None if labels is None else labels[(before == old) & (after == new)])
        for (old, new), count in sorted(rows, key=lambda row: (-row[1], row[0]))
    )


def _change(names: list[str], pair: tuple[int, int], count: int, labels: npt.NDArray[np.int64] | None) -> Change:
    """Return one row; `labels` are the true classes of the samples that changed in this way."""
    old, new = pair
    return Change(
        before=_name(names, old),
        after=_name(names, new),
        count=count,
        corrected=None if labels is None else int((labels == new).sum()),
        broken=None if labels is None else int((labels == old).sum()),
    )


def _name(names: list[str], place: int) -> str:
    return names[place] if place < len(names) else str(place)


def _layers(
    build: BuildDirectory, variant: VariantDirectory, samples: Samples, result: QuantizationResult, progress: Progress
) -> tuple[LayerSqnr, ...]:
    if variant.config.variant == FLOAT_VARIANT:
        return ()
    model = result.reference_model or onnx.load(float_graph(build), load_external_data=False)
    if result.reference_model is None:
        reference = ObservedGraph.open(float_graph(build), progress=progress)
    else:
        reference = ObservedGraph(model, progress=progress)
    return tuple(layer_sqnr(model, reference, ObservedGraph.open(variant.file(LayerKind.GRAPH)), samples))
