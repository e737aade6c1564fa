"""SSD's steps on the host, in NumPy: default boxes, decoding, non-maximum suppression.

    default_boxes    the 8,732 boxes that the network's offsets are relative to
    detect           the twelve outputs for one image -> boxes with class and score

Boxes are (left, top, right, bottom) as fractions of the image; default boxes are (centre x, centre y, width, height).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.errors import SamplesError

Floats = npt.NDArray[np.float32]

IMAGE_SIZE = 300
BACKGROUND = 0
_VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""Divisors of the box offsets in the original's training, which give all four the same magnitude."""


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """One of the six feature maps; box sizes and step are in pixels of the 300x300 image."""

    size: int
    step: int
    box_size: int
    next_box_size: int
    aspect_ratios: tuple[int, ...]

    @property
    def boxes(self) -> int:
        """Number of default boxes per position: two squares, and two per aspect ratio."""
        return 2 + 2 * len(self.aspect_ratios)


# The original's SSD300 configuration for PASCAL VOC.
FEATURE_MAPS = (
    FeatureMap(38, 8, 30, 60, (2,)),
    FeatureMap(19, 16, 60, 111, (2, 3)),
    FeatureMap(10, 32, 111, 162, (2, 3)),
    FeatureMap(5, 64, 162, 213, (2, 3)),
    FeatureMap(3, 100, 213, 264, (2,)),
    FeatureMap(1, 300, 264, 315, (2,)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectOptions:
    """Thresholds of detection and suppression; the defaults are the original's."""

    min_score: float = 0.01
    max_overlap: float = 0.45
    max_per_class: int = 200
    """Candidates per class for the suppression, best first."""
    max_detections: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """Detected objects of one image, best first: boxes [count, 4], classes and scores [count]."""

    boxes: Floats
    classes: npt.NDArray[np.int64]
    scores: Floats


def default_boxes() -> Floats:
    """Return the default boxes [8732, 4], in the order of the network's outputs: map, y, x, box."""
    return np.concatenate([_boxes_of(feature_map) for feature_map in FEATURE_MAPS])


def detect(outputs: Mapping[str, npt.NDArray[Any]], options: DetectOptions | None = None) -> Detections:
    """Return the detections for the outputs of one image (`boxes_1` … `classes_6`, without the batch axis).

    Raises:
        SamplesError: an output is missing, or differs in shape from its feature map.
    """
    options = options or DetectOptions()
    offsets, logits = _joined(outputs, "boxes"), _joined(outputs, "classes")
    boxes, scores = decode(offsets, default_boxes()), _softmax(logits)
    detections = [
        (label, index)
        for label in range(scores.shape[1])
        if label != BACKGROUND
        for index in _suppressed(boxes, scores[:, label], options)
    ]
    detections.sort(key=lambda pair: -scores[pair[1], pair[0]])
    detections = detections[: options.max_detections]
    classes = np.array([label for label, _ in detections], np.int64)
    indices = np.array([index for _, index in detections], np.int64)
    return Detections(boxes=boxes[indices], classes=classes, scores=scores[indices, classes])


def decode(offsets: Floats, defaults: Floats) -> Floats:
    """Apply predicted offsets to default boxes, and return corners clipped to the image, [boxes, 4]."""
    scaled = offsets * np.asarray(_VARIANCES, np.float32)
    centres = defaults[:, :2] + scaled[:, :2] * defaults[:, 2:]
    halves = defaults[:, 2:] * np.exp(scaled[:, 2:]) / 2
    corners: Floats = np.clip(np.concatenate([centres - halves, centres + halves], axis=1), 0, 1)
    return corners


def suppress_overlaps(boxes: Floats, scores: Floats, max_overlap: float) -> list[int]:
    """Return the indices of the boxes to keep, best first; none overlaps a better one by more than `max_overlap`."""
    remaining = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(remaining):
        best, others = remaining[0], remaining[1:]
        kept.append(int(best))
        remaining = others[_overlap(boxes[best], boxes[others]) <= max_overlap]
    return kept


def _boxes_of(feature_map: FeatureMap) -> Floats:
    centres = (np.arange(feature_map.size) + 0.5) * feature_map.step
    shapes = _shapes(feature_map)
    y, x, box = np.meshgrid(centres, centres, np.arange(len(shapes)), indexing="ij")
    rows = np.stack([x.ravel(), y.ravel(), *shapes[box.ravel()].T], axis=1) / IMAGE_SIZE
    clipped: Floats = np.clip(rows, 0, 1).astype(np.float32)
    return clipped


def _shapes(feature_map: FeatureMap) -> npt.NDArray[np.float64]:
    """Return width and height of each box at a position: a square, a larger square, then pairs of wide and tall boxes."""
    side = float(feature_map.box_size)
    larger = float(np.sqrt(side * feature_map.next_box_size))
    shapes = [(side, side), (larger, larger)]
    for ratio in feature_map.aspect_ratios:
        longer, shorter = side * np.sqrt(ratio), side / np.sqrt(ratio)
        shapes += [(longer, shorter), (shorter, longer)]
    return np.array(shapes)


def _joined(outputs: Mapping[str, npt.NDArray[Any]], kind: str) -> Floats:
    names = [f"{kind}_{number}" for number in range(1, len(FEATURE_MAPS) + 1)]
    missing = [name for name in names if name not in outputs]
    if missing:
        raise SamplesError(f"SSD's output {missing[0]} is missing; the outputs are {', '.join(outputs) or 'none'}")
    rows = [_rows(name, outputs[name], feature_map) for name, feature_map in zip(names, FEATURE_MAPS, strict=True)]
    return np.concatenate(rows).astype(np.float32)


def _rows(name: str, output: npt.NDArray[Any], feature_map: FeatureMap) -> npt.NDArray[Any]:
    """Return one row per default box, in their order, from an output [box * width, y, x]."""
    size, boxes = feature_map.size, feature_map.boxes
    if output.ndim != 3 or output.shape[1:] != (size, size) or output.shape[0] % boxes:
        raise SamplesError(
            f"SSD's output {name} must be for one image, [{boxes} * numbers per box, {size}, {size}], "
            f"but its shape is {list(output.shape)}"
        )
    return output.transpose(1, 2, 0).reshape(size * size * boxes, -1)


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def _suppressed(boxes: Floats, scores: Floats, options: DetectOptions) -> list[int]:
    """Return the indices of one class's detections."""
    candidates = np.flatnonzero(scores >= options.min_score)
    best = candidates[np.argsort(-scores[candidates], kind="stable")][: options.max_per_class]
    return [int(best[index]) for index in suppress_overlaps(boxes[best], scores[best], options.max_overlap)]


def _overlap(box: Floats, others: Floats) -> Floats:
    """Return the intersection over union of `box` with each of `others`."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - intersection
    shares: Floats = intersection / np.maximum(union, np.float32(1e-12))
    return shares
