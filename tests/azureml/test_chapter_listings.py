"""The listings of the chapter on deployment with Azure ML's SDK v1, with other import roots and nothing else changed.

They run in one notebook: one namespace, one folder, one embedded cloud. A test runs the listings that its own needs, each once.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from edgewright.sdk import Webservice
from edgewright.sdk.workspace.telemetry import stored_telemetry
from tests.support.embedded_cloud import scratch_folder

LISTINGS: dict[str, str] = {
    "training data": """
import numpy as np
from sklearn.linear_model import LogisticRegression
X_train = np.random.default_rng(0).normal(size=(60, 4))
y_train = (X_train[:, 0] > 0).astype(int)
clf = LogisticRegression()
""",
    "1": """
from edgewright.azureml.core.run import Run
import joblib
run = Run.get_context()
clf.fit(X_train, y_train)
joblib.dump(clf, 'outputs/sklearn_mnist_model.pkl')
model = run.register_model(model_name='sklearn_mnist', model_path='outputs/sklearn_mnist_model.pkl')
print(model.name, model.id, model.version, sep='\\t')
""",
    "2": """
from edgewright.azureml.core.model import Model
model_path = Model.get_model_path('sklearn_mnist')
loaded = joblib.load(model_path)
""",
    "workspace": """
from edgewright.azureml.core import Workspace
ws = Workspace.from_config()
joblib.dump(clf, 'sklearn_mnist_model.pkl')
""",
    "3": """
from edgewright.azureml.core.resource_configuration import ResourceConfiguration
model = Model.register(
    workspace=ws,
    model_name='sklearn_mnist',
    model_path='./sklearn_mnist_model.pkl',
    model_framework=Model.Framework.SCIKITLEARN,
    model_framework_version='0.19.1',
    resource_configuration=ResourceConfiguration(cpu=1, memory_in_gb=0.5),
)
service = Model.deploy(ws, 'my-sklearn-service', [model])
""",
    "4": """
service.wait_for_deployment(True)
print(service.state)
print("scoring URI: " + service.scoring_uri)
""",
    "5": """
from edgewright.azureml.core.environment import Environment
from edgewright.azureml.core.conda_dependencies import CondaDependencies
myenv = Environment('PythonEnv')
conda_dep = CondaDependencies()
conda_dep.add_conda_package("tensorflow")
conda_dep.add_conda_package("numpy")
conda_dep.add_conda_package("scikit-learn")
conda_dep.add_pip_package("azureml-defaults")
conda_dep.add_pip_package("keras")
myenv.python.conda_dependencies = conda_dep
""",
    "6": """
myenv.register(workspace=ws, name="PythonEnv")
""",
    "7": """
myenv = Environment.get(workspace=ws, name="PythonEnv")
""",
    "8": """
from edgewright.azureml.core.model import InferenceConfig
inference_config = InferenceConfig(entry_script="score.py", environment=myenv)
""",
    "9": """
from edgewright.azureml.core import Image
build = myenv.build(workspace=ws)
build.wait_for_completion(show_output=True)
""",
    "10": """
model = Model(ws, 'sklearn_mnist')
package = Model.package(ws, [model], inference_config)
package.wait_for_creation(show_output=True)
print(package.location)
""",
    "11": """
from edgewright.azureml.core.webservice import LocalWebservice
deployment_config = LocalWebservice.deploy_configuration(port=port)
service = Model.deploy(ws, 'my-local-service', [model], inference_config, deployment_config)
service.wait_for_deployment(show_output=True)
print(service.state)
""",
    "score.py of listing 12": """
import json
import joblib
import numpy as np
from edgewright.azureml.core.model import Model

def init():
    global model
    model_path = Model.get_model_path('sklearn_mnist')
    model = joblib.load(model_path)

def run(data):
    try:
        result = model.predict(np.array(json.loads(data)['data']))
        return result.tolist()
    except Exception as e:
        error = str(e)
        return error
