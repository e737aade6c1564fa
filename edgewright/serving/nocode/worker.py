"""The worker process of a model without a script: `python -m edgewright.serving.nocode.worker FD SETTINGS`.

load       the model with its framework (frameworks.py)
answer     decode (requests.py), compute, encode (answers.py); the loop and the log are those of a script's worker
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgewright.contracts.samples import Tensors
from edgewright.errors import ModelError, SamplesError, one_line
from edgewright.serving.http.messages import Request
from edgewright.serving.nocode import answers, requests
from edgewright.serving.nocode.description import describe
from edgewright.serving.nocode.frameworks import load_model
from edgewright.serving.nocode.identify import framework_of
from edgewright.serving.nocode.model import LoadedModel
from edgewright.serving.nocode.requests import Scoring
from edgewright.serving.scripts import worker
from edgewright.serving.scripts.entry_script import EntryScript
from edgewright.serving.scripts.messages import WorkerSettings
from edgewright.serving.scripts.raw import RawRequest, RawResponse


def load(settings: WorkerSettings) -> EntryScript:
    """Load the model and return it in the form of a script that handles requests itself.

    Raises:
        ModelError: the file is not a model that can be loaded.
    """
    path = Path(settings.path)
    framework = framework_of(path)
    if framework is None:
        raise ModelError(f"{path} must be a model file, but it is not")
    model = load_model(path, framework, trust=settings.trust)
    return EntryScript(
        init=lambda: None,
        run=lambda request: respond(request, model, settings.name),
        schema=None,
        uses_raw_requests=True,
        described=describe(model),
    )


def respond(raw: RawRequest, model: LoadedModel, name: str) -> RawResponse:
    """Answer one request to `/score`, or to a path that ends with `/infer`.

    Raises:
        SamplesError: the values do not fit the model, or it cannot score them.
        HttpError: the request cannot be read.
    """
    request = Request(dict(raw.headers), raw.data, raw.method)
    scoring = requests.decode_tensors(request, model) if raw.path.endswith("/infer") else requests.decode(request, model)
    response = answers.encode(request, scoring, _outputs(scoring, model), name)
    return RawResponse(response.body, response.status, {"content-type": response.media_type, **dict(response.headers)})


def _outputs(scoring: Scoring, model: LoadedModel) -> Tensors:
    outputs: Tensors = {}
    for method in scoring.methods:
        try:
            outputs |= model.methods[method](scoring.values)
        except model.rejections as error:
            raise SamplesError(f"the model cannot score these values: {one_line(error)}; send other values") from error
    return outputs


if __name__ == "__main__":
    worker.main(int(sys.argv[1]), sys.argv[2], load)
