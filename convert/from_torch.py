"""Read PyTorch models: programs saved by `torch.export.save`, and modules with example inputs (`export_module`).

    torch.export     trace the module as one graph of operators with a dynamic batch
    torch.onnx       convert the operators
    clean            remove stack traces, which contain paths of the author's machine

Loading a program may unpickle weights and sample inputs, so its author must be trusted. PyTorch is not installed with
edgewright; install it with `pip install torch onnxscript`.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from convert.graph.emit import IR_VERSION, OPSET, named_shape
from convert.source.feed import Arrays, Runner
from edgewright.errors import BadInputError, ModelError, one_line


def read_torch(path: Path, *, trust: bool, other_ends: Sequence[str] = ()) -> ir.Model:
    """Return the graph of an exported program.

    Raises:
        ModelError: the program is not trusted, cannot be loaded, has a fixed batch, or has an operator without counterpart in
            ONNX.
        BadInputError: PyTorch is not installed.
    """
    program = _loaded(path, trust=trust)
    return _graph_of(program, str(path), other_ends)


def export_module(module: Any, example_inputs: Sequence[Any]) -> ir.Model:
    """Return the graph of a module, in evaluation mode, with a dynamic batch.

    Args:
        module: a `torch.nn.Module`.
        example_inputs: tensors [samples, …]; only dtypes and the axes after the first are used.

    Raises:
        ModelError: the module cannot be traced, or has an operator without counterpart in ONNX.
    """
    import torch

    # torch.export treats an axis of size 1 as constant, so the batch must have more than one sample.
    doubled = tuple(torch.cat([tensor, tensor]) for tensor in example_inputs)
    name = type(module).__name__
    try:
        with _evaluating(module), _quiet():
            program = torch.export.export(module, doubled, dynamic_shapes=tuple({0: torch.export.Dim("N")} for _ in doubled))
    except Exception as error:  # torch's errors have no common base class
        raise ModelError(f"{name} cannot be exported with a dynamic batch: {one_line(error)}") from error
    return _graph_of(program, name)


def open_torch(path: Path, *, trust: bool) -> Runner:
    """Load the program; its outputs are in the order of the graph's outputs."""
    import torch

    program = _loaded(path, trust=trust).module()

    def run(arrays: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = program(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
        leaves, _ = torch.utils._pytree.tree_flatten(outputs)
        return [leaf.numpy() for leaf in leaves]

    return lambda feed: feed.run(run)


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
    except Exception as error:  # torch's errors have no common base class
        raise ModelError(f"{path}: PyTorch cannot load this program: {one_line(error)}") from error


def _graph_of(program: Any, where: str, other_ends: Sequence[str] = ()) -> ir.Model:
    import torch

    try:
        with _quiet():
            exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    except Exception as error:  # torch's errors have no common base class
        raise ModelError(f"{where} cannot be expressed in ONNX: {one_line(error)}") from error
    model: ir.Model = exported.model
    _check_batch(model.graph, where, other_ends)
    _clean(model)
    return model


def _check_batch(graph: ir.Graph, where: str, other_ends: Sequence[str]) -> None:
    for value in graph.inputs:
        if value.name in other_ends:
            continue
        if value.shape is None or not len(value.shape) or isinstance(value.shape[0], int):
            raise ModelError(
                f"{where}: the first axis of input {value.name} must be the dynamic batch axis, but its shape is {value.shape}: "
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
    """Put every submodule into evaluation mode, and restore its mode afterwards."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warnings and log messages."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
