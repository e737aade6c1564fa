"""The second half of the battery of PyTorch: pooling, resampling, padding, and functions of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.torch_cases import Case, floats, integers, truths

RESAMPLING: dict[str, Case] = {
    "MaxPool1d": lambda t: (t.nn.MaxPool1d(3, stride=2, padding=1), floats(4, 11)),
    "MaxPool2d": lambda t: (t.nn.MaxPool2d(2), floats(3, 8, 8)),
    "MaxPool2d ceil_mode": lambda t: (t.nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), floats(3, 8, 8)),
    "MaxPool2d dilation": lambda t: (t.nn.MaxPool2d(2, dilation=2, stride=1), floats(3, 8, 8)),
    "MaxPool2d indices": lambda t: (t.nn.MaxPool2d(2, return_indices=True), floats(3, 8, 8)),
    "MaxPool3d": lambda t: (t.nn.MaxPool3d(2), floats(2, 4, 6, 6)),
    "MaxUnpool2d": lambda t: (
        lambda x: t.nn.functional.max_unpool2d(*t.nn.functional.max_pool2d(x, 2, return_indices=True), 2),
        floats(3, 8, 8),
    ),
    "AvgPool1d": lambda t: (t.nn.AvgPool1d(3, stride=2, padding=1), floats(4, 11)),
    "AvgPool2d": lambda t: (t.nn.AvgPool2d(3, stride=2, padding=1), floats(3, 9, 9)),
    "AvgPool2d count_include_pad": lambda t: (
        t.nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False, ceil_mode=True),
        floats(3, 8, 8),
    ),
    "AvgPool2d ceil_mode": lambda t: (t.nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), floats(3, 8, 8)),
    "AvgPool2d divisor": lambda t: (t.nn.AvgPool2d(2, divisor_override=3), floats(3, 8, 8)),
    "AdaptiveAvgPool2d": lambda t: (t.nn.AdaptiveAvgPool2d((2, 3)), floats(3, 8, 9)),
    "AdaptiveAvgPool2d global": lambda t: (t.nn.AdaptiveAvgPool2d(1), floats(3, 8, 9)),
    "AdaptiveAvgPool2d uneven": lambda t: (t.nn.AdaptiveAvgPool2d((3, 4)), floats(3, 8, 9)),
    "AdaptiveAvgPool1d": lambda t: (t.nn.AdaptiveAvgPool1d(4), floats(3, 8)),
    "AdaptiveMaxPool2d": lambda t: (t.nn.AdaptiveMaxPool2d((2, 3)), floats(3, 8, 9)),
    "AdaptiveMaxPool1d global": lambda t: (t.nn.AdaptiveMaxPool1d(1), floats(3, 8)),
    "AdaptiveMaxPool2d uneven": lambda t: (t.nn.AdaptiveMaxPool2d((3, 4)), floats(3, 8, 9)),
    "LPPool2d": lambda t: (t.nn.LPPool2d(2, 2), floats(3, 8, 8)),
    "LPPool1d": lambda t: (t.nn.LPPool1d(2, 3, stride=2), floats(3, 9)),
    "Upsample nearest": lambda t: (t.nn.Upsample(scale_factor=2), floats(3, 4, 5)),
    "Upsample nearest to a size": lambda t: (t.nn.Upsample(size=(7, 9)), floats(3, 4, 5)),
    "Upsample nearest-exact": lambda t: (t.nn.Upsample(size=(7, 9), mode="nearest-exact"), floats(3, 4, 5)),
    "Upsample nearest 1d": lambda t: (t.nn.Upsample(scale_factor=3), floats(3, 4)),
    "Upsample linear": lambda t: (t.nn.Upsample(scale_factor=2, mode="linear"), floats(3, 4)),
    "Upsample bilinear": lambda t: (t.nn.Upsample(scale_factor=2, mode="bilinear"), floats(3, 4, 5)),
    "Upsample bilinear corners": lambda t: (t.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), floats(3, 4, 5)),
    "Upsample bicubic": lambda t: (t.nn.Upsample(scale_factor=2, mode="bicubic"), floats(3, 4, 5)),
    "Upsample bicubic corners": lambda t: (t.nn.Upsample(size=(9, 7), mode="bicubic", align_corners=True), floats(3, 4, 5)),
    "Upsample trilinear": lambda t: (t.nn.Upsample(scale_factor=2, mode="trilinear"), floats(2, 3, 4, 4)),
    "interpolate to a size": lambda t: (lambda x: t.nn.functional.interpolate(x, size=(3, 7), mode="bilinear"), floats(3, 6, 5)),
    "interpolate by a scale": lambda t: (
        lambda x: t.nn.functional.interpolate(x, scale_factor=(1.5, 0.5), mode="bilinear"),
        floats(3, 6, 8),
    ),
    "interpolate by an uneven scale": lambda t: (
        lambda x: t.nn.functional.interpolate(x, scale_factor=1.3, mode="nearest"),
        floats(3, 6, 8),
    ),
    "interpolate antialias": lambda t: (
        lambda x: t.nn.functional.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
        floats(3, 8, 8),
    ),
    "interpolate area": lambda t: (lambda x: t.nn.functional.interpolate(x, size=(3, 4), mode="area"), floats(3, 6, 8)),
    "interpolate like a skip": lambda t: (
        lambda x, y: t.cat([t.nn.functional.interpolate(x, size=y.shape[-2:]), y], 1),
        floats(3, 4, 4),
        floats(2, 8, 8, seed=1),
    ),
    "PixelShuffle": lambda t: (t.nn.PixelShuffle(2), floats(8, 3, 4)),
    "PixelUnshuffle": lambda t: (t.nn.PixelUnshuffle(2), floats(2, 6, 8)),
    "grid_sample": lambda t: (
        lambda x, grid: t.nn.functional.grid_sample(x, grid.tanh(), align_corners=False),
        floats(3, 5, 6),
        floats(4, 3, 2, seed=1),
    ),
    "grid_sample nearest corners": lambda t: (
        lambda x, grid: t.nn.functional.grid_sample(x, grid.tanh(), mode="nearest", padding_mode="border", align_corners=True),
        floats(3, 5, 6),
        floats(4, 3, 2, seed=1),
    ),
    "grid_sample reflection": lambda t: (
        lambda x, grid: t.nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False),
        floats(3, 5, 6),
        floats(4, 3, 2, seed=1),
    ),
    "affine_grid": lambda t: (
        lambda x, theta: t.nn.functional.grid_sample(
            x, t.nn.functional.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False
        ),
        floats(3, 5, 6),
        floats(2, 3, seed=1) / 3,
    ),
    "pad constant": lambda t: (lambda x: t.nn.functional.pad(x, (1, 2, 0, 1), value=0.5), floats(3, 5, 6)),
    "pad reflect": lambda t: (lambda x: t.nn.functional.pad(x, (1, 2, 2, 1), mode="reflect"), floats(3, 5, 6)),
    "pad replicate": lambda t: (lambda x: t.nn.functional.pad(x, (1, 2, 2, 1), mode="replicate"), floats(3, 5, 6)),
    "pad circular": lambda t: (lambda x: t.nn.functional.pad(x, (1, 2, 2, 1), mode="circular"), floats(3, 5, 6)),
    "pad negative": lambda t: (lambda x: t.nn.functional.pad(x, (-1, 2)), floats(3, 6)),
    "ZeroPad2d": lambda t: (t.nn.ZeroPad2d((1, 2, 3, 0)), floats(3, 5, 6)),
    "ReflectionPad1d": lambda t: (t.nn.ReflectionPad1d(2), floats(3, 6)),
    "unfold": lambda t: (t.nn.Unfold(3, padding=1, stride=2), floats(3, 8, 8)),
    "fold": lambda t: (t.nn.Fold((6, 6), 2, stride=2), floats(8, 9)),
    "fold overlapping": lambda t: (t.nn.Fold((5, 5), 3, padding=1), floats(18, 25)),
    "stft": lambda t: (
        lambda x: t.stft(x, 16, hop_length=4, window=t.hann_window(16), return_complex=True).abs(),
        floats(64),
    ),
    "stft real and imaginary": lambda t: (
        lambda x: t.view_as_real(t.stft(x, 16, center=False, return_complex=True)),
        floats(64),
    ),
}

FUNCTIONS: dict[str, Case] = {
    "einsum": lambda t: (lambda x, y: t.einsum("bij,bjk->bik", x, y), floats(3, 4), floats(4, 5, seed=1)),
    "einsum heads": lambda t: (lambda x, y: t.einsum("bhid,bhjd->bhij", x, y), floats(2, 3, 4), floats(2, 5, 4, seed=1)),
    "einsum outer": lambda t: (lambda x, y: t.einsum("bi,bj->bij", x, y), floats(3), floats(4, seed=1)),
    "bmm": lambda t: (t.bmm, floats(3, 4), floats(4, 5, seed=1)),
    "matmul broadcast": lambda t: (t.matmul, floats(2, 3, 4), floats(1, 4, 5, seed=1)),
    "baddbmm": lambda t: (
        lambda x, y, z: t.baddbmm(x, y, z, beta=0.5, alpha=2),
        floats(3, 5),
        floats(3, 4, seed=1),
        floats(4, 5, seed=2),
    ),
    "outer": lambda t: (lambda x, y: x.unsqueeze(2) * y.unsqueeze(1), floats(3), floats(4, seed=1)),
    "norm": lambda t: (lambda x: x.norm(dim=-1), floats(3, 4)),
    "linalg.norm": lambda t: (lambda x: t.linalg.norm(x, ord=1, dim=-1, keepdim=True), floats(3, 4)),
    "linalg.norm inf": lambda t: (lambda x: t.linalg.vector_norm(x, ord=float("inf"), dim=1), floats(3, 4)),
    "cdist": lambda t: (t.cdist, floats(3, 4), floats(5, 4, seed=1)),
    "cdist L1": lambda t: (lambda x, y: t.cdist(x, y, p=1.0), floats(3, 4), floats(5, 4, seed=1)),
    "softmax": lambda t: (lambda x: t.softmax(x, 1), floats(3, 4)),
    "log_softmax": lambda t: (lambda x: t.log_softmax(x, -1), floats(3, 4)),
    "logsumexp": lambda t: (lambda x: t.logsumexp(x, -1), floats(3, 4)),
    "argmax": lambda t: (lambda x: t.argmax(x, 1), floats(6)),
    "argmax keepdim": lambda t: (lambda x: x.argmax(-1, keepdim=True), floats(3, 6)),
    "argmin": lambda t: (lambda x: t.argmin(x, -1), floats(3, 6)),
    "max with indices": lambda t: (lambda x: tuple(x.max(1)), floats(6, 3)),
    "min": lambda t: (lambda x: x.min(-1)[0], floats(6, 3)),
    "amax": lambda t: (lambda x: x.amax((1, 2)), floats(6, 3)),
    "topk": lambda t: (lambda x: tuple(t.topk(x, 3)), floats(8)),
    "topk smallest": lambda t: (lambda x: tuple(t.topk(x, 2, dim=1, largest=False)), floats(8, 3)),
    "sort": lambda t: (lambda x: tuple(t.sort(x, dim=1)), floats(6, 3)),
    "sort descending": lambda t: (lambda x: tuple(t.sort(x, descending=True)), floats(6)),
    "argsort": lambda t: (lambda x: t.argsort(x, dim=1, descending=True), floats(6)),
    "median": lambda t: (lambda x: x.median(1)[0], floats(5)),
    "quantile": lambda t: (lambda x: x.quantile(0.3, dim=1), floats(5)),
    "gather": lambda t: (lambda x, i: t.gather(x, 1, i), floats(6, 3), integers(6, 2, 3)),
    "index_select": lambda t: (lambda x: t.index_select(x, 1, t.tensor([3, 0, 3])), floats(6, 3)),
    "index": lambda t: (lambda x: x[:, t.tensor([2, 0]), 1:], floats(6, 3)),
    "index with two arrays": lambda t: (lambda x: x[:, t.tensor([2, 0]), t.tensor([1, 2])], floats(6, 3)),
    "index by samples": lambda t: (lambda x, i: x[t.arange(x.shape[0]), i], floats(6, 3), integers(6)),
    "scatter": lambda t: (lambda x, i, s: x.scatter(1, i, s), floats(6), _places(), floats(2, seed=1)),
    "scatter_add": lambda t: (lambda x, i, s: x.scatter_add(1, i, s), floats(6), integers(6, 8), floats(8, seed=1)),
    "scatter_reduce": lambda t: (
        lambda x, i, s: x.scatter_reduce(1, i, s, "amax"),
        floats(6),
        integers(6, 8),
        floats(8, seed=1),
    ),
    "index_add": lambda t: (lambda x, s: x.index_add(1, t.tensor([0, 2, 0]), s), floats(6), floats(3, seed=1)),
    "index_put": lambda t: (_index_put(t), floats(6, 3)),
    "slice assignment": lambda t: (_slice_assignment(t), floats(6, 4)),
    "cumsum": lambda t: (lambda x: x.cumsum(1), floats(5, 3)),
    "cumprod": lambda t: (lambda x: x.cumprod(1), floats(5, 3)),
    "cummax": lambda t: (lambda x: x.cummax(1)[0], floats(5, 3)),
    "prod": lambda t: (lambda x: x.prod(1), floats(5, 3)),
    "where": lambda t: (lambda x, y: t.where(x > y, x, y * 2), floats(5), floats(5, seed=1)),
    "masked_fill": lambda t: (lambda x, m: x.masked_fill(~m, -1e9).softmax(-1), floats(5), truths(5)),
    "masked_fill -inf": lambda t: (lambda x, m: x.masked_fill(~m, float("-inf")).softmax(-1), floats(5), truths(5)),
    "masked mean": lambda t: (lambda x, m: (x * m.unsqueeze(-1)).sum(1) / m.sum(1, keepdim=True), floats(5, 3), truths(5)),
    "roll": lambda t: (lambda x: t.roll(x, (1, -2), (1, 2)), floats(4, 5)),
    "flip": lambda t: (lambda x: x.flip(1, 2), floats(4, 5)),
    "rot90": lambda t: (lambda x: x.rot90(1, (1, 2)), floats(4, 5)),
    "tril": lambda t: (lambda x: t.tril(x, -1) + t.triu(x, 1), floats(4, 5)),
    "diagonal": lambda t: (lambda x: x.diagonal(dim1=1, dim2=2), floats(4, 4)),
    "diag_embed": lambda t: (t.diag_embed, floats(4)),
    "one_hot": lambda t: (lambda x: t.nn.functional.one_hot(x, 5).float(), integers(5, 3)),
    "repeat_interleave": lambda t: (lambda x: x.repeat_interleave(2, dim=1), floats(3, 4)),
    "repeat_interleave counts": lambda t: (lambda x: x.repeat_interleave(t.tensor([1, 3, 2]), dim=1), floats(3, 4)),
    "repeat": lambda t: (lambda x: x.repeat(1, 2, 3), floats(3, 4)),
    "tile": lambda t: (lambda x: x.tile((2, 1)), floats(3, 4)),
    "expand": lambda t: (lambda x: x.unsqueeze(1).expand(-1, 3, -1), floats(4)),
    "class token": lambda t: (_class_token(t), floats(3, 4)),
    "stack": lambda t: (lambda x, y: t.stack([x, y], 1), floats(4), floats(4, seed=1)),
    "cat and split": lambda t: (lambda x, y: t.cat([x, y], 1).split([1, 3, 4], 1), floats(4), floats(4, seed=1)),
    "chunk": lambda t: (lambda x: tuple(x.chunk(3, 1)), floats(7)),
    "unbind": lambda t: (lambda x: sum(x.unbind(1)), floats(3, 4)),
    "permute and reshape": lambda t: (lambda x: x.permute(0, 2, 1).reshape(x.shape[0], -1), floats(3, 4)),
    "view with a dynamic size": lambda t: (lambda x: x.view(x.size(0) * 3, 4).relu().view(-1, 3, 4), floats(3, 4)),
    "movedim": lambda t: (lambda x: x.movedim(1, 3), floats(2, 3, 4)),
    "std and var": lambda t: (lambda x: (x.std(1), x.var(1, unbiased=False)), floats(5, 3)),
    "mean of all axes": lambda t: (lambda x: x.mean((2, 3)), floats(3, 4, 5)),
    "clamp": lambda t: (lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0), floats(5)),
    "arithmetic": lambda t: (lambda x: x.abs().sqrt() + x.exp().log1p() - x.sin() * x.cos() / (1 + x.square()), floats(5)),
    "rounding": lambda t: (lambda x: (x * 3).floor() + (x * 2).round() + x.trunc() + x.frac() + x.sign(), floats(5)),
    "powers": lambda t: (lambda x: x.pow(3) + x.abs().pow(0.5) + 2**x + x.abs().rsqrt(), floats(5)),
    "floor division and remainder": lambda t: (
        lambda x: t.floor_divide(x, 0.7) + t.remainder(x, 0.7) + t.fmod(x, 0.7),
        floats(5),
    ),
    "integer arithmetic": lambda t: (lambda x: (x - 5) // 3 + (x - 5) % 3, integers(11, 4)),
    "special functions": lambda t: (lambda x: t.erf(x) + t.expm1(x) + t.sigmoid(x).logit() + t.atan2(x, x + 1), floats(5)),
    "logic": lambda t: (lambda x: ((x > 0) & (x < 1)) | ~(x >= -1) ^ (x == 0), floats(5)),
    "any and all": lambda t: (lambda x: ((x > 1).any(1), (x > -1).all(1)), floats(5)),
    "isnan": lambda t: (lambda x: t.nan_to_num(x.log(), 0.0, 1.0, -1.0), floats(5)),
    "lerp": lambda t: (lambda x, y: t.lerp(x, y, 0.3), floats(5), floats(5, seed=1)),
    "addcmul": lambda t: (lambda x, y: t.addcmul(x, x, y, value=0.5), floats(5), floats(5, seed=1)),
    "meshgrid": lambda t: (lambda x: x + t.stack(t.meshgrid(t.arange(3.0), t.arange(4.0), indexing="ij")).sum(0), floats(3, 4)),
    "positions": lambda t: (lambda x: x + t.arange(x.shape[1], dtype=x.dtype).unsqueeze(-1) / 7, floats(3, 4)),
    "rotary embedding": lambda t: (_rotary(t), floats(5, 8)),
    "bucketize": lambda t: (lambda x: t.bucketize(x, t.tensor([-1.0, 0.0, 1.0])), floats(5)),
    "detection head": lambda t: (_detection_head(t), floats(8, 4, 4)),
    "anchor decoding": lambda t: (_anchor_decoding(t), floats(6, 4), floats(6, 3, seed=1)),
    "distribution focal decoding": lambda t: (
        lambda x: (x.view(x.shape[0], 4, 8, 5).softmax(2) * t.arange(8.0).view(1, 1, 8, 1)).sum(2),
        floats(32, 5),
    ),
    "nonzero": lambda t: (lambda x: (x > 0).nonzero(), floats(5)),
    "masked_select": lambda t: (lambda x: x.masked_select(x > 0), floats(5)),
    "unique": lambda t: (lambda x: t.unique(x), integers(4, 6)),
    "fft": lambda t: (lambda x: t.fft.rfft(x).abs(), floats(16)),
    "det": lambda t: (t.linalg.det, floats(3, 3)),
    "inverse": lambda t: (t.linalg.inv, floats(3, 3)),
    "svd": lambda t: (lambda x: t.linalg.svd(x)[1], floats(3, 3)),
    "cross": lambda t: (lambda x, y: t.linalg.cross(x, y), floats(3), floats(3, seed=1)),
}


def _places() -> Any:
    """Return two different indices below 6 for every sample."""
    return np.stack([np.array([sample % 6, (sample + 2) % 6]) for sample in range(5)])


def _index_put(torch: Any) -> Any:
    def put(x: Any) -> Any:
        result = x.clone()
        result[:, torch.tensor([0, 2])] = 0.5
        return result

    return put


def _slice_assignment(torch: Any) -> Any:
    def assign(x: Any) -> Any:
        result = torch.zeros_like(x)
        result[:, 1:3, ::2] = x[:, 1:3, ::2]
        return result

    return assign


def _class_token(torch: Any) -> Any:
    class Token(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def __init__(self) -> None:
            super().__init__()
            self.token = torch.nn.Parameter(torch.ones(1, 1, 4))
            self.positions = torch.nn.Parameter(torch.randn(1, 4, 4))

        def forward(self, x: Any) -> Any:
            return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions

    return Token()


def _rotary(torch: Any) -> Any:
    def rotate(x: Any) -> Any:
        half = x.shape[-1] // 2
        frequencies = 1.0 / 100 ** (torch.arange(half) / half)
        angles = torch.outer(torch.arange(x.shape[1]), frequencies)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)

    return rotate


def _detection_head(torch: Any) -> Any:
    """Return a head that gives boxes and scores of every cell, as a one-stage detector does."""

    class Head(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def __init__(self) -> None:
            super().__init__()
            self.boxes, self.classes = torch.nn.Conv2d(8, 4, 1), torch.nn.Conv2d(8, 3, 1)

        def forward(self, x: Any) -> Any:
            rows, columns = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
            centres = torch.stack([columns, rows]).to(x.dtype) + 0.5
            near, far = self.boxes(x).exp().chunk(2, 1)
            boxes = torch.cat([centres - near, centres + far], 1) * 8
            return boxes.flatten(2).transpose(1, 2), self.classes(x).flatten(2).transpose(1, 2).sigmoid()

    return Head()


def _anchor_decoding(torch: Any) -> Any:
    """Return a function that decodes boxes relative to anchors, and gives the two best with their classes."""
    anchors = torch.rand(6, 4, generator=torch.Generator().manual_seed(5)) + 0.5

    def decode(offsets: Any, logits: Any) -> Any:
        centres = anchors[:, :2] + offsets[..., :2] * 0.1 * anchors[:, 2:]
        sizes = anchors[:, 2:] * (offsets[..., 2:] * 0.2).exp()
        boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
        scores, classes = logits.softmax(-1).max(-1)
        best, places = scores.topk(2)
        chosen = boxes.gather(1, places.unsqueeze(-1).expand(-1, -1, 4))
        return chosen, best, classes.gather(1, places)

    return decode
