"""Which integers an input may hold: those that look rows up in a table, such as the tokens of an embedding."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_PASSING_ON = {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}


def table_rows(graph: ir.Graph) -> dict[str, int]:
    """Return, for each input whose values are row numbers of tables, the rows of the smallest of them."""
    rows = {str(value.name): list(_rows_looked_up(value)) for value in graph.inputs}
    return {name: min(found) for name, found in rows.items() if found}


def _rows_looked_up(value: ir.Value) -> Iterator[int]:
    for node, place in value.uses():
        if node.op_type in _PASSING_ON and place == 0:
            yield from _rows_looked_up(node.outputs[0])
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        table = node.inputs[0]
        if node.op_type == "Gather" and place == 1 and axis == 0 and table is not None and table.shape is not None:
            size = table.shape[0]
            if isinstance(size, int):
                yield size
