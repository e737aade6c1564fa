"""Fit a graph to an older onnxruntime: state an older operator set where all its operators mean the same in it.

A newer operator set often only adds types or attributes that a graph does not use. So each operator is looked up in the older
set, and then both graphs are run here on the same random samples: their outputs must be equal bit for bit. An operator whose
meaning changed is named in the refusal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgewright.errors import ModelError
from edgewright.export.model import Column, ExportedModel
from edgewright.export.runtimes import Release

_NEWEST_OLD_TYPE = onnx.TensorProto.BFLOAT16
"""Types of tensors up to this one exist in every IR version that is written here."""
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
_SAMPLES = 3


def fitted(model: ExportedModel, release: Release, where: str) -> ExportedModel:
    """Return the model for a release of onnxruntime.

    Raises:
        ModelError: the release lacks an operator, or one that behaves the same; `where` names the consumer.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model.proto)
    limits = {"": release.opset, "ai.onnx": release.opset, "ai.onnx.ml": release.ml_opset}
    for entry in lowered.opset_import:
        entry.version = min(entry.version, limits.get(entry.domain, entry.version))
    lowered.ir_version = min(lowered.ir_version, release.ir_version)
    changed = sorted({reason for node in _nodes(lowered.graph) if (reason := _difference(node, model, release))})
    if len(lowered.functions):
        changed.append("functions inside the file")
    if any(tensor.data_type > _NEWEST_OLD_TYPE for tensor in lowered.graph.initializer):
        changed.append("weights of 4 or 8 bits in a newer type")
    result = replace(model, proto=lowered)
    if not changed and lowered != model.proto and not _run_equal(model, result):
        changed.append("other outputs in the older operator set")
    if changed:
        raise ModelError(
            f"{where} has {release}, but {model.name} (operator set {model.opset}) has {', '.join(changed)}: "
            "use a newer runtime there, or another variant"
        )
    return result


def check_runs_here(model: ExportedModel) -> str:
    """Run a graph that is newer than all releases with known operator sets; return the installed onnxruntime that ran it.

    Raises:
        ModelError: it does not run.
    """
    _run(model, _samples(model))
    return ".".join(onnxruntime.__version__.split(".")[:2])


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _difference(node: onnx.NodeProto, model: ExportedModel, release: Release) -> str | None:
    """Return the reason why an operator may be missing from a release or mean something else there, or None."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain not in _DOMAINS:
        return f"the operator {domain}.{node.op_type}"
    before = model.opset_of(domain)
    limit = min(before, release.ml_opset if domain else release.opset)
    try:
        old = onnx.defs.get_schema(node.op_type, limit, domain)
    except onnx.defs.SchemaError:
        return f"the operator {node.op_type}, which it lacks"
    new = onnx.defs.get_schema(node.op_type, before, domain)
    if old.since_version == new.since_version:
        return None
    unknown = [attribute.name for attribute in node.attribute if attribute.name not in old.attributes]
    if unknown:
        return f"{node.op_type} with {', '.join(unknown)}"
    return f"{node.op_type} with more inputs" if len(node.input) > old.max_input else None


def _run_equal(one: ExportedModel, other: ExportedModel) -> bool:
    samples = _samples(one)
    expected = _run(one, samples)
    try:
        results = expected, _run(other, samples)
    except ModelError:
        return False
    return all(np.array_equal(left, right, equal_nan=left.dtype.kind == "f") for left, right in zip(*results, strict=True))


def _samples(model: ExportedModel) -> dict[str, npt.NDArray[np.generic]]:
    generator = np.random.default_rng(0)
    return {column.name: _random(column, model.batch or _SAMPLES, generator) for column in model.inputs}


def _random(column: Column, count: int, generator: np.random.Generator) -> npt.NDArray[np.generic]:
    shape = (count, *column.shape)
    if column.dtype.startswith("float"):
        return generator.normal(size=shape).astype(column.dtype)
    return generator.integers(0, 2, shape).astype(column.dtype)


def _run(model: ExportedModel, samples: dict[str, npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.to_bytes(), options, providers=["CPUExecutionProvider"])
        results: list[npt.NDArray[np.generic]] = session.run(None, samples)
    except Exception as error:  # onnxruntime has no public base class of its errors
        raise ModelError(f"{model.name} does not run here with operator set {model.opset}: {error}") from error
    return results
