"""Serve an ONNX file without its conversion: a session, and a variant's config that describes it.

open           any graph that onnxruntime loads; the maps that scikit-learn's converter writes for probabilities become arrays
probe          requests share a run only if a sample's outputs do not depend on the other samples of its batch
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.backends.onnxruntime_cpu import OnnxRuntimeSession, open_runtime
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import BackendName, Precision, TensorSpec, Tolerance, VariantConfig
from edgewright.errors import EdgewrightError

_PROBE_SAMPLES = 3
_ANY_TOLERANCE = Tolerance(max_relative_difference=1.0, min_agreement=0.0)  # an unconverted model is not compared with another


def open_graph(path: Path, *, threads: int | None = None) -> tuple[OnnxRuntimeSession, VariantConfig]:
    """Load an ONNX file; external weights are in the same folder.

    Raises:
        ModelError: onnxruntime cannot load it, or an input or output is neither a tensor nor a list of maps.
    """
    session = OnnxRuntimeSession(_Maps(open_runtime(path, threads=threads)), path, threads)
    return session, VariantConfig(
        variant="onnx",
        backend=BackendName.ONNXRUNTIME,
        precision=Precision.FP32,
        inputs=session.inputs,
        outputs=session.outputs,
        tolerance=_ANY_TOLERANCE,
        size_bytes=path.stat().st_size,
        independent_samples=_samples_are_independent(session),
    )


class _Maps:
    """An onnxruntime session whose outputs `seq(map(class, float))` are arrays [samples, classes]."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._nodes = [_Node(node) for node in runtime.get_outputs()]

    def get_inputs(self) -> list[Any]:
        return list(self._runtime.get_inputs())

    def get_outputs(self) -> list[Any]:
        return list(self._nodes)

    def get_providers(self) -> list[str]:
        return list(self._runtime.get_providers())

    def run(self, names: list[str] | None, inputs: Tensors) -> list[Any]:
        outputs = self._runtime.run(names, inputs)
        return [
            np.array([list(sample.values()) for sample in output], np.float32) if node.is_map else output
            for node, output in zip(self._nodes, outputs, strict=True)
        ]


class _Node:
    """Name, type and shape of an output, as onnxruntime gives them."""

    def __init__(self, node: Any) -> None:
        self.name: str = node.name
        self.is_map = node.type.startswith("seq(map(") and node.type.endswith(",tensor(float)))")
        self.type: str = "tensor(float)" if self.is_map else node.type
        self.shape: list[Any] = ["N", "classes"] if self.is_map else node.shape


def _samples_are_independent(session: OnnxRuntimeSession) -> bool:
    """Score random samples together and one at a time; a graph that cannot be probed counts as dependent."""
    inputs = {spec.name: _random(spec) for spec in session.inputs}
    if any(array is None for array in inputs.values()):
        return False
    samples: Tensors = {name: array for name, array in inputs.items() if array is not None}
    try:
        together = session.run(samples)
        alone = [session.run({name: array[i : i + 1] for name, array in samples.items()}) for i in range(_PROBE_SAMPLES)]
    except EdgewrightError:
        return False
    return all(_equal(output, [one[name] for one in alone]) for name, output in together.items())


def _random(spec: TensorSpec) -> npt.NDArray[Any] | None:
    """Return random samples of an input; None if its batch size is fixed, another axis is dynamic, or it holds text."""
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    if isinstance(spec.shape[0], int) or len(sizes) < len(spec.shape) - 1 or spec.dtype == "object":
        return None
    values = np.random.default_rng(0).standard_normal((_PROBE_SAMPLES, *sizes))
    return (values if np.dtype(spec.dtype).kind == "f" else values > 0).astype(spec.dtype)


def _equal(together: npt.NDArray[Any], alone: list[npt.NDArray[Any]]) -> bool:
    joined = np.concatenate(alone)
    if together.shape != joined.shape:
        return False
    if together.dtype.kind != "f":
        return bool((together == joined).all())
    return bool(np.allclose(together, joined, rtol=1e-3, atol=1e-5, equal_nan=True))
