"""Enrol the device in a fleet (P10 to P13).

    token      parse it: the cloud's address, the fingerprint of its authority, a secret
    authority  fetch the certificate authority and compare it with the fingerprint
    key        generate the device's private key, which never leaves the folder `identity/`
    request    send the secret and a certificate signing request, and store the certificate

Only the agent's user may read the folder.
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from edge_agent.identity.device_key import csr_for, generate_key, read_key, store_certificate, use_credentials
from edge_agent.identity.identity import CREDENTIAL_SETS, RECORD, Enrolment, Identity
from edge_agent.link.https_client import HttpsRequest
from edgewright.contracts import wire
from edgewright.contracts.connection.enrolment import EnrolmentToken, EnrolRequest, EnrolResponse, parse_token
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import check_name
from edgewright.errors import ConflictError, DeniedError, MessageError


def enrol(state_directory: Path, *, token_text: str, device: str, profile: str) -> Identity:
    """Enrol this machine with the cloud that the token names.

    Raises:
        DeniedError: the token is damaged, used or expired, or the cloud has another authority.
        ConflictError: the state directory belongs to an enrolled device already.
        UnreachableError: the cloud does not answer.
    """
    token = parse_token(token_text)
    check_name(device, "device")
    folder = state_directory / "identity"
    if (folder / RECORD).exists():
        enrolled = Identity.load(state_directory).device
        raise ConflictError(f"{state_directory} is already enrolled as {enrolled}: choose another --state directory")
    authority_pem = _authority(token)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    credentials = folder / CREDENTIAL_SETS[0]
    key = read_key(credentials) or generate_key(credentials)  # a retry after a lost response uses the same key
    request = EnrolRequest(secret=token.secret, device=device, csr_pem=csr_for(key, device), profile=profile)
    context = ssl.create_default_context(cadata=authority_pem)
    raw = HttpsRequest(token.url, context).send("POST", "/v1/enrol", wire.encode(request)).body
    response = wire.decode(raw, EnrolResponse, what="the response to the enrolment")
    if response.device != device:
        raise MessageError(f"the cloud must enrol {device}, but it enrolled {response.device}")
    write_atomically(folder / "ca.pem", response.ca_pem.encode())
    store_certificate(credentials, response.certificate_pem, key=key, device=device, authority=folder / "ca.pem")
    use_credentials(credentials)
    write_atomically(folder / RECORD, wire.encode(Enrolment(url=token.url, profile=profile, response=response)))
    return Identity.load(state_directory)


def _authority(token: EnrolmentToken) -> str:
    """Fetch the cloud's authority over an unauthenticated connection and compare it with the token (P11)."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    pem = HttpsRequest(token.url, context).send("GET", "/v1/ca").body.decode("ascii", "replace")
    try:
        der = ssl.PEM_cert_to_DER_cert(pem)
    except ValueError as error:
        raise DeniedError(f"{token.url} must present a certificate authority, but it presents something else") from error
    fingerprint = hashlib.sha256(der).hexdigest()
    if fingerprint != token.ca_sha256:
        raise DeniedError(
            f"the authority at {token.url} must have the fingerprint {token.ca_sha256[:16]}… of the token, but it has "
            f"{fingerprint[:16]}…: this is not the cloud that issued the token; do not continue"
        )
    return pem
