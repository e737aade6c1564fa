"""gRPC beside HTTP: TensorFlow Serving's `Predict`, typed tensors, limits, TLS, health and draining.

The requests are bytes that the test writes by the specification of protobuf, so the server's message classes are checked too.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import BadInputError, ConflictError, DeniedError, NotFoundError, StorageFullError, UnreachableError
from edgewright.serving.grpc.calls import code_of
from edgewright.serving.grpc.server import GrpcAddress, GrpcServer
from edgewright.serving.http.application import ServingLimits
from edgewright.serving.http.messages import HttpError
from edgewright.serving.http.server import listen, make_server
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import serving
from tests.support.tiny_variants import expected_scores, tiny_samples
from tests.support.wire_format import field, fields, only

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
INFER = "/inference.GRPCInferenceService/ModelInfer"
HEALTH = "/grpc.health.v1.Health/Check"
FLOAT, INT32, STRING = 1, 3, 7
LIMIT_BYTES = 100_000
Call = Callable[..., bytes]


@pytest.fixture(scope="module")
def app(variant: VariantDirectory) -> ScoringApp:
    limits = ServingLimits(max_body_bytes=LIMIT_BYTES)
    return ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3, limits=limits)


@pytest.fixture(scope="module")
def channel(app: ScoringApp) -> Iterator[grpc.Channel]:
    companion = GrpcServer(app, GrpcAddress(host="127.0.0.1", port=0))
    with serving(app, companion), grpc.insecure_channel(f"127.0.0.1:{companion.port}") as opened:
        yield opened


@pytest.fixture
def call(channel: grpc.Channel) -> Call:
    def send(path: str, request: bytes, **options: Any) -> bytes:
        answer: bytes = channel.unary_unary(path)(request, timeout=20, **options)
        return answer

    return send


def tensor(x: np.ndarray[Any, Any], dtype: int = FLOAT, *, content: bool = True, shape: tuple[int, ...] | None = None) -> bytes:
    """Write a TensorProto (tensorflow/core/framework/tensor.proto)."""
    sizes = b"".join(field(2, field(1, size)) for size in (x.shape if shape is None else shape))
    values = struct.pack(f"<{x.size}f", *map(float, x.reshape(-1)))
    return field(1, dtype) + field(2, sizes) + (field(4, values) if content else field(5, values))


def entry(name: str, tensor_proto: bytes) -> bytes:
    return field(2, field(1, name) + field(2, tensor_proto))


def spec(name: str = "pets", version: int | None = None, signature: str = "") -> bytes:
    wrapped = b"" if version is None else field(2, field(1, version))
    return field(1, field(1, name) + wrapped + (field(3, signature) if signature else b""))


def predicted(answer: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Read a PredictResponse."""
    outputs = {}
    for number, content in fields(answer):
        if number == 1:
            assert isinstance(content, bytes)
            value = only(content, 2)
            shape = [int(next(fields(size))[1]) for _, size in fields(only(value, 2)) if isinstance(size, bytes)]
            raw = only(value, 4)
            outputs[only(content, 1).decode()] = np.array(struct.unpack(f"<{len(raw) // 4}f", raw)).reshape(shape)
    return outputs


@pytest.mark.parametrize(
    ("name", "output"), [("x", "scores"), ("x:0", "scores:0")], ids=["names of the model", "names of TensorFlow"]
)
@pytest.mark.parametrize("content", [True, False], ids=["content", "values"])
def test_predict_scores_as_tensorflow_serving(call: Call, name: str, output: str, content: bool) -> None:
    x = tiny_samples(3)
    request = spec(version=3, signature="serving_default") + entry(name, tensor(x, content=content)) + field(3, output)
    answer = predicted(call(PREDICT, request))
    assert list(answer) == [output]
    np.testing.assert_allclose(answer[output], expected_scores(x), rtol=1e-5)


@pytest.mark.parametrize(("name", "output"), [("x", "scores"), ("x:0", "scores:0")], ids=["of the model", "of TensorFlow"])
def test_outputs_that_are_not_named_have_names_as_the_inputs(call: Call, name: str, output: str) -> None:
    x = tiny_samples(3)
    answer = predicted(call(PREDICT, spec() + entry(name, tensor(x))))
    assert list(answer) == [output]
    np.testing.assert_allclose(answer[output], expected_scores(x), rtol=1e-5)


def test_the_last_value_of_a_tensor_stands_for_all_that_follow(call: Call) -> None:
    half = np.full((1, 1), 0.5, np.float32)
    answer = predicted(call(PREDICT, spec() + entry("x", tensor(half, content=False, shape=(2, 6)))))
    np.testing.assert_allclose(answer["scores"], expected_scores(np.full((2, 6), 0.5, np.float32)), rtol=1e-5)


