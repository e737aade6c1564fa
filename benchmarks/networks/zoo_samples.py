"""Samples for the models of the zoo: photographs, lines of digits, sounds, tokens and rows of tables, generated from fixed seeds.

Each class describes one input and is called with the number of samples. The photographs are the two that scikit-learn ships, cut,
scaled, mirrored and darkened; the lines of text are its handwritten digits; sounds are sums of chirps with pauses.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SAMPLE_RATE = 16_000
_SEED = 20


class Recipe(Protocol):
    """Samples of one input."""

    def __call__(self, count: int) -> Array:
        """Return `count` samples; the first axis counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Photographs, or lines of handwritten digits, as float32 after (value - mean) / deviation of 0..255."""

    height: int
    width: int
    channels: int = 3
    channels_first: bool = True
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (255.0,)
    reversed_channels: bool = False
    """BGR instead of RGB."""
    text: bool = False

    def __call__(self, count: int) -> Array:
        """Return pictures as [count, channels, height, width], or with the channels last."""
        generator = np.random.default_rng(_SEED)
        one = _text_line if self.text else _photograph
        pictures = np.stack([one(self.height, self.width, generator) for _ in range(count)])
        if self.channels == 1:
            pictures = pictures.mean(axis=-1, keepdims=True)
        if self.reversed_channels:
            pictures = pictures[..., ::-1]
        pictures = (pictures - np.asarray(self.mean)) / np.asarray(self.deviation)
        if self.channels_first:
            pictures = np.moveaxis(pictures, -1, 1)
        return np.ascontiguousarray(pictures, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sounds:
    """Sums of chirps with envelopes and pauses, between -1 and 1 times `scale`."""

    length: int
    scale: float = 1.0
    axis: bool = False
    """Add an axis of size 1 at the end."""

    def __call__(self, count: int) -> Array:
        """Return float32 [count, length], or [count, length, 1]."""
        generator = np.random.default_rng(_SEED)
        sounds = np.stack([_sound(self.length, generator) for _ in range(count)]) * self.scale
        return (sounds[..., None] if self.axis else sounds).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Smooth:
    """Values that vary slowly along the axes, like energies of a spectrogram or embeddings of successive frames."""

    shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0

    def __call__(self, count: int) -> Array:
        """Return float32 [count, *shape]."""
        generator = np.random.default_rng(_SEED)
        values = generator.normal(size=(count, *self.shape))
        for axis in range(1, values.ndim):
            values = (values + np.roll(values, 1, axis) + np.roll(values, 2, axis)) / 1.7
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        scaled: Array = np.clip(middle + values * half / 3, self.low, self.high)
        return scaled.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Numbers of tokens; frequent ones are small, as in vocabularies that are sorted by frequency."""

    shape: tuple[int, ...]
    vocabulary: int
    first: int = 0
    dtype: str = "int64"
    padding: int | None = None
    """The number after the end of a text; None fills every position."""

    def __call__(self, count: int) -> Array:
        """Return integers [count, *shape]."""
        generator = np.random.default_rng(_SEED)
        size = (count, *self.shape)
        spread = self.vocabulary - self.first
        tokens = self.first + np.minimum(spread * generator.random(size) ** 2, spread - 1).astype(np.int64)
        if self.padding is not None:
            tokens = np.where(_within(size, generator), tokens, self.padding)
        return tokens.astype(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """The mask of `Tokens` of the same shape with a padding: 1 within the text, 0 after its end."""

    shape: tuple[int, ...]

    def __call__(self, count: int) -> Array:
        """Return int64 [count, *shape]."""
        generator = np.random.default_rng(_SEED)
        size = (count, *self.shape)
        generator.random(size)  # the numbers that Tokens draws before
        return _within(size, generator).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of a table: each column has its own scale, and some values are zero."""

    columns: int
    scale: float = 1.0
    positive: bool = False
    sparse: float = 0.1

    def __call__(self, count: int) -> Array:
        """Return float32 [count, columns]."""
        generator = np.random.default_rng(_SEED)
        values = generator.normal(size=(count, self.columns)) * generator.uniform(0.2, 1.0, self.columns) * self.scale
        values = np.abs(values) if self.positive else values
        return np.where(generator.random(values.shape) < self.sparse, 0.0, values).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """One of a few letters per position, as one-hot vectors (DNA, proteins)."""

    length: int
    letters: int

    def __call__(self, count: int) -> Array:
        """Return float32 [count, length, letters]."""
        picked = np.random.default_rng(_SEED).integers(0, self.letters, (count, self.length))
        return np.eye(self.letters, dtype=np.float32)[picked]


def _within(size: tuple[int, ...], generator: np.random.Generator) -> Array:
    lengths = generator.integers(size[-1] // 3, size[-1] + 1, (*size[:-1], 1))
    inside: Array = np.arange(size[-1]) < lengths
    return inside


@functools.cache
def _photographs() -> tuple[Array, ...]:
    from sklearn.datasets import load_sample_images

    return tuple(np.asarray(image, np.float64) for image in load_sample_images().images)


@functools.cache
def _digits() -> Array:
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().images, np.float64)


def _photograph(height: int, width: int, generator: np.random.Generator) -> Array:
    """Return a random part of a photograph, [height, width, 3] in 0..255."""
    photographs = _photographs()
    whole = photographs[generator.integers(len(photographs))]
    side = int(generator.integers(120, 420))
    top, left = (int(generator.integers(0, size - side + 1)) for size in whole.shape[:2])
    part = resized(whole[top : top + side, left : left + side], height, width) * generator.uniform(0.6, 1.0)
    return part[:, ::-1] if generator.random() < 0.5 else part


def _text_line(height: int, width: int, generator: np.random.Generator) -> Array:
    """Return dark handwritten digits on bright paper, [height, width, 3] in 0..255."""
    digits = _digits()
    paper = generator.uniform(190, 250) + generator.normal(0, 3, (height, width))
    size = max(8, int(min(height, width) * generator.uniform(0.5, 0.9)))
    for top in range((height - size) // 2 % size, height - size + 1, size):
        for left in range(int(generator.integers(0, max(1, size // 2))), width - size + 1, size):
            ink = resized(digits[generator.integers(len(digits)), :, :, None], size, size)[..., 0] / 16
            paper[top : top + size, left : left + size] *= 1 - 0.85 * ink
    return np.repeat(np.clip(paper, 0, 255)[..., None], 3, axis=-1)


def resized(picture: Array, height: int, width: int) -> Array:
    """Return [height, width, channels] by bilinear interpolation."""
    places = [np.linspace(0, before - 1, after) for before, after in zip(picture.shape[:2], (height, width), strict=True)]
    low = [np.floor(place).astype(int) for place in places]
    high = [np.minimum(below + 1, size - 1) for below, size in zip(low, picture.shape[:2], strict=True)]
    down, right = (places[0] - low[0])[:, None, None], (places[1] - low[1])[None, :, None]
    top = picture[low[0]][:, low[1]] * (1 - right) + picture[low[0]][:, high[1]] * right
    bottom = picture[high[0]][:, low[1]] * (1 - right) + picture[high[0]][:, high[1]] * right
    result: Array = top * (1 - down) + bottom * down
    return result


def _sound(length: int, generator: np.random.Generator) -> Array:
    seconds = np.arange(length) / SAMPLE_RATE
    base = generator.uniform(90, 400) * (1 + generator.uniform(-0.3, 0.3) * seconds)
    phase = 2 * np.pi * np.cumsum(base) / SAMPLE_RATE
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 8))
    envelope = np.clip(np.sin(2 * np.pi * generator.uniform(2, 5) * seconds + generator.uniform(0, 6)), 0, 1)
    sound: Array = generator.uniform(0.1, 0.4) * voice * envelope + generator.normal(0, 0.005, length)
    return np.clip(sound, -1, 1)
