"""SSD's steps on the host: default boxes, decoding, suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert.featurizers.ssd_boxes import FEATURE_MAPS, DetectOptions, decode, default_boxes, detect, suppress_overlaps
from edgewright.errors import SamplesError


def test_there_are_8732_default_boxes() -> None:
    assert default_boxes().shape == (8732, 4)


def test_the_first_default_boxes_match_the_original() -> None:
    """Expected values follow the original: sizes 30 and sqrt(30 * 60), ratios 2 and 1/2, centre at 4 of 300."""
    expected = np.array(
        [[4, 4, 30, 30], [4, 4, 42.426407, 42.426407], [4, 4, 42.426407, 21.213203], [4, 4, 21.213203, 42.426407]]
    )
    np.testing.assert_allclose(default_boxes()[:4] * 300, expected, rtol=1e-5)


def test_default_boxes_are_ordered_by_y_then_x() -> None:
    boxes = default_boxes() * 300
    np.testing.assert_allclose(boxes[4, :2], [12, 4], rtol=1e-5)
    np.testing.assert_allclose(boxes[4 * 38, :2], [4, 12], rtol=1e-5)


def test_a_zero_offset_gives_the_default_box() -> None:
    defaults = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)
    np.testing.assert_allclose(decode(np.zeros((1, 4), np.float32), defaults), [[0.4, 0.3, 0.6, 0.7]], rtol=1e-6)


def test_offsets_are_scaled_by_the_variances() -> None:
    corners = decode(np.array([[1, 0, 5, 0]], np.float32), np.array([[0.5, 0.5, 0.2, 0.2]], np.float32))
    np.testing.assert_allclose(corners, [[0.52 - 0.1 * np.e, 0.4, 0.52 + 0.1 * np.e, 0.6]], rtol=1e-6)


def test_the_best_of_overlapping_boxes_is_kept() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0.6, 0.6, 1, 1]], np.float32)
    assert suppress_overlaps(boxes, np.array([0.8, 0.9, 0.1], np.float32), 0.45) == [1, 2]


def empty_outputs() -> dict[str, Any]:
    """Return outputs in which every box is background."""
    outputs: dict[str, Any] = {}
    for place, feature_map in enumerate(FEATURE_MAPS, start=1):
        size, boxes = feature_map.size, feature_map.boxes
        outputs[f"boxes_{place}"] = np.zeros((boxes * 4, size, size), np.float32)
        outputs[f"classes_{place}"] = np.zeros((boxes * 3, size, size), np.float32)
        outputs[f"classes_{place}"][::3] = 20
    return outputs


def test_background_gives_no_detection() -> None:
    assert len(detect(empty_outputs()).scores) == 0


def test_a_box_in_the_last_map_is_detected_at_its_position() -> None:
    outputs = empty_outputs()
    outputs["classes_6"][:3, 0, 0] = [0, 0, 9]
    detections = detect(outputs, DetectOptions(min_score=0.5))
    assert detections.classes.tolist() == [2]
    side = 264 / 300
    np.testing.assert_allclose(detections.boxes, [[0.5 - side / 2, 0.5 - side / 2, 0.5 + side / 2, 0.5 + side / 2]], rtol=1e-5)
    assert detections.scores[0] > 0.99


def test_two_classes_of_one_box_are_both_detected_best_first() -> None:
    outputs = empty_outputs()
    outputs["classes_5"][:3, 0, 0] = [0, 5, 6]
    assert detect(outputs, DetectOptions(min_score=0.1)).classes.tolist() == [2, 1]


def test_a_missing_output_is_rejected() -> None:
    outputs = empty_outputs()
    del outputs["boxes_3"]
    with pytest.raises(SamplesError, match=r"^SSD's output boxes_3 is missing; the outputs are boxes_1"):
        detect(outputs)


def test_a_batch_axis_is_rejected() -> None:
    outputs = {name: array[np.newaxis] for name, array in empty_outputs().items()}
    with pytest.raises(SamplesError) as caught:
        detect(outputs)
    assert str(caught.value) == (
        "SSD's output boxes_1 must be for one image, [4 * numbers per box, 38, 38], but its shape is [1, 16, 38, 38]"
    )


def test_a_box_is_detected_with_its_position_shape_and_class() -> None:
    """The box is the second shape at row 4, column 7 of the second map, whose step is 16 pixels."""
    outputs = empty_outputs()
    outputs["classes_2"][3:6, 4, 7] = [0, 9, 0]
    detections = detect(outputs, DetectOptions(min_score=0.5))
    half = np.sqrt(60 * 111) / 2
    x, y = 7.5 * 16, 4.5 * 16
    np.testing.assert_allclose(detections.boxes * 300, [[x - half, y - half, x + half, y + half]], rtol=1e-5)
    assert detections.classes.tolist() == [1]
