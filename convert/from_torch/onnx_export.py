"""Express an exported program as an ONNX graph.

translate    operator by operator, as the exporter knows them
decompose    if that fails: split every operator into PyTorch's core operators, and translate those
clean        remove stack traces, which contain paths of the author's machine

An operator that fails both ways is named in the error, with its cause.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir

from convert.from_torch.framework import quiet
from convert.graph.emit import IR_VERSION, OPSET, named_shape
from edgewright.errors import ModelError, one_line

log = logging.getLogger(__name__)

_TARGET = re.compile(r"target=(?:torch\.ops\.)?([\w.]+)")
_MISSING = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='\w+'\)>")


def graph_of(program: Any, where: str, other_ends: Sequence[str] = ()) -> ir.Model:
    """Return the graph of an exported program.

    Args:
        program: a `torch.export.ExportedProgram`.
        where: name of the model in errors.
        other_ends: inputs whose first axis need not be a dynamic batch.

    Raises:
        ModelError: the program has a fixed batch, returns a number that is not a tensor, or has an operator without counterpart
            in ONNX.
    """
    _check_outputs(program, where)
    model: ir.Model = _translated(program, where).model
    _check_batch(model.graph, where, other_ends)
    clean(model)
    return model


def _translated(program: Any, where: str) -> Any:
    try:
        return _export(program)
    except Exception as error:  # noqa: BLE001  torch's errors have no common base class
        direct = _reason(error)
    log.info("decomposed the program reason=%r", direct)
    try:
        with quiet():
            decomposed = program.run_decompositions()
    except Exception as error:  # torch's errors have no common base class
        raise ModelError(f"{where} cannot be expressed in ONNX: {direct}") from error
    try:
        return _export(decomposed)
    except Exception as error:  # torch's errors have no common base class
        raise ModelError(f"{where} cannot be expressed in ONNX: {_reason(error)}") from error


def _export(program: Any) -> Any:
    import torch

    with quiet():
        return torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)


def _reason(error: BaseException) -> str:
    """Return the operator that an error of the exporter is about, and the innermost cause."""
    texts = [str(cause) for cause in _causes(error)]
    missing = next((match[1] for text in texts if (match := _MISSING.search(text))), None)
    if missing is not None:
        return f"operator {missing} has no counterpart there"
    operator = next((match[1] for text in texts if (match := _TARGET.search(text))), None)
    cause = one_line(list(_causes(error))[-1])
    return cause if operator is None else f"operator {operator.removesuffix('.default')}: {cause}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _check_outputs(program: Any, where: str) -> None:
    for output in program.graph_signature.user_outputs:
        if not (output is None or isinstance(output, str)):
            raise ModelError(f"{where} must return tensors, but it returns {output!r}: leave that out, or make a tensor of it")


def _check_batch(graph: ir.Graph, where: str, other_ends: Sequence[str]) -> None:
    for value in graph.inputs:
        if value.name in other_ends:
            continue
        if value.shape is None or not len(value.shape) or isinstance(value.shape[0], int):
            raise ModelError(
                f"{where}: the first axis of input {value.name} must be the dynamic batch axis, but its shape is {value.shape}: "
                "export it with two samples and dynamic_shapes=({0: torch.export.Dim('N')},)"
            )


def clean(model: ir.Model) -> None:
    """Remove what the exporter notes about the source code, and name the axes of inputs and outputs."""
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "edgewright", ""
    model.doc_string, model.graph.doc_string, model.graph.name = None, None, "model"
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        sizes = value.shape.dims if value.shape is not None else (None,)
        if not len(sizes):
            continue
        named = list(named_shape(str(value.name), tuple(size if isinstance(size, int) else None for size in sizes)))
        value.shape = ir.Shape([sizes[0], *named[1:]] if isinstance(sizes[0], int) else named)
