"""Common modules and functions of PyTorch compute the same in ONNX; the expected outputs are PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest

from edgewright.errors import ModelError
from tests.support.convert_networks import run_graph
from tests.support.torch_battery import CASES, SOON, exported, module_of, outputs_of
from tests.support.torch_cases import Array

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own warnings

REFUSED = {
    "AdaptiveMaxPool2d uneven": "operator aten.adaptive_max_pool2d has no counterpart there",
    "cummax": "operator aten.cummax has no counterpart there",
    "masked_select": "operator aten.masked_select has no counterpart there",
    "inverse": "operator aten.linalg_inv_ex has no counterpart there",
    "svd": "operator aten._linalg_svd has no counterpart there",
}


def same(actual: Array, expected: Array) -> bool:
    """Compare floats by their largest difference over the largest expected value, and everything else exactly."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype or expected.dtype.kind != "f":
        return np.array_equal(actual, expected) and actual.dtype == expected.dtype
    return bool(np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOON else pytest.mark.slow) for name in CASES if name not in REFUSED]
)
def test_a_module_computes_the_same_in_onnx_for_a_batch_and_for_one_sample(name: str) -> None:
    module, inputs = module_of(name)
    graph = exported(module, inputs)
    batch, single = inputs, [array[1:2] for array in inputs]
    assert list(map(same, run_graph(graph, *batch), outputs_of(module, batch))) == [True] * len(graph.graph.outputs)
    assert list(map(same, run_graph(graph, *single), outputs_of(module, single))) == [True] * len(graph.graph.outputs)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "svd" else pytest.mark.slow) for name in REFUSED])
def test_an_operator_that_onnx_lacks_is_named(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        exported(*module_of(name))
    assert str(caught.value).endswith(f" cannot be expressed in ONNX: {REFUSED[name]}")
