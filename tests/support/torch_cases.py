"""Modules and functions of PyTorch with small inputs: the battery that runs through the conversion and every scheme.

A case is a function of the module `torch` that returns a module, or a function of tensors, and its inputs [samples, …]. PyTorch
is imported by the test, because an installation without it can still collect the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Case = Callable[[Any], tuple[Any, ...]]

SAMPLES = 5


def floats(*shape: int, seed: int = 0) -> Array:
    """Return normally distributed samples of a shape."""
    return np.random.default_rng(seed).normal(size=(SAMPLES, *shape)).astype(np.float32)


def integers(below: int, *shape: int, seed: int = 0) -> Array:
    """Return samples of integers from 0."""
    return np.random.default_rng(seed).integers(0, below, (SAMPLES, *shape))


def truths(*shape: int, seed: int = 0) -> Array:
    """Return samples of truth values; the first along the last axis is true, so that a mask leaves something."""
    mask = np.random.default_rng(seed).random((SAMPLES, *shape)) < 0.6
    mask[..., 0] = True
    return mask


def _part(torch: Any, module: Any, pick: Callable[..., Any]) -> Any:
    """Return a module that calls `pick` with a module that it holds and its inputs."""

    class Part(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def __init__(self) -> None:
            super().__init__()
            self.held = module

        def forward(self, *inputs: Any) -> Any:
            return pick(self.held, *inputs)

    return Part()


LAYERS: dict[str, Case] = {
    "Linear": lambda t: (t.nn.Linear(6, 4), floats(6)),
    "Linear of a sequence": lambda t: (t.nn.Linear(6, 4, bias=False), floats(3, 6)),
    "Bilinear": lambda t: (t.nn.Bilinear(4, 5, 3), floats(4), floats(5, seed=1)),
    "Conv1d": lambda t: (t.nn.Conv1d(4, 6, 3, stride=2, padding=1), floats(4, 16)),
    "Conv1d groups dilation": lambda t: (t.nn.Conv1d(4, 8, 3, groups=2, dilation=2), floats(4, 16)),
    "Conv1d same": lambda t: (t.nn.Conv1d(4, 8, 4, padding="same"), floats(4, 15)),
    "Conv2d": lambda t: (t.nn.Conv2d(3, 8, 3, stride=2, padding=1), floats(3, 9, 9)),
    "Conv2d depthwise": lambda t: (t.nn.Conv2d(8, 8, 3, groups=8, padding=(1, 2)), floats(8, 9, 9)),
    "Conv2d dilation same": lambda t: (t.nn.Conv2d(3, 8, 3, dilation=2, padding="same"), floats(3, 9, 9)),
    "Conv2d reflect": lambda t: (t.nn.Conv2d(3, 8, 3, padding=2, padding_mode="reflect"), floats(3, 9, 9)),
    "Conv2d circular": lambda t: (t.nn.Conv2d(3, 8, 3, padding=2, padding_mode="circular"), floats(3, 9, 9)),
    "Conv2d replicate": lambda t: (t.nn.Conv2d(3, 8, 3, padding=(1, 2), padding_mode="replicate"), floats(3, 9, 9)),
    "Conv3d": lambda t: (t.nn.Conv3d(2, 4, 3, padding=1, stride=(1, 2, 2)), floats(2, 5, 6, 6)),
    "ConvTranspose1d": lambda t: (t.nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), floats(4, 8)),
    "ConvTranspose2d": lambda t: (t.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), floats(4, 6, 6)),
    "ConvTranspose2d groups": lambda t: (t.nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), floats(4, 6, 6)),
    "ConvTranspose3d": lambda t: (t.nn.ConvTranspose3d(2, 3, 2, stride=2), floats(2, 3, 4, 4)),
    "Embedding": lambda t: (t.nn.Embedding(11, 6, padding_idx=0), integers(11, 7)),
    "EmbeddingBag": lambda t: (t.nn.EmbeddingBag(11, 6, mode="mean"), integers(11, 7)),
    "EmbeddingBag sum": lambda t: (t.nn.EmbeddingBag(11, 6, mode="sum"), integers(11, 7)),
    "EmbeddingBag max": lambda t: (t.nn.EmbeddingBag(11, 6, mode="max"), integers(11, 7)),
    "Flatten": lambda t: (t.nn.Sequential(t.nn.Conv2d(3, 4, 3), t.nn.Flatten(), t.nn.Linear(100, 3)), floats(3, 7, 7)),
    "Unflatten": lambda t: (t.nn.Unflatten(1, (2, 3)), floats(6, 4)),
    "Dropout": lambda t: (t.nn.Sequential(t.nn.Dropout(0.5), t.nn.Dropout2d(0.5), t.nn.AlphaDropout(0.5)), floats(3, 5, 5)),
    "weight_norm": lambda t: (t.nn.utils.parametrizations.weight_norm(t.nn.Linear(6, 4)), floats(6)),
    "spectral_norm": lambda t: (t.nn.utils.parametrizations.spectral_norm(t.nn.Linear(6, 4)), floats(6)),
    "ChannelShuffle": lambda t: (t.nn.ChannelShuffle(2), floats(6, 4, 4)),
    "CosineSimilarity": lambda t: (t.nn.CosineSimilarity(dim=1), floats(6), floats(6, seed=1)),
    "PairwiseDistance": lambda t: (t.nn.PairwiseDistance(), floats(6), floats(6, seed=1)),
}

NORMS: dict[str, Case] = {
    "BatchNorm1d": lambda t: (_warm(t, t.nn.BatchNorm1d(6)), floats(6)),
    "BatchNorm1d of a sequence": lambda t: (_warm(t, t.nn.BatchNorm1d(6)), floats(6, 8)),
    "BatchNorm2d": lambda t: (_warm(t, t.nn.Sequential(t.nn.Conv2d(3, 6, 3), t.nn.BatchNorm2d(6))), floats(3, 7, 7)),
    "BatchNorm2d without statistics": lambda t: (t.nn.BatchNorm2d(3, track_running_stats=False), floats(3, 7, 7)),
    "BatchNorm2d not affine": lambda t: (_warm(t, t.nn.BatchNorm2d(3, affine=False)), floats(3, 7, 7)),
    "BatchNorm3d": lambda t: (_warm(t, t.nn.BatchNorm3d(2)), floats(2, 3, 4, 4)),
    "LayerNorm": lambda t: (_warm(t, t.nn.LayerNorm(6)), floats(5, 6)),
    "LayerNorm 2 axes": lambda t: (_warm(t, t.nn.LayerNorm([5, 6])), floats(5, 6)),
    "LayerNorm 3 axes": lambda t: (_warm(t, t.nn.LayerNorm([3, 5, 6])), floats(3, 5, 6)),
    "LayerNorm without weights": lambda t: (t.nn.LayerNorm(6, elementwise_affine=False), floats(5, 6)),
    "LayerNorm without bias": lambda t: (_warm(t, t.nn.LayerNorm(6, bias=False)), floats(5, 6)),
    "GroupNorm": lambda t: (_warm(t, t.nn.GroupNorm(3, 6)), floats(6, 5, 5)),
    "GroupNorm of a sequence": lambda t: (_warm(t, t.nn.GroupNorm(2, 6)), floats(6, 5)),
    "InstanceNorm1d": lambda t: (_warm(t, t.nn.InstanceNorm1d(4, affine=True)), floats(4, 9)),
    "InstanceNorm2d": lambda t: (t.nn.InstanceNorm2d(4), floats(4, 5, 5)),
    "InstanceNorm2d statistics": lambda t: (
        _warm(t, t.nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        floats(4, 5, 5),
    ),
    "RMSNorm": lambda t: (_warm(t, t.nn.RMSNorm(6)), floats(5, 6)),
    "RMSNorm 2 axes": lambda t: (_warm(t, t.nn.RMSNorm([5, 6], eps=1e-5)), floats(5, 6)),
    "LocalResponseNorm": lambda t: (t.nn.LocalResponseNorm(3, alpha=0.5, k=2.0), floats(6, 5, 5)),
    "normalize": lambda t: (lambda x: t.nn.functional.normalize(x, dim=1), floats(6, 5)),
    "normalize L1": lambda t: (lambda x: t.nn.functional.normalize(x, p=1.0, dim=-1), floats(6, 5)),
}


def _warm(torch: Any, module: Any) -> Any:
    """Give a module random weights and statistics: initial ones, ones and zeros, hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype.is_floating_point:
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    return module


