"""The worker that renews the device's certificate (P14, P15).

    key      a new one, in the slot that is not in use
    ask      over the present certificate; where no connection opens with it, by a proof that does without
    check    it is of the cloud's authority, for this device and this key
    switch   one rename; the agent connects anew, and what scores does not notice

Killed between any two steps, the device still has the old pair, or has the new one; the next attempt begins with a fresh key.
The old pair stays in its slot until the next renewal and good until it expires, for exchanges that are under way.
"""

from __future__ import annotations

import fcntl
import shutil
import ssl
from pathlib import Path

from edge_agent.identity.device_key import csr_for, make_key, read_key, store_certificate, use_slot
from edge_agent.identity.identity import CERTIFICATE_FILE, Identity
from edge_agent.link.https_client import Exchange
from edge_agent.storage.failpoints import failpoint
from edge_agent.workers.orders import RenewalOrder
from edge_agent.workers.worker import serve_order
from edgewright.contracts import signing, wire
from edgewright.contracts.files import reporting_full_disk
from edgewright.contracts.messages import IssuedCertificate, RenewalChallenge, RenewalProof, RenewalRequest
from edgewright.errors import BadInputError, DeniedError, OperationError, UnreachableError

ALREADY = "renewed already"


def renew(identity: Identity) -> str:
    """Get the next certificate and put it to use; return in words until when it is good.

    Raises:
        UnreachableError: the cloud does not answer.
        DeniedError: the cloud gives this device none: it was revoked, or away for too long.
    """
    slot = identity.spare_slot
    shutil.rmtree(slot, ignore_errors=True)
    key = make_key(slot)
    failpoint("certificate.after_key")
    issued = ask(identity, csr_for(key, identity.device))
    failpoint("certificate.after_answer")
    validity = store_certificate(slot, issued.certificate_pem, key=key, device=identity.device, authority=identity.authority)
    use_slot(slot)
    return f"the certificate is good until {validity.not_after:%Y-%m-%d %H:%M} UTC"


def ask(identity: Identity, csr_pem: str) -> IssuedCertificate:
    """Ask over the present certificate; when nothing opens, prove by signature, as an expired one has to.

    No clock is asked which of the two to try: the device's own may be wrong, and the cloud's decides.
    """
    try:
        request = wire.encode(RenewalRequest(csr_pem=csr_pem))
        answer = Exchange(identity.url, identity.tls_context()).run("POST", "/v1/device/certificate", request)
    except UnreachableError as closed:
        return _prove_instead(identity, csr_pem, closed)
    return wire.decode(answer.body, IssuedCertificate, what="the answer to the renewal")


def _prove_instead(identity: Identity, csr_pem: str, closed: UnreachableError) -> IssuedCertificate:
    """Prove; where the cloud says that the certificate is good, the first way failed for a reason that passes."""
    try:
        return _prove(identity, csr_pem)
    except DeniedError:
        raise
    except BadInputError as refused:
        raise OperationError(f"{refused}; that failed, because {closed}") from closed


def _prove(identity: Identity, csr_pem: str) -> IssuedCertificate:
    slot = identity.slot
    key = read_key(slot)
    if key is None:
        raise OperationError(f"{slot} must hold the device's key, but it does not: enrol the device again")
    context = ssl.create_default_context(cafile=str(identity.authority))
    challenge = Exchange(identity.url, context).run("GET", "/v1/renew")
    proof = RenewalProof(
        nonce=wire.decode(challenge.body, RenewalChallenge, what="the nonce").nonce,
        certificate_pem=(slot / CERTIFICATE_FILE).read_text("ascii"),
        csr_pem=csr_pem,
    )
    envelope = signing.sign(wire.encode(proof), signing.RENEWAL_TYPE, key)
    answer = Exchange(identity.url, context).run("POST", "/v1/renew", envelope)
    return wire.decode(answer.body, IssuedCertificate, what="the answer to the renewal")


def _renew_alone(order: RenewalOrder) -> str:
    """Renew with the lock held, once per slot: a worker of an agent that was killed may still be on its way."""
    identity = Identity.load(Path(order.state_directory))
    with reporting_full_disk("the certificate"), (identity.folder / "renewal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if identity.slot.name != order.slot:
            return ALREADY
        return renew(identity)


if __name__ == "__main__":
    serve_order(RenewalOrder, _renew_alone)