@pytest.mark.parametrize(
    ("path", "request_bytes", "code", "message"),
    [
        pytest.param(PREDICT, spec("plants"), "NOT_FOUND", "the only model is pets, version 3", id="other model"),
        pytest.param(PREDICT, spec(version=4), "NOT_FOUND", "pets version 4 is not served here", id="other version"),
        pytest.param(
            PREDICT, spec(signature="train"), "INVALID_ARGUMENT", "signature_name must be serving_default", id="signature"
        ),
        pytest.param(PREDICT, spec(), "INVALID_ARGUMENT", "the model's input x float32[N, 6] is missing", id="no input"),
        pytest.param(
            PREDICT, spec() + entry("y", b""), "INVALID_ARGUMENT", "unknown input y: the model's inputs are x", id="name"
        ),
        pytest.param(
            PREDICT, spec() + field(3, "y"), "INVALID_ARGUMENT", "unknown output y: the model's outputs are", id="output"
        ),
        pytest.param(PREDICT, spec() + entry("x", field(1, 8)), "INVALID_ARGUMENT", "dtype must be the number of", id="complex"),
        pytest.param(
            PREDICT,
            spec() + entry("x", tensor(tiny_samples(1), shape=(2, 6))),
            "INVALID_ARGUMENT",
            "tensor x: shape [2, 6] needs 12 values, not 6",
            id="too few values",
        ),
        pytest.param(
            PREDICT,
            spec() + entry("x", tensor(np.ones(1), content=False, shape=(1 << 40, 6))),
            "INVALID_ARGUMENT",
            "one value may stand for at most 4194304 others",
            id="huge shape",
        ),
        pytest.param(
            PREDICT,
            spec() + entry("x", field(1, STRING) + field(2, field(2, field(1, 1))) + field(8, b"\xff")),
            "INVALID_ARGUMENT",
            "input x must be text in UTF-8",
            id="not text",
        ),
        pytest.param(METADATA, spec(), "INVALID_ARGUMENT", "metadata_field must be signature_def", id="no metadata field"),
        pytest.param(
            INFER, b"\xff\xff", "INVALID_ARGUMENT", "must be a ModelInferRequest, but it cannot be decoded", id="no message"
        ),
        pytest.param(
            INFER, bytes(LIMIT_BYTES + 1), "RESOURCE_EXHAUSTED", "a body must have at most 100000 bytes", id="too large"
        ),
        pytest.param(HEALTH, field(1, "other"), "NOT_FOUND", "other is not served here", id="other service"),
        pytest.param("/inference.GRPCInferenceService/Other", b"", "UNIMPLEMENTED", "Method not found!", id="other method"),
    ],
)
def test_a_call_that_does_not_fit_has_a_code_and_one_line(
    call: Call, path: str, request_bytes: bytes, code: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(path, request_bytes)
    assert caught.value.code() == grpc.StatusCode[code]
    assert message in caught.value.details()


def test_a_message_that_unpacks_to_more_than_the_limit_is_refused(call: Call) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(INFER, bytes(100 * LIMIT_BYTES), compression=grpc.Compression.Gzip)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_errors_of_the_caller_count_as_rejected(app: ScoringApp, call: Call) -> None:
    before = app.statistics.summary().rejected
    with pytest.raises(grpc.RpcError):
        call(PREDICT, spec("plants"))
    assert app.statistics.summary().rejected == before + 1


def test_the_metadata_hold_the_signature(call: Call) -> None:
    answer = call(METADATA, spec() + field(2, "signature_def"))
    packed = only(only(answer, 2), 2)
    assert only(packed, 1) == b"type.googleapis.com/tensorflow.serving.SignatureDefMap"
    named = only(only(packed, 2), 1)
    signature = only(named, 2)
    assert (only(named, 1), only(signature, 3)) == (b"serving_default", b"tensorflow/serving/predict")
    info = only(only(signature, 1), 2)
    assert (only(only(signature, 1), 1), only(info, 1), dict(fields(info))[2]) == (b"x", b"x:0", FLOAT)
    assert [next(fields(size))[1] for _, size in fields(only(info, 3)) if isinstance(size, bytes)] == [(1 << 64) - 1, 6]


def infer_input(datatype: str, contents: bytes, shape: tuple[int, ...] = (1, 6)) -> bytes:
    """Write a ModelInferRequest with typed contents."""
    sizes = b"".join(field(3, size) for size in shape)
    return field(1, "pets") + field(5, field(1, "x") + field(2, datatype) + sizes + field(5, contents))


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        pytest.param("FP32", field(6, struct.pack("<6f", *range(6))), id="FP32"),
        pytest.param("FP64", field(7, struct.pack("<6d", *range(6))), id="FP64"),
        pytest.param("INT8", field(2, bytes(range(6))), id="INT8"),
        pytest.param("INT64", field(3, bytes(range(6))), id="INT64"),
        pytest.param("UINT16", field(4, bytes(range(6))), id="UINT16"),
        pytest.param("UINT64", field(5, bytes(range(6))), id="UINT64"),
    ],
)
def test_typed_contents_are_scored(call: Call, datatype: str, contents: bytes) -> None:
    raw = only(call(INFER, infer_input(datatype, contents)), 6)
    expected = expected_scores(np.arange(6, dtype=np.float32).reshape(1, 6))
    np.testing.assert_allclose(np.array(struct.unpack("<3f", raw)), expected[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("datatype", "contents", "message"),
    [
        pytest.param("FP32", field(7, bytes(48)), "FP32 values must be in fp32_contents, not in fp64_contents", id="other field"),
        pytest.param("FP31", b"", "datatype must be one of", id="unknown datatype"),
        pytest.param("BYTES", field(8, b"\xff"), "BYTES must be UTF-8 strings", id="not text"),
        pytest.param("INT8", field(2, b"\xac\x02" + bytes(5)), "must fit int8", id="beyond the datatype"),
        pytest.param("FP32", field(6, bytes(4)), "needs 6 values, not 1", id="too few values"),
        pytest.param("BOOL", field(1, bytes(6)), "input x must be float32, but bool was found", id="other type"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(call: Call, datatype: str, contents: bytes, message: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(INFER, infer_input(datatype, contents))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()


def test_the_health_check_says_serving(call: Call) -> None:
    assert call(HEALTH, b"") == call(HEALTH, field(1, "tensorflow.serving.PredictionService")) == field(1, 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInputError("x"), "INVALID_ARGUMENT"),
        (HttpError(401, "x"), "UNAUTHENTICATED"),
        (DeniedError("x"), "PERMISSION_DENIED"),
        (NotFoundError("x"), "NOT_FOUND"),
        (ConflictError("x"), "FAILED_PRECONDITION"),
        (HttpError(413, "x"), "RESOURCE_EXHAUSTED"),
        (HttpError(503, "x"), "UNAVAILABLE"),
        (UnreachableError("x"), "UNAVAILABLE"),
        (HttpError(504, "x"), "DEADLINE_EXCEEDED"),
        (StorageFullError("x"), "RESOURCE_EXHAUSTED"),
    ],
)
def test_each_error_has_the_code_of_its_http_status(error: Any, code: str) -> None:
    assert code_of(error) == grpc.StatusCode[code]


class SlowSession:
    """A session whose run ends when the test says so."""

    def __init__(self) -> None:
        self.running, self.may_end = threading.Event(), threading.Event()

    def run(self, inputs: Tensors) -> Tensors:
        self.running.set()
        assert self.may_end.wait(20)
        return {"scores": np.zeros((len(inputs["x"]), 3), np.float32)}

    def describe(self) -> dict[str, str]:
        return {"backend": "slow"}

    def close(self) -> None:
        """Do nothing."""


def test_an_open_call_is_answered_while_the_server_ends(variant: VariantDirectory) -> None:
    session = SlowSession()
    app = ScoringApp(session, variant.config, model="pets", version=3)
    companion = GrpcServer(app, GrpcAddress(host="127.0.0.1", port=0))
    started = threading.Event()
    server = make_server(app, companion=companion, started=started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listen()]})
    thread.start()
    assert started.wait(20)
    with grpc.insecure_channel(f"127.0.0.1:{companion.port}") as channel:
        pending = channel.unary_unary(PREDICT).future(spec() + entry("x", tensor(tiny_samples(1))), timeout=20)
        assert session.running.wait(20)
        server.should_exit = True
        while not app.draining:
            threading.Event().wait(0.01)
        session.may_end.set()
        assert predicted(pending.result())["scores"].shape == (1, 3)
    thread.join(20)
    app.close()
    assert not thread.is_alive()


def test_a_port_in_use_is_one_line(app: ScoringApp) -> None:
    with listen() as socket:
        port = socket.getsockname()[1]
        server = GrpcServer(app, GrpcAddress(host="127.0.0.1", port=port))
        with pytest.raises(BadInputError, match=f"cannot listen on 127.0.0.1 port {port} for gRPC: Address already in use"):
            asyncio.run(server.start())
