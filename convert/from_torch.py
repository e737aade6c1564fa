"""Read PyTorch: a program saved by `torch.export.save`, or a module with example inputs through `export_module`.

    torch.export     the module as one graph of operators, its batch left free
    torch.onnx       the operators of ONNX
    cleaned          no stack traces, so no paths of the author's machine travel with the model

Loading a program may unpickle weights and sample inputs, so it is done only when its author is trusted. PyTorch is not installed
with edgewright: `pip install torch onnxscript` beside it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.graph.emit import IR_VERSION, OPSET, named_shape
from edgewright.errors import BadInputError, ModelError, one_line

Arrays = list[npt.NDArray[Any]]


def read_torch(path: Path, *, trust: bool) -> ir.Model:
    """Return the graph of an exported program.

    Raises:
        ModelError: it is not trusted, cannot be loaded, has a fixed batch, or an operator in it has no counterpart in ONNX.
    """
    program = _loaded(path, trust=trust)
    return _graph_of(program, str(path))


def export_module(module: Any, example_inputs: Sequence[Any]) -> ir.Model:
    """Return the graph of a module, in evaluation mode, with a free batch.

    The example inputs are tensors whose first axis counts samples; only their other axes and their types matter.

    Raises:
        ModelError: the module cannot be traced, or an operator in it has no counterpart in ONNX.
    """
    import torch

    # torch.export takes sizes of 1 for constants of the model, so there must be more than one sample.
    doubled = tuple(torch.cat([tensor, tensor]) for tensor in example_inputs)
    name = type(module).__name__
    try:
        with _evaluating(module), _quiet():
            program = torch.export.export(module, doubled, dynamic_shapes=tuple({0: torch.export.Dim("N")} for _ in doubled))
    except Exception as wrong:  # torch's errors share no base
        raise ModelError(f"{name} cannot be exported with a free batch: {one_line(wrong)}") from wrong
    return _graph_of(program, name)


def torch_outputs(path: Path, inputs: Arrays, *, trust: bool, batch_size: int) -> Arrays:
    """Return what PyTorch itself says, in the order of the graph's outputs."""
    import torch

    program = _loaded(path, trust=trust).module()
    parts = []
    with torch.no_grad():
        for start in range(0, len(inputs[0]), batch_size):
            found = program(*(torch.from_numpy(array[start : start + batch_size]) for array in inputs))
            leaves, _ = torch.utils._pytree.tree_flatten(found)
            parts.append([leaf.numpy() for leaf in leaves])
    return [np.concatenate(of_one_output) for of_one_output in zip(*parts, strict=True)]


def _loaded(path: Path, *, trust: bool) -> Any:
    if not trust:
        raise ModelError(
            f"{path} is a PyTorch program, whose weights may be pickles that run code: add --trust if you made it, "
            "or export the model to ONNX yourself and convert that"
        )
    try:
        import torch
    except ModuleNotFoundError as missing:
        raise BadInputError(f"{path} needs PyTorch, which is not installed. Run: pip install torch onnxscript") from missing
    try:
        with _quiet():
            return torch.export.load(path)
    except Exception as wrong:  # torch's errors share no base
        raise ModelError(f"{path}: PyTorch cannot load this program: {one_line(wrong)}") from wrong


def _graph_of(program: Any, where: str) -> ir.Model:
    import torch

    try:
        with _quiet():
            exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    except Exception as wrong:  # torch's errors share no base
        raise ModelError(f"{where} cannot be expressed in ONNX: {one_line(wrong)}") from wrong
    model: ir.Model = exported.model
    _check_batch(model.graph, where)
    _clean(model)
    return model


def _check_batch(graph: ir.Graph, where: str) -> None:
    for value in graph.inputs:
        if value.shape is None or not len(value.shape) or isinstance(value.shape[0], int):
            raise ModelError(
                f"{where}: the first axis of input {value.name} must count samples and be free, but its shape is {value.shape}: "
                "export it with two samples and dynamic_shapes=({0: torch.export.Dim('N')},)"
            )


def _clean(model: ir.Model) -> None:
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
        value.shape = named_shape(str(value.name), tuple(size if isinstance(size, int) else None for size in sizes))


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Put every part into evaluation mode, and back into its own afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch tells about itself from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
