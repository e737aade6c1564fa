"""Write the outputs of a model in the format that the client accepts: JSON, CSV, `.npy`, or tensors."""

from __future__ import annotations

from typing import Any

from edgewright.contracts.samples import Tensors
from edgewright.serving import csv_rows
from edgewright.serving.http.messages import JSON, NPY, Request, Response, json_response
from edgewright.serving.nocode.requests import Scoring
from edgewright.serving.scripts.messages import VERSION
from edgewright.serving.variants import json_protocol, open_inference


def encode(request: Request, scoring: Scoring, outputs: Tensors, name: str) -> Response:
    """Return the response; `name` is that of the model."""
    if scoring.infer is not None:
        return open_inference.encode(scoring.infer, outputs, model=name, version=VERSION)
    accepted = request.headers.get("accept", "*/*").lower()
    if csv_rows.MEDIA_TYPE in accepted or (
        request.media_type == csv_rows.MEDIA_TYPE and JSON not in accepted and NPY not in accepted
    ):
        return Response(200, csv_rows.write_rows(outputs), f"{csv_rows.MEDIA_TYPE}; charset=utf-8")
    if NPY in accepted or request.media_type == NPY:
        return json_protocol.encode(request, outputs, None)
    encodable: dict[str, Any] = {key: json_protocol.jsonable(array) for key, array in outputs.items()}
    result = next(iter(encodable.values())) if len(encodable) == 1 else encodable
    return json_response({scoring.answer_field: result})
