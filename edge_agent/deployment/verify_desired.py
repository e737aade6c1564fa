"""Worker that verifies a desired state (P32): signed by the device's own cloud, for this device, with a higher number.

A separate process, because desired states are rare and the cryptography would take a fifth of the agent's memory.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.identity.identity import Identity
from edge_agent.workers.requests import VerifyRequest
from edge_agent.workers.worker import serve_request
from edgewright.contracts import wire
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.signing import DESIRED_TYPE, TrustedKeys
from edgewright.errors import ConflictError, SignatureError


def verify(envelope: bytes, *, device: str, cloud_key: TrustedKeys, accepted_number: int) -> DesiredState | None:
    """Return the desired state of an envelope; None for a repetition of the last accepted one (a retained message).

    Raises:
        SignatureError: the device's own cloud did not sign it, or it is for another device.
        ConflictError: its number is below the last accepted one.
    """
    payload = cloud_key.verify(envelope, DESIRED_TYPE)
    desired = wire.decode(payload, DesiredState, what="the desired state")
    if desired.device != device:
        raise SignatureError(f"desired state must be for {device}, but it is for {desired.device}")
    if desired.desired_number == accepted_number:
        return None
    if desired.desired_number < accepted_number:
        raise ConflictError(f"the desired number must increase, but {desired.desired_number} is below {accepted_number}")
    return desired


def _serve(request: VerifyRequest) -> DesiredState | str:
    identity = Identity.load(Path(request.state_directory))
    key = TrustedKeys.from_pem([identity.enrolment.response.cloud_key_pem])
    desired = verify(request.envelope, device=identity.device, cloud_key=key, accepted_number=request.accepted_number)
    return desired or "already accepted"


if __name__ == "__main__":
    serve_request(VerifyRequest, _serve)
