"""Dead code of a graph: nodes, functions, operator sets and weights that no output needs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def remove_dead(model: ir.Model) -> str:
    """Take out what no output needs, weights included."""
    before = len(model.graph), len(model.graph.initializers)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    nodes, weights = before[0] - len(model.graph), before[1] - len(model.graph.initializers)
    return f"removed {nodes} nodes and {weights} weights that nothing uses" if nodes or weights else ""
