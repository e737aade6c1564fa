"""Other registries: references, and a real docker-registry with basic auth, TLS and token auth."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from cloud.images.build.layers import LayerStore
from cloud.images.build.machine import architecture, own_platform
from cloud.images.build.pulled import pulled_base
from edgewright.cli import main
from edgewright.contracts import package as packages
from edgewright.contracts import signing, wire
from edgewright.contracts.environments.images import COMPRESSED_LAYER_TYPE, IMAGE_CONFIG_TYPE, LayerPart
from edgewright.contracts.environments.tars import Entry
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, Manifest, OciLayout, Platform, encode_document
from edgewright.errors import BadInputError, DeniedError, NotFoundError, UnreachableError
from edgewright.registries.client import RegistryClient
from edgewright.registries.login import Credentials, stored_credentials
from edgewright.registries.references import ImageReference, parse_image_reference
from tests.support.authority import make_authority, pem_of
from tests.support.docker_registry import HTPASSWD, USER, docker_registry, free_port
from tests.support.server_certificates import server_certificate
from tests.support.small_packages import make_package


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("python", ImageReference("registry-1.docker.io", "library/python", "latest")),
        ("docker.io/python:3.11", ImageReference("registry-1.docker.io", "library/python", "3.11")),
        ("org/name:1", ImageReference("registry-1.docker.io", "org/name", "1")),
        ("localhost/a", ImageReference("localhost", "a", "latest")),
        ("reg.example:5000/a/b__c:x.y", ImageReference("reg.example:5000", "a/b__c", "x.y")),
        (f"reg.example/a@sha256:{'0' * 64}", ImageReference("reg.example", "a", "latest", f"sha256:{'0' * 64}")),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, reference: ImageReference) -> None:
    assert parse_image_reference(text) == reference


@pytest.mark.parametrize("text", ["", "UPPER", "a b", "reg.example/", "a:b c", "a@sha256:12", "http://reg/a"])
def test_another_text_is_no_reference(text: str) -> None:
    with pytest.raises(BadInputError, match="an image must have the form"):
        parse_image_reference(text)


def test_credentials_of_docker_login_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = base64.b64encode(b"tester:tested-password").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"reg.example:5000": {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert stored_credentials("reg.example:5000") == USER
    assert stored_credentials("other.example") is None
    assert "tested-password" not in repr(USER)


@dataclass(frozen=True)
class Registry:
    """A running docker-registry."""

    host: str
    ca: Path | None
    needs_login: bool

    def client(self, credentials: Credentials | None = USER) -> RegistryClient:
        return RegistryClient(parse_image_reference(f"{self.host}/base:1"), credentials, ca_file=self.ca)


def token_server(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> ThreadingHTTPServer:
    """A token service as docker's specification describes it: only the tester gets a token with rights."""
    chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            is_tester = self.headers.get("Authorization") == USER.basic()
            kind, name, actions = query["scope"][0].split(":")
            access = [{"type": kind, "name": name, "actions": actions.split(",") if is_tester else []}]
            now = int(time.time())
            claims = {"iss": "tests", "sub": "tester", "aud": query["service"][0], "exp": now + 300, "nbf": now - 5, "iat": now}
            token = signed({"typ": "JWT", "alg": "ES256", "x5c": chain}, claims | {"jti": str(now), "access": access}, key)
            body = json.dumps({"token": token}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def signed(header: dict[str, Any], claims: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    """Return a JSON web token (RFC 7515, ES256)."""
    text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture(scope="module", params=["open", "basic", "tls", "token"])
def registry(
    request: pytest.FixtureRequest, require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry without a login, with basic auth, with basic auth and TLS, and with tokens."""
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    authority, key = make_authority()
    (folder / "ca.pem").write_text(pem_of(authority))
    (folder / "htpasswd").write_text(HTPASSWD)
    basic = {"auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}}
    tokens = token_server(key, authority)
    threading.Thread(target=tokens.serve_forever, daemon=True).start()
    realm = f"http://127.0.0.1:{tokens.server_port}/token"
    bundle = {"realm": realm, "service": "tests", "issuer": "tests", "rootcertbundle": str(folder / "ca.pem")}
    certificate, private_key = server_certificate(folder, authority, key, "127.0.0.1")
    tls = {"certificate": str(certificate), "key": str(private_key)}
    options: dict[str, dict[str, Any]] = {
        "open": {},
        "basic": basic,
        "tls": basic | {"http": {"addr": f"127.0.0.1:{port}", "tls": tls}},
        "token": {"auth": {"token": bundle}},
    }
    try:
        with docker_registry(require("docker-registry"), folder, port, options[request.param]) as host:
            yield Registry(host, folder / "ca.pem" if request.param == "tls" else None, request.param != "open")
    finally:
        tokens.shutdown()
        tokens.server_close()


def push_base(registry: Registry, store: LayerStore, version: str = "") -> Descriptor:
    """Push a base image with one layer, in an index of this architecture and another; return the layer."""
    layer = store.write([Entry(path="etc/base", source=b"base")], LayerPart.BASE, "base", compressed=True)
    config = {"config": {"Env": ["PATH=/bin", *([f"PYTHON_VERSION={version}"] if version else [])]}}
    raw = json.dumps(config | {"rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}).encode()
    described = Descriptor(mediaType=IMAGE_CONFIG_TYPE, digest=wire.digest_of(raw), size=len(raw))
    manifest = encode_document(Manifest(config=described, layers=(layer.blob,)))
    digest = wire.digest_of(manifest)
    entries = [
        Descriptor(mediaType=MANIFEST_TYPE, digest=digest, size=len(manifest), platform=Platform(architecture=name, os="linux"))
        for name in ("riscv64", architecture())
    ]
    with registry.client() as client:
        assert not client.has_blob("sha256:" + "0" * 64)
        with store.path_of(layer.blob.digest).open("rb") as stream:
            client.push_blob(layer.blob, stream)
        client.push_blob(described, io.BytesIO(raw))
        client.push_manifest(manifest, MANIFEST_TYPE, digest)
        client.push_manifest(encode_document(Index(manifests=tuple(entries))), INDEX_TYPE, "1")
        assert client.has_blob(layer.blob.digest)
    return layer.blob


@pytest.fixture
def stores(tmp_path: Path) -> tuple[LayerStore, LayerStore]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return LayerStore(tmp_path / "a", tmp_path / "a-cache"), LayerStore(tmp_path / "b", tmp_path / "b-cache")


def test_a_base_image_is_pushed_and_pulled(
    registry: Registry, stores: tuple[LayerStore, LayerStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = push_base(registry, stores[0])
    log_in(registry, tmp_path, monkeypatch)
    base = pulled_base(stores[1], f"{registry.host}/base:1", own_platform(), lambda _: None)
    assert base.layers[0].blob == layer
    assert (layer.mediaType, base.variables) == (COMPRESSED_LAYER_TYPE, {"PATH": "/bin"})
    assert stores[1].path_of(layer.digest).read_bytes() == stores[0].path_of(layer.digest).read_bytes()


def log_in(registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store credentials as `docker login` does, and trust the registry's authority."""
    auth = base64.b64encode(b"tester:tested-password").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    if registry.ca is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(registry.ca))


def test_a_base_image_with_another_python_or_none_is_refused(
    registry: Registry, stores: tuple[LayerStore, LayerStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_base(registry, stores[0], version="3.2.1")
    log_in(registry, tmp_path, monkeypatch)
    with pytest.raises(BadInputError, match="must have Python 3.*, the version of the building machine, not 3.2.1"):
        pulled_base(stores[1], f"{registry.host}/base:1", own_platform(), lambda _: None)
    with pytest.raises(NotFoundError, match=r"the base image .*/base:9 must exist, but .*MANIFEST_UNKNOWN"):
        pulled_base(stores[1], f"{registry.host}/base:9", own_platform(), lambda _: None)


@pytest.mark.parametrize("credentials", [None, Credentials("tester", "wrong")])
def test_a_wrong_or_missing_password_is_refused_in_one_line(registry: Registry, credentials: Credentials | None) -> None:
    blob = Descriptor(mediaType="x", digest=wire.digest_of(b"x"), size=1)
    expected = pytest.raises(DeniedError) if registry.needs_login else contextlib.nullcontext()
    with registry.client(credentials) as client, expected as refused:
        client.push_blob(blob, io.BytesIO(b"x"))
    if refused is not None:
        assert f"{registry.host} refuses POST blobs/uploads/" in str(refused.value)
        assert "wrong" not in str(refused.value)


def test_a_registry_with_an_unknown_certificate_or_none_at_all_is_not_reached(registry: Registry) -> None:
    image = parse_image_reference(f"{registry.host if registry.ca else f'127.0.0.1:{free_port()}'}/base")
    with pytest.raises(UnreachableError, match="cannot be reached"), RegistryClient(image, USER) as client:
        client.manifest("1")


def packages_command(*words: object, password: str = USER.password) -> Result:
    return CliRunner().invoke(main, ["packages", *map(str, words)], input=f"{password}\n")


@pytest.fixture
def signed_package(tmp_path: Path) -> OciLayout:
    """A package with a signature, and its key `publisher.pub`."""
    layout = make_package(tmp_path / "made", "moved", b"weights").layout
    key = signing.generate_key()
    signing.write_key_pair(tmp_path / "publisher", key)
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    package = packages.read_package(layout)
    claim = signing.PackageSignature(index_digest=package.digest, model="moved", version=1, expires_at=expires_at)
    packages.attach_signature(layout, package, signing.sign_package(claim, key))
    return layout


def test_a_package_is_pushed_with_its_signature_and_pulled_with_the_same_bytes(
    registry: Registry, signed_package: OciLayout, tmp_path: Path
) -> None:
    where = f"{registry.host}/models/moved"
    login = ["--user", USER.user, "--password-stdin", *(["--ca", registry.ca] if registry.ca else [])]
    pushed = packages_command("push", signed_package.path, f"{where}:1", *login, "--json")
    assert pushed.exit_code == 0, pushed.output
    assert json.loads(pushed.stdout)["sent_bytes"] > 0
    again = packages_command("push", signed_package.path, f"{where}:2", *login, "--json")
    assert json.loads(again.stdout)["sent_bytes"] == 0
    digest = json.loads(pushed.stdout)["digest"]
    for number, reference in enumerate((f"{where}:1", f"{where}@{digest}")):
        target = tmp_path / f"pulled-{number}"
        pulled = packages_command("pull", reference, "-o", target, "--key", tmp_path / "publisher.pub", *login)
        assert pulled.exit_code == 0, pulled.output
        blobs = {path.name: path.read_bytes() for path in (target / "blobs/sha256").iterdir()}
        assert blobs == {path.name: path.read_bytes() for path in (signed_package.path / "blobs/sha256").iterdir()}
        assert len(packages.signatures(OciLayout(target), packages.read_package(OciLayout(target)))) == 1


def test_what_is_no_package_or_not_allowed_is_refused_on_one_line(
    registry: Registry, signed_package: OciLayout, stores: tuple[LayerStore, LayerStore], tmp_path: Path
) -> None:
    ca = ["--ca", registry.ca] if registry.ca else []
    login = ["--user", USER.user, "--password-stdin", *ca]
    push_base(registry, stores[0])
    where, target = f"{registry.host}/base", tmp_path / "pulled"
    cases = [
        (["pull", f"{where}:1", "-o", target, *login], "must be a package, but its type is application/vnd.oci.image"),
        (["pull", f"{where}:none", "-o", target, *login], "refuses GET manifests/none (404): MANIFEST_UNKNOWN"),
        (["pull", "UPPER", "-o", target, *login], "an image must have the form registry.example:5000/name:tag"),
        (["push", signed_package.path, f"{where}@sha256:{'0' * 64}", *login], "must be pushed to a tag, not to a digest"),
        (
            ["push", signed_package.path, f"{where}:3", "--user", "tester", *ca],
            "--user and --password-stdin must be given together",
        ),
        (["push", tmp_path, f"{where}:3", *login], "is not a package"),
    ]
    for words, text in cases:
        result = packages_command(*words)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
        assert text in result.stderr
    if registry.needs_login:
        result = packages_command("push", signed_package.path, f"{where}:3", *login, password="wrong")
        assert result.exit_code == 2
        assert "give the user and password of the registry" in result.stderr
    assert not target.exists()


def test_a_pull_of_other_bytes_is_refused_and_leaves_nothing(
    registry: Registry, signed_package: OciLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, tmp_path, monkeypatch)
    where, target = f"{registry.host}/models/damaged:1", tmp_path / "pulled"
    assert packages_command("push", signed_package.path, where).exit_code == 0
    monkeypatch.setattr(RegistryClient, "pieces", lambda _client, _digest: iter([b"wei", b"ghtz"]))
    refused = packages_command("pull", where, "-o", target)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert f"{registry.host} must send the " in refused.stderr
    assert not target.exists()
