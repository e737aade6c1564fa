"""Make the batch of a program dynamic that was exported with a fixed one, most often with one example.

    adapt     run the program on two batches at once; where a size was fixed, put one in that follows the input
    verify    compare with the program's own outputs, batch by batch and sample by sample
    export    the adapted program with a dynamic batch

Sizes are fixed in reshapes and expansions, in constants that are joined with samples (a class token), and in the first states of
recurrent layers. A program for which this fails keeps its batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from convert.from_torch.framework import leaves, quiet
from edgewright.errors import one_line

log = logging.getLogger(__name__)

_VIEWS = ("view.default", "reshape.default", "_unsafe_view.default", "view_copy.default")
_RECURRENT = ("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
_STATE_BATCH_AXIS = 1


def with_free_batch(program: Any, batch: int) -> Any:
    """Return the program with a dynamic batch, or the program itself if its batch cannot be made dynamic.

    Args:
        program: a `torch.export.ExportedProgram` whose arguments are tensors [batch, …].
        batch: the fixed size.
    """
    try:
        with quiet():
            return _freed(program, batch)
    except Exception as error:  # noqa: BLE001  torch's errors have no common base class
        log.info("the batch stays fixed reason=%r", one_line(error))
        return program


def _freed(program: Any, batch: int) -> Any:
    import torch

    unlifted = program.module(check_guards=False)
    module = torch.fx.GraphModule(unlifted, unlifted.graph)  # without the check of the inputs' sizes
    tensors = _inputs(module, 2 * batch)
    with torch.no_grad():
        _adapted(torch, module, tensors, batch)
        module.graph.lint()
        module.recompile()
        _verify(torch, program, module, batch)
    shapes, free = torch.export.ShapesCollection(), torch.export.Dim("N")
    for tensor in tensors:
        shapes[tensor] = {0: free}
    return torch.export.export(module, tuple(tensors), dynamic_shapes=shapes)


def _inputs(module: Any, rows: int) -> list[Any]:
    """Return random inputs with `rows` on the first axis, for the placeholders of a module."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            shape, dtype = (rows, *node.meta["val"].shape[1:]), node.meta["val"].dtype
            tensor = torch.randn(shape, generator=generator) if dtype.is_floating_point else torch.ones(shape)
            inputs.append(tensor.to(dtype))
    return inputs


