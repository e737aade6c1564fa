"""Signed desired states: every change of one workload gives the device a new state, under the next number, of all its workloads.

The caller has checked that the device is enrolled, and holds the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import twins
from edgewright.contracts import signing, wire
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.oci import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredSpec:
    """A `DesiredState` without the device and the number."""

    model: str
    version: int
    index: Descriptor
    allow_downgrade: bool = False
    trial_s: float = 60.0
    device_timeout_s: float = 3600.0
    workload: str = ""
    """The model's name unless another one is given."""


def replace_workload(connection: Connection, key: signing.PrivateKey, device: str, spec: DesiredSpec) -> DesiredState:
    """Set the desired state of one workload, the other ones keep theirs; return the desired state of the device."""

    def changed(number: int, before: DesiredState | None) -> DesiredState:
        state = DesiredState(
            device=device,
            desired_number=number,
            model=spec.model,
            version=spec.version,
            index=spec.index,
            allow_downgrade=spec.allow_downgrade,
            trial_s=spec.trial_s,
            device_timeout_s=spec.device_timeout_s,
            workload=spec.workload,
        )
        others = () if before is None else tuple(one for one in before.every_workload if one.workload != state.workload)
        return replace(state, workloads=(*others, state))

    return _change(connection, key, device, changed)


def remove_workloads(connection: Connection, key: signing.PrivateKey, device: str, names: Collection[str]) -> None:
    """Remove workloads from the desired state of a device that has one."""

    def changed(number: int, before: DesiredState | None) -> DesiredState:
        assert before is not None, "only a device with a desired state has workloads"
        kept = tuple(one for one in before.every_workload if one.workload not in names)
        # An agent that knows one workload reads the fields outside of `workloads`: those of one that stays, where there is one.
        last = max(kept, key=lambda one: one.desired_number, default=before)
        return replace(last, desired_number=number, workloads=kept)

    _change(connection, key, device, changed)


def _change(
    connection: Connection,
    key: signing.PrivateKey,
    device: str,
    changed: Callable[[int, DesiredState | None], DesiredState],
) -> DesiredState:
    """Store and sign what `changed` returns for the next number and the present state; the first statement locks the row."""
    change = raise_counter(connection, Counter.DESIRED)
    raise_counter(connection, Counter.CHANGES)
    next_number = (
        update(twins)
        .where(twins.c.device == device)
        .values(desired_number=twins.c.desired_number + 1, desired_change=change)
        .returning(twins.c.desired_number)
    )
    number = connection.execute(next_number).scalar_one()
    before = connection.execute(select(twins.c.desired).where(twins.c.device == device)).scalar_one()
    state = changed(number, None if before is None else wire.decode(before, DesiredState, what="stored desired state"))
    payload = wire.encode(state)
    envelope = signing.sign(payload, signing.DESIRED_TYPE, key)
    connection.execute(update(twins).where(twins.c.device == device).values(desired=payload, desired_envelope=envelope))
    return state