def _first(torch: Any, module: Any) -> Any:
    """Return a module that gives the first result of another one."""
    return _part(torch, module, lambda held, *inputs: held(*inputs)[0])


def _all_results(torch: Any, module: Any) -> Any:
    """Return a module that gives the results of a recurrent layer with the batch first."""

    def call(held: Any, *inputs: Any) -> Any:
        outputs, state = held(*inputs)
        states = state if isinstance(state, tuple) else (state,)
        return (outputs, *(tensor.transpose(0, 1) for tensor in states))

    return _part(torch, module, call)


def _time_major(torch: Any, module: Any) -> Any:
    return _part(torch, module, lambda held, x: held(x.transpose(0, 1))[0].transpose(0, 1))


def _from_state(torch: Any, module: Any, *, states: int) -> Any:
    """Return a recurrent layer that gets its first state [samples, layers, units] as further inputs."""

    def call(held: Any, x: Any, *given: Any) -> Any:
        turned = [state.transpose(0, 1).contiguous() for state in given]
        return held(x, turned[0] if states == 1 else tuple(turned))[0]

    return _part(torch, module, call)


RECURRENT: dict[str, Case] = {
    "RNN": lambda t: (_all_results(t, t.nn.RNN(4, 6, batch_first=True)), floats(7, 4)),
    "RNN relu": lambda t: (_first(t, t.nn.RNN(4, 6, nonlinearity="relu", batch_first=True, bidirectional=True)), floats(7, 4)),
    "LSTM": lambda t: (_all_results(t, t.nn.LSTM(4, 6, batch_first=True)), floats(7, 4)),
    "LSTM bidirectional layers": lambda t: (
        _all_results(t, t.nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)),
        floats(7, 4),
    ),
    "LSTM without bias": lambda t: (_first(t, t.nn.LSTM(4, 6, bias=False, batch_first=True)), floats(7, 4)),
    "LSTM projection": lambda t: (_all_results(t, t.nn.LSTM(4, 6, proj_size=3, batch_first=True)), floats(7, 4)),
    "LSTM time-major inside": lambda t: (_time_major(t, t.nn.LSTM(4, 6, num_layers=2)), floats(7, 4)),
    "LSTM from a state": lambda t: (
        _from_state(t, t.nn.LSTM(4, 6, batch_first=True), states=2),
        floats(7, 4),
        floats(1, 6, seed=1),
        floats(1, 6, seed=2),
    ),
    "GRU": lambda t: (_all_results(t, t.nn.GRU(4, 6, batch_first=True)), floats(7, 4)),
    "GRU bidirectional layers": lambda t: (
        _all_results(t, t.nn.GRU(4, 6, num_layers=2, bidirectional=True, batch_first=True)),
        floats(7, 4),
    ),
    "GRU time-major inside": lambda t: (_time_major(t, t.nn.GRU(4, 6)), floats(7, 4)),
    "GRU from a state": lambda t: (
        _from_state(t, t.nn.GRU(4, 6, batch_first=True), states=1),
        floats(7, 4),
        floats(1, 6, seed=1),
    ),
    "LSTMCell": lambda t: (
        _part(t, t.nn.LSTMCell(4, 6), lambda held, x, h, c: held(x, (h, c))),
        floats(4),
        floats(6, seed=1),
        floats(6, seed=2),
    ),
    "GRUCell": lambda t: (t.nn.GRUCell(4, 6), floats(4), floats(6, seed=1)),
    "RNNCell": lambda t: (t.nn.RNNCell(4, 6), floats(4), floats(6, seed=1)),
}


