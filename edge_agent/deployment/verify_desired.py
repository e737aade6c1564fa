"""The worker that weighs a wish (P32): signed by the device's own cloud, for this device, newer than the last.

A process of its own, because wishes are rare and the cryptography that judges them is a fifth of the agent's memory.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.identity.identity import Identity
from edge_agent.workers.orders import BeliefOrder
from edge_agent.workers.worker import serve_order
from edgewright.contracts import wire
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.signing import DESIRED_TYPE, TrustedKeys
from edgewright.errors import ConflictError, SignatureError


def believe(envelope: bytes, *, device: str, cloud_key: TrustedKeys, accepted: int) -> DesiredState | None:
    """Return what the envelope wishes; None when it is the last accepted wish once more (a retained message, say).

    Raises:
        SignatureError: the device's own cloud did not sign it, or it is for another device.
        ConflictError: it is not newer than the last accepted version.
    """
    payload = cloud_key.verify(envelope, DESIRED_TYPE)
    desired = wire.decode(payload, DesiredState, what="the desired state")
    if desired.device != device:
        raise SignatureError(f"desired state must be for {device}, but it is for {desired.device}")
    if desired.desired_number == accepted:
        return None
    if desired.desired_number < accepted:
        raise ConflictError(f"desired versions only rise: {desired.desired_number} is below {accepted}")
    return desired


def _believe_order(order: BeliefOrder) -> DesiredState | str:
    identity = Identity.load(Path(order.state_directory))
    key = TrustedKeys.from_pem([identity.membership.response.cloud_key_pem])
    desired = believe(order.envelope, device=identity.device, cloud_key=key, accepted=order.accepted)
    return desired or "known already"


if __name__ == "__main__":
    serve_order(BeliefOrder, _believe_order)
