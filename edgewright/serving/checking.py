"""Check a service without a socket: start it, score the sample of its own documents, and report what does not work.

the sample     `example` in the OpenAPI document: of the schema decorators of a script, or zeros for a model
the start      errors of the start are raised as they are; they name the line of a script
"""

from __future__ import annotations

import json
from typing import Any

from edgewright.errors import BadInputError
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.exchange import Exchange
from edgewright.serving.http.messages import JSON


async def check_service(app: HttpApp) -> str:
    """Start `app`, which requires no key, score its sample, stop it, and return one line about the result.

    Raises:
        BadInputError: the sample was not scored.
        EdgewrightError: the script or model cannot start.
    """
    await app.start()
    try:
        _, raw = await _asked(app, "GET", "/openapi.json")
        sample = sample_in(json.loads(raw))
        if sample is None:
            return "the service starts; it declares no sample, so no request was scored: declare the input with input_schema"
        status, answer = await _asked(app, "POST", "/score", json.dumps(sample).encode())
    finally:
        await app.stop()
        app.close()
    shown = answer.decode("utf-8", "replace").strip()
    if status != 200:
        raise BadInputError(f"the sample must be scored, but the answer is {status}: {_error_in(shown)}")
    return f"the service starts and scores its sample: {shown if len(shown) <= 200 else shown[:199] + '…'}"


def sample_in(document: dict[str, Any]) -> Any:
    """Return the example body of `/score` in an OpenAPI document; None without one."""
    content = document["paths"]["/score"]["post"]["requestBody"]["content"][JSON]
    return content.get("example", content["schema"].get("example"))


def _error_in(answer: str) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer


async def _asked(app: HttpApp, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one request to the application itself; return the status and the body of the response."""
    exchange = Exchange(method, path.encode(), {"content-type": JSON})
    app.admit(exchange)
    app.receive(exchange, body)
    response = exchange.response or await app.answer_alone(exchange)
    app.release(exchange)
    return response.status, response.body
