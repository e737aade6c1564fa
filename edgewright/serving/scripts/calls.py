"""A call to a script: the arguments of `run` from its body, and the answer from the result or the exception."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

import orjson

from edgewright.contracts.connection.http_errors import status_of
from edgewright.errors import NotFoundError, SamplesError, one_line
from edgewright.serving.http.messages import HttpError, Request
from edgewright.serving.scripts import protocols
from edgewright.serving.scripts.entry_script import EntryScript, print_traceback
from edgewright.serving.scripts.messages import PLAIN_ANSWER, Answer, Call
from edgewright.serving.scripts.raw import RawRequest, RawResponse
from edgewright.serving.variants.inference_request import InferRequest

_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class DecodedCall:
    """A call with the arguments of `run`, and the formats of its answer."""

    call: Call
    arguments: dict[str, Any]
    infer: InferRequest | None = None
    has_formats: bool = False
    """True if the answer may be tensors, .npy or CSV."""

    @property
    def model_name(self) -> str:
        """The name in the path of the Open Inference Protocol."""
        return self.call.path.removeprefix("/v2/models/").removesuffix(protocols.INFER)


class ScriptCalls:
    """Converts the calls of one script."""

    def __init__(self, script: EntryScript) -> None:
        self.script = script
        self._parameter = next(iter(inspect.signature(script.run).parameters), "data")
        """Name of the only parameter, of a script without declared ones."""

    def decoded(self, call: Call, body: bytes) -> DecodedCall:
        """Return a call with its arguments.

        Raises:
            SamplesError: the body does not fit.
            HttpError: the body has a format that the script does not take.
        """
        script = self.script
        if script.schema is None or script.tensors is None or call.method != "POST" or script.uses_raw_requests:
            return DecodedCall(call, self._arguments(call, body))
        values = script.tensors.values(Request(call.headers, body), call.path)
        if values is None:
            return DecodedCall(call, self._arguments(call, body), has_formats=True)
        fields, infer = values
        return DecodedCall(call, script.schema.arguments(fields), infer, has_formats=True)

    def _arguments(self, call: Call, body: bytes) -> dict[str, Any]:
        """Return the arguments of `run`: the whole request, the declared parameters, or the body as text."""
        if self.script.uses_raw_requests:
            request = RawRequest(method=call.method, query_string=call.query, headers=call.headers, data=body, path=call.path)
            return {self._parameter: request}
        text = body if call.method == "POST" else orjson.dumps(_query_of(call))
        if self.script.schema is not None and self.script.schema.inputs:
            try:
                document = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise SamplesError(f"the body must be JSON: {error}") from error
            return self.script.schema.arguments(document)
        try:
            return {self._parameter: text.decode()}
        except UnicodeDecodeError as error:
            message = "the body must be text in UTF-8; a script that takes bytes needs the decorator rawhttp"
            raise SamplesError(message) from error

    def encoded(self, result: Any, decoded: DecodedCall) -> tuple[Answer, bytes]:
        """Return the answer and its body for the result of `run`.

        Raises:
            TypeError: JSON cannot hold the result.
            HttpError: the result does not fit the format that the client accepts.
        """
        call = decoded.call
        if isinstance(result, RawResponse):
            return _raw(result)
        if not decoded.has_formats:
            return PLAIN_ANSWER, _json(result)
        response = protocols.answer(Request(call.headers, b""), result, decoded.infer, decoded.model_name)
        if response is None:
            return PLAIN_ANSWER, _json(result)
        return Answer(media_type=response.media_type, headers=response.headers), response.body

    def failed(self, call: Call, error: BaseException, body: bytes = b"") -> tuple[Answer, bytes]:
        """Return the answer to a call that failed; the traceback goes to the log, and not to the client.

        A script that parses the body as JSON, as most do, fails on one that is not JSON: the client gets 400.
        """
        if isinstance(error, json.JSONDecodeError) and error.doc == body.decode("utf-8", "replace"):
            error = SamplesError(f"the body must be JSON: {error}")
        if isinstance(error, SamplesError | NotFoundError | HttpError):
            return Answer(status=status_of(error)), orjson.dumps({"error": one_line(error)})
        print_traceback(error)
        text = f"the script failed on this request: its log has the reason under request {call.request_id}"
        return Answer(status=500, has_failed=True), orjson.dumps({"error": text})


def _query_of(call: Call) -> dict[str, str]:
    return RawRequest(method=call.method, query_string=call.query, headers=call.headers, data=b"").args


def _raw(result: RawResponse) -> tuple[Answer, bytes]:
    headers = {name.lower(): str(value) for name, value in result.headers.items()}
    media_type = headers.pop("content-type", "application/json" if result.is_json else "text/plain; charset=utf-8")
    message = result.message
    raw = _json(message) if result.is_json else message.encode() if isinstance(message, str) else message
    answer = Answer(
        status=result.status_code, media_type=media_type, headers=tuple(headers.items()), has_failed=result.has_failed
    )
    return answer, raw


def _json(result: Any) -> bytes:
    return orjson.dumps(result, option=_JSON_OPTIONS, default=_plain)


def _plain(value: Any) -> Any:
    """Convert what JSON has no type for: arrays in any memory order, NumPy scalars, tables and columns."""
    if hasattr(value, "to_dict"):
        return value.to_dict(orient="records") if hasattr(value, "columns") else value.to_dict()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"run() returned {type(value).__name__}, which JSON cannot hold")
