"""The NPU's intermediate representation: two kinds of layer with a common output stage.

A `ConvolutionLayer` or a `PoolingLayer` computes accumulators, and its `OutputStage` converts them to int8. A fully connected
layer is a convolution whose kernel is the whole plane. A copy, also one with an addition, is a pooling over one pixel.
lower.py creates layers from ONNX; they refer neither to ONNX nor to memory addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.npu.arithmetic import Int8, Range

PerChannel = float | tuple[float, ...]
"""One number for all channels, or one per channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedTensor:
    """An int8 tensor of one image: real value = (integer - zero_point) x scale."""

    name: str
    channels: int
    height: int
    width: int
    scale: float
    zero_point: int
    channels_last: bool = False
    """The host's array is [height, width, channels] (inputs only)."""
    flat: bool = False
    """The host's array has one axis of channels x height x width."""
    line: bool = False
    """The host's array has the axes channels and width; the height is 1."""
    gain: PerChannel = 1.0
    offset: PerChannel = 0.0
    """The host computes x * gain + offset before it quantizes (inputs only)."""
    part: Part | None = None
    """The larger tensor that this one is a part of (results only). No layer reads a part by its own name."""
    given_shape: tuple[int, ...] = ()
    """The shape of the user's array without the batch axis, if the host flattens it (inputs only)."""

    @property
    def planes(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, slots=True)
class Part:
    """Position of a tensor in a concatenated one; `first_channel` is the first of a channel block."""

    whole: QuantizedTensor
    first_channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Kernel size, stride (step), dilation and padding over the input plane."""

    rows: int = 1
    columns: int = 1
    row_step: int = 1
    column_step: int = 1
    row_dilation: int = 1
    column_dilation: int = 1
    top: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Addend:
    """A second tensor that is added to the layer's own result (`main`: an int8 value that is not stored)."""

    name: str
    tensor: QuantizedTensor
    main_scale: float
    main_zero: int
    output: Range
    is_replaced: bool = False
    """Only this layer reads the tensor, so the result may be written over it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputStage:
    """Requantization: bias (including the input's zero point) and real factor per output channel, and one output range."""

    bias: npt.NDArray[np.int64]
    factors: npt.NDArray[np.float64]
    output: Range
    addend: Addend | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvolutionLayer:
    """Convolution; int8 `weights` are [outputs, inputs, rows, columns], of a depthwise layer [channels, 1, rows, columns]."""

    name: str
    operator: str
    source: QuantizedTensor
    result: QuantizedTensor
    window: Window
    weights: Int8
    depthwise: bool
    stage: OutputStage
    shifts: Int8 | None = None
    """Block-scaled weights only: left shift, 0 to 15, of the products of each block of 32 input channels, as
    [output channels, blocks, rows, columns] (microscaling.py)."""

    @property
    def macs(self) -> int:
        """Number of multiplications per image."""
        return int(self.weights.size) * self.result.height * self.result.width

    @property
    def padding(self) -> int:
        """The padding value: the integer read outside of the source plane."""
        return self.source.zero_point


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolingLayer:
    """Sum or maximum of each channel over the window."""

    name: str
    operator: str
    source: QuantizedTensor
    result: QuantizedTensor
    window: Window
    maximum: bool
    stage: OutputStage
    border: int | None = None
    """The padding value, if it is not the neutral one: the zero point for a sum, -128 for a maximum."""

    @property
    def macs(self) -> int:
        """Number of multiplications per image: none."""
        return 0

    @property
    def padding(self) -> int:
        """The padding value: the integer read outside of the source plane."""
        if self.border is not None:
            return self.border
        return -128 if self.maximum else self.source.zero_point


Layer = ConvolutionLayer | PoolingLayer
