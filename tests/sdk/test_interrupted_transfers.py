"""Uploads and downloads of models continue after an interruption; the bytes are counted between the client and a real cloud."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgewright.contracts.connection.client_context import ClientContext
from edgewright.contracts.oci import describe_file
from edgewright.errors import NotFoundError, OperationError
from edgewright.sdk import CloudClient
from edgewright.sdk.transfer import kept
from tests.support.cut_proxy import CutProxy, cut_proxy
from tests.support.running_cloud import RunningCloud, start

SIZE = 24 << 20
MIDDLE = 13 << 20
RESENT_AT_MOST = 6 << 20  # one chunk of 4 MiB, what the sockets hold, and the headers


@pytest.fixture
def proxy(cloud: RunningCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CutProxy]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = urlsplit(cloud.url)
    with cut_proxy(address.hostname or "", address.port or 0) as proxy:
        yield proxy


@pytest.fixture
def client(cloud: RunningCloud, proxy: CutProxy) -> Iterator[CloudClient]:
    """A client that reaches the cloud through the proxy."""
    context = ClientContext(url=f"https://127.0.0.1:{proxy.port}", token=cloud.token, ca_file=cloud.ca)
    with CloudClient(context) as client:
        yield client


@pytest.fixture
def weights(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(random.Random(request.node.name).randbytes(SIZE))
    return path


def kept_files() -> list[Path]:
    return sorted(kept.folder().glob("*"))


def digest(path: Path) -> str:
    return describe_file(path, "").digest


def test_an_upload_continues_after_its_connection_was_cut(client: CloudClient, proxy: CutProxy, weights: Path) -> None:
    proxy.cut_at = {"up": MIDDLE}
    progress: list[tuple[int, int]] = []
    version = client.register_model("cut-upload", weights, on_progress=lambda *each: progress.append(each))
    assert proxy.cut_at == {}
    assert version.files[0].digest == digest(weights)
    assert SIZE <= proxy.passed["up"] < SIZE + RESENT_AT_MOST
    assert progress[-1] == (SIZE, SIZE)
    assert kept_files() == []


def test_a_download_continues_after_its_connection_was_cut(
    client: CloudClient, proxy: CutProxy, weights: Path, tmp_path: Path
) -> None:
    version = client.register_model("cut-download", weights)
    proxy.passed["down"] = 0
    proxy.cut_at = {"down": MIDDLE}
    client.download_model(version, tmp_path / "back")
    assert proxy.cut_at == {}
    assert digest(tmp_path / "back" / "weights.bin") == digest(weights)
    assert SIZE <= proxy.passed["down"] < SIZE + RESENT_AT_MOST
    assert kept_files() == []


def edgewright(client: CloudClient, *arguments: object) -> subprocess.Popen[str]:
    """Start a command with the client's cloud."""
    place = {"EDGEWRIGHT_CLOUD": client.context.url, "EDGEWRIGHT_TOKEN": client.context.token}
    place["EDGEWRIGHT_CA"] = str(client.context.ca_file)
    command = [sys.executable, "-m", "edgewright", "models", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **place}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(process: subprocess.Popen[str], proxy: CutProxy) -> None:
    """Send Ctrl-C in the middle of a transfer."""
    assert proxy.holding.wait(60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    proxy.hold_at.clear()
    proxy.cut()


def test_the_next_process_continues_an_upload_and_nothing_is_registered_before(
    client: CloudClient, proxy: CutProxy, weights: Path
) -> None:
    proxy.hold_at = {"up": MIDDLE}
    interrupted(edgewright(client, "register", "stopped-upload", weights), proxy)
    with pytest.raises(NotFoundError):
        client.model_versions("stopped-upload")
    assert len(kept_files()) == 1
    second = edgewright(client, "register", "stopped-upload", weights)
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "stopped-upload:1" in output
    assert client.model_versions("stopped-upload")[0].files[0].digest == digest(weights)
    assert SIZE <= proxy.passed["up"] < SIZE + RESENT_AT_MOST
    assert kept_files() == []


def test_the_next_process_continues_a_download_and_the_folder_appears_complete(
    client: CloudClient, proxy: CutProxy, weights: Path, tmp_path: Path
) -> None:
    client.register_model("stopped-download", weights)
    proxy.passed["down"] = 0
    proxy.hold_at = {"down": MIDDLE}
    target = tmp_path / "files" / "back"
    interrupted(edgewright(client, "download", "stopped-download", "-o", target), proxy)
    assert list(target.parent.iterdir()) == []
    second = edgewright(client, "download", "stopped-download", "-o", target)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert digest(target / "weights.bin") == digest(weights)
    assert SIZE <= proxy.passed["down"] < SIZE + RESENT_AT_MOST
    assert kept_files() == []


def test_damaged_kept_bytes_are_found_by_the_digest(client: CloudClient, weights: Path, tmp_path: Path) -> None:
    version = client.register_model("damaged", weights)
    part = kept.folder() / f"download-{version.files[0].digest.removeprefix('sha256:')}"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(bytes(MIDDLE))
    with pytest.raises(OperationError, match=r"weights\.bin must have the digest .* was received: try again"):
        client.download_model(version, tmp_path / "back")
    assert (list(tmp_path.glob("*back*")), kept_files()) == ([], [])
    client.download_model(version, tmp_path / "back")
    assert digest(tmp_path / "back" / "weights.bin") == digest(weights)


def test_an_upload_continues_after_the_cloud_was_killed_and_damaged_bytes_are_sent_again(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cloud = start(tmp_path / "state", "--no-broker")
    address = urlsplit(cloud.url)
    restarted = cloud
    try:
        with cut_proxy(address.hostname or "", address.port or 0) as proxy:
            context = ClientContext(url=f"https://127.0.0.1:{proxy.port}", token=cloud.token, ca_file=cloud.ca)
            with CloudClient(context) as client:
                proxy.hold_at = {"up": MIDDLE}
                interrupted(edgewright(client, "register", "killed", weights), proxy)
                cloud.kill()
                [part] = (tmp_path / "state" / "registry" / "uploads" / "killed").iterdir()
                assert part.stat().st_size > 4 << 20
                with part.open("r+b") as stream:
                    stream.write(b"lost by a power cut")
                restarted = start(tmp_path / "state", "--no-broker", "--port", str(address.port))
                progress: list[tuple[int, int]] = []
                version = client.register_model("killed", weights, on_progress=lambda *each: progress.append(each))
        assert version.files[0].digest == digest(weights)
        assert progress[1][0] > 4 << 20  # the bytes of the interrupted process
        assert progress[-1] == (SIZE, SIZE)
        assert kept_files() == []
    finally:
        for each in {cloud.process, restarted.process}:
            each.kill()
            each.communicate(timeout=60)
