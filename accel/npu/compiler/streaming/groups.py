"""Which layers go through the chip together.

A chain of layers saves the trips of the tensors between them, but works on single rows and keeps all of its weights on the chip.
So the layers are cut where the sum of the cycles is least: layers by themselves as they were tried, chains as estimated until
one is chosen, and then tried too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from accel.npu.compiler.streaming.chain import ChainLayer, ChainWork, row_blocks
from accel.npu.compiler.streaming.layer import Chosen, LayerChoice, choose_plans, layer_key
from accel.npu.compiler.streaming.rows import LONGEST, ChainPlan, plan_chain, tensors_of
from accel.npu.compiler.streaming.streamer import Streamer
from accel.npu.compiler.streaming.trial import cycles_alone, trial_streamer
from accel.npu.lowering.layers import Layer
from accel.npu.profile import NpuProfile


@dataclass(frozen=True, slots=True)
class ChainChoice:
    """A chain of layers with their constants, and its plan."""

    choices: tuple[LayerChoice, ...]
    plan: ChainPlan

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        return self.plan.layers

    def stream(self, streamer: Streamer) -> None:
        """Append the work and the transfers."""
        layers = []
        for choice in self.choices:
            weights_at = streamer.constants.add(choice.memory.weights())
            parameters_at = streamer.constants.add_parameters(choice.memory.parameters())
            layers.append(ChainLayer(choice.layer, row_blocks(choice.layer, choice.blocks), weights_at, parameters_at))
        ChainWork(streamer, self.plan, layers).run()


Group = LayerChoice | ChainChoice


def choose_groups(layers: Sequence[Layer], outputs: Collection[str], profile: NpuProfile) -> list[Group]:
    """Return the layers in groups; raise `DoesNotFitError` when not even one row of a layer fits."""
    chosen: Chosen = {}
    alone = [choose_plans(layer, profile, chosen) for layer in layers]
    chains = _chains(alone, outputs, profile)
    tried: dict[tuple[object, ...], int] = {}
    costs = {at: chain.plan.cycles for at, chain in chains.items()}
    while True:
        cuts = _cheapest_cuts(alone, costs)
        new = [cut for cut in cuts if cut in chains and _key(chains[cut]) not in tried]
        if not new:
            return [chains[cut] if cut in chains else alone[cut[0]] for cut in cuts]
        for cut in new:
            key = _key(chains[cut])
            if key not in tried:
                tried[key] = _tried(chains[cut], profile)
        costs.update((at, tried[_key(chain)]) for at, chain in chains.items() if _key(chain) in tried)


Cut = tuple[int, int]
"""First and last layer of a group; the last one is not included."""


def _chains(alone: Sequence[LayerChoice], outputs: Collection[str], profile: NpuProfile) -> dict[Cut, ChainChoice]:
    """Return all chains that fit."""
    layers, found = [choice.layer for choice in alone], {}
    for first in range(len(layers)):
        for last in range(first + 2, min(first + LONGEST, len(layers)) + 1):
            others = [*layers[:first], *layers[last:]]
            plan = plan_chain(layers[first:last], {*outputs, *tensors_read(others)}, profile)
            if plan is not None:
                found[first, last] = ChainChoice(tuple(alone[first:last]), plan)
    return found


def tensors_read(layers: Sequence[Layer]) -> set[str]:
    """Return the names of all tensors that layers read."""
    addends = [layer.stage.addend for layer in layers]
    return {layer.source.name for layer in layers} | {addend.tensor.name for addend in addends if addend is not None}


def _cheapest_cuts(alone: Sequence[LayerChoice], costs: Mapping[Cut, int]) -> list[Cut]:
    best: list[tuple[int, list[Cut]]] = [(0, [])]
    for end in range(1, len(alone) + 1):
        cycles, cuts = best[end - 1]
        options = [(cycles + alone[end - 1].cycles, [*cuts, (end - 1, end)])]
        for (first, last), cost in costs.items():
            if last == end:
                options.append((best[first][0] + cost, [*best[first][1], (first, last)]))
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def _key(chain: ChainChoice) -> tuple[object, ...]:
    """Everything that decides how long a chain takes."""
    numbers = {name: number for number, name in enumerate(tensors_of(chain.layers))}
    described = []
    for layer in chain.layers:
        addend, name = layer.stage.addend, layer.result.name
        names = (layer.source.name, name, *([addend.tensor.name] if addend else []))
        described.append((layer_key(layer), tuple(numbers[name] for name in names), name in chain.plan.stored))
    return tuple(described)


def _tried(chain: ChainChoice, profile: NpuProfile) -> int:
    streamer = trial_streamer(chain.layers, profile)
    chain.stream(streamer)
    return cycles_alone(streamer)
