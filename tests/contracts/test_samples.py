from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgewright.contracts.samples import load_samples, write_npz
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError

IMAGE = TensorSpec(name="image", dtype="float32", shape=("N", 2, 2))


def saved(folder: Path, **arrays: npt.NDArray[Any]) -> Path:
    path = folder / "samples.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_a_single_array_may_have_any_name(tmp_path: Path) -> None:
    samples = load_samples(saved(tmp_path, x=np.ones((3, 2, 2), np.float32)), [IMAGE])
    assert samples.count == 3
    assert list(samples.inputs) == ["image"]
    assert samples.labels is None


def test_pixels_keep_their_values_when_the_model_takes_floats(tmp_path: Path) -> None:
    samples = load_samples(saved(tmp_path, image=np.full((1, 2, 2), 255, np.uint8)), [IMAGE])
    assert samples.inputs["image"].dtype == np.float32
    assert samples.inputs["image"].max() == 255.0


def test_batches_cover_every_sample_once(tmp_path: Path) -> None:
    path = saved(tmp_path, image=np.arange(20, dtype=np.float32).reshape(5, 2, 2), labels=np.arange(5))
    samples = load_samples(path, [IMAGE])
    batches = list(samples.batches(2))
    assert [batch.count for batch in batches] == [2, 2, 1]
    joined = np.concatenate([batch.labels for batch in batches if batch.labels is not None])
    np.testing.assert_array_equal(joined, np.arange(5))