def _self_attention(torch: Any, **settings: Any) -> Any:
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    return _part(torch, layer, lambda held, x: held(x, x, x, **settings)[0])


def _causal_mask(torch: Any, size: int) -> Any:
    return torch.triu(torch.ones(size, size, dtype=torch.bool), diagonal=1)


def _endless_mask(torch: Any, size: int) -> Any:
    return torch.nn.Transformer.generate_square_subsequent_mask(size)


def _dot_product(torch: Any, *shape: int, **settings: Any) -> tuple[Any, ...]:
    attention = torch.nn.functional.scaled_dot_product_attention
    return (lambda q, k, v: attention(q, k, v, **settings)), *(floats(*shape, seed=seed) for seed in range(3))


def _masked_dot_product(torch: Any, mask: Array, *shape: int) -> tuple[Any, ...]:
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention, *(floats(*shape, seed=seed) for seed in range(3)), mask


def _encoder(torch: Any, **settings: Any) -> Any:
    return torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **settings)


ATTENTION: dict[str, Case] = {
    "attention": lambda t: _dot_product(t, 2, 6, 4),
    "attention causal": lambda t: _dot_product(t, 2, 6, 4, is_causal=True),
    "attention causal without heads": lambda t: _dot_product(t, 6, 4, is_causal=True),
    "attention without heads": lambda t: _dot_product(t, 6, 4),
    "attention of 5 axes": lambda t: _dot_product(t, 2, 3, 6, 4, is_causal=True),
    "attention scale": lambda t: _dot_product(t, 2, 6, 4, scale=0.3),
    "attention constant boolean mask": lambda t: _dot_product(t, 2, 6, 4, attn_mask=~_causal_mask(t, 6)),
    "attention constant boolean mask without heads": lambda t: _dot_product(t, 6, 4, attn_mask=~_causal_mask(t, 6)),
    "attention constant -inf mask": lambda t: _dot_product(t, 2, 6, 4, attn_mask=_endless_mask(t, 6)),
    "attention constant -inf mask without heads": lambda t: _dot_product(t, 6, 4, attn_mask=_endless_mask(t, 6)),
    "attention boolean mask": lambda t: _masked_dot_product(t, truths(1, 6, 6), 2, 6, 4),
    "attention boolean mask without heads": lambda t: _masked_dot_product(t, truths(6, 6), 6, 4),
    "attention float mask": lambda t: _masked_dot_product(t, floats(1, 6, 6, seed=4), 2, 6, 4),
    "attention float mask without heads": lambda t: _masked_dot_product(t, floats(6, 6, seed=4), 6, 4),
    "attention grouped queries": lambda t: (
        lambda q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        floats(4, 6, 4),
        floats(2, 6, 4, seed=1),
        floats(2, 6, 4, seed=2),
    ),
    "attention written out with a causal -inf mask": lambda t: (
        lambda q, k: ((q @ k.transpose(1, 2)).masked_fill(_causal_mask(t, 6), float("-inf"))).softmax(-1) @ k,
        floats(6, 4),
        floats(6, 4, seed=1),
    ),
    "MultiheadAttention": lambda t: (_self_attention(t, need_weights=False), floats(6, 8)),
    "MultiheadAttention weights": lambda t: (
        _part(t, t.nn.MultiheadAttention(8, 2, batch_first=True), lambda held, x: held(x, x, x)),
        floats(6, 8),
    ),
    "MultiheadAttention without weights": lambda t: (
        _part(t, t.nn.MultiheadAttention(8, 2, batch_first=True), lambda held, x: held(x, x, x, need_weights=False)),
        floats(6, 8),
    ),
    "MultiheadAttention boolean mask": lambda t: (_self_attention(t, attn_mask=_causal_mask(t, 6)), floats(6, 8)),
    "MultiheadAttention -inf mask": lambda t: (
        _self_attention(t, attn_mask=_endless_mask(t, 6), need_weights=False),
        floats(6, 8),
    ),
    "MultiheadAttention causal": lambda t: (
        _self_attention(t, attn_mask=_endless_mask(t, 6), is_causal=True, need_weights=False),
        floats(6, 8),
    ),
    "MultiheadAttention key_padding_mask": lambda t: (
        _part(t, t.nn.MultiheadAttention(8, 2, batch_first=True), lambda held, x, mask: held(x, x, x, key_padding_mask=~mask)[0]),
        floats(6, 8),
        truths(6),
    ),
    "MultiheadAttention cross": lambda t: (
        _part(t, t.nn.MultiheadAttention(8, 2, kdim=5, vdim=4, batch_first=True), lambda held, q, k, v: held(q, k, v)[0]),
        floats(6, 8),
        floats(3, 5, seed=1),
        floats(3, 4, seed=2),
    ),
    "MultiheadAttention time-major inside": lambda t: (
        _part(
            t,
            t.nn.MultiheadAttention(8, 2),
            lambda held, x: held(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1),
        ),
        floats(6, 8),
    ),
    "TransformerEncoderLayer": lambda t: (_encoder(t), floats(6, 8)),
    "TransformerEncoderLayer norm first": lambda t: (_encoder(t, norm_first=True, activation="gelu"), floats(6, 8)),
    "TransformerEncoderLayer padding mask": lambda t: (
        _part(t, _encoder(t), lambda held, x, mask: held(x, src_key_padding_mask=~mask)),
        floats(6, 8),
        truths(6),
    ),
    "TransformerEncoder causal": lambda t: (
        _part(
            t,
            t.nn.TransformerEncoder(_encoder(t), 2, enable_nested_tensor=False),
            lambda held, x: held(x, mask=_endless_mask(t, 6), is_causal=True),
        ),
        floats(6, 8),
    ),
    "TransformerDecoderLayer": lambda t: (
        _part(
            t,
            t.nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
            lambda held, x, memory: held(x, memory, tgt_mask=_endless_mask(t, 6)),
        ),
        floats(6, 8),
        floats(4, 8, seed=1),
    ),
    "Transformer": lambda t: (t.nn.Transformer(8, 2, 1, 1, 16, batch_first=True), floats(6, 8), floats(5, 8, seed=1)),
}

