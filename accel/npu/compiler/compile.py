"""Compile a quantized ONNX graph for one NPU.

lower     ONNX operators -> layers, with the coverage report
fold      an input with few channels: kernel columns side by side in one vector
place     allocate every tensor in the activation memory
tile      layers -> jobs that fit the buffers
search    sizes of tiles, and layers that share banks of accumulators (fills.py), by the cycle model
schedule  jobs -> instructions, with loads overlapped
stream    use external memory for a network that does not fit on the chip (streaming/)
check     no address outside a memory, no result that depends on timing
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from accel.npu import isa
from accel.npu.arithmetic import quantize_multiplier
from accel.npu.compiler.fold import fold_inputs
from accel.npu.compiler.place import DoesNotFitError, place_tensors
from accel.npu.compiler.search import Schedule, fastest_schedule
from accel.npu.compiler.streaming.compile import compile_streamed
from accel.npu.compiler.streaming.layer import PlanSelector, fastest_plan
from accel.npu.compiler.tile import Memory, Tiler, residual_of
from accel.npu.lowering.coverage import CoverageRow
from accel.npu.lowering.layers import ConvolutionLayer, Layer, QuantizedTensor
from accel.npu.lowering.lower import lower
from accel.npu.lowering.walk import Lowered
from accel.npu.model.checks import check_program
from accel.npu.profile import NpuProfile
from accel.npu.program import Description, LayerRecord, NpuProgram, SegmentRecord
from accel.npu.tensors import ColumnFold, TensorPlace
from edgewright.errors import ModelError


@dataclass(frozen=True, slots=True)
class Compiled:
    """The program, and the assignment of every operator to the NPU or the host."""

    program: NpuProgram
    coverage: tuple[CoverageRow, ...]
    """The host computes between the program's segments, if it has several (partition.py)."""

    @property
    def on_host(self) -> tuple[CoverageRow, ...]:
        """The operators that stay on the host, with their reasons."""
        return tuple(row for row in self.coverage if not row.on_npu)


def compile_model(
    model: onnx.ModelProto,
    profile: NpuProfile,
    cut: Collection[str] = (),
    *,
    depthwise_unit: bool = True,
    select_plan: PlanSelector = fastest_plan,
) -> Compiled:
    """Compile the operators that the NPU supports.

    Args:
        model: the quantized graph.
        profile: the NPU.
        cut: tensors at which the head begins; it stays on the host.
        depthwise_unit: False replaces the depthwise unit by products with diagonal matrices: slower, with the same bits.
        select_plan: chooses among the plans of a streamed layer; every plan gives the same bits.

    Raises:
        ModelError: no operator can run on the NPU, or the model does not fit.
    """
    return compile_lowered(
        lower(model, cut, columns=profile.columns), profile, depthwise_unit=depthwise_unit, select_plan=select_plan
    )


def compile_lowered(
    lowered: Lowered, profile: NpuProfile, *, depthwise_unit: bool = True, select_plan: PlanSelector = fastest_plan
) -> Compiled:
    """Compile a lowered graph: all its segments into one program. See `compile_model`."""
    check_something_runs(lowered)
    check_format(lowered.layers, profile)
    check_scales(lowered.layers)
    layers, folds = fold_inputs(lowered.layers, lowered.inputs, lowered.outputs.values(), profile)
    try:
        program = _compile_on_chip(layers, lowered, folds, profile, depthwise_unit)
    except DoesNotFitError:
        if not profile.external_memory_mib:
            raise
        program = _compile_streamed(layers, lowered, folds, profile, select_plan)
    check_program(program, profile)
    return Compiled(program, tuple(lowered.coverage))


def _compile_on_chip(
    layers: Sequence[Layer], lowered: Lowered, folds: Mapping[str, ColumnFold], profile: NpuProfile, depthwise_unit: bool
) -> NpuProgram:
    """Return the fastest program whose weights and tensors are on the chip; raise `DoesNotFitError` if no program fits."""
    _check_weights(layers, profile)
    tiler = Tiler(profile, _places(layers, lowered, profile), Memory(profile), depthwise_unit=depthwise_unit)
    return _build(layers, lowered, folds, tiler)


def _places(layers: Sequence[Layer], lowered: Lowered, profile: NpuProfile) -> dict[str, int]:
    """Place the tensors, if possible without reuse of a place by the next layer, which may then begin earlier."""
    inputs, outputs = _stored_inputs(lowered.inputs, layers), list(lowered.outputs.values())
    try:
        return place_tensors(inputs, layers, outputs, profile, lag=1)
    except DoesNotFitError:
        return place_tensors(inputs, layers, outputs, profile)


def _compile_streamed(
    layers: Sequence[Layer],
    lowered: Lowered,
    folds: Mapping[str, ColumnFold],
    profile: NpuProfile,
    select_plan: PlanSelector,
) -> NpuProgram:
    """Return a program that stores weights, tensors and instructions in external memory."""
    inputs = _stored_inputs(lowered.inputs, layers)
    streamed = compile_streamed(inputs, layers, list(lowered.outputs.values()), profile, select_plan=select_plan)
    return NpuProgram(
        profile_hash=profile.hash,
        instructions=isa.encode(streamed.instructions),
        weights=np.zeros((0, profile.columns), np.int8),
        parameters=np.zeros((0, profile.vector_lanes, 3), np.int32),
        external=streamed.external,
        description=_description(lowered, folds, streamed.places, streamed.spans, profile),
    )


