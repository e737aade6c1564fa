"""Clients that generators write from the served document, in Python and in Java, score against the server with its key."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.http.keys import KeyFile, write_new_keys
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import serving
from tests.support.tiny_variants import expected_scores, tiny_samples

PYTHON_CLIENT = """
import json, sys
from pets_3_client import AuthenticatedClient
from pets_3_client.api.default import get_model, get_ready, infer, score
from pets_3_client.models import Error, InferInput, InferRequest, ScoreRequest

url, key, samples = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = AuthenticatedClient(base_url=url, token=key)
scored = score.sync(client=client, body=ScoreRequest(data=samples))
refused = score.sync(client=client, body=ScoreRequest(data=[[1.0]]))
unknown = score.sync(client=AuthenticatedClient(base_url=url, token="other"), body=ScoreRequest(data=samples))
tensor = InferInput(name="x", shape=[len(samples), 6], datatype="FP32", data=[v for row in samples for v in row])
inferred = infer.sync(client=client, body=InferRequest(inputs=[tensor]))
assert isinstance(refused, Error) and isinstance(unknown, Error)
print(json.dumps({
    "result": scored.result, "labels": scored.labels, "refused": refused.error, "unknown": unknown.error,
    "model": get_model.sync(client=client).to_dict()["name"], "ready": get_ready.sync(client=client).to_dict()["ready"],
    "inferred": inferred.outputs[0].data,
}))
"""
JAVA_CLIENT = """
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.List;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.DefaultApi;
import org.openapitools.client.model.*;

public class Main {
    public static void main(String[] arguments) throws Exception {
        ObjectMapper json = new ObjectMapper();
        List<List<Float>> samples = json.readValue(arguments[2], json.getTypeFactory()
            .constructCollectionType(List.class, json.getTypeFactory().constructCollectionType(List.class, Float.class)));
        ApiClient client = new ApiClient();
        client.updateBaseUri(arguments[0]);
        client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + arguments[1]));
        DefaultApi api = new DefaultApi(client);
        ScoreResponse scored = api.score(new ScoreRequest().data(samples));
        String refused;
        try {
            api.score(new ScoreRequest().data(List.of(List.of(1.0f))));
            refused = "";
        } catch (ApiException error) {
            refused = error.getResponseBody();
        }
        System.out.println(json.writeValueAsString(
            Map.of("result", scored.getResult(), "labels", scored.getLabels(), "refused", refused)));
    }
}
"""
GENERATED_ANNOTATION = """
package javax.annotation;
public @interface Generated { String[] value(); String comments() default ""; String date() default ""; }
"""
SHAPE_ERROR = "input x must have shape [N, 6], but the samples have shape [1, 1]"


@pytest.fixture(scope="module")
def service(variant: VariantDirectory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """Yield the URL of a server, its key, and the file of its document."""
    folder = tmp_path_factory.mktemp("service")
    write_new_keys(folder / "keys.json")
    keys = KeyFile(folder / "keys.json")
    key = json.loads((folder / "keys.json").read_text())["primary"]
    app = ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3, keys=keys)
    with serving(app) as client:
        document = client.send("GET", "/openapi.json", headers={"authorization": f"Bearer {key}"})
        (folder / "openapi.json").write_bytes(document.body)
        yield f"http://127.0.0.1:{client.port}", key, folder / "openapi.json"


def run(command: list[object], folder: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_scores(answer: Any) -> None:
    expected = expected_scores(tiny_samples(2))
    np.testing.assert_allclose(answer["result"], expected, rtol=1e-4)
    assert answer["labels"] == [("cat", "dog", "eel")[index] for index in expected.argmax(axis=1)]


def test_a_generated_python_client_scores(service: tuple[str, str, Path], clients_python: Path, tmp_path: Path) -> None:
    url, key, document = service
    generator = clients_python.with_name("openapi-python-client")
    run([generator, "generate", "--path", document, "--output-path", tmp_path / "client", "--meta", "none"], tmp_path)
    (tmp_path / "client").rename(tmp_path / "pets_3_client")
    (tmp_path / "main.py").write_text(PYTHON_CLIENT)
    answer = json.loads(run([clients_python, "main.py", url, key, json.dumps(tiny_samples(2).tolist())], tmp_path))
    check_scores(answer)
    np.testing.assert_allclose(answer["inferred"], expected_scores(tiny_samples(2)).reshape(-1), rtol=1e-4)
    assert SHAPE_ERROR in answer["refused"]
    assert answer["unknown"].endswith("but another key was sent")
    assert (answer["model"], answer["ready"]) == ("pets", True)


@pytest.mark.slow
def test_a_generated_java_client_scores(
    service: tuple[str, str, Path], clients_python: Path, require: Callable[[str], Path], tmp_path: Path
) -> None:
    url, key, document = service
    java, javac = require("java"), require("javac")
    where = "import openapi_generator_cli as g, pathlib; print(pathlib.Path(g.__file__).with_name('openapi-generator.jar'))"
    jar = run([clients_python, "-c", where], tmp_path).strip()
    options = "openApiNullable=false,annotationLibrary=none,documentationProvider=none"
    chosen = ["-g", "java", "--library", "native", f"--additional-properties={options}"]
    run([java, "-jar", jar, "generate", "-i", document, "-o", tmp_path, *chosen], tmp_path)
    (tmp_path / "Main.java").write_text(JAVA_CLIENT)
    (tmp_path / "Generated.java").write_text(GENERATED_ANNOTATION)  # of the jar javax.annotation-api
    sources = [*(tmp_path / "src" / "main").rglob("*.java"), tmp_path / "Main.java", tmp_path / "Generated.java"]
    run([javac, "-d", "classes", "-cp", jar, *sources], tmp_path)  # the generator's jar holds Jackson
    samples = json.dumps(tiny_samples(2).tolist())
    answer = json.loads(run([java, "-cp", f"classes:{jar}", "Main", url, key, samples], tmp_path))
    check_scores(answer)
    assert SHAPE_ERROR in answer["refused"]