ACTIVATIONS: dict[str, Case] = {
    name: (lambda t, name=name, settings=settings: (getattr(t.nn, name)(**settings), floats(6, 5) * 3))  # type: ignore[misc]
    for name, settings in {
        "CELU": {"alpha": 0.7},
        "ELU": {"alpha": 0.7},
        "GELU": {},
        "GLU": {"dim": 1},
        "Hardshrink": {},
        "Hardsigmoid": {},
        "Hardswish": {},
        "Hardtanh": {"min_val": -0.5, "max_val": 2.0},
        "LeakyReLU": {"negative_slope": 0.2},
        "LogSigmoid": {},
        "LogSoftmax": {"dim": 1},
        "Mish": {},
        "PReLU": {"num_parameters": 6},
        "RReLU": {},
        "ReLU": {},
        "ReLU6": {},
        "SELU": {},
        "SiLU": {},
        "Sigmoid": {},
        "Softmax": {"dim": -1},
        "Softmin": {"dim": 1},
        "Softplus": {"beta": 2.0, "threshold": 3.0},
        "Softshrink": {},
        "Softsign": {},
        "Tanh": {},
        "Tanhshrink": {},
        "Threshold": {"threshold": 0.5, "value": -2.0},
    }.items()
}
ACTIVATIONS["GELU tanh"] = lambda t: (t.nn.GELU(approximate="tanh"), floats(6, 5) * 3)
ACTIVATIONS["Softmax2d"] = lambda t: (t.nn.Softmax2d(), floats(4, 5, 5))
