"""Compile layers for an NPU with external memory: everything comes from there in pieces, and goes back there.

place     every tensor in the external memory, at its end
stream    layers -> work and transfers; weights and parameters become constants at the beginning of the external memory
order     work and transfers -> instructions
pages     a program longer than the program memory lies behind the constants, and fetches itself
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.npu import isa
from accel.npu.layers import ConvolutionLayer, Layer, QuantizedTensor
from accel.npu.place import DoesNotFitError, place_tensors
from accel.npu.profile import NpuProfile
from accel.npu.program import EXTERNAL_BASE
from accel.npu.stream import Streamer
from accel.npu.stream_layer import Chosen, stream_layer
from accel.npu.stream_order import first_needs, in_order


@dataclass(frozen=True, slots=True)
class Streamed:
    """What the memories hold at the start, where tensors lie (as a host addresses them), and the layers' instructions."""

    instructions: list[isa.Instruction]
    external: npt.NDArray[np.uint32]
    places: dict[str, int]
    spans: list[tuple[int, int]]


def compile_streamed(
    inputs: Sequence[QuantizedTensor], layers: Sequence[Layer], outputs: Sequence[QuantizedTensor], profile: NpuProfile
) -> Streamed:
    """Return the program's parts; raise `DoesNotFitError` when the external memory, or a layer's row, is too large."""
    vectors = profile.external_words * 4 // profile.columns
    places = place_tensors(inputs, layers, outputs, profile, vectors)
    used = max(places[tensor.name] + _vectors(tensor, profile) for tensor in _tensors(inputs, layers))
    tensors_at = vectors - used
    _check_weights(layers, profile, used)
    streamer, begins, chosen = Streamer(profile, places, tensors_at, used), [], Chosen()
    for layer in layers:
        begins.append(len(streamer.jobs.steps))
        stream_layer(layer, streamer, chosen)
    streamer.jobs.finish()
    steps = streamer.jobs.steps
    first_needs(steps)
    pages_at = streamer.constants.words
    instructions, at, is_paged = in_order(steps, streamer.transfers, profile, pages_at=pages_at)
    if is_paged:
        streamer.constants.add(isa.encode(instructions))
        instructions = instructions[: profile.instructions // 2]
    _check_room(streamer.constants.words * 4, used * profile.columns, profile)
    firsts = [at[begin] for begin in begins]
    spans = list(zip(firsts, [*firsts[1:], at[-1]], strict=True))
    return Streamed(
        instructions,
        streamer.constants.array(),
        {name: EXTERNAL_BASE + tensors_at + place for name, place in places.items()},
        spans,
    )


def _tensors(inputs: Sequence[QuantizedTensor], layers: Sequence[Layer]) -> Iterable[QuantizedTensor]:
    return [*inputs, *(layer.result for layer in layers)]


def _vectors(tensor: QuantizedTensor, profile: NpuProfile) -> int:
    return -(-tensor.channels // profile.columns) * tensor.height * tensor.width


def _check_weights(layers: Sequence[Layer], profile: NpuProfile, tensor_vectors: int) -> None:
    """Say early, before anything is laid out, that the weights alone are too many."""
    weights = sum(int(layer.weights.size) for layer in layers if isinstance(layer, ConvolutionLayer))
    _check_room(weights, tensor_vectors * profile.columns, profile)


def _check_room(constants: int, tensors: int, profile: NpuProfile) -> None:
    room = profile.external_words * 4
    if constants + tensors > room:
        raise DoesNotFitError(
            f"{profile.name} has {room / 1e6:.1f} MB of external memory, but the model needs {constants / 1e6:.1f} MB or more "
            f"for weights and program and {tensors / 1e6:.1f} MB for tensors; use a smaller model, or run it on the CPU"
        )
