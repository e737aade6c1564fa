"""Make a bad version: shift the classes of every head, as a mistake on a build machine would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from edgewright.contracts.variant import LayerKind


def spoil_heads(build: Path) -> None:
    """Shift every variant's head by one class, as a label table that starts at 1 does: it runs, but its labels are wrong."""
    for variant in (build / "variants").iterdir():
        graph = onnx.load(str(variant / LayerKind.GRAPH.file_name), load_external_data=False).graph
        path = variant / LayerKind.HEAD_WEIGHTS.file_name
        raw = bytearray(path.read_bytes())
        for weights in graph.initializer:
            location = {entry.key: entry.value for entry in weights.external_data}
            if location.get("location") == path.name and len(weights.dims) == 2:
                shift_classes(raw, weights, int(location.get("offset", 0)))
        path.unlink()  # it may be a hard link to the graph's own file, which must not change
        path.write_bytes(raw)


def shift_classes(raw: bytearray, weights: onnx.TensorProto, offset: int) -> None:
    """Roll the matrix at `offset` of `raw` by one along its shorter axis, which counts the classes."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(weights.data_type)
    matrix = np.frombuffer(raw, dtype, int(np.prod(weights.dims)), offset).reshape(weights.dims)
    shifted = np.roll(matrix, 1, axis=int(np.argmin(weights.dims))).tobytes()
    raw[offset : offset + len(shifted)] = shifted
