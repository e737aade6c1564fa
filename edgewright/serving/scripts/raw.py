"""Requests and responses of entry scripts that handle HTTP themselves: `run` with the decorator `rawhttp` gets a `RawRequest`.

Any script may return a `RawResponse` to choose the status, the headers and the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs

from edgewright.errors import SamplesError

_MARK = "uses_raw_requests"
Function = TypeVar("Function", bound=Callable[..., Any])


def rawhttp(function: Function) -> Function:
    """Pass the whole HTTP request to the decorated `run`, not its body only."""
    setattr(function, _MARK, True)
    return function


def uses_raw_requests(function: object) -> bool:
    """Return True if `run` was decorated with `rawhttp`."""
    return bool(getattr(function, _MARK, False))


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRequest:
    """An HTTP request to the scoring route."""

    method: str
    query_string: str
    headers: Mapping[str, str]
    """By lower-case name."""
    data: bytes
    path: str = "/score"

    @property
    def args(self) -> dict[str, str]:
        """The first value of each query parameter."""
        return {name: values[0] for name, values in parse_qs(self.query_string, keep_blank_values=True).items()}

    def get_data(self, *, as_text: bool = False) -> bytes | str:
        """Return the body, as bytes or as UTF-8 text."""
        return self.data.decode("utf-8", "replace") if as_text else self.data

    def get_json(self) -> Any:
        """Return the body as JSON.

        Raises:
            SamplesError: it is not JSON; the client gets a 400.
        """
        try:
            return json.loads(self.data)
        except ValueError as error:
            raise SamplesError(f"the body must be JSON: {error}") from error


class RawResponse:
    """An HTTP response with a status and headers of the script's choice."""

    def __init__(
        self,
        message: Any = b"",
        status_code: int = 200,
        response_headers: Mapping[str, str] | None = None,
        json_str: bool = False,
        run_function_failed: bool = False,
    ) -> None:
        """Hold a response.

        Args:
            message: the body: bytes, text, or with `json_str` anything that JSON holds.
            status_code: HTTP status, 100 to 599.
            response_headers: headers to add.
            json_str: encode `message` as JSON.
            run_function_failed: count the request as failed by the model.
        """
        self.message = message
        self.status_code = status_code
        self.headers = dict(response_headers or {})
        self.is_json = json_str or not isinstance(message, bytes | str)
        self.has_failed = run_function_failed