def check_something_runs(lowered: Lowered) -> None:
    """Raise `ModelError` with every operator and its reason if none of them can run on the NPU."""
    if lowered.layers and lowered.outputs:
        return
    reasons = "; ".join(f"{row.layer} ({row.operator}): {row.reason}" for row in lowered.coverage if not row.on_npu)
    raise ModelError(f"at least one layer must run on the NPU, but none can: {reasons or 'the graph has no layers'}")


def check_format(layers: Sequence[Layer], profile: NpuProfile) -> None:
    """Raise `ModelError` if a layer has block-scaled weights and the NPU does not support them."""
    for layer in layers:
        if isinstance(layer, ConvolutionLayer) and layer.shifts is not None and layer.shifts.any() and not profile.shift_rows:
            raise ModelError(
                f"{profile.name} supports weights with one scale per output channel, but layer {layer.name} has block scales; "
                "use an NPU of number_format mxint8, or quantize with scheme npu-int8"
            )


def _check_weights(layers: Sequence[Layer], profile: NpuProfile) -> None:
    """Check the total size of the weights first, because tiling a large network takes long."""
    total = sum(layer.weights.size for layer in layers if isinstance(layer, ConvolutionLayer))
    _check_capacity("bytes of weights", total, profile.weight_rows * profile.columns, profile)


def _check_capacity(unit: str, needed: int, capacity: int, profile: NpuProfile) -> None:
    if needed > capacity:
        raise DoesNotFitError(f"{profile.name} has room for {capacity} {unit}, but the model needs {needed}; use a larger NPU")


def check_scales(layers: Sequence[Layer]) -> None:
    """Raise `ModelError` if a ratio of a layer's scales does not fit a multiplier and a shift."""
    for layer in layers:
        try:
            quantize_multiplier(float(layer.stage.factors.max()))
            residual_of(layer)
        except OverflowError as error:
            raise ModelError(
                f"layer {layer.name}: {error}; its scales are too far apart, quantize with better samples"
            ) from error


def _build(layers: Sequence[Layer], lowered: Lowered, folds: Mapping[str, ColumnFold], tiler: Tiler) -> NpuProgram:
    profile, places, memory = tiler.profile, tiler.places, tiler.memory
    stored = [tiler.stored(layer) for layer in layers]
    _check_capacity(f"weight rows of {profile.columns} bytes", memory.weight_rows, profile.weight_rows, profile)
    _check_capacity(
        f"parameter groups of {profile.vector_lanes} channels", memory.parameter_groups, profile.parameter_groups, profile
    )
    scheduled = fastest_schedule(stored, tiler)
    _check_capacity("instructions", len(scheduled.instructions), profile.instructions, profile)
    return NpuProgram(
        profile_hash=profile.hash,
        instructions=isa.encode(scheduled.instructions),
        weights=memory.weights(),
        parameters=memory.parameters(),
        description=_description(lowered, folds, places, list(_spans(layers, scheduled)), profile),
    )


def _spans(layers: Sequence[Layer], scheduled: Schedule) -> Iterator[tuple[tuple[Layer, ...], tuple[int, int]]]:
    """Yield the layers that share banks, with their first and last (not included) instruction."""
    ends = [*(first for _, first in scheduled.groups[1:]), len(scheduled.instructions) - 1]
    at = 0
    for (count, first), end in zip(scheduled.groups, ends, strict=True):
        yield tuple(layers[at : at + count]), (first, end)
        at += count


def _description(
    lowered: Lowered,
    folds: Mapping[str, ColumnFold],
    places: Mapping[str, int],
    spans: Sequence[tuple[tuple[Layer, ...], tuple[int, int]]],
    profile: NpuProfile,
) -> Description:
    groups: list[tuple[list[Layer], int, int]] = []
    for layers, (first, last) in spans:
        if groups and groups[-1][0][-1].name == layers[0].name:  # the passes of a table are one layer
            before, first, _ = groups.pop()
            groups.append(([*before, *layers], first, last))
        else:
            groups.append((list(layers), first, last))
    return Description(
        inputs=tuple(_place(tensor.name, tensor, places, folds) for tensor in lowered.inputs),
        outputs=tuple(_place(name, tensor, places, {}) for name, tensor in lowered.outputs.items()),
        layers=tuple(_record(layers, first, last) for layers, first, last in groups),
        profile_name=profile.name,
        segments=_segments(lowered),
    )


def _record(layers: Sequence[Layer], first: int, last: int) -> LayerRecord:
    return LayerRecord(
        name="+".join(dict.fromkeys(layer.name for layer in layers)),
        operator="+".join(dict.fromkeys(layer.operator for layer in layers)),
        first=first,
        last=last,
        macs=sum(layer.macs for layer in layers),
    )


def _segments(lowered: Lowered) -> tuple[SegmentRecord, ...]:
    """Return the records of the segments, or none if one run with inputs of the graph computes everything."""
    if len(lowered.segments) == 1 and not lowered.from_host:
        return ()
    return tuple(SegmentRecord(inputs=each.inputs, outputs=each.outputs, macs=each.macs) for each in lowered.segments)


def _stored_inputs(inputs: Sequence[QuantizedTensor], layers: Sequence[Layer]) -> list[QuantizedTensor]:
    """Return the inputs as they are stored: a folded input has the shape that its first layer reads."""
    sources = {layer.source.name: layer.source for layer in layers}
    return [sources.get(tensor.name, tensor) for tensor in inputs]


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
        line=tensor.line,
        fold=folds.get(tensor.name),
        gain=tensor.gain,
        offset=tensor.offset,
        given_shape=tensor.given_shape,
    )
