"""The client with a real cloud: every route, and every rejection."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cloud.state.certificates import Authority
from edgewright.contracts import signing
from edgewright.contracts.connection.enrolment import TokenRequest
from edgewright.contracts.messages import DeploymentState, RolloutRequest, RolloutState
from edgewright.contracts.names import parse_reference
from edgewright.contracts.package import write_tar
from edgewright.errors import (
    BadInputError,
    ConflictError,
    DeniedError,
    NotFoundError,
    OperationError,
    PackageError,
    UnreachableError,
)
from edgewright.sdk import CloudClient, find_context, pushing
from edgewright.sdk.connection import Connection
from tests.support.running_cloud import RunningCloud
from tests.support.scripted_devices import enrol_scripted
from tests.support.small_packages import SmallPackage, make_package


def publish(client: CloudClient, publisher: Path, package: SmallPackage) -> list[tuple[int, int]]:
    """Publish a package and return the calls of the progress callback."""
    calls: list[tuple[int, int]] = []
    key = signing.load_private_key(publisher)
    client.publish(package.layout.path, key, on_progress=lambda sent, total: calls.append((sent, total)))
    return calls


def test_a_published_package_is_the_next_version(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    key = signing.load_private_key(publisher)
    first = client.publish(make_package(tmp_path / "1", "next").layout.path, key)
    second = client.publish(make_package(tmp_path / "2", "next", b"better graph").layout.path, key)
    assert (first.version, second.version) == (1, 2)
    assert client.model_versions("next") == (first, second)
    assert client.model_version(parse_reference("next")) == second
    assert client.model_version(parse_reference("next:1")) == first
    assert second in client.models()


def test_only_what_the_cloud_lacks_is_sent(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path, "frugal", b"x" * 5_000_000)
    calls = publish(client, publisher, package)
    total = calls[-1][1]
    assert total > 5_000_000
    assert [sent for sent, _ in calls] == sorted({sent for sent, _ in calls})
    assert calls[-1] == (total, total)
    assert publish(client, publisher, package) == [(0, 0)]


def test_a_tar_is_published_like_its_directory(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path, "tarred")
    write_tar(package.layout, tmp_path / "package.tar")
    version = client.publish(tmp_path / "package.tar", signing.load_private_key(publisher))
    assert version.index.digest == package.package.digest


def test_a_package_whose_version_is_taken_meanwhile_is_signed_for_the_next(
    client: CloudClient, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = pushing._next_version

    def be_overtaken(connection: Connection, name: str) -> int:
        monkeypatch.setattr(pushing, "_next_version", look)
        version = look(connection, name)
        publish(client, publisher, package)
        return version

    package = make_package(tmp_path, "race")
    monkeypatch.setattr(pushing, "_next_version", be_overtaken)
    assert client.publish(package.layout.path, signing.load_private_key(publisher)).version == 2


def test_a_publisher_that_the_cloud_does_not_trust_is_rejected(client: CloudClient, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="the signature must be by a trusted key"):
        client.publish(make_package(tmp_path, "untrusted").layout.path, signing.generate_key())


def test_a_damaged_package_is_rejected_before_anything_is_sent(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path, "damaged", b"graph bytes")
    graph = package.package.variants[0].manifest.layers[0]
    path = package.layout.blob_path(graph.digest)
    path.chmod(0o600)
    path.write_bytes(b"GRAPH bytes")
    with pytest.raises(PackageError, match="the package was changed or damaged"):
        publish(client, publisher, package)
    with pytest.raises(NotFoundError):
        client.model_versions("damaged")


def test_a_signature_must_be_valid_for_some_time(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    key = signing.load_private_key(publisher)
    with pytest.raises(BadInputError, match="the validity of a signature must be positive, not"):
        client.publish(make_package(tmp_path, "expired").layout.path, key, valid=timedelta(0))


def test_devices_are_listed_labelled_and_revoked(client: CloudClient, cloud: RunningCloud, tmp_path: Path) -> None:
    enrol_scripted(cloud, "listed-1", tmp_path, labels={"site": "east"})
    assert [each.labels for each in client.devices() if each.device == "listed-1"] == [{"site": "east"}]
    assert client.set_labels("listed-1", {"site": "west"}).labels == {"site": "west"}
    assert client.revoke("listed-1").revoked
    assert not client.device("listed-1").online


def test_a_token_enrols_one_device(client: CloudClient) -> None:
    assert client.issue_token(TokenRequest(valid_s=60)).token.startswith("ew1.")


def test_an_unknown_name_offers_the_nearest(client: CloudClient, cloud: RunningCloud, tmp_path: Path) -> None:
    enrol_scripted(cloud, "camera-7", tmp_path)
    with pytest.raises(NotFoundError, match=r"no device is called 'camera-8'; known: .*camera-7"):
        client.device("camera-8")


def test_an_unknown_version_lists_the_known_ones(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    publish(client, publisher, make_package(tmp_path, "single"))
    with pytest.raises(NotFoundError, match=r"^model single has no version 4; known: 1$"):
        client.model_version(parse_reference("single:4"))


def test_a_rollout_is_watched_to_its_end(client: CloudClient, cloud: RunningCloud, publisher: Path, tmp_path: Path) -> None:
    publish(client, publisher, make_package(tmp_path, "watched"))
    first, second = enrol_scripted(cloud, "watched-1", tmp_path), enrol_scripted(cloud, "watched-2", tmp_path)
    request = RolloutRequest(model="watched", devices=("watched-1", "watched-2"), waves=("1", "100%"))
    number = client.create_rollout(request).rollout
    states = client.watch_rollout(number)
    assert next(states).state is RolloutState.RUNNING
    first.run_desired()
    second.run_desired()
    last = list(states)[-1]
    assert (last.state, last.wave) == (RolloutState.COMPLETED, 1)
    assert [each.state for each in last.devices] == [DeploymentState.RUNNING] * 2
    assert client.rollouts()[0] == client.rollout(number)


def test_a_rollout_is_paused_resumed_and_aborted(
    client: CloudClient, cloud: RunningCloud, publisher: Path, tmp_path: Path
) -> None:
    publish(client, publisher, make_package(tmp_path, "steered"))
    enrol_scripted(cloud, "steered-1", tmp_path)
    number = client.create_rollout(RolloutRequest(model="steered", devices=("steered-1",))).rollout
    assert client.pause_rollout(number).state is RolloutState.PAUSED
    assert client.resume_rollout(number).state is RolloutState.RUNNING
    assert client.abort_rollout(number).state is RolloutState.ABORTED
    with pytest.raises(ConflictError, match=f"rollout {number} must be running or paused for that, but it is aborted"):
        client.pause_rollout(number)


def test_measurements_are_ordered_by_time(client: CloudClient, cloud: RunningCloud, tmp_path: Path) -> None:
    enrol_scripted(cloud, "measured-1", tmp_path).measure("latency_p50", "ms", 3.0, 4.0, 5.0)
    measurements = client.telemetry(device="measured-1", name="latency_p50", limit=2)
    assert [each.value for each in measurements] == [4.0, 5.0]


def test_a_change_ends_the_wait_for_it(client: CloudClient, cloud: RunningCloud, tmp_path: Path) -> None:
    seen = client.changes(after=0, wait_s=0)
    timer = threading.Timer(0.2, enrol_scripted, (cloud, "changing-1", tmp_path))
    timer.start()
    assert client.changes(after=seen, wait_s=20) > seen
    timer.join()


def test_a_cloud_that_does_not_run_is_unreachable(client: CloudClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(UnreachableError, match=f"cannot connect to the cloud at {url}: .*refused; is 'edgewright cloud up'"):
        CloudClient(replace(client.context, url=url)).devices()


def test_a_cloud_with_the_certificate_of_another_authority_is_not_trusted(client: CloudClient, tmp_path: Path) -> None:
    stranger = tmp_path / "ca.pem"
    stranger.write_text(Authority.create(datetime.now(UTC)).pem)
    with pytest.raises(UnreachableError, match=r"the certificate of https://.* must be issued by .*ca\.pem"):
        CloudClient(replace(client.context, ca_file=stranger)).devices()


def test_another_clouds_token_is_denied(client: CloudClient) -> None:
    with pytest.raises(DeniedError, match="the operator token must be the one in operator.token"):
        CloudClient(replace(client.context, token="of-another-cloud")).devices()


class Redirecting(BaseHTTPRequestHandler):
    """A registry that sends the upload, and the token with it, to another host."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(202)
        self.send_header("Location", "https://elsewhere.example/upload")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def misleading_cloud(state: Path) -> Iterator[str]:
    """Serve `Redirecting` with the certificate of a real cloud."""
    server = HTTPServer(("127.0.0.1", 0), Redirecting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(state / "server.pem", state / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_token_is_not_sent_to_another_host(cloud: RunningCloud, publisher: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path, "misled")
    context = find_context(str(cloud.state))
    with (
        misleading_cloud(cloud.state) as url,
        CloudClient(replace(context, url=url)) as client,
        pytest.raises(
            OperationError, match=r"must not redirect clients to another host, but it redirected to https://elsewhere\.example"
        ),
    ):
        publish(client, publisher, package)
