"""Search for the client context (P70)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewright.errors import BadInputError, DeniedError, EdgewrightError, NotFoundError
from edgewright.sdk import ClientContext, find_context


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "operator.token").write_text("secret\n")
    document = {"url": "https://127.0.0.1:8443/", "ca_file": "ca.pem", "token_file": "operator.token"}
    (tmp_path / "client.json").write_text(json.dumps(document))
    return tmp_path


def test_a_context_is_named_by_its_file_or_its_directory(state: Path) -> None:
    expected = ClientContext(url="https://127.0.0.1:8443", token="secret", ca_file=state / "ca.pem")
    assert find_context(str(state), {}) == expected
    assert find_context(str(state / "client.json"), {}) == expected


def test_the_environment_names_the_cloud_when_the_command_does_not(state: Path) -> None:
    assert find_context(None, {"EDGEWRIGHT_CLOUD": str(state)}).token == "secret"


def test_a_bare_address_takes_token_and_authority_from_the_environment() -> None:
    context = find_context("https://cloud.example:8443/", {"EDGEWRIGHT_TOKEN": "secret", "EDGEWRIGHT_CA": "/etc/ca.pem"})
    assert context == ClientContext(url="https://cloud.example:8443", token="secret", ca_file=Path("/etc/ca.pem"))


def test_the_token_is_not_shown_when_a_context_is_printed(state: Path) -> None:
    assert "secret" not in repr(find_context(str(state), {}))


@pytest.mark.parametrize(
    ("cloud", "environment", "error", "message"),
    [
        pytest.param(
            "https://a",
            {},
            DeniedError,
            "an address without a client context needs the operator token in EDGEWRIGHT_TOKEN",
            id="no token",
        ),
        pytest.param("http://a", {"EDGEWRIGHT_TOKEN": "t"}, BadInputError, "must start with https://", id="no TLS"),
        pytest.param("/nowhere/at/all", {}, NotFoundError, "/nowhere/at/all: no such client context", id="no file"),
        pytest.param("https://a", {"EDGEWRIGHT_TOKEN": "a\nb"}, BadInputError, "must be one line", id="two lines"),
    ],
)
def test_a_missing_or_invalid_context_is_an_error_of_one_line(
    cloud: str, environment: dict[str, str], error: type[EdgewrightError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        find_context(cloud, environment)
    assert "\n" not in str(raised.value)


def test_a_context_that_is_not_json_is_named(state: Path) -> None:
    (state / "client.json").write_text("{")
    with pytest.raises(BadInputError, match=r"client context .*client\.json cannot be read"):
        find_context(str(state), {})


def test_a_token_that_cannot_be_read_is_named(state: Path) -> None:
    (state / "operator.token").unlink()
    with pytest.raises(DeniedError, match=r"operator\.token: the operator token cannot be read"):
        find_context(str(state), {})


def test_nothing_names_a_cloud_and_the_folder_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotFoundError, match=r"neither --cloud nor EDGEWRIGHT_CLOUD nor \.edgewright here names another"):
        find_context(None, {})


def test_an_embedded_cloud_of_another_user_is_not_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".edgewright" / "cloud").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: (tmp_path.stat().st_uid) + 1)
    with pytest.raises(NotFoundError):
        find_context(None, {})
