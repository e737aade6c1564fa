"""Compile a quantized ONNX graph for one NPU.

    lower     ONNX operators -> layers, with the coverage report
    fold      an input of few channels: kernel columns side by side in one vector
    place     every tensor in the activation memory
    tile      layers -> jobs that fit the buffers
    schedule  jobs -> instructions, loads behind the work
    stream    what does not fit the chip goes through its external memory instead (streaming/)
    check     no address outside a memory, no order that depends on time

The size of the tiles is the one choice with no formula: small tiles overlap better, large ones load weights less often. The
cycle model is exact, so the compiler simply tries a few and keeps the fastest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from accel.npu import isa
from accel.npu.arithmetic import quantize_multiplier
from accel.npu.compiler.fold import fold_inputs
from accel.npu.compiler.place import DoesNotFitError, place_tensors
from accel.npu.compiler.schedule import schedule
from accel.npu.compiler.streaming.compile import compile_streamed
from accel.npu.compiler.tile import Memory, Tiler, residual_of
from accel.npu.lowering.coverage import CoverageRow
from accel.npu.lowering.layers import ConvolutionLayer, Layer, QuantizedTensor
from accel.npu.lowering.lower import Lowered, lower
from accel.npu.model.checks import check_program
from accel.npu.model.timing import time_program
from accel.npu.model.trace import executed
from accel.npu.profile import NpuProfile
from accel.npu.program import Description, LayerRecord, NpuProgram
from accel.npu.tensors import ColumnFold, TensorPlace
from edgewright.errors import ModelError

TILE_FRACTIONS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The program, and where every operator of the model runs."""

    program: NpuProgram
    coverage: tuple[CoverageRow, ...]

    @property
    def on_host(self) -> tuple[CoverageRow, ...]:
        """The operators that stay on the host, with their reasons."""
        return tuple(row for row in self.coverage if not row.on_npu)


def compile_model(
    model: onnx.ModelProto, profile: NpuProfile, cut: Collection[str] = (), *, depthwise_unit: bool = True
) -> Compiled:
    """Compile what the NPU can run, up to the tensors `cut`; raise `ModelError` when that is nothing, or does not fit.

    Without the depthwise unit depthwise layers become products with diagonal matrices: slower, and the same bits.
    """
    lowered = lower(model, cut, columns=profile.columns)
    check_something_runs(lowered)
    check_format(lowered.layers, profile)
    check_scales(lowered.layers)
    layers, folds = fold_inputs(lowered.layers, lowered.inputs, lowered.outputs.values(), profile)
    try:
        program = _inside(layers, lowered, folds, profile, depthwise_unit)
    except DoesNotFitError:
        if not profile.external_memory_mib:
            raise
        program = _streamed(layers, lowered, folds, profile)
    check_program(program, profile)
    return Compiled(program, tuple(lowered.coverage))


def _inside(
    layers: Sequence[Layer], lowered: Lowered, folds: Mapping[str, ColumnFold], profile: NpuProfile, depthwise_unit: bool
) -> NpuProgram:
    """Everything in the memories of the chip."""
    _check_weights(layers, profile)
    places = place_tensors(_stored_inputs(lowered.inputs, layers), layers, lowered.outputs.values(), profile)
    tilers = [_tiler(profile, places, fraction, depthwise_unit) for fraction in TILE_FRACTIONS]
    programs = [_build(layers, lowered, folds, tiler) for tiler in tilers]
    fitting = [program for program in programs if len(program.instructions) <= profile.instructions] or programs[:1]
    _check_room("instructions", len(fitting[0].instructions), profile.instructions, profile)
    return min(fitting, key=lambda program: time_program(executed(program, profile), profile).counters.cycles)


def _streamed(layers: Sequence[Layer], lowered: Lowered, folds: Mapping[str, ColumnFold], profile: NpuProfile) -> NpuProgram:
    """Weights, tensors and the program itself in the external memory."""
    inputs = _stored_inputs(lowered.inputs, layers)
    streamed = compile_streamed(inputs, layers, list(lowered.outputs.values()), profile)
    return NpuProgram(
        profile_hash=profile.hash,
        instructions=isa.encode(streamed.instructions),
        weights=np.zeros((0, profile.columns), np.int8),
        parameters=np.zeros((0, profile.vector_lanes, 3), np.int32),
        external=streamed.external,
        description=_description(lowered, folds, streamed.places, streamed.spans, profile),
    )


def check_something_runs(lowered: Lowered) -> None:
    """Raise `ModelError` with every operator and its reason when not one of them can run on the NPU."""
    if lowered.layers and lowered.outputs:
        return
    reasons = "; ".join(f"{row.layer} ({row.operator}): {row.reason}" for row in lowered.coverage if not row.on_npu)
    raise ModelError(f"at least one layer must run on the NPU, but none can: {reasons or 'the graph has no layers'}")


