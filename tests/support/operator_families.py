"""The operators with the most attributes, and the values that are tried (see operator_attributes.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.operator_attributes import Family
from tests.support.operator_vectors import Array


def _floats(*values: float) -> Array:
    return np.array(values, np.float32)


def _integers(*values: int) -> Array:
    return np.array(values, np.int64)


def _weights(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


_GRID = np.random.default_rng(0).uniform(-1.3, 1.3, (2, 3, 4, 2)).astype(np.float32)
_IMAGE = (2, 3, 5, 4)
_POOL: dict[str, Sequence[Any]] = {
    "kernel_shape": [[2, 2], [3, 2]],
    "strides": [None, [2, 2], [1, 3]],
    "pads": [None, [1, 0, 1, 1], [0, 1, 0, 0]],
    "auto_pad": [None, "SAME_UPPER", "SAME_LOWER", "VALID"],
    "ceil_mode": [None, 0, 1],
    "dilations": [None, [1, 1], [2, 1]],
}
FAMILIES = [
    Family(
        operator="Upsample",
        shape=_IMAGE,
        opsets=range(7, 10),
        attributes={
            "mode": [None, "nearest", "linear"],
            "scales": [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.5, 3.0], [1.0, 1.0, 1.0, 1.3], [1.0, 2.0, 2.0, 1.0]],
        },
    ),
    Family(
        operator="Upsample",
        shape=_IMAGE,
        opsets=range(9, 10),
        attributes={"mode": [None, "nearest", "linear"]},
        constants={"scales": [_floats(1, 1, 2, 2), _floats(1, 1, 1.5, 3), _floats(1, 1, 1, 1.3), _floats(1, 2, 2, 1)]},
    ),
    Family(
        operator="Resize",
        shape=_IMAGE,
        opsets=range(10, 11),
        attributes={"mode": [None, "nearest", "linear"]},
        constants={
            "scales": [
                _floats(1, 1, 2, 2),
                _floats(1, 1, 1.5, 3),
                _floats(1, 1, 0.5, 0.4),
                _floats(1, 1, 0.6, 1.7),
                _floats(1, 2, 1, 1),
                _floats(1, 1, 0.3, 1),
            ]
        },
    ),
    Family(
        operator="Resize",
        shape=_IMAGE,
        opsets=range(11, 25),
        attributes={
            "mode": [None, "nearest", "linear", "cubic"],
            "coordinate_transformation_mode": [
                None,
                "half_pixel",
                "asymmetric",
                "align_corners",
                "pytorch_half_pixel",
                "tf_half_pixel_for_nn",
                "half_pixel_symmetric",
            ],
            "nearest_mode": [None, "floor", "ceil", "round_prefer_ceil"],
            "cubic_coeff_a": [None, -0.5],
            "exclude_outside": [None, 1],
            "antialias": [None, 1],
        },
        constants={
            "roi": [_floats()],
            "scales": [_floats(1, 1, 2, 2), _floats(1, 1, 0.5, 0.6), _floats(1, 1, 1.5, 0.7), _floats()],
            "sizes": [
                None,
                _integers(2, 3, 7, 3),
            ],
        },
    ),
    Family(
        operator="Resize",
        shape=_IMAGE,
        opsets=range(11, 25),
        attributes={
            "mode": ["linear"],
            "coordinate_transformation_mode": ["tf_crop_and_resize"],
            "extrapolation_value": [None, 3.0],
        },
        constants={"roi": [_floats(0, 0, 0.1, 0.2, 1, 1, 0.9, 0.7)], "scales": [_floats(1, 1, 2, 2), _floats(1, 1, 0.5, 0.6)]},
    ),
    Family(
        operator="Pad",
        shape=_IMAGE,
        opsets=range(7, 11),
        attributes={
            "mode": [None, "constant", "reflect", "edge"],
            "pads": [[0, 0, 1, 2, 0, 0, 2, 1], [0, 0, -1, 0, 0, 0, 1, -1], [1, 0, 0, 0, 0, 1, 0, 0], [0] * 8],
            "value": [None, 1.5],
        },
    ),
    Family(
        operator="Pad",
        shape=_IMAGE,
        opsets=range(11, 25),
        attributes={"mode": [None, "constant", "reflect", "edge", "wrap"]},
        constants={
            "pads": [_integers(0, 0, 1, 2, 0, 0, 2, 1), _integers(0, 0, -1, 0, 0, 0, 1, -1), _integers(1, 0, 0, 0, 0, 1, 0, 0)],
            "value": [None, np.float32(1.5)],
        },
    ),
    Family(
        operator="Slice",
        shape=_IMAGE,
        opsets=range(7, 10),
        attributes={
            "starts": [[1, 0], [-3, 1], [0, -2]],
            "ends": [[3, 2], [9999, -1], [-1, 3]],
            "axes": [None, [2, 3], [-1, -2], [1, 2]],
        },
    ),
    Family(
        operator="Slice",
        shape=_IMAGE,
        opsets=range(10, 25),
        constants={
            "starts": [_integers(1, 0), _integers(-3, 1), _integers(0, -2)],
            "ends": [_integers(3, 2), _integers(9999, -9999), _integers(-1, 3)],
            "axes": [None, _integers(2, 3), _integers(-1, -2), _integers(1, 2)],
            "steps": [None, _integers(1, 1), _integers(2, -1), _integers(-1, 2)],
        },
    ),
    Family(operator="AveragePool", shape=_IMAGE, attributes=_POOL | {"count_include_pad": [None, 1]}),
    Family(operator="MaxPool", shape=_IMAGE, attributes=_POOL | {"storage_order": [None, 0]}),
    Family(operator="MaxPool", shape=_IMAGE, attributes=_POOL | {"storage_order": [None, 0, 1]}, outputs=2),
    Family(operator="LpPool", shape=_IMAGE, attributes=_POOL | {"p": [None, 1, 3]}),
    Family(
        operator="AveragePool",
        shape=(2, 3, 9),
        attributes={
            "kernel_shape": [[3]],
            "strides": [None, [2], [4]],
            "pads": [None, [1, 1], [0, 2]],
            "ceil_mode": [None, 1],
            "count_include_pad": [None, 1],
            "auto_pad": [None, "SAME_UPPER", "SAME_LOWER"],
        },
    ),
    Family(operator="GlobalLpPool", shape=_IMAGE, attributes={"p": [None, 1, 2, 3]}),
    Family(
        operator="Conv",
        shape=_IMAGE,
        attributes={
            "group": [None, 1, 3],
            "strides": [None, [2, 1]],
            "pads": [None, [1, 0, 1, 1]],
            "auto_pad": [None, "SAME_UPPER", "SAME_LOWER", "VALID"],
            "dilations": [None, [2, 1]],
        },
        constants={"w": [_weights(6, 3, 2, 3), _weights(6, 1, 2, 3)], "b": [None, np.arange(6, dtype=np.float32)]},
    ),
    Family(
        operator="ConvTranspose",
        shape=_IMAGE,
        attributes={
            "group": [None, 3],
            "strides": [None, [2, 1], [3, 3]],
            "pads": [None, [1, 0, 1, 1]],
            "auto_pad": [None, "SAME_UPPER", "SAME_LOWER", "VALID"],
            "dilations": [None, [2, 1]],
            "output_padding": [None, [1, 0]],
            "output_shape": [None, [10, 8]],
        },
        constants={"w": [_weights(3, 2, 3, 2)], "b": [None]},
    ),
    *(
        Family(operator=o, shape=(2, 3, 4), attributes={"axis": [None, 0, 1, 2, -1, -2]})
        for o in ("Softmax", "LogSoftmax", "Hardmax")
    ),
    Family(
        operator="BatchNormalization",
        shape=_IMAGE,
        opsets=range(7, 25),
        attributes={"epsilon": [None, 1e-2], "momentum": [None, 0.5], "spatial": [None, 1], "training_mode": [None, 0]},
        constants={"s": [_floats(1, 2, -1)], "b": [_floats(0, 1, 2)], "m": [_floats(0.1, 0, -0.4)], "v": [_floats(1, 0.5, 2)]},
    ),
    Family(
        operator="InstanceNormalization",
        shape=_IMAGE,
        attributes={"epsilon": [None, 1e-2]},
        constants={"s": [_floats(1, 2, -1)], "b": [_floats(0, 1, 2)]},
    ),
    Family(
        operator="LayerNormalization",
        shape=_IMAGE,
        attributes={"axis": [None, -1, 3], "epsilon": [None, 0.1]},
        constants={"s": [_floats(1, 2, -1, 0.5)], "b": [None, _floats(0, 1, 2, 3)]},
    ),
    Family(
        operator="GroupNormalization",
        shape=(2, 4, 5),
        attributes={"num_groups": [2, 4], "epsilon": [None, 0.1]},
        constants={"s": [_floats(1, 2), _floats(1, 2, 3, 4)], "b": [_floats(0, 1), _floats(0, 1, 2, 3)]},
    ),
    *(
        Family(operator=o, shape=_IMAGE, attributes={"axes": [None, [1], [-1], [1, 2], [0, 3]], "keepdims": [None, 0, 1]})
        for o in (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        )
    ),
    *(
        Family(
            operator=o,
            shape=_IMAGE,
            attributes={"keepdims": [None, 0, 1], "noop_with_empty_axes": [None, 0, 1]},
            constants={"axes": [None, _integers(1), _integers(-1), _integers(1, 2), _integers()]},
        )
        for o in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSum")
    ),
    *(
        Family(
            operator=o,
            shape=_IMAGE,
            attributes={"axis": [None, 0, 1, -1], "keepdims": [None, 0, 1], "select_last_index": [None, 0, 1]},
        )
        for o in ("ArgMax", "ArgMin")
    ),
    Family(operator="TopK", shape=(2, 3, 7), opsets=range(7, 10), attributes={"k": [1, 3], "axis": [None, 1, 2]}, outputs=2),
    Family(
        operator="TopK",
        shape=(2, 3, 7),
        opsets=range(10, 25),
        attributes={"axis": [None, 1, -1], "largest": [None, 0, 1], "sorted": [None, 1]},
        constants={"k": [_integers(1), _integers(3)]},
        outputs=2,
    ),
    Family(operator="Clip", shape=_IMAGE, opsets=range(7, 11), attributes={"min": [None, -0.5], "max": [None, 0.5]}),
    Family(
        operator="Clip",
        shape=_IMAGE,
        opsets=range(11, 25),
        constants={"min": [None, np.float32(-0.5)], "max": [None, np.float32(0.5)]},
    ),
    Family(
        operator="GridSample",
        shape=(2, 3, 5, 4),
        opsets=range(16, 20),
        attributes={
            "mode": [None, "bilinear", "nearest", "bicubic"],
            "padding_mode": [None, "zeros", "border", "reflection"],
            "align_corners": [None, 0, 1],
        },
        constants={"grid": [_GRID]},
    ),
    Family(
        operator="GridSample",
        shape=(2, 3, 5, 4),
        opsets=range(20, 25),
        attributes={
            "mode": [None, "linear", "nearest", "cubic"],
            "padding_mode": [None, "zeros", "border", "reflection"],
            "align_corners": [None, 0, 1],
        },
        constants={"grid": [_GRID]},
    ),
    Family(
        operator="Gemm",
        shape=(4, 5),
        attributes={"alpha": [None, 0.5], "beta": [None, 2.0], "transA": [None, 0], "transB": [None, 1]},
        constants={
            "w": [np.ones((5, 3), np.float32) * 0.3, np.ones((3, 5), np.float32) * 0.7],
            "c": [_floats(1, 2, 3), np.ones((1, 3), np.float32), np.float32(2), None],
        },
    ),
    Family(
        operator="Split",
        shape=(2, 6, 3),
        opsets=range(7, 13),
        attributes={"axis": [None, 1, -1], "split": [None, [2, 4], [1, 1]]},
        outputs=2,
    ),
    Family(
        operator="Split",
        shape=(2, 6, 3),
        opsets=range(13, 25),
        attributes={"axis": [None, 1, -2], "num_outputs": [None, 2]},
        constants={"split": [None, _integers(2, 4), _integers(1, 1)]},
        outputs=2,
    ),
    Family(operator="Split", shape=(2, 7, 3), opsets=range(18, 25), attributes={"axis": [1], "num_outputs": [2]}, outputs=2),
    Family(operator="Squeeze", shape=(2, 1, 3, 1), opsets=range(7, 13), attributes={"axes": [None, [1], [-1], [1, 3]]}),
    Family(
        operator="Squeeze",
        shape=(2, 1, 3, 1),
        opsets=range(13, 25),
        constants={"axes": [None, _integers(1), _integers(-1), _integers(1, 3)]},
    ),
    Family(operator="Unsqueeze", shape=(2, 3), opsets=range(7, 13), attributes={"axes": [[1], [-1], [0, 3]]}),
    Family(
        operator="Unsqueeze",
        shape=(2, 3),
        opsets=range(13, 25),
        constants={"axes": [_integers(1), _integers(-1), _integers(0, 3)]},
    ),
    Family(operator="Flatten", shape=_IMAGE, attributes={"axis": [None, 0, 1, 2, 4, -1]}),
    Family(operator="DepthToSpace", shape=(2, 8, 3, 2), attributes={"blocksize": [2], "mode": [None, "DCR", "CRD"]}),
    Family(operator="SpaceToDepth", shape=(2, 2, 4, 6), attributes={"blocksize": [2]}),
    Family(
        operator="LRN",
        shape=(2, 5, 3, 3),
        attributes={"size": [3, 5], "alpha": [None, 0.1], "beta": [None, 0.5], "bias": [None, 2.0]},
    ),
    Family(operator="MeanVarianceNormalization", shape=_IMAGE, attributes={"axes": [None, [0, 2, 3], [2, 3]]}),
    Family(operator="Dropout", shape=(2, 3), opsets=range(7, 12), attributes={"ratio": [None, 0.3]}),
    Family(
        operator="Dropout",
        shape=(2, 3),
        opsets=range(12, 25),
        attributes={"seed": [None, 3]},
        constants={"ratio": [None, np.float32(0.3)], "training": [None, np.array(False)]},
    ),
    Family(
        operator="Gather",
        shape=(4, 5, 3),
        attributes={"axis": [None, 1, -1]},
        constants={"i": [_integers(0, 2), _integers(-1, 1), np.array([[0, 1], [2, 0]], np.int64)]},
    ),
    Family(operator="Elu", shape=(3, 4), attributes={"alpha": [None, 0.3]}),
    Family(operator="Selu", shape=(3, 4), attributes={"alpha": [None, 0.3], "gamma": [None, 2.0]}),
    Family(operator="LeakyRelu", shape=(3, 4), attributes={"alpha": [None, 0.3]}),
    Family(operator="HardSigmoid", shape=(3, 4), attributes={"alpha": [None, 0.3], "beta": [None, 0.1]}),
    Family(operator="ThresholdedRelu", shape=(3, 4), attributes={"alpha": [None, 0.3]}),
    Family(operator="Celu", shape=(3, 4), attributes={"alpha": [None, 0.3]}),
    Family(operator="Shrink", shape=(3, 4), attributes={"lambd": [None, 0.3], "bias": [None, 0.2]}),
    Family(operator="Gelu", shape=(3, 4), attributes={"approximate": [None, "none", "tanh"]}),
    Family(
        operator="CumSum",
        shape=(3, 4),
        attributes={"exclusive": [None, 1], "reverse": [None, 1]},
        constants={"axis": [np.int64(0), np.int64(1), np.int32(-1)]},
    ),
    Family(operator="Transpose", shape=(3, 4, 2), attributes={"perm": [None, [0, 2, 1], [2, 1, 0]]}),
    Family(operator="LpNormalization", shape=(3, 4, 2), attributes={"axis": [None, 0, 1], "p": [None, 1, 2]}),
    Family(
        operator="Trilu",
        shape=(2, 4, 4),
        attributes={"upper": [None, 0, 1]},
        constants={"k": [None, np.int64(1), np.int64(-1)]},
    ),
    Family(operator="PRelu", shape=_IMAGE, constants={"slope": [_floats(0.1), np.ones((3, 1, 1), np.float32) * 0.2]}),
    Family(operator="Einsum", shape=(2, 3, 4), attributes={"equation": ["ijk->ikj", "ijk->ij", "i...->..."]}),
    Family(operator="Cast", shape=(2, 3), attributes={"to": [1, 6, 7, 9, 10, 11]}),
    Family(
        operator="OneHot",
        shape=(2, 3),
        attributes={"axis": [None, 0, 1, -2]},
        constants={"d": [np.int64(4)], "v": [_floats(0, 1), _floats(-1, 2)]},
    ),
    Family(operator="Expand", shape=(2, 1, 3), constants={"s": [_integers(2, 4, 3), _integers(1, 1, 1), _integers(4, 3)]}),
    Family(operator="Tile", shape=(2, 1, 3), constants={"s": [_integers(1, 4, 2), _integers(2, 1, 1)]}),
    Family(
        operator="ScatterElements",
        shape=(3, 4),
        attributes={"axis": [None, 1, -1], "reduction": [None, "none", "add", "mul", "max", "min"]},
        constants={"i": [np.array([[0, 1], [2, 0]], np.int64)], "u": [np.ones((2, 2), np.float32)]},
    ),
    Family(
        operator="ScatterND",
        shape=(3, 4),
        attributes={"reduction": [None, "none", "add", "mul", "max", "min"]},
        constants={"i": [np.array([[0], [2]], np.int64)], "u": [np.ones((2, 4), np.float32)]},
    ),
    Family(operator="Concat", shape=(2, 3), attributes={"axis": [0, 1, -1]}, constants={"o": [np.ones((2, 3), np.float32)]}),
]
