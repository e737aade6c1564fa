"""Check of an installation: everything that the agent imports is there, and ONNX Runtime scores.

`install.sh` runs it after it removed files that the agent does not need, and before it points to the new release.
"""

from __future__ import annotations

import importlib

import numpy as np
import onnxruntime

MODULES = (
    "edge_agent.agent",
    "edge_agent.deployment.verify_desired",
    "edge_agent.identity.enrolment",
    "edge_agent.packages.check",
    "edge_agent.packages.fetch",
    "edge_agent.packages.import_package",
    "edge_agent.scoring.runner",
    "edgewright.cli",
)
"""The command, the agent, and the processes that it starts."""


def model() -> bytes:
    """Return an ONNX model that multiplies a 2 x 2 matrix `x` with itself; as protobuf bytes, because a device has no onnx."""
    shape = _field(2, _field(1, b"\x08\x02") + _field(1, b"\x08\x02"))
    tensor = _field(1, b"\x08\x01" + shape)
    node = _field(1, b"x") + _field(1, b"x") + _field(2, b"y") + _field(4, b"MatMul")
    graph = (
        _field(1, node)
        + _field(2, b"g")
        + _field(11, _field(1, b"x") + _field(2, tensor))
        + _field(12, _field(1, b"y") + _field(2, tensor))
    )
    return b"\x08\x08" + _field(7, graph) + _field(8, b"\x10\x11")


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field of a protobuf message with less than 128 bytes."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def check() -> None:
    """Import every part and score once.

    Raises:
        ImportError: a part is missing.
        AssertionError: ONNX Runtime returns another product.
    """
    for name in MODULES:
        importlib.import_module(name)
    matrix = np.array([[1, 2], [3, 4]], dtype=np.float32)
    (product,) = onnxruntime.InferenceSession(model(), providers=["CPUExecutionProvider"]).run(None, {"x": matrix})
    assert np.array_equal(product, [[7, 10], [15, 22]]), product


if __name__ == "__main__":
    check()
