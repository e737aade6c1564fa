"""int8 by NNCF: accuracy on real digits, separate files, no output or telemetry, and refused inputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from accel.backends.onnxruntime_cpu import OnnxRuntime
from accel.backends.openvino_cpu import OpenVino
from edgewright.contracts.samples import Samples
from edgewright.contracts.variant import LayerKind, Precision, TensorSpec, Tolerance, VariantConfig, VariantDirectory
from edgewright.errors import BadInputError, ModelError
from edgewright.graphs.files import write_graph
from quantize.int8.openvino import NncfOptions, quantize_with_nncf

Array = npt.NDArray[Any]

FILTERS = 16
TRAINING = 1200


@pytest.fixture(autouse=True)
def nncf(require_package: Callable[[str], None]) -> None:
    require_package("nncf")
    require_package("openvino")


@dataclass(frozen=True)
class Digits:
    """Real scans, and a network for them: random 3x3 filters and a least-squares head, without training."""

    images: Array
    labels: Array
    kernels: Array
    head: Array

    def samples(self, count: int) -> Samples:
        return Samples({"image": self.images[:count]})

    @property
    def heldout(self) -> tuple[Array, Array]:
        return self.images[TRAINING:], self.labels[TRAINING:]


@pytest.fixture(scope="module")
def digits() -> Digits:
    loaded = load_digits()
    images = (loaded.images[:, np.newaxis] / 16).astype(np.float32)
    kernels = np.random.default_rng(3).normal(0, 0.5, (FILTERS, 1, 3, 3)).astype(np.float32)
    features = features_of(images, kernels)[:TRAINING]
    wanted = np.eye(10)[loaded.target[:TRAINING]] * 8
    head = np.linalg.solve(features.T @ features + np.eye(features.shape[1]), features.T @ wanted).astype(np.float32)
    return Digits(images, loaded.target, kernels, head)


def features_of(images: Array, kernels: Array) -> Array:
    """Compute convolution and ReLU without a runtime."""
    windows = np.lib.stride_tricks.sliding_window_view(images[:, 0], (3, 3), axis=(1, 2))
    found: Array = np.maximum(np.einsum("nyxij,fij->nfyx", windows, kernels[:, 0]), 0)
    return found.reshape(len(images), -1)


def make_float_variant(path: Path, digits: Digits, *, head: Array | None = None, batch: int | str = "N") -> VariantDirectory:
    path.mkdir(parents=True)
    nodes = [
        helper.make_node("Conv", ["image", "kernels"], ["filtered"], name="filter", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["filtered"], ["features"], name="rectify"),
        helper.make_node("Flatten", ["features"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "head"], ["logits"], name="classify"),
        helper.make_node("Softmax", ["logits"], ["scores"], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])],
        [
            numpy_helper.from_array(digits.kernels, "kernels"),
            numpy_helper.from_array(digits.head if head is None else head, "head"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    write_graph(path, ir.from_proto(model), lambda node: node.name in ("classify", "softmax"))
    config = VariantConfig(
        variant="fp32",
        backend="onnxruntime",
        precision=Precision.FP32,
        inputs=(TensorSpec(name="image", dtype="float32", shape=(batch, 1, 8, 8)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(batch, 10)),),
        tolerance=Tolerance(max_relative_difference=1e-4, min_agreement=1.0),
        size_bytes=1,
        labels=tuple("0123456789"),
    )
    return VariantDirectory.write(path, config)


@pytest.fixture(scope="module")
def float_variant(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> VariantDirectory:
    return make_float_variant(tmp_path_factory.mktemp("build") / "fp32", digits)


@pytest.fixture(scope="module")
def int8(digits: Digits, float_variant: VariantDirectory, tmp_path_factory: pytest.TempPathFactory) -> VariantDirectory:
    return quantize_with_nncf(float_variant, digits.samples(200), tmp_path_factory.mktemp("int8"))


def accuracy(variant: VariantDirectory, backend: OpenVino | OnnxRuntime, digits: Digits) -> float:
    images, labels = digits.heldout
    return float(np.mean(backend.load(variant, threads=1).run({"image": images})["scores"].argmax(axis=1) == labels))


@pytest.mark.parametrize("backend", [pytest.param(OpenVino(), id="openvino"), pytest.param(OnnxRuntime(), id="onnxruntime")])
def test_real_digits_are_read_within_a_point_of_float(
    digits: Digits, float_variant: VariantDirectory, int8: VariantDirectory, backend: OpenVino | OnnxRuntime
) -> None:
    in_float = accuracy(float_variant, backend, digits)
    assert in_float > 0.9
    assert accuracy(int8, backend, digits) >= in_float - 0.01


def test_weights_shrink_to_a_quarter_and_stay_in_separate_files(float_variant: VariantDirectory, int8: VariantDirectory) -> None:
    for kind in (LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS):
        assert int8.file(kind).stat().st_size < float_variant.file(kind).stat().st_size
    head = int8.file(LayerKind.HEAD_WEIGHTS).stat().st_size
    assert head < float_variant.file(LayerKind.HEAD_WEIGHTS).stat().st_size / 3.5


def test_the_config_describes_the_variant(int8: VariantDirectory) -> None:
    config = VariantDirectory.open(int8.path).config
    assert (config.variant, config.backend, config.precision) == ("int8-openvino", "openvino", Precision.INT8)
    assert config.size_bytes == sum(int8.file(kind).stat().st_size for kind in int8.layers())
    assert config.labels == tuple("0123456789")
    assert config.measured is None


def test_softmax_stays_in_float(int8: VariantDirectory) -> None:
    graph = onnx.load(int8.file(LayerKind.GRAPH), load_external_data=False).graph
    producers = {output: node for node in graph.node for output in node.output}
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    assert producers[softmax.input[0]].op_type == "Gemm"
    assert list(softmax.output) == ["scores"]


def test_the_same_graph_and_samples_give_the_same_bytes(
    digits: Digits, float_variant: VariantDirectory, int8: VariantDirectory, tmp_path: Path
) -> None:
    again = quantize_with_nncf(float_variant, digits.samples(200), tmp_path)
    assert [again.file(kind).read_bytes() for kind in again.layers()] == [int8.file(kind).read_bytes() for kind in int8.layers()]


def test_a_new_head_leaves_the_bytes_of_the_featurizer_unchanged(digits: Digits, int8: VariantDirectory, tmp_path: Path) -> None:
    other = make_float_variant(tmp_path / "fp32", digits, head=digits.head[:, ::-1].copy())
    (tmp_path / "int8").mkdir()
    again = quantize_with_nncf(other, digits.samples(200), tmp_path / "int8")
    moved = [kind for kind in int8.layers() if again.file(kind).read_bytes() != int8.file(kind).read_bytes()]
    assert moved == [LayerKind.HEAD_WEIGHTS]


def test_a_graph_with_a_fixed_batch_is_calibrated_in_batches_of_that_size(digits: Digits, tmp_path: Path) -> None:
    fixed = make_float_variant(tmp_path / "fp32", digits, batch=32)
    (tmp_path / "int8").mkdir()
    assert accuracy(quantize_with_nncf(fixed, digits.samples(100), tmp_path / "int8"), OpenVino(), digits) > 0.9


def test_name_and_tolerance_are_options(digits: Digits, float_variant: VariantDirectory, tmp_path: Path) -> None:
    tolerance = Tolerance(max_relative_difference=0.3, min_agreement=0.9)
    options = NncfOptions(name="int8-nncf", tolerance=tolerance, symmetric_activations=True)
    config = quantize_with_nncf(float_variant, digits.samples(50), tmp_path, options).config
    assert (config.variant, config.tolerance) == ("int8-nncf", tolerance)


def test_a_graph_without_integer_kernels_is_refused(digits: Digits, tmp_path: Path) -> None:
    variant = make_float_variant(tmp_path / "fp32", digits)
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 1, 8, 8])
    graph = helper.make_graph([helper.make_node("Sigmoid", ["image"], ["scores"], name="only")], "plain", [value], [scores])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    variant.file(LayerKind.GRAPH).write_bytes(model.SerializeToString())
    (tmp_path / "int8").mkdir()
    with pytest.raises(
        ModelError, match=r"int8 needs operators with integer kernels \(Conv, Gemm, MatMul, …\), but it has Sigmoid"
    ):
        quantize_with_nncf(variant, digits.samples(10), tmp_path / "int8")
    assert list((tmp_path / "int8").iterdir()) == []


def test_a_quantized_variant_is_refused(digits: Digits, int8: VariantDirectory, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="int8 needs an fp32 variant, but this one is int8$"):
        quantize_with_nncf(int8, digits.samples(10), tmp_path)


def test_without_nncf_the_message_names_the_package_to_install(
    digits: Digits, float_variant: VariantDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantize.int8.openvino.find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r"needs the package nncf, which is not installed: pip install 'edgewright\[nncf\]'$"):
        quantize_with_nncf(float_variant, digits.samples(10), tmp_path)


def test_nncf_prints_nothing_imports_no_telemetry_and_opens_no_connection(
    digits: Digits, float_variant: VariantDirectory, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", digits.images[:20])
    (tmp_path / "int8").mkdir()
    script = f"""
import sys
def deny(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"{{event}} {{arguments}}")
sys.addaudithook(deny)
from pathlib import Path
import numpy as np
from edgewright.contracts.samples import Samples
from edgewright.contracts.variant import VariantDirectory
from quantize.int8.openvino import quantize_with_nncf
folder = Path({str(tmp_path)!r})
samples = Samples({{"image": np.load(folder / "images.npy")}})
quantize_with_nncf(VariantDirectory.open(Path({str(float_variant.path)!r})), samples, folder / "int8")
print("openvino_telemetry" in sys.modules, "nncf" in sys.modules)
"""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=200, check=False
    )
    assert (finished.returncode, finished.stdout) == (0, "False True\n"), finished.stderr
