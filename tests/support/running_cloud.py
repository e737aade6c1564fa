"""A real cloud in a separate process, with HTTPS clients for operators, devices and anonymous callers."""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.messaging.broker import end_orphan
from edgewright.contracts.connection.enrolment import parse_token

START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"])


class Http:
    """An HTTPS client that verifies the cloud and sends the given credential."""

    def __init__(self, url: str, ca: Path, *, token: str | None = None, certificate: tuple[Path, Path] | None = None) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        self.url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=60)

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        raw = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        response = self._pool.request(method, self.url + path, body=raw, headers={**self._headers, **(headers or {})})
        return Answer(response.status, response.headers, response.data)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.send("POST", path, body)

    def put(self, path: str, body: Any = None) -> Answer:
        return self.send("PUT", path, body)


@dataclass(frozen=True)
class EnrolledDevice:
    """An enrolled device: its name, its certificate and key files, and its HTTPS client."""

    device: str
    certificate: tuple[Path, Path]
    http: Http
    enrolment: dict[str, Any]


@dataclass
class RunningCloud:
    """One cloud process."""

    process: subprocess.Popen[bytes]
    state: Path
    url: str
    broker: tuple[str, int] | None
    log: Path

    @property
    def ca(self) -> Path:
        return self.state / "ca.pem"

    @property
    def token(self) -> str:
        return (self.state / "operator.token").read_text().strip()

    def operator(self) -> Http:
        return Http(self.url, self.ca, token=self.token)

    def anonymous(self, *, token: str | None = None) -> Http:
        return Http(self.url, self.ca, token=token)

    def secret(self, **request: Any) -> str:
        return parse_token(self.operator().post("/v1/tokens", request).json()["token"]).secret

    def enrol(self, name: str, folder: Path, *, profile: str = "generic-x86-64", **token: Any) -> EnrolledDevice:
        """Enrol a device whose files go to `folder`."""
        key_file, certificate_file = folder / f"{name}.key", folder / f"{name}.pem"
        csr = make_csr(key_file, common_name="whatever")
        body = {"secret": self.secret(**token), "device": name, "csr_pem": csr, "profile": profile}
        answer = self.anonymous().post("/v1/enrol", body)
        assert answer.status == 201, answer.body
        certificate_file.write_text(answer.json()["certificate_pem"])
        files = (certificate_file, key_file)
        return EnrolledDevice(name, files, Http(self.url, self.ca, certificate=files), answer.json())

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


def start(state: Path, *options: str) -> RunningCloud:
    """Start a cloud on a free port; return when it is ready."""
    command = [sys.executable, "-c", "from edgewright.cli import main; main()", "cloud", "up", "--json", "-v"]
    port = () if "--port" in options else ("--port", "0")
    return launch([*command, "--state", str(state), *port, *options], state)


def launch(command: list[str], state: Path) -> RunningCloud:
    """Run a command that announces a cloud as `cloud up --json` does."""
    log = state.with_name(state.name + ".log")
    with log.open("ab") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    try:
        announced = json.loads(_first_document(process, log))
    except BaseException:
        process.kill()
        process.wait(20)
        raise
    broker = announced["broker"]
    return RunningCloud(process, state, announced["url"], (broker["host"], broker["port"]) if broker else None, log)


@contextmanager
def running(state: Path, *options: str) -> Iterator[RunningCloud]:
    """Yield a cloud; terminate it and its broker afterwards."""
    with ending(start(state, *options)) as cloud:
        yield cloud


@contextmanager
def ending(cloud: RunningCloud) -> Iterator[RunningCloud]:
    """Terminate a started cloud at the end of the block."""
    try:
        yield cloud
    finally:
        if cloud.process.poll() is None:
            cloud.process.terminate()
            try:
                cloud.process.wait(20)
            except subprocess.TimeoutExpired:
                cloud.kill()
        assert cloud.process.stdout is not None
        cloud.process.stdout.close()
        end_orphan(cloud.state)


def make_csr(key_file: Path, common_name: str) -> str:
    """Generate a device key and its certificate signing request."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(pem)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def _first_document(process: subprocess.Popen[bytes], log: Path) -> bytes:
    """Read standard output up to the end of the announcement."""
    assert process.stdout is not None
    output, ends_at = b"", time.monotonic() + START_TIMEOUT_S
    while not output.endswith(b"\n}\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, ends_at - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
        assert chunk, f"the cloud did not start: {log.read_text()}"
        output += chunk
    return output
