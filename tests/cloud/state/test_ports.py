from __future__ import annotations

from pathlib import Path

import pytest

from cloud.state.ports import bind, usual
from edgewright.errors import BadInputError, ConflictError


def test_without_a_port_the_usual_one_is_taken_at_first_and_the_last_one_from_then_on(tmp_path: Path) -> None:
    memory = tmp_path / "port"
    assert usual(None, memory, 8443) == 8443
    with bind("127.0.0.1", 0, memory, "--port") as bound:
        chosen = bound.getsockname()[1]
    assert usual(None, memory, 8443) == chosen
    assert usual(9000, memory, 8443) == 9000


def test_port_0_stays_where_it_was_and_moves_only_when_another_is_there(tmp_path: Path) -> None:
    memory = tmp_path / "port"
    with bind("127.0.0.1", 0, memory, "--port") as first:
        port = first.getsockname()[1]
    with bind("127.0.0.1", 0, memory, "--port") as again:
        assert again.getsockname()[1] == port
        with bind("127.0.0.1", 0, tmp_path / "other", "--port") as other:
            assert other.getsockname()[1] != port


def test_a_port_that_was_asked_for_and_is_taken_is_refused(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0, tmp_path / "port", "--port") as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ConflictError) as taken:
            bind("127.0.0.1", port, tmp_path / "other", "--port")
    assert str(taken.value) == (
        f"port {port} of 127.0.0.1 must be free, but another program uses it: end that one, or choose another with --port"
    )


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"^cannot listen on 192\.0\.2\.1 port 0: "):
        bind("192.0.2.1", 0, tmp_path / "port", "--port")
