"""Replace an If with a constant condition by the branch that it always takes.

Exporters write such conditions for options that are fixed in practice, such as a sampling rate that `--set` makes a constant. As
long as the branch is a body, its layers are invisible to quantization and to accelerators.
"""

from __future__ import annotations

import onnx_ir as ir

from convert.passes.cleanup import fold_constants, lift_constants, remove_identities
from convert.passes.values import constant_of, input_of

_BRANCHES = {True: "then_branch", False: "else_branch"}


def take_constant_branches(model: ir.Model) -> str:
    """Inline the branch of every If whose condition is a constant, also of those inside of it."""
    taken = 0
    while (node := _with_constant_condition(model.graph)) is not None:
        _inline(model.graph, node, node.attributes[_BRANCHES[bool(constant_of(input_of(node, 0)).any())]].as_graph())
        taken += 1
        for run_pass in (lift_constants, remove_identities, fold_constants):
            run_pass(model)
    return f"took the branch of {taken} constant conditions" if taken else ""


def _with_constant_condition(graph: ir.Graph) -> ir.Node | None:
    conditional = (node for node in graph if node.op_type == "If" and node.domain == "")
    return next((node for node in conditional if input_of(node, 0).const_value is not None), None)


def _inline(graph: ir.Graph, node: ir.Node, branch: ir.Graph) -> None:
    """Move the nodes and weights of a branch before `node`, under names of their own, and remove `node`."""
    prefix = _free_prefix(graph, node)
    for weight in list(branch.initializers.values()):
        branch.initializers.pop(str(weight.name))
        weight.name = prefix + str(weight.name)
        graph.register_initializer(weight)
    results = list(branch.outputs)
    branch.outputs.clear()
    for inner in list(branch):
        branch.remove(inner)
        inner.name = prefix + (inner.name or "")
        for output in inner.outputs:
            output.name = prefix + (output.name or "")
        graph.insert_before(node, inner)
    for output, result in zip(node.outputs, results, strict=True):
        _give(graph, node, output, result)
    graph.remove(node, safe=True)


def _give(graph: ir.Graph, node: ir.Node, output: ir.Value, result: ir.Value) -> None:
    """Let an Identity of `result` take the place, and the name, of an output of `node`."""
    identity = ir.node("Identity", [result], name=f"{output.name}/taken")
    graph.insert_before(node, identity)
    copy = identity.outputs[0]
    copy.name, copy.type, copy.shape = output.name, output.type or result.type, output.shape or result.shape
    output.replace_all_uses_with(copy, replace_graph_outputs=True)
    output.name = f"{output.name}/replaced"


def _free_prefix(graph: ir.Graph, node: ir.Node) -> str:
    """Return a prefix that no name of the graph starts with."""
    names = {str(value.name) for inner in graph for value in inner.outputs} | {str(name) for name in graph.initializers}
    names |= {str(inner.name) for inner in graph}
    prefix = f"{node.name or node.outputs[0].name}/"
    while any(name.startswith(prefix) for name in names):
        prefix = f"{prefix}taken/"
    return prefix
