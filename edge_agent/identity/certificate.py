"""Worker that renews the device's certificate (P14, P15).

    key      generate a new key in the credential set that is not in use
    request  authenticate with the current certificate, or by a signed proof if TLS fails with it
    verify   the certificate is of the cloud's authority, for this device and this key
    switch   one rename; the agent reconnects while scoring continues

After a kill between any two steps the device has the old set or the new one, and the next attempt starts with a new key. The old
set stays until the next renewal, and it remains valid for requests in progress.
"""

from __future__ import annotations

import fcntl
import shutil
import ssl
from pathlib import Path

from edge_agent.identity.device_key import csr_for, generate_key, read_key, store_certificate, use_credentials
from edge_agent.identity.identity import CERTIFICATE_FILE, Identity
from edge_agent.link.https_client import HttpsRequest
from edge_agent.storage.failpoints import failpoint
from edge_agent.workers.requests import RenewRequest
from edge_agent.workers.worker import serve_request
from edgewright.contracts import signing, wire
from edgewright.contracts.connection.renewal import IssuedCertificate, RenewalChallenge, RenewalProof, RenewalRequest
from edgewright.contracts.files import reporting_full_disk
from edgewright.errors import BadInputError, DeniedError, OperationError, UnreachableError

ALREADY_RENEWED = "already renewed"


def renew(identity: Identity) -> str:
    """Get the next certificate and switch to it; return its expiry as text.

    Raises:
        UnreachableError: the cloud does not answer.
        DeniedError: the device was revoked, or its certificate expired too long ago.
    """
    credentials = identity.spare_credentials
    shutil.rmtree(credentials, ignore_errors=True)
    key = generate_key(credentials)
    failpoint("certificate.after_key")
    issued = request_certificate(identity, csr_for(key, identity.device))
    failpoint("certificate.after_answer")
    validity = store_certificate(
        credentials, issued.certificate_pem, key=key, device=identity.device, authority=identity.authority
    )
    use_credentials(credentials)
    return f"the certificate is valid until {validity.not_after:%Y-%m-%d %H:%M} UTC"


def request_certificate(identity: Identity, csr_pem: str) -> IssuedCertificate:
    """Request a certificate with the current one; if TLS fails, use a signed proof, which also works after expiry.

    The device's clock is not consulted, because it may be wrong: the cloud's clock decides.
    """
    try:
        request = wire.encode(RenewalRequest(csr_pem=csr_pem))
        response = HttpsRequest(identity.url, identity.tls_context()).send("POST", "/v1/device/certificate", request)
    except UnreachableError as error:
        return _request_by_proof(identity, csr_pem, error)
    return wire.decode(response.body, IssuedCertificate, what="the response to the renewal")


def _request_by_proof(identity: Identity, csr_pem: str, tls_error: UnreachableError) -> IssuedCertificate:
    """Use a signed proof; if the cloud answers that the certificate is valid, the TLS failure was temporary."""
    try:
        return _send_proof(identity, csr_pem)
    except DeniedError:
        raise
    except BadInputError as error:
        raise OperationError(f"{error}; that failed, because {tls_error}") from tls_error


def _send_proof(identity: Identity, csr_pem: str) -> IssuedCertificate:
    credentials = identity.credentials
    key = read_key(credentials)
    if key is None:
        raise OperationError(f"{credentials} must hold the device's key, but it does not: enrol the device again")
    context = ssl.create_default_context(cafile=str(identity.authority))
    challenge = HttpsRequest(identity.url, context).send("GET", "/v1/renew")
    proof = RenewalProof(
        nonce=wire.decode(challenge.body, RenewalChallenge, what="the nonce").nonce,
        certificate_pem=(credentials / CERTIFICATE_FILE).read_text("ascii"),
        csr_pem=csr_pem,
    )
    envelope = signing.sign(wire.encode(proof), signing.RENEWAL_TYPE, key)
    response = HttpsRequest(identity.url, context).send("POST", "/v1/renew", envelope)
    return wire.decode(response.body, IssuedCertificate, what="the response to the renewal")


def _serve(request: RenewRequest) -> str:
    """Renew once, under a lock, because a worker of a killed agent may still run."""
    identity = Identity.load(Path(request.state_directory))
    with reporting_full_disk("the certificate"), (identity.folder / "renewal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if identity.credentials.name != request.credentials:
            return ALREADY_RENEWED
        return renew(identity)


if __name__ == "__main__":
    serve_request(RenewRequest, _serve)