def check_format(layers: Sequence[Layer], profile: NpuProfile) -> None:
    """Raise `ModelError` when a layer has weights in blocks and the machine does not shift their products."""
    for layer in layers:
        if isinstance(layer, ConvolutionLayer) and layer.shifts is not None and layer.shifts.any() and not profile.shift_rows:
            raise ModelError(
                f"{profile.name} takes weights with one scale per output channel, but layer {layer.name} has them in blocks; "
                "use an NPU of number_format mxint8, or quantize with scheme npu-int8"
            )


def _check_weights(layers: Sequence[Layer], profile: NpuProfile) -> None:
    """Say before anything is laid out that the weights are too many: laying out those of a large network takes long."""
    total = sum(layer.weights.size for layer in layers if isinstance(layer, ConvolutionLayer))
    _check_room("bytes of weights", total, profile.weight_rows * profile.columns, profile)


def _check_room(what: str, needed: int, room: int, profile: NpuProfile) -> None:
    if needed > room:
        raise DoesNotFitError(f"{profile.name} has room for {room} {what}, but the model needs {needed}; use a larger NPU")


def check_scales(layers: Sequence[Layer]) -> None:
    """Raise `ModelError` when a layer's scales are too far apart for a multiplier and a shift."""
    for layer in layers:
        try:
            quantize_multiplier(float(layer.stage.factors.max()))
            residual_of(layer)
        except OverflowError as wrong:
            raise ModelError(
                f"layer {layer.name}: {wrong}; its scales are too far apart, quantize with better samples"
            ) from wrong


def _tiler(profile: NpuProfile, places: Mapping[str, int], fraction: int, depthwise_unit: bool) -> Tiler:
    positions = max(1, profile.accumulator_depth // fraction)
    return Tiler(profile, places, Memory(profile), positions, depthwise_unit=depthwise_unit)


def _build(layers: Sequence[Layer], lowered: Lowered, folds: Mapping[str, ColumnFold], tiler: Tiler) -> NpuProgram:
    profile, places, memory = tiler.profile, tiler.places, tiler.memory
    jobs = [tiler.jobs(layer) for layer in layers]
    _check_room(f"weight rows of {profile.columns} bytes", memory.weight_rows, profile.weight_rows, profile)
    _check_room(
        f"parameter groups of {profile.vector_lanes} channels", memory.parameter_groups, profile.parameter_groups, profile
    )
    done = schedule(jobs, profile)
    spans = [((layer,), span) for layer, span in zip(layers, done.spans, strict=True)]
    return NpuProgram(
        profile_hash=profile.hash,
        instructions=isa.encode(done.instructions),
        weights=memory.weights(),
        parameters=memory.parameters(),
        description=_description(lowered, folds, places, spans, profile),
    )


def _description(
    lowered: Lowered,
    folds: Mapping[str, ColumnFold],
    places: Mapping[str, int],
    spans: Sequence[tuple[tuple[Layer, ...], tuple[int, int]]],
    profile: NpuProfile,
) -> Description:
    records = [
        LayerRecord(
            name="+".join(layer.name for layer in layers),
            operator="+".join(dict.fromkeys(layer.operator for layer in layers)),
            first=first,
            last=last,
            macs=sum(layer.macs for layer in layers),
        )
        for layers, (first, last) in spans
    ]
    return Description(
        inputs=tuple(_place(tensor.name, tensor, places, folds) for tensor in lowered.inputs),
        outputs=tuple(_place(name, tensor, places, {}) for name, tensor in lowered.outputs.items()),
        layers=tuple(records),
        profile_name=profile.name,
    )


def _stored_inputs(inputs: Sequence[QuantizedTensor], layers: Sequence[Layer]) -> list[QuantizedTensor]:
    """Return the inputs as they are stored: a folded one is as its first layer reads it."""
    read = {layer.source.name: layer.source for layer in layers}
    return [read.get(tensor.name, tensor) for tensor in inputs]


def _place(name: str, tensor: QuantizedTensor, places: Mapping[str, int], folds: Mapping[str, ColumnFold]) -> TensorPlace:
    return TensorPlace(
        name=name,
        channels=tensor.channels,
        height=tensor.height,
        width=tensor.width,
        scale=tensor.scale,
        zero_point=tensor.zero_point,
        base=places[tensor.name],
        channels_last=tensor.channels_last,
        flat=tensor.flat,
        fold=folds.get(tensor.name),
        gain=tensor.gain,
        offset=tensor.offset,
        given_shape=tensor.given_shape,
    )
