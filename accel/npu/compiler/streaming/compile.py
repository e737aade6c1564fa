"""Compile layers for an NPU with external memory.

choose    partition the layers into groups, and choose a plan for each
place     allocate every tensor at the end of external memory
stream    groups -> steps and transfers; weights and parameters become constants at the beginning of external memory
order     steps and transfers -> instructions
pages     store a program longer than the program memory after the constants; it fetches its pages while it runs
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.npu import isa
from accel.npu.compiler.place import DoesNotFitError, place_tensors
from accel.npu.compiler.streaming.groups import choose_groups
from accel.npu.compiler.streaming.layer import PlanSelector, fastest_plan
from accel.npu.compiler.streaming.order import in_order, set_needed_by
from accel.npu.compiler.streaming.streamer import Streamer
from accel.npu.lowering.layers import ConvolutionLayer, Layer, QuantizedTensor
from accel.npu.profile import NpuProfile
from accel.npu.program import EXTERNAL_BASE


@dataclass(frozen=True, slots=True)
class Streamed:
    """The parts of a program: initial contents of the memories, host addresses of tensors, and the layers' instructions."""

    instructions: list[isa.Instruction]
    external: npt.NDArray[np.uint32]
    places: dict[str, int]
    spans: list[tuple[tuple[Layer, ...], tuple[int, int]]]
    """The layers of each group with their executed instructions: first and last, the last one not included."""


def compile_streamed(
    inputs: Sequence[QuantizedTensor],
    layers: Sequence[Layer],
    outputs: Sequence[QuantizedTensor],
    profile: NpuProfile,
    *,
    select_plan: PlanSelector = fastest_plan,
) -> Streamed:
    """Return the parts of the program.

    Raises:
        DoesNotFitError: the model exceeds the external memory, or the input rows of one output row exceed the chip.
    """
    vectors = profile.external_words * 4 // profile.columns
    place_tensors(inputs, layers, outputs, profile, capacity=vectors)
    _check_weights(layers, profile, 0)
    parts = [layer.result.name for layer in layers if layer.result.part is not None]
    groups = choose_groups(layers, [*(tensor.name for tensor in outputs), *parts], profile, select_plan)
    steps = [step for step, group in enumerate(groups) for _ in group.layers]
    places = place_tensors(inputs, layers, outputs, profile, capacity=vectors, steps=steps)
    used = max(places[tensor.name] + _vectors(tensor, profile) for tensor in _tensors(inputs, layers))
    tensors_at = vectors - used
    _check_weights(layers, profile, used)
    streamer, begins = Streamer(profile, places, tensors_at, used), []
    for group in groups:
        begins.append(len(streamer.jobs.steps))
        group.stream(streamer)
    streamer.jobs.finish()
    set_needed_by(streamer.jobs.steps)
    ordered = in_order(streamer.jobs.steps, streamer.transfers, profile, pages_at=streamer.constants.words)
    instructions, at = ordered.instructions, ordered.begins
    if ordered.is_paged:
        streamer.constants.add(isa.encode(instructions))
        instructions = instructions[: profile.instructions // 2]
    _check_capacity(streamer.constants.words * 4, used * profile.columns, profile)
    firsts = [at[begin] for begin in begins]
    spans = zip(firsts, [*firsts[1:], at[-1]], strict=True)
    return Streamed(
        instructions,
        streamer.constants.array(),
        {name: EXTERNAL_BASE + tensors_at + place for name, place in places.items()},
        [(group.layers, span) for group, span in zip(groups, spans, strict=True)],
    )


def _tensors(inputs: Sequence[QuantizedTensor], layers: Sequence[Layer]) -> Iterable[QuantizedTensor]:
    return [*inputs, *(layer.result for layer in layers)]


def _vectors(tensor: QuantizedTensor, profile: NpuProfile) -> int:
    return -(-tensor.channels // profile.columns) * tensor.height * tensor.width


def _check_weights(layers: Sequence[Layer], profile: NpuProfile, tensor_vectors: int) -> None:
    """Check the total size of the weights before tiling, which takes long for a large network."""
    weights = sum(int(layer.weights.size) for layer in layers if isinstance(layer, ConvolutionLayer))
    _check_capacity(weights, tensor_vectors * profile.columns, profile)


def _check_capacity(constants: int, tensors: int, profile: NpuProfile) -> None:
    capacity = profile.external_words * 4
    if constants + tensors > capacity:
        raise DoesNotFitError(
            f"{profile.name} has {capacity / 1e6:.1f} MB of external memory, but the model needs {constants / 1e6:.1f} MB or "
            f"more for weights and program and {tensors / 1e6:.1f} MB for tensors; use a smaller model, or run it on the CPU"
        )
