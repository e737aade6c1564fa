"""Calls of NVIDIA's `tritonclient`, which runs in an environment of its own: `python triton_calls.py http|grpc HOST:PORT KEY`.

The results are one JSON object on standard output: an answer, or the status and text of an error, by the name of the call.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

MODEL = "pets"
FEATURES = 6


class Calls:
    """One client, and the calls that are the same over both transports."""

    def __init__(self, transport: str, address: str, key: str) -> None:
        self.library: Any = importlib.import_module(f"tritonclient.{transport}")
        self.client = self.library.InferenceServerClient(address)
        self.is_http = transport == "http"
        self._key = key

    @property
    def headers(self) -> dict[str, str]:
        """Return new headers for each call, because the client adds its own to those that it gets."""
        return {"Authorization" if self.is_http else "authorization": f"Bearer {self._key}"}

    def infer(self, count: int = 2, *, outputs: Any = None, binary: bool = True, features: int = FEATURES, **options: Any) -> Any:
        """Score `count` samples; feature j of sample i is (7 i + 3 j) % 5 - 2."""
        x = (np.add.outer(7 * np.arange(count), 3 * np.arange(features)) % 5 - 2).astype(np.float32)
        sent = self.library.InferInput("x", list(x.shape), "FP32")
        if self.is_http:
            sent.set_data_from_numpy(x, binary_data=binary)
        else:
            sent.set_data_from_numpy(x)
        answer = self.client.infer(MODEL, [sent], outputs=outputs, headers=self.headers, request_id="r1", **options)
        return {name: _plain(answer.as_numpy(name)) for name in ("scores",)}

    def output(self, **options: Any) -> Any:
        """Return a requested output."""
        return [self.library.InferRequestedOutput("scores", **options)]

    def describe(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Return the answer of a call without tensors, as JSON holds it."""
        call = getattr(self.client, name)
        if self.is_http or name.startswith("is_"):
            return call(*arguments, headers=self.headers, **options)
        return call(*arguments, headers=self.headers, as_json=True, **options)


def main(transport: str, address: str, key: str) -> None:
    """Make every call and print the results."""
    calls = Calls(transport, address, key)
    table: dict[str, Callable[[], Any]] = {
        "server_live": lambda: calls.describe("is_server_live"),
        "server_ready": lambda: calls.describe("is_server_ready"),
        "model_ready": lambda: calls.describe("is_model_ready", MODEL),
        "version_ready": lambda: calls.describe("is_model_ready", MODEL, "3"),
        "other_model_ready": lambda: calls.describe("is_model_ready", "plants"),
        "server": lambda: calls.describe("get_server_metadata"),
        "model": lambda: calls.describe("get_model_metadata", MODEL),
        "other_model": lambda: calls.describe("get_model_metadata", "plants"),
        "other_version": lambda: calls.describe("get_model_metadata", MODEL, "4"),
        "config": lambda: calls.describe("get_model_config", MODEL),
        "index": lambda: calls.describe("get_model_repository_index"),
        "scores": lambda: calls.infer(),
        "classes": lambda: calls.infer(outputs=calls.output(class_count=2)),
        "all_classes": lambda: calls.infer(outputs=calls.output(class_count=9)),
        "unknown_output": lambda: calls.infer(outputs=[calls.library.InferRequestedOutput("other")]),
        "wrong_shape": lambda: calls.infer(features=3),
        "sequence": lambda: calls.infer(sequence_id=7, sequence_start=True),
        "no_samples": lambda: calls.infer(0),
        **(_http_calls(calls) if calls.is_http else _grpc_calls(calls)),
        "statistics": lambda: calls.describe("get_inference_statistics", MODEL),
        "all_statistics": lambda: calls.describe("get_inference_statistics"),
    }
    print(json.dumps({name: _result(call) for name, call in table.items()}))


def _http_calls(calls: Calls) -> dict[str, Callable[[], Any]]:
    return {
        "json": lambda: calls.infer(binary=False, outputs=calls.output(binary_data=False)),
        "gzip": lambda: calls.infer(request_compression_algorithm="gzip", response_compression_algorithm="gzip"),
        "deflate": lambda: calls.infer(request_compression_algorithm="deflate", response_compression_algorithm="deflate"),
        "long_gzip": lambda: calls.infer(500, request_compression_algorithm="gzip", response_compression_algorithm="gzip"),
        "json_classes": lambda: calls.infer(binary=False, outputs=calls.output(binary_data=False, class_count=1)),
    }


def _grpc_calls(calls: Calls) -> dict[str, Callable[[], Any]]:
    return {
        "gzip": lambda: calls.infer(compression_algorithm="gzip"),
        "deflate": lambda: calls.infer(compression_algorithm="deflate"),
        "no_key": lambda: calls.client.get_model_metadata(MODEL, as_json=True),
        "wrong_key": lambda: calls.client.get_model_metadata(MODEL, headers={"authorization": "Bearer other"}),
        "probe_without_key": lambda: calls.client.is_server_live(),
        "stream": lambda: _stream(calls),
    }


def _stream(calls: Calls) -> Any:
    """Score three requests in one stream; the second one has a wrong shape."""
    import queue

    answers: queue.Queue[Any] = queue.Queue()
    calls.client.start_stream(lambda result, error: answers.put((result, error)), headers=calls.headers)
    for shape in ([1, FEATURES], [2, 3], [1, FEATURES]):
        sent = calls.library.InferInput("x", shape, "FP32")
        sent.set_data_from_numpy((3 * np.arange(FEATURES) % 5 - 2).astype(np.float32).reshape(shape))
        calls.client.async_stream_infer(MODEL, [sent])
    received = [answers.get(timeout=20) for _ in range(3)]
    calls.client.stop_stream()
    return [str(error) if error else _plain(result.as_numpy("scores")) for result, error in received]


def _result(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}


def _plain(array: Any) -> Any:
    if array.dtype.kind == "O":
        texts = [value.decode() if isinstance(value, bytes) else value for value in array.flat]  # str in a JSON answer
        return np.array(texts, dtype=object).reshape(array.shape).tolist()
    return array.tolist()


if __name__ == "__main__":
    main(*sys.argv[1:])
