"""The passes that make a graph smaller and plainer, in the order in which they run.

Each takes a model, changes it in place, and returns what it did in a few words, or nothing when it found nothing to do. What
`onnx_ir` has is used from there; ours are those that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnx_ir as ir
from onnx_ir.passes import common

from convert.passes.layout import flatten_in_channel_order, fold_weights, reduce_without_transpose
from convert.passes.scale import fold_scales
from edgewright.graphs.dead_code import remove_dead
from edgewright.graphs.lazy_weights import LazyWeight

Pass = Callable[[ir.Model], str]

_FOLDED_ELEMENTS = 1 << 16
_NEVER_FOLDED = {"QuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"}


def inline_functions(model: ir.Model) -> str:
    """Replace calls of model-local functions by their bodies."""
    return "inlined functions" if model.functions and common.InlinePass()(model).modified else ""


def lift_constants(model: ir.Model) -> str:
    """Turn Constant nodes into initializers."""
    lifted = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).modified
    inputs = common.RemoveInitializersFromInputsPass()(model).modified
    return "lifted constants" if lifted or inputs else ""


def remove_identities(model: ir.Model) -> str:
    """Take out nodes that change nothing: Identity, and Dropout at inference."""
    removed = 0
    for node in list(model.graph):
        if (node.op_type == "Dropout" and _drops_nothing(node)) or (node.op_type == "Identity" and _passes_on(node)):
            _replace(model.graph, node, _input(node, 0))
            removed += 1
    return f"removed {removed} nodes that change nothing" if removed else ""


def fold_constants(model: ir.Model) -> str:
    """Compute small nodes whose inputs are all known."""
    folded = 0
    for node in list(model.graph):
        if not _is_foldable(node):
            continue
        results = _evaluated(node, model)
        for output, numbers in zip(node.outputs, results, strict=True):
            constant = ir.Value(name=f"{output.name}/folded", const_value=ir.tensor(numbers, name=f"{output.name}/folded"))
            model.graph.register_initializer(constant)
            output.replace_all_uses_with(constant)
        model.graph.remove(node, safe=True)
        folded += 1
    return f"computed {folded} constant nodes" if folded else ""


def merge_transposes(model: ir.Model) -> str:
    """Make one Transpose of two in a row, and none where they cancel."""
    merged = 0
    for node in list(model.graph):
        before = _input(node, 0).producer() if node.op_type == "Transpose" else None
        if before is None or before.op_type != "Transpose":
            continue
        first, second = before.attributes["perm"].as_ints(), node.attributes["perm"].as_ints()
        together = [first[axis] for axis in second]
        if together == sorted(together) and _can_replace(node.outputs[0], _input(before, 0)):
            _replace(model.graph, node, _input(before, 0))
        else:
            node.replace_input_with(0, _input(before, 0))
            node.attributes["perm"] = ir.AttrInt64s("perm", together)
        merged += 1
    return f"merged {merged} pairs of Transpose" if merged else ""


def fold_padding(model: ir.Model) -> str:
    """Let a convolution pad for itself where a Pad of zeros comes right before it."""
    folded = 0
    for node in list(model.graph):
        before = _input(node, 0).producer() if node.op_type == "Conv" else None
        if before is None or before.op_type != "Pad" or not _pads_space_with_zeros(before):
            continue
        if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() != "NOTSET":
            continue
        rank = len(_constant(before.inputs[1])) // 2
        extra = _constant(before.inputs[1]).tolist()
        space = extra[2:rank] + extra[rank + 2 :]
        own = node.attributes["pads"].as_ints() if "pads" in node.attributes else [0] * len(space)
        node.attributes["pads"] = ir.AttrInt64s("pads", [mine + more for mine, more in zip(own, space, strict=True)])
        node.replace_input_with(0, before.inputs[0])
        folded += 1
    return f"folded {folded} Pad nodes into convolutions" if folded else ""


def fold_batch_norm(model: ir.Model) -> str:
    """Multiply a batch normalization into the weights of the convolution or matrix product right before it."""
    folded = 0
    for node in list(model.graph):
        before = _input(node, 0).producer() if node.op_type == "BatchNormalization" else None
        if before is None or not _absorbs_scale(before) or len(before.outputs[0].uses()) != 1:
            continue
        if before.outputs[0].is_graph_output() or any(_lazy(value) is None for value in node.inputs[1:]):
            continue
        _absorb(model.graph, before, node)
        folded += 1
    return f"folded {folded} batch normalizations" if folded else ""


def name_everything(model: ir.Model) -> str:
    """Give every node and value a name of its own: quantization selects by name, and an empty name selects everything."""
    for number, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{number}"
    return "gave names" if common.NameFixPass()(model).modified else ""


def infer_shapes(model: ir.Model) -> str:
    """Write the shape of every value into the graph, for quantization and accelerators."""
    return "inferred shapes" if common.ShapeInferencePass(strict_mode=False)(model).modified else ""


def sort_nodes(model: ir.Model) -> str:
    """Put producers before consumers."""
    return "sorted nodes" if common.TopologicalSortPass()(model).modified else ""


PASSES: tuple[Pass, ...] = (
    inline_functions,
    sort_nodes,
    lift_constants,
    remove_identities,
    fold_weights,
    fold_constants,
    merge_transposes,
    reduce_without_transpose,
    flatten_in_channel_order,
    fold_padding,
    fold_batch_norm,
    fold_scales,
    remove_dead,
    name_everything,
    infer_shapes,
)


def _input(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    if value is None:
        raise AssertionError(f"{node.name} lacks input {place}")
    return value


def _passes_on(node: ir.Node) -> bool:
    return node.domain == "" and _can_replace(node.outputs[0], _input(node, 0))


def _drops_nothing(node: ir.Node) -> bool:
    """Tell whether a Dropout only passes its input on, to inner values: it does not train, and nobody reads its mask."""
    if any(output.is_graph_output() for output in node.outputs) or any(output.uses() for output in node.outputs[1:]):
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    return training is None or (training.const_value is not None and not _constant(training).any())


def _can_replace(old: ir.Value, new: ir.Value) -> bool:
    """Tell whether `new` may take the place of `old`: an output of the graph needs a value that a node makes for it alone."""
    return not old.is_graph_output() or not (new.producer() is None or new.is_graph_output())


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    if node.outputs[0].is_graph_output():
        _take_over_output(graph, node.outputs[0], value)
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)


def _constant(value: ir.Value | None) -> npt.NDArray[Any]:
    if value is None or value.const_value is None:
        raise AssertionError("not a constant")
    return np.asarray(value.const_value.numpy())


def _is_foldable(node: ir.Node) -> bool:
    if node.op_type in _NEVER_FOLDED or node.domain not in ("", "ai.onnx") or not node.inputs:
        return False
    if any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()):
        return False
    if any(output.is_graph_output() for output in node.outputs):
        return False
    tensors = [value.const_value if value is not None else None for value in node.inputs]
    given = [tensor for value, tensor in zip(node.inputs, tensors, strict=True) if value is not None]
    return all(tensor is not None and tensor.size <= _FOLDED_ELEMENTS for tensor in given)


def _evaluated(node: ir.Node, model: ir.Model) -> list[npt.NDArray[Any]]:
    named = [(f"input_{place}", value) for place, value in enumerate(node.inputs) if value is not None]
    proto = onnx.NodeProto()
    proto.CopyFrom(ir.to_proto(node))
    proto.input[:] = [f"input_{place}" if value is not None else "" for place, value in enumerate(node.inputs)]
    proto.output[:] = [f"output_{place}" for place in range(len(node.outputs))]
    opset = onnx.helper.make_opsetid("", model.opset_imports.get("", 1))
    evaluator = onnx.reference.ReferenceEvaluator(
        onnx.helper.make_model(
            onnx.helper.make_graph(
                [proto],
                "constant",
                [onnx.helper.make_value_info(name, onnx.TypeProto()) for name, _ in named],
                [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in proto.output],
            ),
            opset_imports=[opset],
        )
    )
    results = evaluator.run(None, {name: _constant(value) for name, value in named})
    return [np.asarray(result) for result in results]


def _pads_space_with_zeros(node: ir.Node) -> bool:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    if mode != "constant" or len(node.inputs) > 3 or node.inputs[1] is None or node.inputs[1].const_value is None:
        return False
    if len(node.inputs) == 3 and node.inputs[2] is not None:
        value = node.inputs[2].const_value
        if value is None or np.any(value.numpy()):
            return False
    pads = _constant(node.inputs[1])
    rank = len(pads) // 2
    return bool((pads >= 0).all() and not pads[:2].any() and not pads[rank : rank + 2].any())


def _lazy(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None else value.const_value


def _absorbs_scale(node: ir.Node) -> bool:
    if len(node.inputs) < 2 or any(_lazy(value) is None for value in node.inputs[1:]):
        return False
    if node.op_type == "Gemm":
        plain = ("alpha", "beta")
        return all(node.attributes[name].as_float() == 1 for name in plain if name in node.attributes) and not (
            "transA" in node.attributes and node.attributes["transA"].as_int()
        )
    return str(node.op_type) == "Conv"


def _absorb(graph: ir.Graph, node: ir.Node, norm: ir.Node) -> None:
    """Give `node` new weights that also do what `norm` does; they are computed when they are written."""
    kernel, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    gamma, beta, mean, variance = norm.inputs[1:5]
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    columns = node.op_type == "Gemm" and not ("transB" in node.attributes and node.attributes["transB"].as_int())
    shape = _lazy(kernel).shape.numpy()  # type: ignore[union-attr]

    def factor() -> npt.NDArray[np.float64]:
        return _constant(gamma) / np.sqrt(_constant(variance).astype(np.float64) + epsilon)

    def scaled_kernel() -> npt.NDArray[np.float32]:
        along = (1, -1) if columns else (-1,) + (1,) * (len(shape) - 1)
        return np.asarray(_constant(kernel) * factor().reshape(along).astype(np.float32), np.float32)

    def shifted_bias() -> npt.NDArray[np.float32]:
        before = 0.0 if bias is None else _constant(bias).astype(np.float64)
        return np.asarray(_constant(beta) + (before - _constant(mean)) * factor(), np.float32)

    size = shape[1] if columns else shape[0]
    weights = (LazyWeight(f"{node.name}/kernel", shape, scaled_kernel), LazyWeight(f"{node.name}/bias", (size,), shifted_bias))
    values = [ir.Value(name=w.name, shape=w.shape, type=ir.TensorType(w.dtype), const_value=w) for w in weights]
    for value in values:
        graph.register_initializer(value)
    absorbed = ir.Node("", node.op_type, [node.inputs[0], *values], tuple(node.attributes.values()), name=node.name)
    graph.insert_before(node, absorbed)
    absorbed.outputs[0].name = f"{node.name}/normalized"
    output = norm.outputs[0]
    if output.is_graph_output():
        _take_over_output(graph, output, absorbed.outputs[0])
    output.replace_all_uses_with(absorbed.outputs[0])
    graph.remove([norm, node], safe=True)


def _take_over_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name = None
    graph.outputs[list(graph.outputs).index(old)] = new
