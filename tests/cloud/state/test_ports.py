"""The choice of a port, and its persistence."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.state.ports import bind, default_port
from edgewright.errors import BadInputError, ConflictError


def test_without_a_port_the_default_is_used_first_and_then_the_port_of_the_last_run(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    assert default_port(None, port_file, 8443) == 8443
    with bind("127.0.0.1", 0, port_file, "--port") as bound:
        last_port = bound.getsockname()[1]
    assert default_port(None, port_file, 8443) == last_port
    assert default_port(9000, port_file, 8443) == 9000


def test_port_0_keeps_the_last_port_unless_it_is_in_use(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    with bind("127.0.0.1", 0, port_file, "--port") as first:
        port = first.getsockname()[1]
    with bind("127.0.0.1", 0, port_file, "--port") as again:
        assert again.getsockname()[1] == port
        with bind("127.0.0.1", 0, tmp_path / "other", "--port") as other:
            assert other.getsockname()[1] != port


def test_a_requested_port_that_is_in_use_is_refused(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0, tmp_path / "port", "--port") as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ConflictError) as refusal:
            bind("127.0.0.1", port, tmp_path / "other", "--port")
    assert str(refusal.value) == (
        f"port {port} of 127.0.0.1 must be free, but another program uses it: stop it, or choose another port with --port"
    )


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"^cannot listen on 192\.0\.2\.1 port 0: "):
        bind("192.0.2.1", 0, tmp_path / "port", "--port")
