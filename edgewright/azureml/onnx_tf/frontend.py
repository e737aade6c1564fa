"""Convert a frozen TensorFlow graph to ONNX, with edgewright's own conversion.

Steps: write the graph to a file, convert it (TensorFlow runs in a process of its own), and go back to the operator set that was
asked for, or to the oldest newer one that gives the same results.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgewright.errors import BadInputError

if TYPE_CHECKING:
    import onnx

_GENERATED_AXIS = 2
"""Size of an axis without a fixed size in the samples that compare two operator sets."""


def tensorflow_graph_to_onnx_model(graph_def: Any, output: str | list[str], opset: int = 0) -> onnx.ModelProto:
    """Return a frozen graph as an ONNX model.

    Args:
        graph_def: a `tf.compat.v1.GraphDef` without variables.
        output: name of the output node, such as `fc2/add`, or several.
        opset: operator set; 0 for the one that edgewright writes. If the graph cannot be written in it, the oldest newer one is
            used and a warning names it.

    Returns:
        A model with `SerializeToString()`; its inputs are those of the graph.

    Raises:
        BadInputError: `graph_def` is not a graph.
        NotFoundError: the output does not exist.
        ModelError: an operator has no counterpart in ONNX.
    """
    if not hasattr(graph_def, "SerializeToString"):
        raise BadInputError(f"graph_def must be a frozen tf.compat.v1.GraphDef, not a {type(graph_def).__name__}")
    outputs = [output] if isinstance(output, str) else list(output)
    model = _converted(graph_def.SerializeToString(), tuple(outputs))
    written = _opset(model)
    if opset in (0, written):
        return model
    older = _oldest_from(model, opset) if opset < written else None
    found = model if older is None else older
    if _opset(found) != opset:
        warnings.warn(
            f"the graph cannot be written in operator set {opset}; it has operator set {_opset(found)}, the oldest that works",
            stacklevel=2,
        )
    return found


def _converted(raw: bytes, outputs: tuple[str, ...]) -> onnx.ModelProto:
    import onnx

    from convert.conversion import convert_model
    from convert.options import ConvertOptions
    from edgewright.contracts.variant import LayerKind

    with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
        source = Path(name) / "graph.pb"
        source.write_bytes(raw)
        build = convert_model(source, Path(name) / "build", ConvertOptions(outputs=outputs))
        return onnx.load(build.graph / LayerKind.GRAPH.file_name)


def _oldest_from(model: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    """Return the model in the oldest operator set from `opset` that gives the same results, or None."""
    from onnx import version_converter

    feed = _samples(model)
    expected = _results(model, feed)
    for candidate in range(opset, _opset(model)):
        try:
            older = version_converter.convert_version(model, candidate)
            if _same(_results(older, feed), expected):
                return older
        except Exception:  # noqa: BLE001, S112  the version converter and the runtime raise many types for what they lack
            continue
    return None


def _samples(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    import onnx

    generator = np.random.default_rng(0)
    feed = {}
    for each in model.graph.input:
        tensor = each.type.tensor_type
        shape = [axis.dim_value or _GENERATED_AXIS for axis in tensor.shape.dim]
        feed[each.name] = generator.uniform(0, 1, shape).astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return feed


def _results(model: onnx.ModelProto, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def _same(results: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]]) -> bool:
    return all(np.allclose(mine, other, rtol=1e-4, atol=1e-5) for mine, other in zip(results, expected, strict=True))


def _opset(model: onnx.ModelProto) -> int:
    return next(int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx"))
