from __future__ import annotations

from typing import ClassVar

import pytest

from edgewright.contracts.connection.http_errors import body_of, error_of, status_of
from edgewright.errors import (
    BadInputError,
    ConflictError,
    DeniedError,
    EdgewrightError,
    NotFoundError,
    OperationError,
    SignatureError,
    StorageFullError,
    UnreachableError,
)

URL = "https://cloud/v1/models"


class GoneError(NotFoundError):
    http_status: ClassVar[int] = 410


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (BadInputError, 400),
        (DeniedError, 403),
        (NotFoundError, 404),
        (ConflictError, 409),
        (OperationError, 500),
        (UnreachableError, 503),
        (StorageFullError, 507),
    ],
)
def test_an_error_keeps_its_class_and_its_line_over_http(kind: type[EdgewrightError], status: int) -> None:
    assert status_of(kind("x")) == status
    error = error_of(status, b'{"error": "pets has no version 7"}', URL)
    assert (type(error), str(error)) == (kind, "pets has no version 7")


def test_a_subclass_has_the_status_of_its_base_or_its_own() -> None:
    assert status_of(SignatureError("unsigned")) == 400
    assert status_of(GoneError("gone")) == 410


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        pytest.param(401, DeniedError, id="no credential"),
        pytest.param(413, BadInputError, id="too large"),
        pytest.param(429, OperationError, id="too many requests"),
        pytest.param(502, OperationError, id="a proxy"),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>Bad gateway</html>", id="not JSON"),
        pytest.param(b"[1]", id="not an object"),
        pytest.param(b'{"error": 5}', id="not a text"),
        pytest.param(b'{"error": " "}', id="blank"),
    ],
)
def test_a_body_without_a_line_gives_the_address_and_the_status(body: bytes, status: int, kind: type[EdgewrightError]) -> None:
    error = error_of(status, body, URL)
    assert (type(error), str(error)) == (kind, f"{URL} must succeed, but the response is {status}")


def test_the_line_of_an_error_is_one_line() -> None:
    assert body_of(BadInputError("first\n  second")) == {"error": "first second"}
    assert str(error_of(400, b'{"error": "first\\n second"}', URL)) == "first second"
