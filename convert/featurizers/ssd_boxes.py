"""What follows SSD on the host, in NumPy alone: default boxes, decoding, non-maximum suppression.

    default_boxes    the 8,732 boxes that the network's rows are relative to
    detect           the twelve maps of one image -> boxes with class and score

Boxes are (left, top, right, bottom) as shares of the image; default boxes are (centre x, centre y, width, height).
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
"""What the original divides box offsets by in training, so that all four are of one magnitude."""


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """One of the six maps; sizes and step are pixels of the 300x300 image."""

    size: int
    step: int
    box_size: int
    next_box_size: int
    aspect_ratios: tuple[int, ...]

    @property
    def boxes(self) -> int:
        """Default boxes per position: two squares, and two per aspect ratio."""
        return 2 + 2 * len(self.aspect_ratios)


# Table of the original's SSD300 configuration for PASCAL VOC.
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
    """When a box counts, and when two count as one; the defaults are the original's."""

    min_score: float = 0.01
    max_overlap: float = 0.45
    max_per_class: int = 200
    """Candidates per class that enter the suppression, best first."""
    max_detections: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """What was found in one image, best first."""

    boxes: Floats
    classes: npt.NDArray[np.int64]
    scores: Floats


def default_boxes() -> Floats:
    """Return the default boxes of all maps, in the order of the network's rows: map, y, x, box."""
    return np.concatenate([_boxes_of(feature_map) for feature_map in FEATURE_MAPS])


def detect(outputs: Mapping[str, npt.NDArray[Any]], options: DetectOptions | None = None) -> Detections:
    """Turn the network's outputs for one image (`boxes_1` … `classes_6`, batch axis dropped) into detections.

    Raises:
        SamplesError: an output is missing, or together they are not one row per default box.
    """
    options = options or DetectOptions()
    offsets, logits = _joined(outputs, "boxes"), _joined(outputs, "classes")
    boxes, scores = decode(offsets, default_boxes()), _softmax(logits)
    found = [
        (label, index)
        for label in range(scores.shape[1])
        if label != BACKGROUND
        for index in _suppressed(boxes, scores[:, label], options)
    ]
    found.sort(key=lambda pair: -scores[pair[1], pair[0]])
    found = found[: options.max_detections]
    classes = np.array([label for label, _ in found], np.int64)
    places = np.array([index for _, index in found], np.int64)
    return Detections(boxes=boxes[places], classes=classes, scores=scores[places, classes])


def decode(offsets: Floats, defaults: Floats) -> Floats:
    """Apply predicted offsets to default boxes, and return corners cut off at the image's edge."""
    scaled = offsets * np.asarray(_VARIANCES, np.float32)
    centres = defaults[:, :2] + scaled[:, :2] * defaults[:, 2:]
    halves = defaults[:, 2:] * np.exp(scaled[:, 2:]) / 2
    corners: Floats = np.clip(np.concatenate([centres - halves, centres + halves], axis=1), 0, 1)
    return corners


def suppress_overlaps(boxes: Floats, scores: Floats, max_overlap: float) -> list[int]:
    """Return the places of the boxes that stay, best first: none overlaps a better one by more than `max_overlap`."""
    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(waiting):
        best, others = waiting[0], waiting[1:]
        kept.append(int(best))
        waiting = others[_overlap(boxes[best], boxes[others]) <= max_overlap]
    return kept


def _boxes_of(feature_map: FeatureMap) -> Floats:
    centres = (np.arange(feature_map.size) + 0.5) * feature_map.step
    shapes = _shapes(feature_map)
    y, x, box = np.meshgrid(centres, centres, np.arange(len(shapes)), indexing="ij")
    rows = np.stack([x.ravel(), y.ravel(), *shapes[box.ravel()].T], axis=1) / IMAGE_SIZE
    clipped: Floats = np.clip(rows, 0, 1).astype(np.float32)
    return clipped


def _shapes(feature_map: FeatureMap) -> npt.NDArray[np.float64]:
    """Return width and height of each box at a position: a square, a larger square, then wide and tall ones."""
    side = float(feature_map.box_size)
    larger = float(np.sqrt(side * feature_map.next_box_size))
    shapes = [(side, side), (larger, larger)]
    for ratio in feature_map.aspect_ratios:
        stretched, squeezed = side * np.sqrt(ratio), side / np.sqrt(ratio)
        shapes += [(stretched, squeezed), (squeezed, stretched)]
    return np.array(shapes)


def _joined(outputs: Mapping[str, npt.NDArray[Any]], kind: str) -> Floats:
    names = [f"{kind}_{place}" for place in range(1, len(FEATURE_MAPS) + 1)]
    missing = [name for name in names if name not in outputs]
    if missing:
        raise SamplesError(f"SSD's output {missing[0]} is missing; found {', '.join(outputs) or 'none'}")
    rows = [_rows(name, outputs[name], feature_map) for name, feature_map in zip(names, FEATURE_MAPS, strict=True)]
    return np.concatenate(rows).astype(np.float32)


def _rows(name: str, output: npt.NDArray[Any], feature_map: FeatureMap) -> npt.NDArray[Any]:
    """Return one row per default box, in their order, of a map [box * width, y, x]."""
    size, boxes = feature_map.size, feature_map.boxes
    if output.ndim != 3 or output.shape[1:] != (size, size) or output.shape[0] % boxes:
        raise SamplesError(
            f"SSD's output {name} must be the map of one image, [{boxes} * numbers per box, {size}, {size}], "
            f"but its shape is {list(output.shape)}"
        )
    return output.transpose(1, 2, 0).reshape(size * size * boxes, -1)


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = raised / raised.sum(axis=1, keepdims=True)
    return shares


def _suppressed(boxes: Floats, scores: Floats, options: DetectOptions) -> list[int]:
    """Return the places of one class's detections."""
    candidates = np.flatnonzero(scores >= options.min_score)
    best = candidates[np.argsort(-scores[candidates], kind="stable")][: options.max_per_class]
    return [int(best[place]) for place in suppress_overlaps(boxes[best], scores[best], options.max_overlap)]


def _overlap(box: Floats, others: Floats) -> Floats:
    """Return the intersection of `box` with each of `others`, over their union."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - intersection
    shares: Floats = intersection / np.maximum(union, np.float32(1e-12))
    return shares