""",
    "score.py of listing 14": """
import joblib
import numpy as np
from edgewright.azureml.core.model import Model
from edgewright.azureml.inference_schema.schema_decorators import input_schema, output_schema
from edgewright.azureml.inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType

def init():
    global model
    model = joblib.load(Model.get_model_path('sklearn_mnist'))

input_sample = np.array([[1.0, 0.5, 0.25, 0.125]])
output_sample = np.array([1])

@input_schema('data', NumpyParameterType(input_sample))
@output_schema(NumpyParameterType(output_sample))
def run(data):
    return model.predict(data).tolist()
""",
    "25": """
import json
test_data = json.dumps({'data': [[1.0, 2.0, 3.0, 4.0]]})
""",
    "26": """
profile = Model.profile(ws, "sklearnprofile", [model], inference_config, test_data)
profile.wait_for_profiling(True)
""",
    "27": """
results = profile.get_results()
""",
    "28": """
from edgewright.azureml.onnx_tf.frontend import tensorflow_graph_to_onnx_model
onnx_model = tensorflow_graph_to_onnx_model(graph_def, "fc2/add", opset=6)
with open("mnist.onnx", "wb") as file:
    file.write(onnx_model.SerializeToString())
""",
    "29": """
model = Model.register(
    workspace=ws,
    model_name='mnist-onnx',
    model_path='./mnist.onnx',
    model_framework=Model.Framework.ONNX,
    model_framework_version='1.3',
    resource_configuration=ResourceConfiguration(cpu=1, memory_in_gb=0.5),
)
""",
    "30": """
service = Model.deploy(ws, 'my-onnx-service', [model])
service.wait_for_deployment(True)
print(service.scoring_uri)
""",
    "31": """
import edgewright.azureml.nvidia_smi as nvidia_smi
from edgewright.azureml.applicationinsights import TelemetryClient
tc = TelemetryClient("instrumentation-key")
try:
    nvidia_smi.nvmlInit()
    handle = nvidia_smi.nvmlDeviceGetHandleByIndex(0)
    utilization = nvidia_smi.nvmlDeviceGetUtilizationRates(handle)
except nvidia_smi.NVMLError as error:
    utilization = error
tc.track_metric("gpu", getattr(utilization, "gpu", 0))
tc.flush()
""",
    "32": """
from edgewright.azureml.core.webservice import Webservice
aks_service = Webservice(ws, "aks-deployment")
aks_service.update(enable_app_insights=True)
""",
}
NEEDS = {
    "1": ("training data",),
    "2": ("1",),
    "workspace": ("1",),
    "3": ("2", "workspace"),
    "4": ("3",),
    "6": ("5", "workspace"),
    "7": ("6",),
    "8": ("7",),
    "9": ("7",),
    "10": ("3", "8"),
    "11": ("3", "8"),
    "26": ("11", "25"),
    "27": ("26",),
    "29": ("workspace", "3", "28"),
    "30": ("29",),
    "32": ("3",),
}
"""Listings that a listing needs."""


class Notebook:
    """The namespace of the listings, and which of them have run."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self._done: set[str] = set()

    def run(self, name: str) -> dict[str, Any]:
        """Run a listing after those that it needs, each once."""
        for needed in NEEDS.get(name, ()):
            self.run(needed)
        if name not in self._done:
            exec(compile(LISTINGS[name], f"<listing {name}>", "exec"), self.names)
            self._done.add(name)
        return self.names


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with scratch_folder(tmp_path_factory.mktemp("notebook")):
        notebook = Notebook()
        yield notebook
        if "ws" in notebook.names:
            for service in Webservice.list(notebook.names["ws"]):
                service.delete()


Run = Callable[[str], dict[str, Any]]


@pytest.fixture
def run(notebook: Notebook) -> Run:
    return notebook.run


