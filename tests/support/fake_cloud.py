"""A cloud in a thread that speaks the protocol (docs/spec/protocol.md) over real TLS, with injectable faults.

It counts the bytes of every blob that it sends, cuts connections, corrupts bytes, and stops and restarts on the same port.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgewright.contracts import wire
from edgewright.contracts.connection.enrolment import EnrolmentToken, EnrolRequest, EnrolResponse, format_token
from edgewright.contracts.environments.file_layers import file_of, place_of
from edgewright.contracts.messages import DeploymentState, DesiredState, ReportedState, TelemetryAck, TelemetryBatch
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, descriptor_of, encode_document
from edgewright.contracts.package import SIGNATURE_TYPE, signature_manifest
from edgewright.contracts.signing import DESIRED_TYPE, PrivateKey, generate_key, public_pem, sign
from tests.support.authority import make_authority, pem_of
from tests.support.device_packages import MODEL, Built
from tests.support.tls_server import TlsServer

SECRET = "one-time"
CHUNK_BYTES = 1 << 14


@dataclass
class Faults:
    """Faults of the cloud."""

    cut_after_bytes: int | None = None
    """Close the connection after this number of bytes of a blob."""
    corrupt: set[str] = field(default_factory=set)
    """Files and documents sent with a wrong last byte."""
    truncate: set[str] = field(default_factory=set)
    """Files and documents of which only the first half is sent."""
    without_range: bool = False
    without_referrers: bool = False
    fail_status: int | None = None
    """Status of every response below /v2/."""


@dataclass(frozen=True)
class Keys:
    """Keys that a device trusts; it accepts any cloud that has the same keys."""

    publisher: PrivateKey = field(default_factory=generate_key)
    cloud_key: PrivateKey = field(default_factory=generate_key)
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] = field(default_factory=make_authority)


class FakeCloud:
    """A cloud with one device."""

    def __init__(self, folder: Path, device: str = "cam-1", port: int = 0, keys: Keys | None = None) -> None:
        keys = keys or Keys()
        self.device = device
        self.faults = Faults()
        self.publisher = keys.publisher
        self.cloud_key = keys.cloud_key
        self.trusted: tuple[str, ...] = (public_pem(self.publisher.public_key()),)
        self.sent: Counter[str] = Counter()
        """Sent bytes by the digest of a document, or of the file in a layer."""
        self.requests: Counter[str] = Counter()
        self.reports: list[ReportedState] = []
        self.measurements: dict[int, Any] = {}
        self.desired: bytes | None = None
        self.workloads: dict[str, DesiredState] = {}
        self.single = False
        """True for a cloud that knows one workload per device."""
        self.desired_number = 0
        self._manifests: dict[str, bytes] = {}
        self._blobs: dict[str, Path | bytes] = {}
        self._files: dict[str, Descriptor] = {}
        """The file in each layer."""
        self._referrers: dict[str, list[Any]] = {}
        self._changed = threading.Condition()
        self._authority, self._authority_key = keys.authority
        self._tls = self._server_tls(folder)
        self._server: TlsServer | None = None
        self.port = port
        self.start()

    # Interface for tests

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def token(self) -> str:
        fingerprint = self._authority.fingerprint(hashes.SHA256()).hex()
        return format_token(EnrolmentToken(url=self.url, ca_sha256=fingerprint, secret=SECRET))

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"cloud": self})
        self._server = TlsServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        self._server.tls = self._tls
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.end_connections()
            errors, self._server = self._server.errors, None
            assert not errors, errors[0]

    def publish(self, built: Built, version: int, *, envelope: bytes | None = None) -> None:
        """Store a package and its signature."""
        index = built.package.descriptor
        self._manifests[index.digest] = built.layout.blob_path(index.digest).read_bytes()
        for variant in built.package.variants:
            self._manifests[variant.descriptor.digest] = built.layout.blob_path(variant.descriptor.digest).read_bytes()
        for blob in built.package.blobs():
            self._blobs[blob.digest] = built.layout.blob_path(blob.digest)
            self._files[blob.digest] = file_of(blob)
        signed = built.envelope(version, self.publisher) if envelope is None else envelope
        manifest = signature_manifest(signed, index)
        raw = encode_document(manifest)
        self._manifests[wire.digest_of(raw)] = raw
        self._blobs[manifest.layers[0].digest] = signed
        entry = {"mediaType": MANIFEST_TYPE, "digest": wire.digest_of(raw), "size": len(raw), "artifactType": SIGNATURE_TYPE}
        self._referrers.setdefault(index.digest, []).append(entry)

    def set_desired(self, built: Built, version: int, *, key: PrivateKey | None = None, **changes: Any) -> DesiredState:
        """Set the desired state of a workload; `changes` override fields of the message, which names the other workloads too."""
        fields: dict[str, Any] = {
            "device": self.device,
            "desired_number": self.desired_number + 1,
            "model": MODEL,
            "version": version,
            "index": built.package.descriptor,
            "trial_s": 0.0,
        }
        desired = DesiredState(**{**fields, **changes})
        if key is None and desired.device == self.device and not self.single:
            self.workloads[desired.workload] = desired
            desired = replace(desired, workloads=tuple(self.workloads.values()))
        return self._send(desired, key)

    def remove_workload(self, workload: str) -> DesiredState:
        """Remove a workload from the device's desired state."""
        removed = self.workloads.pop(workload)
        number = self.desired_number + 1
        return self._send(replace(removed, desired_number=number, workloads=tuple(self.workloads.values())), None)

    def _send(self, desired: DesiredState, key: PrivateKey | None) -> DesiredState:
        with self._changed:
            self.desired = sign(wire.encode(desired), DESIRED_TYPE, key or self.cloud_key)
            self.desired_number = desired.desired_number
            self._changed.notify_all()
        return replace(desired, workloads=None)

    def wait_for(self, state: DeploymentState, desired_number: int | None = None, timeout_s: float = 45.0) -> ReportedState:
        """Wait until the device reports `state` for a desired state, and return that report."""

        def matching_report() -> ReportedState | None:
            number = desired_number or self.desired_number
            return next((r for r in reversed(self.reports) if r.state is state and r.desired_number == number), None)

        report: ReportedState = self.wait_until(matching_report, f"{state.value} was not reported", timeout_s)
        return report

    def last_report(self) -> ReportedState:
        """Return the device's latest report."""
        with self._changed:
            return self.reports[-1]

    def wait_until(self, condition: Any, failure: str, timeout_s: float = 45.0) -> Any:
        """Wait until `condition()` returns a value other than None and False, and return that value."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition() is not None and condition() is not False, timeout_s), (
                f"{failure}; last reports: {[(r.desired_number, r.state, r.reason) for r in self.reports[-5:]]}"
            )
            return condition()

    # Interface for the handler

    def enrol(self, raw: bytes) -> EnrolResponse | None:
        request = wire.decode(raw, EnrolRequest, what="enrolment")
        if request.secret != SECRET:
            return None
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        assert csr.is_signature_valid
        certificate = self._certificate(request.device, csr.public_key())
        return EnrolResponse(
            device=request.device,
            tenant="default",
            certificate_pem=pem_of(certificate),
            ca_pem=self.ca_pem,
            cloud_key_pem=public_pem(self.cloud_key.public_key()),
            publisher_keys_pem=self.trusted,
        )

    def wait_desired(self, have: int, wait_s: float) -> bytes | None:
        server = self._server

        def newer() -> bool:
            return self.desired_number > have or self._server is not server

        with self._changed:
            self._changed.wait_for(newer, wait_s)
            return self.desired if self.desired_number > have else None

    def take_report(self, raw: bytes) -> None:
        with self._changed:
            self.reports.append(wire.decode(raw, ReportedState, what="report"))
            self._changed.notify_all()

    def take_telemetry(self, raw: bytes) -> TelemetryAck:
        batch = wire.decode(raw, TelemetryBatch, what="telemetry")
        with self._changed:
            self.measurements |= {measurement.sequence: measurement for measurement in batch.measurements}
            self._changed.notify_all()
        return TelemetryAck(queue_id=batch.queue_id, sequence=batch.measurements[-1].sequence)

    def count(self, digest: str, size: int) -> None:
        file = self._files.get(digest)
        with self._changed:
            self.sent[file.digest if file is not None else digest] += size
            self._changed.notify_all()

    def manifest(self, reference: str) -> bytes | None:
        if reference.startswith("sha256-"):
            entries = self._referrers.get(reference.replace("-", ":", 1))
            return _index(entries) if entries and self.faults.without_referrers else None
        return self._manifests.get(reference)

    def referrers(self, digest: str) -> bytes | None:
        return None if self.faults.without_referrers else _index(self._referrers.get(digest, []))

    def blob(self, digest: str) -> bytes | None:
        source = self._blobs.get(digest)
        if source is None:
            return None
        raw = source if isinstance(source, bytes) else source.read_bytes()
        file = self._files.get(digest, descriptor_of(raw, ""))
        start, name = place_of(file)[1], file.digest
        end = start + file.size
        if name in self.faults.corrupt:
            raw = raw[: end - 1] + bytes([raw[end - 1] ^ 1]) + raw[end:]
        return raw[: start + file.size // 2] if name in self.faults.truncate else raw

    @property
    def ca_pem(self) -> str:
        return pem_of(self._authority)

    def _certificate(self, name: str, key: Any, *addresses: str) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._authority.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )
        if addresses:
            names = [x509.IPAddress(ip_address(address)) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._authority_key, hashes.SHA256())

    def _server_tls(self, folder: Path) -> ssl.SSLContext:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / "server.crt").write_text(pem_of(self._certificate("cloud", key.public_key(), "127.0.0.1")))
        no_encryption = serialization.NoEncryption()
        (folder / "server.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_encryption)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        context.load_verify_locations(cadata=self.ca_pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


class _Handler(BaseHTTPRequestHandler):
    cloud: FakeCloud
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.cloud.requests[url.path] += 1
        if url.path == "/v1/ca":
            self._answer(200, self.cloud.ca_pem.encode())
        elif not self._device():
            self._answer(401, b'{"error":"a device must present its certificate"}')
        elif url.path == "/v1/device/desired":
            envelope = self.cloud.wait_desired(int(query["have"]), float(query["wait_s"]))
            self._answer(204 if envelope is None else 200, envelope or b"")
        else:
            self._registry(url.path)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        raw = self.rfile.read(length)
        if len(raw) < length:  # the device was killed while it sent the request
            self.close_connection = True
        elif self.path == "/v1/enrol":
            response = self.cloud.enrol(raw)
            refusal = b'{"error":"the enrolment token must be unused, but it was used: ask for another"}'
            self._answer(403 if response is None else 200, refusal if response is None else wire.encode(response))
        elif not self._device():
            self._answer(401, b'{"error":"a device must present its certificate"}')
        elif self.path == "/v1/device/reported":
            self.cloud.take_report(raw)
            self._answer(204, b"")
        elif self.path == "/v1/device/telemetry":
            self._answer(200, wire.encode(self.cloud.take_telemetry(raw)))
        else:  # a cloud that shares no benchmarks
            self._answer(404, b'{"error":"there is no such address"}')

    def _registry(self, path: str) -> None:
        match = re.fullmatch(rf"/v2/{MODEL}/(manifests|blobs|referrers)/(.+)", path)
        faults = self.cloud.faults
        if faults.fail_status is not None or match is None:
            self._answer(faults.fail_status or 404, b'{"error":"the store is closed"}')
            return
        kind, reference = match.groups()
        raw = getattr(self.cloud, {"manifests": "manifest", "blobs": "blob", "referrers": "referrers"}[kind])(reference)
        if raw is None:
            self._answer(404, b"{}")
        else:
            self._send_range(reference, raw)

    def _send_range(self, digest: str, raw: bytes) -> None:
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        is_range = requested is not None and not self.cloud.faults.without_range
        start = int(requested[1]) if requested and is_range else 0
        if requested and is_range and requested[2]:
            raw = raw[: int(requested[2]) + 1]
        if start >= len(raw) > 0:
            self._answer(416, b"")
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(raw) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(raw) - 1}/{len(raw)}")
        self.end_headers()
        cut = self.cloud.faults.cut_after_bytes
        body = raw[start:] if cut is None else raw[start : start + cut]
        for offset in range(0, len(body), CHUNK_BYTES):
            chunk = body[offset : offset + CHUNK_BYTES]
            self.wfile.write(chunk)
            self.cloud.count(digest, len(chunk))
        self.close_connection = len(body) < len(raw) - start

    def _device(self) -> str | None:
        certificate = self.connection.getpeercert()
        names = {key: value for part in (certificate or {}).get("subject", ()) for key, value in part}
        return names.get("commonName")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _index(entries: list[Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).encode()
