"""Dead code of a graph: nodes, functions, operator sets and weights that no output depends on."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def remove_dead(model: ir.Model) -> str:
    """Remove everything that no output depends on, including weights; return a description of the change, or an empty string."""
    before = len(model.graph), len(model.graph.initializers)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    nodes, weights = before[0] - len(model.graph), before[1] - len(model.graph.initializers)
    return f"removed {nodes} unused nodes and {weights} unused weights" if nodes or weights else ""
