"""Arrays on disk: the same numbers for every kind of file, and memory that does not grow with their size."""

from __future__ import annotations

import mmap
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgewright.contracts import stored_arrays
from edgewright.contracts.samples import Samples, load_samples
from edgewright.contracts.stored_arrays import Gathered, cast, digest_of_array, pieces, read_arrays
from edgewright.contracts.variant import TensorSpec
from edgewright.contracts.wire import digest_of
from edgewright.errors import SamplesError

Array = npt.NDArray[Any]
IMAGE = TensorSpec(name="image", dtype="float32", shape=("N", 5, 3))


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_arrays, "LARGE_BYTES", 1)
    monkeypatch.setattr(stored_arrays, "PIECE_BYTES", 64)


def images(count: int = 7) -> Array:
    return np.random.default_rng(0).normal(size=(count, 5, 3)).astype(np.float32)


def is_on_disk(array: Array) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return isinstance(base, mmap.mmap)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_an_archive_reads_the_same_on_disk(save: Callable[..., None], tmp_path: Path) -> None:
    labels = np.arange(7)
    save(tmp_path / "x.npz", image=images(), labels=labels)
    arrays = read_arrays(tmp_path / "x.npz")
    assert list(arrays) == ["image", "labels"]
    assert all(is_on_disk(array) for array in arrays.values())
    np.testing.assert_array_equal(arrays["image"], images())
    np.testing.assert_array_equal(arrays["labels"], labels)


@pytest.mark.usefixtures("everything_is_large")
def test_an_array_in_column_order_reads_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.asfortranarray(images()))
    np.testing.assert_array_equal(read_arrays(tmp_path / "x.npz")["image"], images())


@pytest.mark.usefixtures("everything_is_large")
def test_batches_are_in_memory_and_complete(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=images(), labels=np.arange(7))
    samples = load_samples(tmp_path / "x.npz", [IMAGE])
    batches = list(samples.batches(3))
    assert not any(is_on_disk(batch.inputs["image"]) for batch in batches)
    np.testing.assert_array_equal(np.concatenate([batch.inputs["image"] for batch in batches]), images())
    np.testing.assert_array_equal(samples.take(np.array([6, 0])).inputs["image"], images()[[6, 0]])


@pytest.mark.usefixtures("everything_is_large")
def test_integers_become_floats_on_disk() -> None:
    pixels = np.arange(105, dtype=np.uint8).reshape(7, 5, 3)
    arrays = cast(pixels, np.float32)
    assert is_on_disk(arrays)
    assert arrays.dtype == np.float32
    np.testing.assert_array_equal(arrays, pixels)


@pytest.mark.usefixtures("everything_is_large")
def test_gathered_parts_are_the_whole_array() -> None:
    gathered = Gathered(7)
    for part in np.array_split(images(), 3):
        gathered.append(part)
    whole = gathered.whole()
    assert is_on_disk(whole)
    np.testing.assert_array_equal(whole, images())


@pytest.mark.usefixtures("everything_is_large")
def test_pieces_and_digest_are_those_of_the_array() -> None:
    np.testing.assert_array_equal(np.concatenate(list(pieces(images()))), images())
    np.testing.assert_array_equal(np.concatenate(list(pieces(images(), 2))), images())
    assert digest_of_array(images()) == digest_of(images().tobytes())


def test_a_small_array_is_read_into_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=images())
    assert not is_on_disk(read_arrays(tmp_path / "x.npz")["image"])


def with_a_changed_number(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    place = raw.find(images().tobytes()[:8])
    raw[place] ^= 0xFF
    path.write_bytes(raw)


def with_another_shape(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"(7, 5, 3)", b"(9, 5, 3)"))


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("damage", [with_a_changed_number, with_another_shape])
def test_damage_is_found_before_a_number_is_used(damage: Callable[[Path], None], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=images())
    damage(tmp_path / "x.npz")
    with pytest.raises(SamplesError, match=r"x\.npz: samples must be a \.npz of plain arrays: "):
        load_samples(tmp_path / "x.npz", [IMAGE])


@pytest.mark.parametrize("make", [lambda path: path.write_text("hello"), lambda path: np.savez(path, image=np.array([{}]))])
def test_a_file_that_needs_unpickling_is_rejected_without_bad_advice(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x.npz")
    with pytest.raises(SamplesError, match=r"plain arrays: it holds Python objects, or is not a \.npz; write it with") as raised:
        load_samples(tmp_path / "x.npz", [IMAGE])
    assert "allow_pickle" not in str(raised.value)


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from accel.backends.onnxruntime_cpu import load_graph
from accel.comparison import measure_outputs, run_all
from edgewright.contracts.samples import load_samples
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.report.detail import samples_digest

def peak():
    return int(re.search(r"^VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text(), re.M).group(1)) // 1024

folder = Path(sys.argv[1])
samples = load_samples(folder / "x.npz", load_graph(folder / "graph.onnx", threads=1).inputs)
session = load_graph(folder / "graph.onnx", threads=1)
arrays = run_all(session, samples)
measure_outputs(arrays, run_all(session, samples), samples.labels)
samples_digest(samples)
ranges = tensor_ranges(ObservedGraph.open(folder / "graph.onnx"), samples)
print(samples.count, peak())
"""


def peak_mib(folder: Path, count: int, dtype: type[np.generic]) -> int:
    from onnx import TensorProto, helper, numpy_helper, save

    folder.mkdir()
    weight = numpy_helper.from_array(np.full((3, 3, 1, 1), 0.3, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["y"])],
        "point",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 48, 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 48, 48])],
        [weight],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "graph.onnx")
    shape = (count, 3, 48, 48)
    np.savez(folder / "x.npz", image=np.random.default_rng(0).integers(0, 255, shape, np.uint8).astype(dtype))
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, timeout=240, check=False
    )
    match = re.fullmatch(r"(\d+) (\d+)\n", finished.stdout)
    assert match is not None, finished.stderr
    assert int(match[1]) == count
    return int(match[2])


@pytest.mark.parametrize("dtype", [np.float32, np.uint8], ids=["as the model takes them", "as pixels"])
def test_five_thousand_images_take_no_more_memory_than_a_batch_of_them(dtype: type[np.generic], tmp_path: Path) -> None:
    few = peak_mib(tmp_path / "few", 32, dtype)
    many = peak_mib(tmp_path / "many", 5000, dtype)
    on_disk = 5000 * 3 * 48 * 48 * 4 / (1 << 20)
    assert on_disk > 130  # each of: the images, the outputs, the outputs again
    assert many - few < 40


def test_samples_in_memory_are_used_unchanged() -> None:
    samples = Samples({"image": images()}, np.arange(7))
    assert samples.slice(5, 99).count == 2
    np.testing.assert_array_equal(samples.slice(2, 4).inputs["image"], images()[2:4])