def test_listing_1_a_run_registers_the_model_that_it_trained(run: Run) -> None:
    names = run("1")
    model = names["model"]
    assert (model.name, model.id, model.version) == ("sklearn_mnist", "sklearn_mnist:1", 1)
    assert model.run_id == names["run"].id


def test_listing_2_the_newest_version_is_found_and_loaded(run: Run) -> None:
    names = run("2")
    assert names["model_path"] == "azureml-models/sklearn_mnist/1/sklearn_mnist_model.pkl"
    assert Path(names["model_path"]).read_bytes() == Path("outputs/sklearn_mnist_model.pkl").read_bytes()
    assert names["loaded"].predict([[5, 0, 0, 0]]) == [1]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class FrozenGraph:
    """A serialized GraphDef: fc2/add = x · [[1], [2]] + [0], written by TensorFlow 2.21 as TensorFlow 1 froze graphs."""

    TEXT = (
        "CjsKAXgSC1BsYWNlaG9sZGVyKhwKBXNoYXBlEhM6ERILCP///////////wESAggCKgsKBWR0eXBlEgIwAQo6CgF3EgVDb25zdCoLCgVkdHlwZR"
        "ICMAEqIQoFdmFsdWUSGEIWCAESCBICCAISAggBIggAAIA/AAAAQAplCgpmYzIvbWF0bXVsEgZNYXRNdWwaAXgaAXcqDAoGZ3JhZF9hEgIoACoM"
        "CgZncmFkX2ISAigAKgcKAVQSAjABKhEKC3RyYW5zcG9zZV9hEgIoACoRCgt0cmFuc3Bvc2VfYhICKAAKMgoBYhIFQ29uc3QqCwoFZHR5cGUSAj"
        "ABKhkKBXZhbHVlEhBCDggBEgQSAggBKgQAAAAACigKB2ZjMi9hZGQSBUFkZFYyGgpmYzIvbWF0bXVsGgFiKgcKAVQSAjABIgMIqhM="
    )

    def SerializeToString(self) -> bytes:  # noqa: N802  the name in protobuf
        return base64.b64decode(self.TEXT)


def post(service: Any, data: Any, path: str = "", key: str | None = None) -> tuple[int, Any]:
    """Send data to a service as a plain HTTP client does."""
    credential = service.get_keys()[0] if key is None else key
    headers = {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}
    answer = urllib3.request("POST", service.scoring_uri + path, json=data, headers=headers, retries=False)
    return answer.status, answer.json()


ROWS = [[5.0, 0.0, 0.0, 0.0], [-5.0, 0.0, 0.0, 0.0]]


