"""Run the battery of PyTorch through the reader, one case at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from convert.passes.simplify import simplify
from tests.support.torch_cases import ACTIVATIONS, ATTENTION, LAYERS, NORMS, RECURRENT, Array, Case
from tests.support.torch_functions import FUNCTIONS, RESAMPLING

CASES: dict[str, Case] = LAYERS | NORMS | RECURRENT | ATTENTION | ACTIVATIONS | RESAMPLING | FUNCTIONS
SOON = {*NORMS, *RECURRENT, *ATTENTION, "EmbeddingBag", "AvgPool2d divisor", "cdist", "median", "repeat_interleave counts"}
"""Cases of the ordinary tests; the others take minutes."""


def module_of(name: str) -> tuple[Any, list[Array]]:
    """Return the module of a case, in evaluation mode, and its inputs."""
    import torch

    torch.manual_seed(3)
    called, *inputs = CASES[name](torch)
    return (called if isinstance(called, torch.nn.Module) else _module(torch, called)).eval(), inputs


def exported(module: Any, inputs: Sequence[Array]) -> ir.Model:
    """Return the simplified graph of a module, exported with one sample."""
    import torch

    from convert.from_torch import export_module

    graph = export_module(module, [torch.from_numpy(array[:1]) for array in inputs])
    simplify(graph)
    return graph


def outputs_of(module: Any, inputs: Sequence[Array]) -> list[Array]:
    """Return the outputs that PyTorch computes."""
    import torch

    with torch.no_grad():
        outputs = module(*map(torch.from_numpy, inputs))
    return [leaf.numpy() for leaf in torch.utils._pytree.tree_flatten(outputs)[0] if leaf is not None]


def _module(torch: Any, function: Any) -> Any:
    class Function(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def forward(self, *inputs: Any) -> Any:
            return function(*inputs)

    return Function()
