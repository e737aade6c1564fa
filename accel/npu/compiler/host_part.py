"""Extract the part of a graph that runs on the host: everything that the outputs need and the NPU does not compute.

onnx.utils.Extractor does not find the tensors that the bodies of If, Loop and Scan read, nor initializers that are graph outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
from onnx import TensorProto, helper

from accel.npu.lowering.qdq import real_inputs, tensors_read


def host_part(model: onnx.ModelProto, computed: Collection[str], name: str) -> onnx.ModelProto | None:
    """Return the graph of the remaining outputs of `model`, or None if the NPU computes all of them.

    Its inputs are the tensors in `computed` and the inputs of `model` that it reads, at least one.

    Args:
        model: the quantized graph, including its weights.
        computed: the tensors that the NPU computes.
        name: the name of the new graph.
    """
    outputs = [value for value in model.graph.output if value.name not in computed]
    if not outputs:
        return None
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    nodes, read = _needed(graph.node, [value.name for value in outputs], computed)
    given = [name for name in (*computed, *(value.name for value in real_inputs(graph))) if name in read]
    given = given or [real_inputs(graph)[0].name]  # a session needs an input with a batch axis
    produced = {result for node in nodes for result in node.output}
    part = helper.make_graph(
        nodes,
        name,
        [values.get(tensor, helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)) for tensor in given],
        outputs,
        initializer=[tensor for tensor in graph.initializer if tensor.name in read],
        value_info=[value for value in graph.value_info if value.name in produced],
        sparse_initializer=[tensor for tensor in graph.sparse_initializer if tensor.values.name in read],
    )
    return helper.make_model(
        part, opset_imports=list(model.opset_import), ir_version=model.ir_version, functions=list(model.functions)
    )


def _needed(
    nodes: Iterable[onnx.NodeProto], outputs: Iterable[str], computed: Collection[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes that `outputs` need after the tensors `computed`, in their order, and the names of all tensors read."""
    ordered = list(nodes)
    producers = {name: index for index, node in enumerate(ordered) for name in node.output if name}
    needed, read, waiting = set[int](), set[str](), list(outputs)
    while waiting:
        name = waiting.pop()
        if name in read:
            continue
        read.add(name)
        if name not in computed and name in producers and producers[name] not in needed:
            needed.add(producers[name])
            waiting += tensors_read(ordered[producers[name]])
    return [ordered[index] for index in sorted(needed)], read
