"""A network as the NPU sees it: two kinds of layer, each with the same way of finishing its outputs.

A convolution (also a fully connected layer: a convolution whose kernel is the whole plane) or a pooling (also a copy, and
through it an addition: a pooling over one pixel) fills accumulators; an `OutputStage` says how they become int8.
lower.py makes these from ONNX; they know nothing of ONNX and nothing of memories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.npu.arithmetic import Int8, Range

PerChannel = float | tuple[float, ...]
"""One number for all channels, or one for each."""


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
    """The host hands it over as [height, width, channels] (inputs only)."""
    flat: bool = False
    """The host takes it as one axis of channels x height x width."""
    gain: PerChannel = 1.0
    offset: PerChannel = 0.0
    """The host multiplies it by the one and adds the other before it quantizes it (inputs only)."""
    part: Part | None = None
    """The tensor that it is some channels of, if any (results only): nobody reads a part by its own name."""
    given_shape: tuple[int, ...] = ()
    """What the host gets, without the first axis, where it makes one axis of it (inputs only)."""

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, slots=True)
class Part:
    """Where a tensor lies in a larger one: from a channel on that begins a block of the activation memory."""

    whole: QuantizedTensor
    first_channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a kernel moves over the input plane."""

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
    """A second tensor that is added to what the layer itself produced (`main`: an int8 value never stored)."""

    name: str
    tensor: QuantizedTensor
    main_scale: float
    main_zero: int
    output: Range


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputStage:
    """Per output channel: bias (with the input's zero point folded in) and real factor; then one range for all."""

    bias: npt.NDArray[np.int64]
    factors: npt.NDArray[np.float64]
    output: Range
    addend: Addend | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvolutionLayer:
    """`weights` are [output channels, input channels, rows, columns]; depthwise: [channels, 1, rows, columns]."""

    name: str
    operator: str
    source: QuantizedTensor
    result: QuantizedTensor
    window: Window
    weights: Int8
    depthwise: bool
    stage: OutputStage
    shifts: Int8 | None = None
    """Of weights in blocks: how far the products of each block of 32 input channels go to the left, as
    [output channels, blocks, rows, columns] of 0 to 15 (microscaling.py)."""

    @property
    def macs(self) -> int:
        """Multiplications that the layer asks for."""
        return int(self.weights.size) * self.result.height * self.result.width

    @property
    def padding(self) -> int:
        """What is read outside of the source's plane."""
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
    """What is read outside of the source's plane, if it is not what changes nothing: a zero in a sum, the least as a maximum."""

    @property
    def macs(self) -> int:
        """A pooling multiplies nothing."""
        return 0

    @property
    def padding(self) -> int:
        """What is read outside of the source's plane."""
        if self.border is not None:
            return self.border
        return -128 if self.maximum else self.source.zero_point


Layer = ConvolutionLayer | PoolingLayer