def _verify(torch: Any, program: Any, module: Any, batch: int) -> None:
    """Compare three batches at once with the program's own outputs, and three samples with those in the batches."""
    original = program.module()
    inputs = _inputs(module, 3 * batch)
    joined = leaves(module(*inputs))
    blocks = [leaves(original(*(tensor[start : start + batch] for tensor in inputs))) for start in range(0, 3 * batch, batch)]
    few = leaves(module(*(tensor[:3] for tensor in inputs)))
    for place, output in enumerate(joined):
        torch.testing.assert_close(output, torch.cat([block[place] for block in blocks]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(few[place], output[:3], rtol=1e-4, atol=1e-5)


@dataclass(slots=True)
class _Run:
    """State of the run of a module on more samples than it was exported with."""

    batch: int
    """The size that it was exported with."""
    values: dict[Any, Any]
    """The results of its nodes."""
    offsets: dict[Any, int] = field(default_factory=dict)
    """Product of the sizes outside of the batch in the axis that holds it, where it is not 1: [time * batch, …] has the time."""

    def grown_axis(self, node: Any) -> int | None:
        """Return the first axis on which a tensor is larger than when it was exported."""
        value = self.values.get(node)
        if value is None or not hasattr(value, "shape"):
            return None
        pairs = zip(value.shape, node.meta["val"].shape, strict=False)
        return next((axis for axis, (now, before) in enumerate(pairs) if now != before), None)

    def offset(self, node: Any) -> int:
        """Return the product of the sizes outside of the batch in the axis that holds it."""
        return self.offsets.get(node, 1)


def _adapted(torch: Any, module: Any, inputs: Sequence[Any], batch: int) -> None:
    """Change the graph of a module, while it runs, so that it takes the inputs."""

    class Adapting(torch.fx.Interpreter):  # type: ignore[misc]  # torch is not installed for the type check
        def run_node(self, node: Any) -> Any:
            if node.op == "call_function":
                run.offsets[node] = next((run.offset(part) for part in node.all_input_nodes if part in run.offsets), 1)
                _adapt(torch, node, run)
            return super().run_node(node)

    run = _Run(batch, {})
    Adapting(module, garbage_collect_values=False).run(*inputs, initial_env=run.values)


def _adapt(torch: Any, node: Any, run: _Run) -> None:
    """Change the arguments of a node whose inputs have other sizes than those it was exported with."""
    operator = str(node.target).removeprefix("aten.")
    if operator in _VIEWS:
        _adapt_view(node, run)
    elif operator == "expand.default":
        _adapt_expansion(node, run)
    elif operator == "cat.default":
        like = next((part for part in node.args[0] if run.grown_axis(part) is not None), None)
        if like is not None:
            axis = run.grown_axis(like)
            node.update_arg(0, [_expanded(torch, node, (part, axis), (like, axis), run) for part in node.args[0]])
    elif operator in _RECURRENT and (axis := run.grown_axis(node.args[0])) is not None:
        several = isinstance(node.args[1], list | tuple)
        states = node.args[1] if several else [node.args[1]]
        grown = [_expanded(torch, node, (state, _STATE_BATCH_AXIS), (node.args[0], axis), run) for state in states]
        node.update_arg(1, grown if several else grown[0])
        if any(run.values[state].shape[_STATE_BATCH_AXIS] != run.values[node.args[0]].shape[axis] for state in grown):
            raise ValueError(f"the first state of {operator} has a fixed batch")  # PyTorch would write past its end


def _adapt_view(node: Any, run: _Run) -> None:
    axis = run.grown_axis(node.args[0])
    if axis is None:
        return
    before, after = ([int(size) for size in part.meta["val"].shape] for part in (node.args[0], node))
    outside = math.prod(before[:axis]) * run.offset(node.args[0])
    place = _place_after_view(outside, axis, after, run.batch)
    run.offsets[node] = outside // math.prod(after[:place])
    node.update_arg(1, [-1 if other == place else size for other, size in enumerate(after)])


def _place_after_view(outside: int, axis: int, after: Sequence[int], batch: int) -> int:
    """Return the axis of a reshaped tensor that holds the batch.

    A batch of 1 may be part of several axes: it is the axis that has its size, preferably at its own place; else not the last
    axis, which holds features, if there is another; else the innermost.

    Args:
        outside: the product of the sizes outside of the batch.
        axis: the batch's axis before.
        after: the sizes afterwards.
        batch: the size of the batch.
    """
    starts = [math.prod(after[:place]) for place in range(len(after) + 1)]
    holding = [place for place in range(len(after)) if starts[place] <= outside and outside * batch <= starts[place + 1]]
    own = [place for place in holding if after[place] == batch and starts[place] == outside]
    if own:
        return axis if axis in own else own[0]
    return next((place for place in reversed(holding) if place < len(after) - 1), holding[-1])


def _adapt_expansion(node: Any, run: _Run) -> None:
    axis = run.grown_axis(node.args[0])
    if axis is not None:
        sizes = list(node.args[1])
        sizes[axis + len(sizes) - run.values[node.args[0]].dim()] = -1
        node.update_arg(1, sizes)


def _expanded(torch: Any, node: Any, part: tuple[Any, Any], like: tuple[Any, Any], run: _Run) -> Any:
    """Return a node for a tensor whose axis gets the size of another tensor's axis; the tensor itself if it has that size."""
    (tensor, axis), (other, other_axis) = part, like
    count, value = run.values[other].shape[other_axis], run.values[tensor]
    if value.shape[axis] == count or value.shape[axis] != 1:
        return tensor
    graph, aten = node.graph, torch.ops.aten
    with graph.inserting_before(node):
        size = graph.call_function(aten.sym_size.int, (other, other_axis))
        sizes = [size if place == axis else -1 for place in range(value.dim())]
        result = graph.call_function(aten.clone.default, (graph.call_function(aten.expand.default, (tensor, sizes)),))
    run.values[result] = value.expand([count if place == axis else -1 for place in range(value.dim())]).clone()
    return result
