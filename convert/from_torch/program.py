"""Read programs saved by `torch.export.save`, and modules in memory.

An exported program is a graph of PyTorch's operators with a signature: tensors, and constants that were given when it was
exported, as positional arguments, by name, or in lists and dictionaries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from convert.from_torch.framework import import_torch, leaves, quiet, tensors
from convert.from_torch.onnx_export import graph_of, input_shapes
from convert.source.feed import Arrays, Runner
from edgewright.errors import ModelError, one_line

_TENSOR = object()
"""Placeholder of a tensor."""


def read_program(path: Path, *, trust: bool, other_ends: Sequence[str] = ()) -> ir.Model:
    """Return the graph of an exported program. A fixed batch becomes dynamic if possible; see `graph_of` for `other_ends`.

    Raises:
        ModelError: the program is not trusted, cannot be loaded, or has an operator without counterpart in
            ONNX.
        BadInputError: PyTorch is not installed.
    """
    return graph_of(_loaded(path, trust=trust), str(path), other_ends)


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
    shapes, batch = torch.export.ShapesCollection(), torch.export.Dim("N")
    for tensor in doubled:
        shapes[tensor] = {0: batch}
    name = type(module).__name__
    try:
        with _evaluating(module), quiet():
            program = torch.export.export(module, doubled, dynamic_shapes=shapes)
    except Exception as error:  # torch's errors have no common base class
        raise ModelError(f"{name} cannot be exported with a dynamic batch: {one_line(error)}") from error
    return graph_of(program, name)


def open_program(path: Path, *, trust: bool) -> Runner:
    """Load the program; its outputs are in the order of the graph's outputs."""
    import torch

    program = _loaded(path, trust=trust)
    module = program.module()

    def run(arrays: Arrays) -> Arrays:
        positional, named = _arguments(program, tensors(arrays))
        with torch.no_grad():
            return [leaf.numpy() for leaf in leaves(module(*positional, **named))]

    return lambda feed: feed.run(run, fixed_batch=feed.fixed_batch(list(input_shapes(program).values())))


def _arguments(program: Any, given: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call: `given` in the places that the signature names, and its constants in the others."""
    import torch

    remaining = iter(given)
    places = [next(remaining) if leaf is _TENSOR else leaf for leaf in _input_leaves(program)]
    positional, named = torch.utils._pytree.tree_unflatten(places, program.call_spec.in_spec)
    return list(positional), dict(named)


def _input_leaves(program: Any) -> list[Any]:
    """Return the placeholder of every tensor among the inputs, and the value of every constant."""
    from torch.export.graph_signature import ConstantArgument, InputKind

    arguments = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    return [argument.value if isinstance(argument, ConstantArgument) else _TENSOR for argument in arguments]


def _loaded(path: Path, *, trust: bool) -> Any:
    torch = import_torch(path, trust=trust, holds="a PyTorch program, whose weights may be pickles that run code")
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # torch's errors have no common base class
        raise ModelError(f"{path}: PyTorch cannot load this program: {one_line(error)}") from error


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
