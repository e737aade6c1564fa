"""One call of a batched `run`, and the answer to each of its requests.

requests that do not fit       are answered first, and are not part of the batch
`run` raises, or JSON cannot   the requests run again, each in a batch of its own, so that only those fail that
hold a result                  are the cause
another number of results      a defect of the script: every request of the batch fails
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgewright.serving.scripts.calls import DecodedCall, ScriptCalls
from edgewright.serving.scripts.log_stream import request_id
from edgewright.serving.scripts.messages import Answer, Call

_Answered = tuple[Answer, bytes]


class WrongResultsError(Exception):
    """Results of a batched `run` that do not belong to its inputs one by one."""


def run_batch(calls: ScriptCalls, batch: Sequence[tuple[Call, bytes]]) -> list[_Answered]:
    """Run the script on requests that wait together; return the answer and its body for each, in the same order."""
    answers: dict[int, _Answered] = {}
    decoded: dict[int, DecodedCall] = {}
    for place, (call, body) in enumerate(batch):
        try:
            decoded[place] = calls.decoded(call, body)
        except Exception as error:  # noqa: BLE001 - a conversion of the script's own types may raise anything
            answers[place] = calls.failed(call, error)
    answers |= _answered(calls, decoded)
    return [answers[place] for place in range(len(batch))]


def _answered(calls: ScriptCalls, decoded: dict[int, DecodedCall]) -> dict[int, _Answered]:
    if not decoded:
        return {}
    request_id.set(",".join(each.call.request_id for each in decoded.values()))
    try:
        results = _results(calls, list(decoded.values()))
        pairs = zip(decoded.items(), results, strict=True)
        return {place: calls.encoded(result, each) for (place, each), result in pairs}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the script raises
        if len(decoded) == 1 or isinstance(error, WrongResultsError):
            return {place: calls.failed(each.call, error, _text_in(each)) for place, each in decoded.items()}
    answers: dict[int, _Answered] = {}
    for place, each in decoded.items():
        answers |= _answered(calls, {place: each})
    return answers


def _text_in(decoded: DecodedCall) -> bytes:
    """Return the body that a script without declared parameters got as text; empty for any other."""
    texts = [each for each in decoded.arguments.values() if isinstance(each, str)]
    return texts[0].encode() if len(texts) == 1 else b""


def _results(calls: ScriptCalls, decoded: Sequence[DecodedCall]) -> Sequence[Any]:
    """Return one result per request.

    Raises:
        WrongResultsError: `run` returned something else.
    """
    names = dict.fromkeys(name for each in decoded for name in each.arguments)
    results = calls.script.run(**{name: [each.arguments.get(name) for each in decoded] for name in names})
    if hasattr(results, "tolist"):
        results = results.tolist()
    if not isinstance(results, list | tuple) or len(results) != len(decoded):
        count = len(results) if isinstance(results, list | tuple) else type(results).__name__
        raise WrongResultsError(f"run() must return a list with one result per input, {len(decoded)}, but it returned {count}")
    return results