def test_listings_3_and_4_a_model_without_code_becomes_a_healthy_service(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("4")
    assert names["model"].version == 2
    output = capsys.readouterr().out
    assert "sklearn_mnist:2 was registered with scikit-learn 0.19.1; the service runs with" in output
    assert names["service"].state == "Healthy"
    status, answer = post(names["service"], {"data": ROWS})
    assert (status, answer) == (200, {"result": [1, 0]})
    assert post(names["service"], {"data": ROWS}, key="wrong")[0] == 401


def test_listings_5_to_7_an_environment_is_registered_and_found(run: Run) -> None:
    environment = run("7")["myenv"]
    packages = environment.python.conda_dependencies
    assert (environment.name, environment.version) == ("PythonEnv", "1")
    assert tuple(packages.conda_packages) == ("tensorflow", "numpy", "scikit-learn")
    assert tuple(packages.pip_packages) == ("azureml-defaults", "keras")
    assert list(run("workspace")["ws"].environments) == ["PythonEnv"]


def test_listings_8_11_and_12_a_script_scores_on_a_fixed_port(run: Run, notebook: Notebook, free_port: int) -> None:
    Path("score.py").write_text(LISTINGS["score.py of listing 12"])
    notebook.names["port"] = free_port
    service = run("11")["service"]
    assert service.state == "Healthy"
    assert f":{free_port}/" in service.scoring_uri
    assert post(service, {"data": ROWS}) == (200, [1, 0])
    status, text = post(service, {"data": [[1.0]]})
    assert (status, "features" in text) == (200, True)


def test_listings_25_to_27_a_profile_recommends_processors_and_memory(
    run: Run, notebook: Notebook, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("score.py").write_text(LISTINGS["score.py of listing 12"])
    notebook.names.setdefault("port", free_port)
    results = run("27")["results"]
    assert 0.1 <= results["cpu"] <= 2
    assert 0.1 <= results["memoryInGB"] <= 1
    assert 0 < results["p50LatencyInMs"] <= results["p95LatencyInMs"] <= 1000
    assert "confirm: " in capsys.readouterr().out


def test_listings_9_and_10_images_of_an_environment_and_of_a_model_are_built(
    run: Run, notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("score.py").write_text(LISTINGS["score.py of listing 12"])
    small = run("7")["Environment"]("SmallEnv")  # the packages of listing 5 would be downloaded
    small.python.conda_dependencies.add_pip_package("azureml-defaults")
    notebook.names["myenv"] = small
    names = run("9")
    assert (names["build"].status, names["Image"](names["ws"], "smallenv-environment").id) == (
        "Succeeded",
        "smallenv-environment:1",
    )
    run("8")["inference_config"].environment = small
    package = run("10")["package"]
    assert package.state == "Succeeded"
    assert package.location == f"{names['ws'].url.removeprefix('http://')}/sklearn_mnist-image:1"
    assert package.location in capsys.readouterr().out
    assert names["Model"].get_model("sklearn_mnist").id == names["model"].id


def test_listing_14_samples_describe_and_check_the_requests(run: Run, notebook: Notebook) -> None:
    names = run("8") | run("3")
    Path("score.py").write_text(LISTINGS["score.py of listing 14"])
    service = names["Model"].deploy(names["ws"], "with-schema", [names["model"]], names["inference_config"])
    service.wait_for_deployment()
    headers = {"Authorization": f"Bearer {service.get_keys()[0]}"}
    swagger = urllib3.request("GET", service.swagger_uri, headers=headers, retries=False).json()
    assert swagger["definitions"]["ServiceInput"]["example"] == {"data": [[1.0, 0.5, 0.25, 0.125]]}
    assert post(service, {"data": ROWS}) == (200, [1, 0])
    status, answer = post(service, {"data": [[1.0]]})
    assert (status, answer) == (400, {"error": "data must be float64[n, 4], but the shape [1, 1] was received"})


def test_listings_29_and_30_an_onnx_model_is_served_without_code(run: Run, notebook: Notebook) -> None:
    notebook.names["graph_def"] = FrozenGraph()
    with pytest.warns(UserWarning, match="the graph cannot be written in operator set 6; it has operator set"):
        names = run("28")
    names = run("30")
    assert names["service"].state == "Healthy"
    status, answer = post(names["service"], {"data": [[1.0, 2.0]]})
    assert status == 200
    assert answer == {"result": [[5.0]]}


def test_listing_31_telemetry_is_stored_and_the_gpu_is_asked(run: Run) -> None:
    names = run("31")
    assert (
        isinstance(names["utilization"].gpu, int) if hasattr(names["utilization"], "gpu") else "NVML" in str(names["utilization"])
    )
    assert [(item["name"], item["kind"]) for item in stored_telemetry()] == [("gpu", "metric")]


def test_listing_32_telemetry_of_a_running_service_is_enabled(run: Run) -> None:
    names = run("3")
    deployed = names["Model"].deploy(names["ws"], "aks-deployment", ["sklearn_mnist"])
    deployed.wait_for_deployment()
    service = run("32")["aks_service"]
    service.wait_for_deployment()
    assert service.enable_app_insights
    assert post(service, {"data": ROWS}) == (200, {"result": [1, 0]})