def test_writing_the_same_arrays_gives_the_same_bytes(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"b": np.ones(3), "a": np.zeros(2)})
    write_npz(tmp_path / "b.npz", {"a": np.zeros(2), "b": np.ones(3)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


ONE = np.ones((1, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        pytest.param(
            {"image": np.ones((3, 4, 2), np.float32)},
            "input image must have shape [N, 2, 2], but the samples have shape [3, 4, 2]",
            id="shape",
        ),
        pytest.param(
            {"image": np.ones((2, 2), np.float32)},
            "input image must have shape [N, 2, 2], but the samples have shape [2, 2]",
            id="rank",
        ),
        pytest.param(
            {"image": np.ones((1, 2, 2), np.complex64)},
            "input image must be float32, but the samples are complex64",
            id="dtype",
        ),
        pytest.param(
            {"a": ONE, "b": ONE},
            "the model's input image float32[N, 2, 2] is missing; found arrays: a, b",
            id="missing",
        ),
        pytest.param(
            {"image": ONE, "labels": np.arange(2)},
            "every array must have the same number of samples, not {'image': 1, 'labels': 2}",
            id="counts",
        ),
        pytest.param(
            {"image": ONE, "labels": np.array(["a"])},
            "labels must be one integer class index per sample, but they are <U1[1]",
            id="labels",
        ),
        pytest.param({"image": np.ones((0, 2, 2), np.float32)}, "at least one sample is needed, but image has none", id="empty"),
        pytest.param({"image": np.array([{}])}, "it holds Python objects, or is not a .npz", id="pickled objects"),
    ],
)
def test_samples_that_do_not_fit_are_an_error_with_expected_and_found(
    tmp_path: Path, arrays: dict[str, npt.NDArray[Any]], message: str
) -> None:
    path = saved(tmp_path, **arrays)
    with pytest.raises(SamplesError) as raised:
        load_samples(path, [IMAGE])
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_file_that_is_not_npz_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(SamplesError, match=r"samples must be a \.npz"):
        load_samples(path, [IMAGE])


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="no such file"):
        load_samples(tmp_path / "nothing.npz", [IMAGE])


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        pytest.param([1, 2, 1], ("1", "2", "3"), [0, 1, 0], id="numbers from 1"),
        pytest.param([-1, 1, 1], ("-1", "1"), [0, 1, 1], id="signs"),
        pytest.param([2.0, 1.0, 2.0], ("1.0", "2.0"), [1, 0, 1], id="floats"),
        pytest.param([True, False, True], ("False", "True"), [1, 0, 1], id="booleans"),
        pytest.param(["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1], id="text"),
        pytest.param(["b", "a", "b"], ("b", "a"), [0, 1, 0], id="text in another order"),
        pytest.param([0, 1, 0], ("cat", "dog"), [0, 1, 0], id="indices of names"),
        pytest.param([0, 2, 1], ("0", "1", "2"), [0, 2, 1], id="indices that are the names"),
        pytest.param([[5], [7], [5]], ("5", "7"), [0, 1, 0], id="a column"),
    ],
)
def test_labels_become_indices_of_the_classes(tmp_path: Path, labels: Any, classes: tuple[str, ...], indices: list[int]) -> None:
    path = saved(tmp_path, image=np.ones((3, 2, 2), np.float32), labels=np.array(labels))
    np.testing.assert_array_equal(load_samples(path, [IMAGE], classes).labels, indices)


@pytest.mark.parametrize(
    ("labels", "values", "names", "indices"),
    [
        pytest.param([3, 7, 3], ("3", "7"), ("cat", "dog"), [0, 1, 0], id="numbers of the source"),
        pytest.param([7, 7, 7], ("3", "7"), ("cat", "dog"), [1, 1, 1], id="one of them"),
        pytest.param([1, 1, 1], ("1", "2"), ("cat", "dog"), [0, 0, 0], id="a number that is an index, too"),
        pytest.param(["dog", "cat", "dog"], ("3", "7"), ("cat", "dog"), [1, 0, 1], id="names"),
        pytest.param(["7", "3", "7"], ("3", "7"), ("cat", "dog"), [1, 0, 1], id="numbers as text"),
        pytest.param(["b", "a", "b"], ("a", "b"), ("cat", "dog"), [1, 0, 1], id="text of the source"),
        pytest.param([1, 0, 1], ("a", "b"), ("cat", "dog"), [1, 0, 1], id="indices of text"),
        pytest.param([1, 0, 1], ("0", "1"), ("cat", "dog"), [1, 0, 1], id="indices"),
        pytest.param([True, False, True], ("False", "True"), ("no", "yes"), [1, 0, 1], id="booleans"),
        pytest.param([30, 10, 30], ("0", "1"), ("10", "30"), [1, 0, 1], id="names that are numbers"),
        pytest.param([0, 1, 0], ("0", "1"), ("1", "2"), [0, 1, 0], id="values, of which one is a name"),
    ],
)
def test_labels_of_renamed_classes_are_values_of_the_source_or_names(
    tmp_path: Path, labels: Any, values: tuple[str, ...], names: tuple[str, ...], indices: list[int]
) -> None:
    path = saved(tmp_path, image=np.ones((3, 2, 2), np.float32), labels=np.array(labels))
    np.testing.assert_array_equal(load_samples(path, [IMAGE], names, values).labels, indices)


def test_labels_that_are_values_and_names_of_different_classes_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, image=np.ones((3, 2, 2), np.float32), labels=np.array([1, 2, 1]))
    with pytest.raises(SamplesError, match=r"or their values in the source \(0, 1, 2\), but they are both, of different classes"):
        load_samples(path, [IMAGE], ("1", "2", "3"), ("0", "1", "2"))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        pytest.param([0, 1, 2], ("1", "2", "3"), r"classes of the model \(1, 2, 3\), but 0 is not", id="index"),
        pytest.param(["cow", "cat", "dog"], ("cat", "dog"), r"classes of the model \(cat, dog\), but cow is not", id="name"),
        pytest.param([1.5, 1.0, 2.0], ("1.0", "2.0"), "but 1.5 is not", id="between"),
    ],
)
def test_labels_of_foreign_classes_are_refused(tmp_path: Path, labels: Any, classes: tuple[str, ...], message: str) -> None:
    path = saved(tmp_path, image=np.ones((3, 2, 2), np.float32), labels=np.array(labels))
    with pytest.raises(SamplesError, match=message):
        load_samples(path, [IMAGE], classes)
