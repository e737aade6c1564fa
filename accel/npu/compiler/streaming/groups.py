"""Partition the layers into groups: single layers, and chains that run row by row.

A chain saves the transfers of its intermediate tensors, but it works on single rows and keeps all of its weights on the chip. The
partition minimizes the sum of the cycles. Single layers are timed by the cycle model. Chains are estimated first, and timed once
the partition selects them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from accel.npu.compiler.streaming.chain import ChainLayer, ChainWork, row_blocks
from accel.npu.compiler.streaming.layer import LayerChoice, PlanChooser, PlanSelector, choose_plans, fastest_plan, layer_key
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
        """Append the jobs and the transfers."""
        layers = []
        for choice in self.choices:
            weights_at = streamer.constants.add(choice.memory.weights())
            parameters_at = streamer.constants.add_parameters(choice.memory.parameters())
            layers.append(ChainLayer(choice.layer, row_blocks(choice.layer, choice.blocks), weights_at, parameters_at))
        ChainWork(streamer, self.plan, layers).run()


Group = LayerChoice | ChainChoice


def choose_groups(
    layers: Sequence[Layer], outputs: Collection[str], profile: NpuProfile, select_plan: PlanSelector = fastest_plan
) -> list[Group]:
    """Return the groups in order; `outputs` are the tensors that must be stored.

    Raises:
        DoesNotFitError: the input rows of one output row of a layer do not fit on the chip.
    """
    chooser = PlanChooser(profile, select_plan)
    single = [choose_plans(layer, chooser) for layer in layers]
    chains = _chains(single, outputs, profile)
    timed: dict[tuple[object, ...], int] = {}
    costs = {at: chain.plan.cycles for at, chain in chains.items()}
    while True:
        cuts = _cheapest_cuts(single, costs)
        untimed = [cut for cut in cuts if cut in chains and _key(chains[cut]) not in timed]
        if not untimed:
            return [chains[cut] if cut in chains else single[cut[0]] for cut in cuts]
        for cut in untimed:
            key = _key(chains[cut])
            if key not in timed:
                timed[key] = _cycles(chains[cut], profile)
        costs.update((at, timed[_key(chain)]) for at, chain in chains.items() if _key(chain) in timed)


Cut = tuple[int, int]
"""First and last layer of a group; the last one is not included."""


def _chains(single: Sequence[LayerChoice], outputs: Collection[str], profile: NpuProfile) -> dict[Cut, ChainChoice]:
    """Return all chains that fit."""
    layers, chains = [choice.layer for choice in single], {}
    for first in range(len(layers)):
        for last in range(first + 2, min(first + LONGEST, len(layers)) + 1):
            others = [*layers[:first], *layers[last:]]
            plan = plan_chain(layers[first:last], {*outputs, *tensors_read(others)}, profile)
            if plan is not None:
                chains[first, last] = ChainChoice(tuple(single[first:last]), plan)
    return chains


def tensors_read(layers: Sequence[Layer]) -> set[str]:
    """Return the names of all tensors that layers read."""
    addends = [layer.stage.addend for layer in layers]
    return {layer.source.name for layer in layers} | {addend.tensor.name for addend in addends if addend is not None}


def _cheapest_cuts(single: Sequence[LayerChoice], costs: Mapping[Cut, int]) -> list[Cut]:
    """Return the partition with the fewest cycles, by dynamic programming over the end of the last group."""
    best: list[tuple[int, list[Cut]]] = [(0, [])]
    for end in range(1, len(single) + 1):
        cycles, cuts = best[end - 1]
        options = [(cycles + single[end - 1].cycles, [*cuts, (end - 1, end)])]
        for (first, last), cost in costs.items():
            if last == end:
                options.append((best[first][0] + cost, [*best[first][1], (first, last)]))
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def _key(chain: ChainChoice) -> tuple[object, ...]:
    """Return the properties that determine the run time of a chain."""
    numbers = {name: number for number, name in enumerate(tensors_of(chain.layers))}
    keys = []
    for layer in chain.layers:
        addend, name = layer.stage.addend, layer.result.name
        names = (layer.source.name, name, *([addend.tensor.name] if addend else []))
        keys.append((layer_key(layer), tuple(numbers[name] for name in names), name in chain.plan.stored))
    return tuple(keys)


def _cycles(chain: ChainChoice, profile: NpuProfile) -> int:
    """Return the cycles of a chain without other work in parallel."""
    streamer = trial_streamer(chain.layers, profile)
    chain.stream(streamer)
    return cycles_alone(streamer)
