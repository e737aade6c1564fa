"""Networks for NPU benchmarks and tests: float ONNX graphs with random weights, quantized by ONNX Runtime's own quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from quantize.npu.int8 import MORE_OPERATORS

Float = npt.NDArray[np.float32]
INPUT = "image"


class Network:
    """A float graph under construction, from images [N, channels, height, width]; weights come from a seeded generator."""

    def __init__(self, channels: int, height: int, width: int, seed: int = 0) -> None:
        self.shape: tuple[int, ...] = (channels, height, width)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.generator = np.random.default_rng(seed)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: npt.NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, source: str, inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3), **attributes: Any) -> str:
        fan_in = inputs // attributes.get("group", 1) * kernel[0] * kernel[1]
        spread = self.generator.uniform(0.3, 1.5, (outputs, 1, 1, 1)) * np.sqrt(2 / fan_in)
        shape = (outputs, inputs // attributes.get("group", 1), *kernel)
        weights = self.constant((self.generator.normal(size=shape) * spread).astype(np.float32))
        bias = self.constant(self.generator.normal(scale=0.2, size=outputs).astype(np.float32))
        return self.add("Conv", source, weights, bias, **attributes)

    def gemm(self, source: str, inputs: int, outputs: int) -> str:
        weights = self.constant((self.generator.normal(size=(inputs, outputs)) * np.sqrt(2 / inputs)).astype(np.float32))
        return self.add("Gemm", source, weights, self.constant(np.linspace(-0.2, 0.2, outputs).astype(np.float32)))

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", *self.shape])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(inferred)
        return inferred

    def images(self, count: int) -> Float:
        return self.generator.normal(size=(count, *self.shape)).astype(np.float32)


def resnet50(size: int = 224, seed: int = 0) -> tuple[Network, onnx.ModelProto]:
    """Return ResNet-50 up to the average over the planes, with random weights, batch normalization folded in."""
    network = Network(3, size, size, seed)
    x = network.add("Relu", network.conv(INPUT, 3, 64, (7, 7), pads=[3, 3, 3, 3], strides=[2, 2]))
    x, channels = network.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            middle, step = 64 << stage, 2 if stage and not block else 1
            y = network.add("Relu", network.conv(x, channels, middle, (1, 1)))
            y = network.add("Relu", network.conv(y, middle, middle, pads=[1, 1, 1, 1], strides=[step, step]))
            y = network.conv(y, middle, 4 * middle, (1, 1))
            shortcut = x if block else network.conv(x, channels, 4 * middle, (1, 1), strides=[step, step])
            x, channels = network.add("Relu", network.add("Add", shortcut, y)), 4 * middle
    return network, network.model(network.add("GlobalAveragePool", x))


def resnet8(seed: int = 0) -> tuple[Network, onnx.ModelProto]:
    """Return a network of the shape of MLPerf Tiny's image classifier, with random weights, batch normalization folded in."""
    network, channels = Network(3, 32, 32, seed), 16
    x = network.add("Relu", network.conv(INPUT, 3, channels, pads=[1, 1, 1, 1]))
    for stage in range(3):
        wide, step = 16 << stage, 2 if stage else 1
        y = network.add("Relu", network.conv(x, channels, wide, pads=[1, 1, 1, 1], strides=[step, step]))
        y = network.conv(y, wide, wide, pads=[1, 1, 1, 1])
        shortcut = network.conv(x, channels, wide, (1, 1), strides=[step, step]) if stage else x
        x, channels = network.add("Relu", network.add("Add", shortcut, y)), wide
    average = network.add("AveragePool", x, kernel_shape=[8, 8], strides=[8, 8])
    return network, network.model(network.gemm(network.add("Flatten", average), channels, 10))


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Float) -> None:
        self._batches: Iterator[dict[str, Float]] = iter([{INPUT: images}])

    def get_next(self) -> dict[str, Float] | None:
        return next(self._batches, None)


def quantize(model: onnx.ModelProto, images: Float, **overrides: Any) -> onnx.ModelProto:
    """Quantize as the NPU requires: symmetric int8 weights per channel, int8 activations per tensor."""
    options: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "op_types_to_quantize": sorted({*QDQRegistry, *QLinearOpsRegistry, *MORE_OPERATORS}),
        "extra_options": {"WeightSymmetric": True, "ActivationSymmetric": False},
    }
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, before)
        quantize_static(before, after, _Samples(images), **{**options, **overrides})
        return onnx.load(after)


def reference(model: onnx.ModelProto, images: Float, names: Sequence[str]) -> list[Float]:
    """Return the tensors `names` of a quantized graph, run by ONNX Runtime without fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Float] = session.run(list(names), {INPUT: images})
    return results
