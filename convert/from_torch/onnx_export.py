"""Express an exported program as an ONNX graph.

free         make a fixed batch dynamic, if possible
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

from convert.from_torch.decompositions import with_own_decompositions
from convert.from_torch.framework import quiet
from convert.from_torch.free_batch import with_free_batch
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
        ModelError: its inputs have different batches, it returns a number, or it has an operator without counterpart in ONNX.
    """
    _check_outputs(program, where)
    batch = _fixed_batch(program, where, other_ends)
    freed = program if batch is None or other_ends else with_free_batch(program, batch)
    if batch is not None and freed is program:
        log.warning("%s: the batch has the fixed size %d, for which the program was exported", where, batch)
    model: ir.Model = _translated(freed, where).model
    clean(model)
    return model


def _translated(program: Any, where: str) -> Any:
    try:
        with quiet():
            program = with_own_decompositions(program)
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


def _fixed_batch(program: Any, where: str, other_ends: Sequence[str]) -> int | None:
    """Return the fixed size of the batch; None if it is dynamic."""
    sizes = {name: shape[0] for name, shape in input_shapes(program).items() if name not in other_ends and shape}
    fixed = {name: size for name, size in sizes.items() if isinstance(size, int)}
    if len(fixed) < len(sizes) or len(set(fixed.values())) > 1:
        name = next((name for name in fixed if len(fixed) < len(sizes) or fixed[name] != next(iter(fixed.values()))), None)
        if name is not None:
            raise ModelError(
                f"{where}: the first axis of every input must count the samples, but that of {name} has the fixed size "
                f"{fixed[name]}: name its batch axis with --batch-axis, make it a constant with --set, or export the program "
                "with two samples and dynamic_shapes=({0: torch.export.Dim('N')}, …)"
            )
    return next(iter(fixed.values()), None)


def input_shapes(program: Any) -> dict[str, list[int | str]]:
    """Return the shape of every input that is a tensor; dynamic axes have names."""
    names = {name for name in program.graph_signature.user_inputs if isinstance(name, str)}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return {node.name: [size if isinstance(size, int) else str(size) for size in node.meta["val"].shape] for node in nodes}


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
