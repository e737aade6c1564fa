"""Operators that PyTorch's exporter lacks or translates wrongly, in terms of others.

Each rule is a function of the operator's own arguments. It may decline a call, which is left to the exporter.
"""

from __future__ import annotations

import math
from typing import Any

_LONGEST_UNROLLED = 512


def with_own_decompositions(program: Any) -> Any:
    """Return an exported program without the operators that have a rule here; the program itself if it has none of them."""
    if any(_is_projected_lstm(node) for node in program.graph.nodes):
        program = program.run_decompositions()  # the exporter gives both states the size of the projection
    rules = _rules()
    return program.run_decompositions(rules) if any(node.target in rules for node in program.graph.nodes) else program


def _rules() -> dict[Any, Any]:
    import torch

    aten = torch.ops.aten
    return {
        aten.cdist.default: _cdist,
        aten._cdist_forward.default: _cdist,
        aten.median.dim: _median,
        aten.cumprod.default: _cumulative_product,
        aten.rrelu.default: _rrelu,
        aten.avg_pool2d.default: _average_pool,
        aten.embedding_bag.padding_idx: _embedding_bag,
    }


def _is_projected_lstm(node: Any) -> bool:
    """Return True if an LSTM has a projection: one more weight for each layer and direction."""
    if str(node.target) != "aten.lstm.input":
        return False
    weights, has_bias, layers, bidirectional = node.args[2], node.args[3], node.args[4], node.args[7]
    return bool(len(weights) != (4 if has_bias else 2) * layers * (2 if bidirectional else 1))


def _cdist(x: Any, y: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    differences = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs()
    if p == 2.0:
        return differences.square().sum(-1).sqrt()
    if math.isinf(p):
        return differences.amax(-1)
    if p == 0.0:
        return (differences != 0).to(x.dtype).sum(-1)
    return differences.sum(-1) if p == 1.0 else differences.pow(p).sum(-1).pow(1.0 / p)


def _median(x: Any, dim: int, keepdim: bool = False) -> Any:
    values, places = x.sort(dim)
    middle = (x.shape[dim] - 1) // 2
    results = (part.narrow(dim, middle, 1) for part in (values, places))
    return tuple(part if keepdim else part.squeeze(dim) for part in results)


def _cumulative_product(x: Any, dim: int, dtype: Any = None) -> Any:
    import torch

    if not isinstance(x.shape[dim], int) or x.shape[dim] > _LONGEST_UNROLLED:
        return NotImplemented
    products = list((x if dtype is None else x.to(dtype)).split(1, dim))
    for place in range(1, len(products)):
        products[place] = products[place - 1] * products[place]
    return torch.cat(products, dim)


def _rrelu(x: Any, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, generator: Any = None) -> Any:
    import torch

    return NotImplemented if training else torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def _average_pool(
    x: Any,
    kernel_size: list[int],
    stride: list[int] = [],  # noqa: B006  as in PyTorch's signature
    padding: list[int] = [0],  # noqa: B006
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Average with a divisor of its own, which the exporter ignores: the plain average times the size of the kernel."""
    import torch

    if divisor_override is None or ceil_mode:
        return NotImplemented
    plain = torch.ops.aten.avg_pool2d.default(x, kernel_size, stride, padding, False, True)
    height, width = (*kernel_size, *kernel_size)[:2]
    return plain * (height * width / divisor_override)


def _embedding_bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Sum, average or maximum of the rows of each bag; the last three results are only for training."""
    import torch

    if include_last_offset or (padding_idx is not None and padding_idx >= 0):
        return NotImplemented
    rows = weight.index_select(0, indices)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    bags = (torch.arange(indices.shape[0]).unsqueeze(1) >= offsets.unsqueeze(0)).sum(1) - 1
    shape = (offsets.shape[0], weight.shape[1])
    if mode == 2:
        places = bags.unsqueeze(1).expand(-1, weight.shape[1])
        result = torch.full(shape, -math.inf).scatter_reduce(0, places, rows, "amax")
        result = torch.where(result == -math.inf, torch.zeros(()), result)
    else:
        result = torch.zeros(shape).index_add(0, bags, rows)
    counts = torch.zeros(shape[0]).index_add(0, bags, torch.ones(indices.shape[0]))
    if mode == 1:
        result = result / counts.clamp(min=1).unsqueeze(1)
    return result, bags, counts.to(torch.int64), bags
