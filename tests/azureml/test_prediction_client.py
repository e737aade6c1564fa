"""The gRPC client of accelerated models: scores, images, keys, TLS, and one line for each mistake.

The bytes that it sends are read by the specification of protobuf, and a board of the NPU is asked through `edgewright serve`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from accel.backends.choose import load_session
from accel.backends.onnxruntime_cpu import OnnxRuntime
from accel.npu.machines.simulated_board import simulated_board
from accel.npu.profile import find_profile
from edgewright.azureml.accel import PredictionClient
from edgewright.compiling import compile_variant
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import Preprocessing, TensorSpec
from edgewright.errors import BadInputError, DeniedError, EdgewrightError, NotFoundError, SamplesError, UnreachableError
from edgewright.serving.grpc.server import GrpcAddress, GrpcServer
from edgewright.serving.http.keys import KeyFile, write_new_keys
from edgewright.serving.http.server import TlsFiles
from edgewright.serving.variants.app import ScoringApp
from tests.support.authority import make_authority, pem_of
from tests.support.npu_builds import make_npu_build
from tests.support.server_certificates import server_certificate
from tests.support.serving_fixtures import serving
from tests.support.tiny_variants import expected_scores, make_config, make_variant, tiny_samples
from tests.support.wire_format import field, fields, only

HOST = "127.0.0.1"
PROFILE = find_profile("npu-sim-4")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> ScoringApp:
    variant = make_variant(tmp_path_factory.mktemp("variant") / "fp32")
    return ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3)


@pytest.fixture(scope="module")
def port(app: ScoringApp) -> Iterator[int]:
    companion = GrpcServer(app, GrpcAddress(host=HOST, port=0))
    with serving(app, companion):
        yield companion.port


@pytest.fixture
def client(port: int) -> Iterator[PredictionClient]:
    with PredictionClient(HOST, port) as opened:
        yield opened


def test_arrays_are_scored_by_the_names_of_the_model_and_of_tensorflow(client: PredictionClient) -> None:
    x = tiny_samples(3)
    for outputs in (None, "scores", "scores:0"):
        np.testing.assert_allclose(client.score_numpy_arrays({"x:0": x}, outputs), expected_scores(x), rtol=1e-5)
    (listed,) = client.score_numpy_arrays({"x": x}, ["scores"])
    np.testing.assert_allclose(listed, expected_scores(x), rtol=1e-5)


def test_tensors_of_bytes_are_scored(client: PredictionClient) -> None:
    x = tiny_samples(2)
    scores = client.score_tensors({"x": (x.tobytes(), x.shape, 1)})
    np.testing.assert_allclose(scores, expected_scores(x), rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        pytest.param(
            {"y": tiny_samples(1)}, None, "unknown input y: the model's inputs are x float32[N, 6]", id="name of an input"
        ),
        pytest.param(
            {"x": tiny_samples(1)}, "logits:0", "unknown output logits:0: the model's outputs are", id="name of an output"
        ),
        pytest.param({"x": np.ones((1, 5), np.float32)}, None, "input x must have shape [N, 6]", id="shape"),
        pytest.param({"x": np.ones((1, 6), bool)}, None, "input x must be float32, but bool was found", id="type of the model"),
        pytest.param(
            {"x": np.ones((1, 6), complex)}, None, "input x must have one of the types float32", id="type of the protocol"
        ),
        pytest.param({}, None, "input x float32[N, 6] is missing", id="no input"),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(
    client: PredictionClient, inputs: Tensors, outputs: str | None, message: str
) -> None:
    with pytest.raises(SamplesError) as caught:
        client.score_numpy_arrays(inputs, outputs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "port", "message"),
    [
        pytest.param("http://127.0.0.1:80/score", 80, "use client_from_service(service)", id="address of HTTP"),
        pytest.param("127.0.0.1:80", None, "give the port as port=", id="port in the address"),
        pytest.param("", None, "address must be a host name or an IP address", id="empty"),
        pytest.param(HOST, 65536, "port must be a whole number from 1 to 65535, not 65536", id="port"),
    ],
)
def test_an_address_that_is_no_host_is_one_line(address: str, port: int | None, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        PredictionClient(address, port)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        pytest.param((b"", ("a",), 1), "input x: the shape must be whole numbers of 0 or more, not ['a']", id="shape of text"),
        pytest.param((b"", (-1, 6), 1), "input x: the shape must be whole numbers of 0 or more, not [-1, 6]", id="negative size"),
        pytest.param((b"", (1, 6), "float"), "input x: the type must be a number of TensorFlow's types.proto", id="type by name"),
        pytest.param(("text", (1, 6), 1), "input x: the values must be bytes, not str", id="values of text"),
    ],
)
def test_a_tensor_that_is_not_of_the_protocol_is_one_line(client: PredictionClient, tensor: Any, message: str) -> None:
    with pytest.raises(SamplesError) as caught:
        client.score_tensors({"x": tensor})
    assert message in str(caught.value)


def test_a_name_that_is_not_text_is_one_line(client: PredictionClient) -> None:
    names: Any = {1: tiny_samples(1)}
    with pytest.raises(SamplesError, match="the name of an input must be text, not 1"):
        client.score_numpy_arrays(names)


def test_a_service_that_ends_connections_is_not_taken_for_one_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice to leave TLS out would send the key in clear text."""
    monkeypatch.setattr("edgewright.azureml.accel.client._FIRST_DELAY_S", 0.0)
    with socket.create_server((HOST, 0)) as listening, ThreadPoolExecutor(1) as pool:

        def end_connections() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listening.accept()[0].close()

        pool.submit(end_connections)
        try:
            with pytest.raises(UnreachableError, match="must answer gRPC, but it does not"):
                PredictionClient(HOST, listening.getsockname()[1], use_ssl=True).score_numpy_arrays({"x": tiny_samples(1)})
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def test_bad_input_of_one_thread_does_not_end_the_call_of_another() -> None:
    is_slow_asked, may_answer = threading.Event(), threading.Event()

    def answer(request: bytes, context: Any) -> bytes:
        if b"slow" not in request:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no input of that name")
        is_slow_asked.set()
        assert may_answer.wait(60)
        value = field(1, 1) + field(2, field(2, field(1, 1))) + field(4, np.float32(7).tobytes())
        return field(1, field(1, "scores:0") + field(2, value))

    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    method = {"Predict": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", method),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        with PredictionClient(HOST, port) as client, ThreadPoolExecutor(1) as pool:
            slow = pool.submit(client.score_numpy_arrays, {"slow": tiny_samples(1)}, timeout=60)
            assert is_slow_asked.wait(60)
            with pytest.raises(SamplesError):
                client.score_numpy_arrays({"x": tiny_samples(1)})
            may_answer.set()
            np.testing.assert_array_equal(slow.result(60), [7])
    finally:
        may_answer.set()
        server.stop(None)


def test_a_service_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright.azureml.accel.client._FIRST_DELAY_S", 0.0)
    with socket.socket() as bound:  # without listen, so nothing else gets the port
        bound.bind((HOST, 0))
        with pytest.raises(UnreachableError, match=rf"the service at {HOST}:\d+ must answer gRPC, but it does not: .*start it"):
            PredictionClient(HOST, bound.getsockname()[1]).score_numpy_arrays({"x": tiny_samples(1)})


class Recorder:
    """A server that records what it gets, and answers the first calls that it starts or, by CANCELLED, that it stops."""

    def __init__(self, *refusals: grpc.StatusCode) -> None:
        self.refusals, self.requests, self.metadata = refusals, list[bytes](), dict[str, str]()

    def answer(self, request: bytes, context: Any) -> bytes:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        if len(self.requests) <= len(self.refusals):
            context.abort(self.refusals[len(self.requests) - 1], "no handler")
        value = field(1, 1) + field(2, field(2, field(1, 1))) + field(4, np.float32(7).tobytes())
        return field(1, field(1, "scores:0") + field(2, value))

    @contextlib.contextmanager
    def listening(self) -> Iterator[int]:
        server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        method = {"Predict": grpc.unary_unary_rpc_method_handler(self.answer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", method),))
        port = server.add_insecure_port(f"{HOST}:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None)


def test_the_request_is_that_of_tensorflow_serving_with_the_key_and_the_route_of_the_service(tmp_path: Path) -> None:
    recorder, picture = Recorder(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), tmp_path / "a.jpg"
    picture.write_bytes(b"\xff\xd8 no image")
    with recorder.listening() as port:
        client = PredictionClient(HOST, port, access_token="key1", service_name="my-service")
        assert client.score_file(picture, "images:0", "scores:0") == np.float32(7)
    assert len(recorder.requests) == 3
    assert recorder.metadata["authorization"] == "Bearer key1"
    assert recorder.metadata["x-ms-aml-grpc-service-route"] == "/api/v1/service/my-service"
    sent = recorder.requests[-1]
    assert only(sent, 3) == b"scores:0"
    tensor = only(only(sent, 2), 2)
    assert only(only(sent, 2), 1) == b"images:0"
    assert dict(fields(tensor)) == {1: 7, 2: field(2, field(1, 1)), 8: b"\xff\xd8 no image"}


def test_an_image_file_is_prepared_by_the_server(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("N", 2, 1, 3), axes=("batch", "height", "width", "channels"))
    config = replace(make_config(), inputs=(spec,), preprocessing=Preprocessing(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0)))

    class Mean:
        def run(self, inputs: Tensors) -> Tensors:
            return {"scores": inputs["x"].reshape(len(inputs["x"]), 6)[:, :3]}

        def describe(self) -> dict[str, str]:
            return {"backend": "mean"}

        def close(self) -> None:
            """Do nothing."""

    raw = io.BytesIO()
    Image.new("RGB", (1, 2), (10, 20, 30)).save(raw, "png")
    (tmp_path / "a.png").write_bytes(raw.getvalue())
    (tmp_path / "broken.png").write_bytes(b"no image")
    app = ScoringApp(Mean(), config, model="pets", version=1)
    companion = GrpcServer(app, GrpcAddress(host=HOST, port=0))
    with serving(app, companion), PredictionClient(HOST, companion.port) as client:
        np.testing.assert_array_equal(client.score_file(tmp_path / "a.png", "x"), [9, 18, 27])
        with pytest.raises(SamplesError, match="image"):
            client.score_file(tmp_path / "broken.png", "x")
        with pytest.raises(NotFoundError, match=r"missing\.png must be a file that can be read"):
            client.score_file(tmp_path / "missing.png", "x")


def test_a_key_is_required_where_the_service_has_keys(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "fp32")
    write_new_keys(tmp_path / "keys.json")
    keys = KeyFile(tmp_path / "keys.json")
    app = ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3, keys=keys)
    primary = json.loads((tmp_path / "keys.json").read_bytes())["primary"]
    companion, x = GrpcServer(app, GrpcAddress(host=HOST, port=0)), tiny_samples(1)
    with serving(app, companion):
        with pytest.raises(DeniedError):
            PredictionClient(HOST, companion.port).score_numpy_arrays({"x": x})
        scores = PredictionClient(HOST, companion.port, access_token=primary).score_numpy_arrays({"x": x})
    np.testing.assert_allclose(scores, expected_scores(x), rtol=1e-5)


def test_tls_on_one_side_only_and_an_untrusted_certificate_are_one_line(tmp_path: Path, port: int) -> None:
    variant, (authority, key) = make_variant(tmp_path / "fp32"), make_authority()
    (tmp_path / "ca.pem").write_text(pem_of(authority))
    files = TlsFiles(*server_certificate(tmp_path, authority, key, HOST))
    app, x = ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3), tiny_samples(1)
    companion = GrpcServer(app, GrpcAddress(host=HOST, port=0, tls=files))

    def message(client: PredictionClient) -> str:
        with pytest.raises(EdgewrightError) as caught:
            client.score_numpy_arrays({"x": x})
        return str(caught.value)

    with serving(app, companion):
        trusting = PredictionClient(HOST, companion.port, use_ssl=True, ca_file=tmp_path / "ca.pem")
        np.testing.assert_allclose(trusting.score_numpy_arrays({"x": x}), expected_scores(x), rtol=1e-5)
        assert message(PredictionClient(HOST, companion.port)).endswith("uses TLS, but this client does not: set use_ssl=True")
        assert "must have a certificate of a trusted authority" in message(PredictionClient(HOST, companion.port, use_ssl=True))
    assert message(PredictionClient(HOST, port, use_ssl=True)).endswith("must use TLS, but it does not: set use_ssl=False")


@contextlib.contextmanager
def served(*arguments: object, npu: str) -> Iterator[dict[str, Any]]:
    """Run `edgewright serve` and yield its announcement."""
    command = [sys.executable, "-m", "edgewright", "serve", *map(str, arguments), "--port", "0", "--grpc-port", "0", "--json"]
    environment = {**os.environ, "EDGEWRIGHT_NPU_DEVICE": npu}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def test_a_board_scores_over_grpc_with_the_bits_of_the_functional_model(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    build, images = make_npu_build(tmp_path / "build")
    variant = build.variant(compile_variant(build, PROFILE).variant)
    name = variant.config.inputs[0].name
    with simulated_board(PROFILE, tmp_path / "npu") as board, served(variant.path, npu=str(board)) as service:
        grpc_port = int(service["grpc"].rpartition(":")[2])
        scores = PredictionClient(
            HOST,
            grpc_port,
        ).score_numpy_arrays({f"{name}:0": images[:3]})
        import urllib.request

        with urllib.request.urlopen(f"{service['url']}/stats", timeout=30) as answer:
            runs_on = json.load(answer)["runs_on"]
    assert runs_on["featurizer"].startswith("board npu-sim-4 at ")
    session = load_session(variant)
    (expected,) = session.run({name: images[:3]}).values()
    session.close()
    np.testing.assert_array_equal(scores, expected)
