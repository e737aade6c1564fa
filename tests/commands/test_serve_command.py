"""`edgewright serve`: a script and a package answer over HTTP and HTTPS; what cannot be served is one line."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from cloud.state.certificates import Authority, certificate_pem, key_pem, new_key
from edgewright.contracts.variant import LayerKind
from tests.support.tiny_variants import FEATURES, expected_scores, make_variant, tiny_samples

SCRIPT = "def init(): pass\ndef run(data): return data.upper()\n"
DECLARED = """import numpy as np
from edgewright.azureml.inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from edgewright.azureml.inference_schema.schema_decorators import input_schema
def init(): pass
@input_schema("data", NumpyParameterType(np.array([1.0])))
"""


@contextlib.contextmanager
def served(*arguments: object) -> Iterator[str]:
    """Run the command until the block ends, and yield the URL that it prints."""
    command = [sys.executable, "-m", "edgewright", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield line.removeprefix("serving on ").strip().removesuffix("; Ctrl-C ends it").replace("/score", "")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def ask(url: str, body: bytes | None = None, *, context: ssl.SSLContext | None = None, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_script_answers(tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text(SCRIPT)
    with served(script) as url:
        assert ask(f"{url}/score", b"abc") == (200, "ABC")


def test_an_onnx_file_answers(tmp_path: Path) -> None:
    graph = make_variant(tmp_path / "fp32").file(LayerKind.GRAPH)
    samples = tiny_samples(3)
    with served(graph, "--name", "tiny") as url:
        body = json.dumps({"data": samples.tolist()}).encode()
        status, answer = ask(f"{url}/score", body)
        assert ask(f"{url}/v2/models/tiny/ready") == (200, {"name": "tiny", "ready": True})
    assert status == 200
    np.testing.assert_allclose(answer["result"], expected_scores(samples), rtol=1e-5)


def test_a_ready_file_has_the_address(tmp_path: Path) -> None:
    script, ready = tmp_path / "score.py", tmp_path / "ready.json"
    script.write_text(SCRIPT)
    with served(script, "--ready-file", ready) as url:
        document = json.loads(ready.read_text())
    assert document["url"] == url == f"http://127.0.0.1:{document['port']}"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (f"{DECLARED}def run(data): return data * 2\n", 0, "the service starts and scores its sample: [2.0]"),
        (SCRIPT, 0, "the service starts; it declares no sample, so no request was scored"),
        (f"{DECLARED}def run(data): return open\n", 2, "the sample must be scored, but the answer is 500: the script failed"),
        ("def init(): raise OSError('no weights')\ndef run(data): pass\n", 1, "it raised OSError in line 1: no weights"),
        ("def run(data:\n", 2, "score.py must be importable, but it raised SyntaxError in line 1"),
    ],
)
def test_a_service_is_checked_without_serving(text: str, code: int, line: str, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(text)
    command = [sys.executable, "-m", "edgewright", "serve", "score.py", "--check"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    last = (process.stdout + process.stderr).splitlines()[-1]
    assert (process.returncode, line in last) == (code, True), process.stderr


def test_a_variant_answers_with_keys_and_tls(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "fp32")
    authority = Authority.create(datetime.now(UTC))
    certificate, key = server_files(authority, tmp_path)
    context = ssl.create_default_context(cadata=authority.pem)
    with served(variant.path, "--keys", tmp_path / "keys.json", "--certificate", certificate, "--private-key", key) as url:
        assert url.startswith("https://")
        body = json.dumps({"data": [[0.0] * FEATURES]}).encode()
        kind = "application/json"
        assert ask(f"{url}/score", body, context=context, **{"content-type": kind})[0] == 401
        bearer = "Bearer " + json.loads((tmp_path / "keys.json").read_text())["primary"]
        status, answer = ask(f"{url}/score", body, context=context, **{"content-type": kind, "authorization": bearer})
    assert (status, list(answer)) == (200, ["result"])


def test_a_variant_answers_over_grpc_with_keys_and_tls(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "fp32")
    authority = Authority.create(datetime.now(UTC))
    certificate, key = server_files(authority, tmp_path)
    access = ["--keys", tmp_path / "keys.json", "--certificate", certificate, "--private-key", key]
    with served(variant.path, "--grpc-port", 0, *access) as urls:
        address = re.fullmatch(r"https://127.0.0.1:\d+ and (127.0.0.1:\d+) \(gRPC\)", urls)
        assert address is not None
        bearer = "Bearer " + json.loads((tmp_path / "keys.json").read_text())["secondary"]
        with grpc.secure_channel(address[1], grpc.ssl_channel_credentials(authority.pem.encode())) as channel:
            metadata = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                metadata(b"", timeout=20)
            assert b"edgewright" in metadata(b"", timeout=20, metadata=[("authorization", bearer)])


def server_files(authority: Authority, folder: Path) -> tuple[Path, Path]:
    key = new_key()
    files = folder / "server.pem", folder / "server.key"
    files[0].write_bytes(certificate_pem(authority.issue_server(["127.0.0.1"], key, datetime.now(UTC))))
    files[1].write_bytes(key_pem(key))
    return files


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["none.py"], 2, "none.py must be an entry script in Python, but there is no such file"),
        (["none"], 2, "none: no such file"),
        (["score.py", "--host", "0.0.0.0"], 2, "must have keys and TLS"),
        (["score.py", "--host", "192.0.2.1", "--keys", "k.json"], 2, "must have keys and TLS"),
        (["score.py", "--grpc-port", "0"], 2, "--grpc-port must be absent for an entry script"),
        (["score.py", "--certificate", "c.pem"], 2, "--certificate and --private-key must be given together"),
        (["score.py", "--certificate", "score.py", "--private-key", "score.py"], 2, "must be a certificate and its private key"),
        (["score.py", "--keys", "score.py"], 2, "score.py must be a JSON object with the keys"),
        (["failing.py"], 1, "init() of failing.py must succeed, but it raised ValueError in line 2: no weights"),
        (["folder"], 2, "folder"),
        (["graph.onnx"], 2, "graph.onnx is not an ONNX graph that onnxruntime can load"),
        (
            ["model.pkl"],
            2,
            "model.pkl is a pickle, which can run any code when it is opened: add --trust if you made it, or use skops",
        ),
        (["model.txt"], 2, "model.txt must be a model of lightgbm, as its suffix says, but its first bytes are not one's"),
        (["missing.pkl"], 2, "missing.pkl: no such file"),
        (["model.bin"], 2, "model.bin"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments: list[str], code: int, line: str, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    (tmp_path / "failing.py").write_text("def init():\n    raise ValueError('no weights')\ndef run(data): pass\n")
    (tmp_path / "folder").mkdir()
    for name in ("graph.onnx", "model.pkl", "model.txt", "model.bin"):
        (tmp_path / name).write_bytes(b"anything")
    command = [sys.executable, "-m", "edgewright", "serve", *arguments, "--port", "0"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    last = process.stderr.splitlines()[-1]
    assert (process.returncode, line in last) == (code, True), process.stderr
    assert "Traceback" not in process.stderr or arguments == ["failing.py"]
    assert not (tmp_path / "k.json").exists()
