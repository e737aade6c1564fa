"""Quantize a model of the zoo with onnxruntime's own tools, as their documentation recommends.

static   quantize_static: QDQ, uint8 activations, int8 weights per channel (per tensor where the result does not load), ranges
         of the same calibration samples
dynamic  quantize_dynamic: int8 weights, ranges of activations measured at run time
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring.zoo_sources import Arrays

PEERS = ("static", "dynamic")


def quantize_peer(kind: str, source: Path, folder: Path, inputs: Arrays, axes: Mapping[str, int]) -> Path:
    """Write the quantized model into `folder` and return its path; the tools' own errors are raised."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    logging.disable(logging.WARNING)
    prepared, target = folder / "peer-prepared.onnx", folder / f"peer-{kind}.onnx"
    if not prepared.is_file():
        _prepare(source, prepared)
    if kind == "dynamic":
        quantize_dynamic(prepared, target, weight_type=QuantType.QInt8)
        return target
    for per_channel in (True, False):
        quantize_static(
            prepared,
            target,
            _reader(inputs, axes),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
        )
        if not per_channel or _loads(target):
            break
    return target


def _loads(path: Path) -> bool:
    """Return False if the runtime refuses the graph, as it does with scales per channel before operator set 13."""
    import onnxruntime

    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - the runtime's exceptions have no common base class
        return False
    return True


def as_one_file(graph: Path, target: Path) -> Path:
    """Write a graph with its external weights as one ONNX file."""
    import onnx

    onnx.save(onnx.load(graph), target)
    return target


def _prepare(source: Path, prepared: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        quant_pre_process(str(source), str(prepared))
    except Exception:  # noqa: BLE001 - symbolic shapes fail in many ways, and the tool's own advice is to leave them out
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)


def _reader(inputs: Arrays, axes: Mapping[str, int]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc] # the base class has no types
        """One sample at a time."""

        def __init__(self) -> None:
            self._feeds = _feeds(inputs, axes)

        def get_next(self) -> Arrays | None:
            """Return the next sample, or None after the last."""
            return next(self._feeds, None)

    return Reader()


def _feeds(inputs: Arrays, axes: Mapping[str, int]) -> Iterator[Arrays]:
    for index in range(len(next(iter(inputs.values())))):
        yield {name: np.moveaxis(array[index : index + 1], 0, axes.get(name, 0)) for name, array in inputs.items()}
