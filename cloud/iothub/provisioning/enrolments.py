"""Enrolments of the provisioning service: which devices may register, and the identity that each one gets.

An individual enrolment has the keys or the certificate of one device. A group has a key, from which each device's key is
derived, or the certificate of an authority that issues the devices' certificates. A device registers under a registration id,
which is also its device id unless the enrolment names another.

Source: REST API of the Device Provisioning Service, version 2021-10-01, objects IndividualEnrollment and EnrollmentGroup.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from cloud.iothub.devices import authentication, identities
from cloud.iothub.devices.authentication import Credential
from cloud.iothub.devices.certificates import Certificates, is_authority, thumbprint
from cloud.iothub.devices.registry import Registry
from cloud.iothub.refusal import RefusalError, bad_argument, precondition
from cloud.iothub.store import Store
from edgewright.contracts.iothub import sas
from edgewright.errors import BadInputError, DeniedError

_REGISTRATION = re.compile(r"[a-z0-9\-._:]{0,127}[a-z0-9]", re.IGNORECASE)
_SCOPE, _RECORD = "scope", "registration"
INDIVIDUAL, GROUP = "enrollment", "enrollmentGroup"
_ID_FIELD = {INDIVIDUAL: "registrationId", GROUP: "enrollmentGroupId"}


@dataclass(frozen=True, slots=True)
class Enrolment:
    """An individual enrolment or a group; keys or certificates (PEM), never both."""

    kind: str
    id: str
    keys: tuple[str, str] = field(default=("", ""), repr=False)
    certificates: tuple[str, ...] = ()
    device: str = ""
    is_edge: bool = False
    is_enabled: bool = True
    initial_twin: dict[str, Any] = field(default_factory=dict)
    etag: str = ""

    def device_keys(self, registration: str) -> tuple[str, str]:
        """Return the keys of a device."""
        if self.kind == INDIVIDUAL:
            return self.keys
        return sas.derive_key(self.keys[0], registration), sas.derive_key(self.keys[1], registration)

    def check(self, registration: str, scope: str, credential: Credential) -> None:
        """Check the credential of a device that registers; raise `DeniedError` if it is not valid."""
        if not self.is_enabled:
            raise DeniedError(f"the enrolment {self.id} is disabled")
        if not self.certificates:
            resource = f"{scope}/registrations/{registration}"
            now = datetime.now(UTC).timestamp()
            sas.check(sas.parse(credential.token), resource=resource, keys=self.device_keys(registration), now=now)
            return
        if credential.certificate is None:
            raise DeniedError(f"{registration} must send a client certificate, but it sent none")
        loaded = [x509.load_pem_x509_certificate(pem.encode()) for pem in self.certificates]
        if self.kind == GROUP:
            authentication.check_issued(credential.certificate, registration, loaded)
        else:
            authentication.check_thumbprint(credential.certificate, [thumbprint(each) for each in loaded])


class Enrolments:
    """All enrolments and registrations of one hub; `scope` is the hub's id scope."""

    def __init__(self, store: Store, registry: Registry, certificates: Certificates) -> None:
        self._store = store
        self._registry = registry
        self._certificates = certificates
        self._enrolments = {
            kind: {key: Enrolment(**_pairs(each)) for key, each in store.documents(kind).items()} for kind in (INDIVIDUAL, GROUP)
        }
        self._records: dict[str, dict[str, Any]] = store.documents(_RECORD)
        self.scope: str = store.documents(_SCOPE).get("id") or f"0ne{secrets.token_hex(4).upper()}"
        store.put(_SCOPE, "id", self.scope)

    def pems(self) -> list[str]:
        """Return the certificates of all enrolments."""
        return [pem for kind in self._enrolments.values() for each in kind.values() for pem in each.certificates]

    def put(self, kind: str, name: str, request: Mapping[str, Any], etag: str) -> Enrolment:
        """Create or change an enrolment; keys that a new one lacks are generated.

        Raises:
            RefusalError: the request is invalid, or the etag is not the current one.
        """
        current = self._enrolments[kind].get(name)
        if current is not None and etag.strip('"') not in ("*", current.etag):
            raise precondition(name)
        if not _REGISTRATION.fullmatch(name):
            raise bad_argument(
                f"an id must be 1 to 128 letters, digits or -._:, and end with a letter or digit, not {name[:140]!r}"
            )
        enrolment = _from_request(kind, name, request, current)
        self._enrolments[kind][name] = enrolment
        self._store.put(kind, name, _document(enrolment))
        for pem in enrolment.certificates:
            self._certificates.on_added(pem)
        return enrolment

    def get(self, kind: str, name: str) -> Enrolment:
        """Return an enrolment; raise `RefusalError` if there is no such one."""
        found = self._enrolments[kind].get(name)
        if found is None:
            raise RefusalError(404, "EnrollmentNotFound", f"the provisioning service has no enrolment {name[:140]}")
        return found

    def list(self, kind: str) -> list[Enrolment]:
        """Return the enrolments of a kind by name."""
        return [self._enrolments[kind][name] for name in sorted(self._enrolments[kind])]

    def delete(self, kind: str, name: str) -> None:
        """Delete an enrolment; registered devices stay. Raise `RefusalError` if there is no such one."""
        self.get(kind, name)
        del self._enrolments[kind][name]
        self._store.delete(kind, name)

    def admit(self, registration: str, credential: Credential) -> Enrolment:
        """Return the enrolment for a device that connects; raise `DeniedError` if no enrolment admits it."""
        own = self._enrolments[INDIVIDUAL].get(registration)
        candidates = [own] if own else self.list(GROUP)
        reason = f"no enrolment admits {registration[:140]!r}"
        for enrolment in candidates:
            try:
                enrolment.check(registration, self.scope, credential)
            except DeniedError as error:
                reason = str(error)
            else:
                return enrolment
        raise DeniedError(reason)

    def assign(self, enrolment: Enrolment, registration: str, certificate: bytes | None, hub: str) -> dict[str, Any]:
        """Create or update the identity of an admitted device, and return its registration state."""
        name = enrolment.device or registration
        request: dict[str, Any] = {"capabilities": {"iotEdge": enrolment.is_edge}}
        if certificate is not None and enrolment.certificates:
            digest = thumbprint(x509.load_der_x509_certificate(certificate))
            request["authentication"] = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": digest}}
        else:
            primary, secondary = enrolment.device_keys(registration)
            request["authentication"] = {"type": "sas", "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}}
        if self._registry.find(name) is None:
            self._registry.create(name, request)
            if enrolment.initial_twin:
                self._registry.change_twin(name, enrolment.initial_twin, "*")
        else:
            self._registry.update(name, request, "*")
        now = identities.timestamp(datetime.now(UTC))
        record = {
            "registrationId": registration,
            "assignedHub": hub,
            "deviceId": name,
            "status": "assigned",
            "substatus": "initialAssignment" if registration not in self._records else "deviceDataMigrated",
            "createdDateTimeUtc": self._records.get(registration, {}).get("createdDateTimeUtc", now),
            "lastUpdatedDateTimeUtc": now,
            "etag": identities.new_etag(),
        }
        self._records[registration] = record
        self._store.put(_RECORD, registration, record)
        return record

    def record(self, registration: str) -> dict[str, Any]:
        """Return a registration state; raise `RefusalError` if the device has not registered."""
        found = self._records.get(registration)
        if found is None:
            raise RefusalError(404, "RegistrationNotFound", f"no device has registered as {registration[:140]}")
        return found


def to_rest(enrolment: Enrolment, *, with_keys: bool) -> dict[str, Any]:
    """Return the JSON of the service API."""
    if enrolment.certificates:
        kind = "signingCertificates" if enrolment.kind == GROUP else "clientCertificates"
        places = zip(("primary", "secondary"), enrolment.certificates, strict=False)
        attestation: dict[str, Any] = {"type": "x509", "x509": {kind: {place: {"certificate": pem} for place, pem in places}}}
    else:
        attestation = {"type": "symmetricKey"}
        if with_keys:
            attestation["symmetricKey"] = dict(zip(("primaryKey", "secondaryKey"), enrolment.keys, strict=True))
    return {
        _ID_FIELD[enrolment.kind]: enrolment.id,
        **({"deviceId": enrolment.device} if enrolment.device else {}),
        "attestation": attestation,
        "capabilities": {"iotEdge": enrolment.is_edge},
        "initialTwin": enrolment.initial_twin,
        "provisioningStatus": "enabled" if enrolment.is_enabled else "disabled",
        "etag": enrolment.etag,
    }


def _from_request(kind: str, name: str, request: Mapping[str, Any], current: Enrolment | None) -> Enrolment:
    attestation = request.get("attestation") or {}
    certificates: tuple[str, ...] = ()
    keys = ("", "")
    if attestation.get("type") == "x509":
        certificates = _certificates(kind, attestation.get("x509") or {})
    elif attestation.get("type", "symmetricKey") == "symmetricKey":
        keys = _keys(attestation.get("symmetricKey") or {}, current.keys if current and current.keys[0] else None)
    else:
        raise bad_argument(f"attestation.type must be symmetricKey or x509, not {attestation.get('type')!r}")
    device = str(request.get("deviceId") or "")
    return Enrolment(
        kind=kind,
        id=name,
        keys=keys,
        certificates=certificates,
        device=identities.check_name(device) if device else "",
        is_edge=bool((request.get("capabilities") or {}).get("iotEdge")),
        is_enabled=request.get("provisioningStatus", "enabled") == "enabled",
        initial_twin=dict(request.get("initialTwin") or {}),
        etag=identities.new_etag(),
    )


def _keys(request: Mapping[str, Any], current: tuple[str, str] | None) -> tuple[str, str]:
    old = current or (sas.new_key(), sas.new_key())
    try:
        primary, secondary = (
            sas.check_key(request[each]) if request.get(each) else kept
            for each, kept in zip(("primaryKey", "secondaryKey"), old, strict=True)
        )
    except BadInputError as error:
        raise bad_argument(str(error)) from error
    return primary, secondary


def _certificates(kind: str, request: Mapping[str, Any]) -> tuple[str, ...]:
    field_name = "signingCertificates" if kind == GROUP else "clientCertificates"
    pair = request.get(field_name) or {}
    pems = tuple(str((pair.get(place) or {}).get("certificate")) for place in ("primary", "secondary") if pair.get(place))
    if not pems:
        raise bad_argument(f"attestation.x509.{field_name} must have a primary certificate, but it has none")
    for pem in pems:
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
        except ValueError as error:
            raise bad_argument(f"a certificate must be PEM, but it is not: {error}") from error
        if kind == GROUP and not is_authority(certificate):
            raise bad_argument("the certificate of a group must be that of an authority (CA:TRUE), but it is not")
    return pems


def _document(enrolment: Enrolment) -> dict[str, Any]:
    return {name: getattr(enrolment, name) for name in Enrolment.__dataclass_fields__}


def _pairs(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "keys": tuple(document["keys"]), "certificates": tuple(document["certificates"])}
