"""Enrolment: the key stays on the device, the fingerprint authenticates the cloud, an incomplete enrolment does not count."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edge_agent.identity.enrolment import enrol
from edge_agent.identity.identity import Identity
from edgewright.contracts.connection.enrolment import EnrolmentToken, format_token, parse_token
from edgewright.errors import BadInputError, ConflictError, DeniedError, NotFoundError, UnreachableError
from tests.edge_agent.conftest import Device
from tests.support.fake_cloud import SECRET, FakeCloud


def join(path: Path, cloud: FakeCloud, token: str | None = None, name: str = "cam-1") -> Identity:
    return enrol(path, token_text=token or cloud.token(), device=name, profile="generic-x86-64")


def test_only_the_user_of_an_enrolled_device_can_read_its_key(tmp_path: Path, cloud: FakeCloud) -> None:
    identity = join(tmp_path, cloud)
    assert (identity.device, identity.url) == ("cam-1", cloud.url)
    assert stat.S_IMODE(identity.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(identity.folder.stat().st_mode) == 0o700
    assert b"BEGIN CERTIFICATE" in identity.certificate.read_bytes()
    identity.tls_context()


def test_a_cloud_with_another_authority_than_the_token_is_rejected(tmp_path: Path, cloud: FakeCloud) -> None:
    token = format_token(EnrolmentToken(url=cloud.url, ca_sha256="ab" * 32, secret=SECRET))
    with pytest.raises(DeniedError, match="this is not the cloud that issued the token"):
        join(tmp_path, cloud, token)
    assert cloud.requests["/v1/enrol"] == 0
    assert not (tmp_path / "identity").exists()


def test_a_used_token_is_refused_with_the_message_of_the_cloud_and_the_device_is_not_enrolled(
    tmp_path: Path, cloud: FakeCloud
) -> None:
    spent = token_with(cloud, secret="used-before")
    with pytest.raises(DeniedError, match="the enrolment token must be unused, but it was used: ask for another"):
        join(tmp_path, cloud, spent)
    with pytest.raises(NotFoundError, match="run 'edgewright agent enrol' first"):
        Identity.load(tmp_path)


def test_a_retry_after_a_refusal_uses_the_same_key(tmp_path: Path, cloud: FakeCloud) -> None:
    with pytest.raises(DeniedError):
        join(tmp_path, cloud, token_with(cloud, secret="used-before"))
    key = (tmp_path / "identity" / "a" / "device.key").read_bytes()
    assert join(tmp_path, cloud).key.read_bytes() == key


def test_a_state_directory_is_enrolled_only_once(tmp_path: Path, cloud: FakeCloud) -> None:
    join(tmp_path, cloud)
    with pytest.raises(ConflictError, match="is already enrolled as cam-1"):
        join(tmp_path, cloud, name="cam-2")


def test_an_invalid_name_is_rejected_before_any_request(tmp_path: Path, cloud: FakeCloud) -> None:
    with pytest.raises(BadInputError, match="a device's name must be"):
        join(tmp_path, cloud, name="Cam 1")
    assert not cloud.requests


def test_an_unreachable_cloud_is_one_line_and_exit_3(tmp_path: Path, cloud: FakeCloud) -> None:
    token = cloud.token()
    cloud.stop()
    with pytest.raises(UnreachableError, match="cannot connect to the cloud at"):
        join(tmp_path / "direct", cloud, token)
    finished = Device(tmp_path / "device", "cam-1").command("enrol", "--token", token, "--name", "cam-1")
    assert finished.returncode == 3
    assert finished.stderr.startswith("edgewright: cannot connect to the cloud at")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "status", "explain"])
def test_a_command_on_a_device_that_is_not_enrolled_names_the_next_step(tmp_path: Path, command: str) -> None:
    finished = Device(tmp_path / "device", "cam-1").command(command)
    assert finished.returncode == 2
    assert "run 'edgewright agent enrol' first" in finished.stderr


def test_an_unknown_profile_is_reported_with_the_nearest_name(tmp_path: Path, cloud: FakeCloud) -> None:
    words = ("--token", cloud.token(), "--name", "cam-1", "--profile", "raspberry-pi-6")
    finished = Device(tmp_path / "device", "cam-1").command("enrol", *words)
    assert finished.returncode == 2
    assert "raspberry-pi-5" in finished.stderr


def token_with(cloud: FakeCloud, *, secret: str) -> str:
    """Return the cloud's token with another secret."""
    token = parse_token(cloud.token())
    return format_token(EnrolmentToken(url=token.url, ca_sha256=token.ca_sha256, secret=secret))
