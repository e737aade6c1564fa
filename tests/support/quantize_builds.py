"""Builds for several tests of quantization, made once per session from ONNX files, without a training framework."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier

from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import VariantDirectory
from edgewright.contracts.wire import decode
from edgewright.errors import PackageError
from quantize.npu.functional import FUNCTIONAL_PREFIX, FunctionalEvaluation
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import digits, folder

Array = npt.NDArray[Any]

TRAINING = slice(0, 1400)
CALIBRATION = slice(0, 400)
HELD_OUT = slice(1400, None)


def onnx_file(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    *,
    given: tuple[str, Sequence[int | str]],
    wanted: tuple[str, Sequence[int | str]],
) -> Path:
    """Write a network with one input and one output, each a name and a shape."""
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [helper.make_tensor_value_info(wanted[0], TensorProto.FLOAT, wanted[1])],
        [numpy_helper.from_array(np.asarray(numbers, np.float32), name) for name, numbers in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@functools.cache
def training_samples() -> Path:
    """Return a file with training samples of the network, for calibration."""
    return _samples("training.npz", CALIBRATION)


@functools.cache
def held_out_samples() -> Path:
    """Return a file with samples outside of training and calibration."""
    return _samples("held_out.npz", HELD_OUT)


@functools.cache
def digits_build() -> BuildDirectory:
    """Return a small converted residual network for digits; tests that add to a build copy it first."""
    return _converted("build", _head())


@functools.cache
def retrained_build() -> BuildDirectory:
    """Return the same network with a retrained head."""
    head = _head()
    changed = {"classes/kernel": head["classes/kernel"] * 1.1, "classes/bias": head["classes/bias"] + 0.1}
    return _converted("retrained", head | changed)


def fresh_build(target: Path) -> BuildDirectory:
    """Copy the converted digits network, for a test that adds to it."""
    shutil.copytree(digits_build().path, target)
    return BuildDirectory.open(target)


@functools.cache
def build_without_weights() -> BuildDirectory:
    """Return a network without an operator that any scheme can quantize."""
    rows = np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32)
    write_npz(folder() / "rows.npz", {"x": rows})
    axis = numpy_helper.from_array(np.array(1, np.int64), "axis")
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"], name="sum")]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [axis],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder() / "sum.onnx")
    return convert_model(folder() / "sum.onnx", folder() / "sum", ConvertOptions(samples=folder() / "rows.npz"))


@functools.cache
def quantized_build() -> BuildDirectory:
    """Return the digits network with the variants of every scheme; tests must not change it."""
    build = fresh_build(folder() / "quantized")
    for scheme in Scheme:
        quantize(build, QuantizeOptions(scheme=scheme, samples=training_samples()))
    return build


def variant(scheme: Scheme) -> VariantDirectory:
    """Return a variant of the shared build."""
    return quantized_build().variant(scheme.value)


def contents(path: Path) -> dict[str, bytes]:
    """Return every file below `path`."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def _samples(name: str, which: slice) -> Path:
    images, labels = digits()
    kept = folder() / "quantize"
    kept.mkdir(exist_ok=True)
    write_npz(kept / name, {"image": images[which], "labels": labels[which]})
    return kept / name


def _converted(name: str, head: Mapping[str, Array]) -> BuildDirectory:
    kept = folder() / "quantize"
    kept.mkdir(exist_ok=True)
    source = _digits_file(kept / f"{name}.onnx", head)
    labels = tuple(str(digit) for digit in range(10))
    return convert_model(source, kept / name, ConvertOptions(samples=held_out_samples(), labels=labels))


def _digits_file(path: Path, head: Mapping[str, Array]) -> Path:
    nodes = [
        *_featurizer_nodes(),
        helper.make_node("Gemm", ["features", "hidden/kernel", "hidden/bias"], ["hidden/Gemm"], name="hidden/Gemm"),
        helper.make_node("Relu", ["hidden/Gemm"], ["hidden/Relu"], name="hidden/Relu"),
        helper.make_node("Gemm", ["hidden/Relu", "classes/kernel", "classes/bias"], ["classes/Gemm"], name="classes/Gemm"),
        helper.make_node("Softmax", ["classes/Gemm"], ["classes"], name="classes/Softmax"),
    ]
    ends: dict[str, Any] = {"given": ("image", ["N", 8, 8, 1]), "wanted": ("classes", ["N", 10])}
    return onnx_file(path, nodes, {**_featurizer_weights(), **head}, **ends)


def _featurizer_nodes() -> list[onnx.NodeProto]:
    same = [1, 1, 1, 1]
    return [
        helper.make_node("Transpose", ["image"], ["planes"], name="image/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "stem/Conv/kernel", "stem/Conv/bias"], ["stem"], name="stem/Conv", pads=same),
        helper.make_node("Relu", ["stem"], ["stem/Relu"], name="stem/Relu"),
        helper.make_node("Conv", ["stem/Relu", "block/Conv/kernel", "block/Conv/bias"], ["block"], name="block/Conv", pads=same),
        helper.make_node("Relu", ["block"], ["block/Relu"], name="block/Relu"),
        helper.make_node("Add", ["stem/Relu", "block/Relu"], ["join"], name="join/Add"),
        helper.make_node("MaxPool", ["join"], ["pool"], name="pool/MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pool"], ["features"], name="flatten/Flatten"),
    ]


@functools.cache
def _featurizer_weights() -> dict[str, Array]:
    """Return random filters, which suffice for small digits; only the head is trained."""
    generator = np.random.default_rng(7)
    return {
        "stem/Conv/kernel": generator.normal(0, 0.4, (12, 1, 3, 3)),
        "stem/Conv/bias": generator.normal(0, 0.1, 12),
        "block/Conv/kernel": generator.normal(0, 0.12, (12, 12, 3, 3)),
        "block/Conv/bias": generator.normal(0, 0.1, 12),
    }


@functools.cache
def _head() -> dict[str, Array]:
    images, labels = digits()
    ends: dict[str, Any] = {"given": ("image", ["N", 8, 8, 1]), "wanted": ("features", ["N", 192])}
    featurizer = onnx_file(folder() / "featurizer.onnx", _featurizer_nodes(), _featurizer_weights(), **ends)
    (features,) = onnxruntime.InferenceSession(featurizer).run(None, {"image": images[TRAINING]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 40 iterations do not converge
        trained = MLPClassifier((24,), random_state=0, max_iter=40, learning_rate_init=0.005).fit(features, labels[TRAINING])
    kernels, biases = trained.coefs_, trained.intercepts_
    names = ("hidden", "classes")
    return {
        **{f"{name}/kernel": kernel for name, kernel in zip(names, kernels, strict=True)},
        **{f"{name}/bias": bias for name, bias in zip(names, biases, strict=True)},
    }


def functional_evaluation(build: BuildDirectory, variant: str) -> FunctionalEvaluation | None:
    """Return the stored evaluation on the functional model, or None."""
    path = build.reports / f"{FUNCTIONAL_PREFIX}{variant}.json"
    return decode(path.read_bytes(), FunctionalEvaluation, what=str(path), error=PackageError) if path.is_file() else None
