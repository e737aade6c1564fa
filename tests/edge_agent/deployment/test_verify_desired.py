"""Verification of a desired state: signature, device and number."""

from __future__ import annotations

import pytest

from edge_agent.deployment.verify_desired import verify
from edgewright.contracts import wire
from edgewright.contracts.messages import DesiredState
from edgewright.contracts.signing import DESIRED_TYPE, PrivateKey, TrustedKeys, generate_key, public_pem, sign
from edgewright.errors import ConflictError, SignatureError
from tests.edge_agent.deployment.test_plan import desired

KEY = generate_key()


def verified(accepted_number: int, *, device: str = "cam-1", key: PrivateKey = KEY) -> DesiredState | None:
    envelope = sign(wire.encode(desired(5)), DESIRED_TYPE, key)
    trusted = TrustedKeys.from_pem([public_pem(KEY.public_key())])
    return verify(envelope, device=device, cloud_key=trusted, accepted_number=accepted_number)


def test_a_higher_number_is_accepted() -> None:
    assert verified(4) == desired(5)


def test_a_repetition_of_the_last_accepted_number_is_ignored() -> None:
    assert verified(5) is None


def test_a_lower_number_is_rejected() -> None:
    with pytest.raises(ConflictError, match="^the desired number must increase, but 5 is below 6$"):
        verified(6)


def test_a_desired_state_for_another_device_is_rejected() -> None:
    with pytest.raises(SignatureError, match="^desired state must be for cam-2, but it is for cam-1$"):
        verified(4, device="cam-2")


def test_a_desired_state_signed_by_another_key_is_rejected() -> None:
    with pytest.raises(SignatureError, match="must be by a trusted key"):
        verified(4, key=generate_key())
