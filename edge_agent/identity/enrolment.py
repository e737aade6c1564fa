"""Become a member of a fleet (P10 to P13).

Read the token, fetch the cloud's authority and believe it only by the fingerprint in the token, make a key, ask for a
certificate with a CSR. The private key never leaves `identity/`, which only the agent's user may read.
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from edge_agent.identity.device_key import csr_for, make_key, read_key, store_certificate, use_slot
from edge_agent.identity.identity import RECORD, SLOTS, Identity, Membership
from edge_agent.link.https_client import Exchange
from edgewright.contracts import wire
from edgewright.contracts.enrolment import parse_token
from edgewright.contracts.files import write_atomically
from edgewright.contracts.messages import EnrolmentToken, EnrolRequest, EnrolResponse
from edgewright.contracts.names import check_name
from edgewright.errors import ConflictError, DeniedError, MessageError


def enrol(state_directory: Path, *, token_text: str, device: str, profile: str) -> Identity:
    """Make this machine a member of the cloud that the token names.

    Raises:
        DeniedError: the token is damaged, used or expired, or the authority is not the one that it names.
        ConflictError: the state directory belongs to an enrolled device already.
        UnreachableError: the cloud does not answer.
    """
    token = parse_token(token_text)
    check_name(device, "device")
    folder = state_directory / "identity"
    if (folder / RECORD).exists():
        known = Identity.load(state_directory).device
        raise ConflictError(f"{state_directory} is enrolled as {known} already: choose another --state directory")
    authority_pem = _authority(token)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    slot = folder / SLOTS[0]
    key = read_key(slot) or make_key(slot)  # an enrolment whose answer was lost asks again with the same key
    request = EnrolRequest(secret=token.secret, device=device, csr_pem=csr_for(key, device), profile=profile)
    context = ssl.create_default_context(cadata=authority_pem)
    answer = Exchange(token.url, context).run("POST", "/v1/enrol", wire.encode(request))
    response = wire.decode(answer.body, EnrolResponse, what="the answer to the enrolment")
    if response.device != device:
        raise MessageError(f"the cloud must enrol {device}, but it answered for {response.device}")
    write_atomically(folder / "ca.pem", response.ca_pem.encode())
    store_certificate(slot, response.certificate_pem, key=key, device=device, authority=folder / "ca.pem")
    use_slot(slot)
    write_atomically(folder / RECORD, wire.encode(Membership(url=token.url, profile=profile, response=response)))
    return Identity.load(state_directory)


def _authority(token: EnrolmentToken) -> str:
    """Fetch the cloud's authority over a connection that proves nothing, and compare it with the token (P11)."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    pem = Exchange(token.url, context).run("GET", "/v1/ca").body.decode("ascii", "replace")
    try:
        der = ssl.PEM_cert_to_DER_cert(pem)
    except ValueError as wrong:
        raise DeniedError(f"{token.url} must show a certificate authority, but it showed something else") from wrong
    found = hashlib.sha256(der).hexdigest()
    if found != token.ca_sha256:
        raise DeniedError(
            f"the authority at {token.url} must have fingerprint {token.ca_sha256[:16]}…, as the token says, but it has "
            f"{found[:16]}…: this is not the cloud that made the token; do not go on"
        )
    return pem
