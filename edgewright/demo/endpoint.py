"""The act of the endpoint: the converted model, registered as files, answers through an entry script, called with its key."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.demo.processes import Shell
from edgewright.demo.show import heading, say
from edgewright.errors import OperationError

NAME = "digits-service"
MODEL = "digits-graph"
IMAGES = 32
SCRIPT = '''\
"""Scores digits: the body is {"data": [images]}, the answer is a list of digits."""

import json
import os

import numpy as np
import onnxruntime


def init():
    global session
    session = onnxruntime.InferenceSession(os.path.join(os.environ["AZUREML_MODEL_DIR"], "graph.onnx"))


def run(body):
    images = np.asarray(json.loads(body)["data"], np.float32)
    (scores,) = session.run(None, {session.get_inputs()[0].name: images})
    return scores.argmax(axis=1).tolist()
'''


def serve_as_endpoint(shell: Shell) -> dict[str, Any]:
    """Deploy the graph of `build-v1` with an entry script, score held-out digits with its key, and delete the endpoint.

    Returns:
        The digits scored, the share that equals the source's, and the status of a request without a key.

    Raises:
        OperationError: a step failed, or the endpoint answers without a key.
    """
    heading("The same model as an endpoint: registered files, an entry script, a key")
    (shell.directory / "score.py").write_text(SCRIPT, "utf-8")
    shell.run("models", "register", MODEL, "build-v1/graph", "--framework", "onnx")
    try:
        say(shell.run("endpoints", "deploy", NAME, "--model", MODEL, "--script", "score.py"))
        return _score(shell)
    finally:
        shell.attempt("endpoints", "delete", NAME)  # it would outlive the cloud


def _score(shell: Shell) -> dict[str, Any]:
    key = str(shell.json("endpoints", "keys", NAME)["primary"])
    address = str(shell.json("endpoints", "show", NAME)["scoring_uri"])
    images, expected = _held_out(shell.directory)
    body = json.dumps({"data": images.tolist()}).encode()
    refused, _ = _post(address, body, {})
    status, digits = _post(address, body, {"Authorization": f"Bearer {key}"})
    if (refused, status) != (401, 200):
        raise OperationError(f"{NAME} must answer 401 without a key and 200 with one, but it answered {refused} and {status}")
    agreement = float(np.mean(np.asarray(digits) == expected))
    say(f"without a key: {refused}; with its key: {len(digits)} digits, {agreement:.0%} as the source predicts")
    return {"endpoint": NAME, "scored": len(digits), "agreement": agreement, "without_key": refused}


def _held_out(directory: Path) -> tuple[Any, Any]:
    """Return images [32, …] and the digits that the source predicts for them."""
    with np.load(directory / "heldout.npz") as heldout, np.load(directory / "source-v1.npz") as source:
        images = next(heldout[name] for name in heldout.files if name != "labels")
        return images[:IMAGES], source["scores"][:IMAGES].argmax(axis=1)


def _post(address: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json", **headers})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, None
