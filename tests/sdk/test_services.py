"""Deployment configurations, services and environments as objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgewright.cli import main
from edgewright.contracts.endpoints import EndpointAuth
from edgewright.errors import BadInputError, ConflictError, NotFoundError, OperationError
from edgewright.sdk import (
    AciWebservice,
    CondaDependencies,
    Environment,
    InferenceConfig,
    LocalWebservice,
    Model,
    Webservice,
    Workspace,
)
from edgewright.sdk.services.deployment import AksOptions
from tests.support.embedded_cloud import scratch_folder

ECHO = "def init():\n    print('begun')\n\n\ndef run(data):\n    return {'echo': data, 'version': VERSION}\n"
FAILS = "def init():\n    raise ValueError('no weights')\n\n\ndef run(data):\n    return data\n"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with scratch_folder(tmp_path_factory.mktemp("services")):
        workspace = Workspace()
        yield workspace
        for service in Webservice.list(workspace):
            service.delete()


def config(version: int, text: str = ECHO) -> InferenceConfig:
    Path("echo.py").write_text(text.replace("VERSION", str(version)))
    return InferenceConfig("echo.py")


@pytest.fixture(scope="module")
def service(workspace: Workspace) -> Webservice:
    service = Model.deploy(workspace, "echo", [], config(1))
    service.wait_for_deployment()
    return service


def test_a_service_scores_with_its_key(service: Webservice) -> None:
    assert service.run("hello") == {"echo": "hello", "version": 1}
    assert (service.state, service.error, service.compute_type, service.auth_enabled) == ("Healthy", None, "Local", True)
    assert "begun" in service.get_logs()


def test_a_key_is_replaced_and_the_other_one_stays(service: Webservice) -> None:
    primary, secondary = service.get_keys()
    service.regen_key("Secondary", "a-key-of-the-test-1")
    assert service.get_keys() == (primary, "a-key-of-the-test-1")
    assert secondary != "a-key-of-the-test-1"
    with pytest.raises(BadInputError, match="key must be Primary or Secondary, not 'third'"):
        service.regen_key("third")


def test_an_update_deploys_the_new_script_and_keeps_address_and_keys(workspace: Workspace, service: Webservice) -> None:
    before = (service.scoring_uri, service.get_keys()[0])
    service.update(inference_config=config(2), tags={"stage": 1}, description="echoes")
    service.wait_for_deployment(show_output=True)
    again = Webservice(workspace, "echo")
    assert again.run("x") == {"echo": "x", "version": 2}
    assert (again.scoring_uri, again.get_keys()[0]) == before
    assert (again.tags, again.description) == ({"stage": "1"}, "echoes")
    assert isinstance(workspace.webservices["echo"], LocalWebservice)


def test_a_script_that_fails_ends_in_failed_with_its_reason_and_log(workspace: Workspace) -> None:
    service = Model.deploy(workspace, "fails", [], config(1, FAILS))
    with pytest.raises(OperationError, match="service fails failed to start: .*no weights"):
        service.wait_for_deployment()
    assert service.state == "Failed"
    assert "Traceback" in service.get_logs()


def test_a_deleted_service_is_gone(workspace: Workspace) -> None:
    service = Model.deploy(workspace, "short", [], config(1), overwrite=True)
    service.delete()
    with pytest.raises(NotFoundError):
        Webservice(workspace, "short")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"name": "Echo"}, BadInputError, "an endpoint's name must have 3 to 32 lower-case", id="name"),
        pytest.param({"name": "echo"}, ConflictError, "echo", id="taken"),
        pytest.param({"inference_config": None}, BadInputError, "a service must have a model or an entry script", id="nothing"),
        pytest.param({"inference_config": InferenceConfig("no.py")}, NotFoundError, "no.py: no such file", id="script"),
        pytest.param({"models": ["nothing"]}, NotFoundError, "nothing", id="model"),
        pytest.param({"deployment_target": object()}, BadInputError, "deployment_target must be None", id="target"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused_in_one_line(
    workspace: Workspace, service: Webservice, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"name": "other", "models": [], "inference_config": config(1), **arguments}
    with pytest.raises(error, match=message) as raised:
        Model.deploy(workspace, given.pop("name"), given.pop("models"), **given)
    assert "\n" not in str(raised.value)


# The rules of azureml-core 1.61 for AksWebservice and AciWebservice, as its own classes refuse them.
@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: AksOptions(autoscale_enabled=True, num_replicas=2), "num_replicas must not be given", id="scaled"),
        pytest.param(lambda: AksOptions(autoscale_enabled=False), "autoscale_enabled=False needs num_replicas", id="replicas"),
        pytest.param(lambda: AksOptions(autoscale_min_replicas=1), "need autoscale_enabled=True", id="min without scaling"),
        pytest.param(
            lambda: AksOptions(autoscale_enabled=True, autoscale_min_replicas=3, autoscale_max_replicas=2),
            r"autoscale_min_replicas must be at most autoscale_max_replicas \(2\), not 3",
            id="min over max",
        ),
        pytest.param(lambda: AksOptions(cpu_cores=2, cpu_cores_limit=1), r"cpu_cores_limit must be at least", id="limit"),
        pytest.param(lambda: AksOptions(namespace="My_Space"), "namespace must have 1 to 63", id="namespace"),
        pytest.param(lambda: AksOptions(auth_enabled=True, token_auth_enabled=True), "must not both be True", id="two kinds"),
        pytest.param(
            lambda: AciWebservice.deploy_configuration(cpu_cores=0), "cpu_cores must be a positive number, not 0", id="cpu"
        ),
        pytest.param(lambda: AciWebservice.deploy_configuration(memory_gb="1"), "memory_gb must be a positive", id="memory"),  # type: ignore[arg-type]
        pytest.param(lambda: AciWebservice.deploy_configuration(ssl_enabled=True), "ssl_enabled=True needs", id="ssl"),
        pytest.param(lambda: AciWebservice.deploy_configuration(ssl_cname="a"), "need ssl_enabled=True", id="ssl off"),
        pytest.param(lambda: AciWebservice.deploy_configuration(vnet_name="v"), "must be given together", id="subnet"),
        pytest.param(
            lambda: AciWebservice.deploy_configuration(auth_enabled=False, primary_key="k" * 20, secondary_key="l" * 20),
            "primary_key and secondary_key need auth_enabled=True",
            id="keys without authentication",
        ),
        pytest.param(
            lambda: LocalWebservice.deploy_configuration(port=70000), "port must be a whole number from 1 to 65535", id="port"
        ),
    ],
)
def test_a_deployment_configuration_is_checked_when_it_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make()


def test_defaults_of_a_container_are_those_of_azure_but_for_the_key() -> None:
    made = AciWebservice.deploy_configuration()
    assert (made.cpu, made.memory_gb, made.auth) == (0.1, 0.5, EndpointAuth.KEY)
    assert AciWebservice.deploy_configuration(auth_enabled=False).auth is EndpointAuth.OFF


def test_an_environment_survives_registration_files_and_copies(workspace: Workspace, tmp_path: Path) -> None:
    Path("conda.yml").write_text(
        "name: x\nchannels: [conda-forge]\ndependencies:\n- python=3.11\n- numpy=1.26\n- pip: [joblib]\n"
    )
    made = Environment.from_conda_specification("Made.Env", "conda.yml")
    made.environment_variables["LEVEL"] = "2"
    made.register(workspace)
    found = Environment.get(workspace, "Made.Env", version="1")
    found.save_to_directory(tmp_path / "saved")
    for each in (found, Environment.load_from_directory(tmp_path / "saved"), found.clone("Made.Env")):
        assert each.definition() == made.definition()
    assert CondaDependencies(str(tmp_path / "saved/conda_dependencies.yml")).as_dict() == made.python.conda_dependencies.as_dict()
    with pytest.raises(BadInputError, match="an environment must have a name"):
        Environment().register(workspace)


def test_a_package_replaces_one_of_the_same_name() -> None:
    packages = CondaDependencies.create(pip_packages=["scikit-learn==1.4"], conda_packages=["numpy=1.26", "python=3.10"])
    packages.add_pip_package("Scikit_Learn==1.5")
    packages.add_conda_package("numpy")
    assert (packages.pip_packages, packages.conda_packages, packages.python_version) == (
        ("Scikit_Learn==1.5",),
        ("numpy",),
        "3.10",
    )


RECORDS = """
from edgewright.azureml.applicationinsights import TelemetryClient

tc = TelemetryClient("instrumentation-key")

def init():
    tc.track_trace("weights are open", severity="INFO")
    tc.flush()

def run(data):
    tc.track_metric("latency", 12.5, count=3, properties={"stage": "test"})
    tc.track_event("scored", {"rows": "2"}, {"bytes": 7})
    try:
        raise ValueError("two\\nlines")
    except ValueError:
        tc.track_exception()
    tc.flush()
    print("telemetry {cut")
    return "ok"
"""


def test_telemetry_of_a_script_is_kept_by_the_cloud_and_shown(workspace: Workspace) -> None:
    service = Model.deploy(workspace, "records", [], config(1, RECORDS))
    service.wait_for_deployment()
    assert service.run("x") == "ok"
    service.update(enable_app_insights=True)  # a new deployment; what the one before recorded stays
    service.wait_for_deployment()
    items = workspace.cloud.endpoint_telemetry("records")
    shown = {each.kind: each for each in items}
    assert [(each.kind, each.name) for each in items][:4] == [
        ("trace", ""),
        ("metric", "latency"),
        ("event", "scored"),
        ("exception", ""),
    ]
    assert (shown["trace"].text, items[0].request, items[0].fields) == ("weights are open", "init", {"severity": "INFO"})
    assert (shown["metric"].value, shown["metric"].fields) == (12.5, {"count": 3.0, "stage": "test"})
    assert (shown["event"].fields, shown["metric"].request) == ({"rows": "2", "bytes": 7}, shown["event"].request)
    assert shown["exception"].text.endswith("ValueError: two\nlines\n")
    assert [each.kind for each in workspace.cloud.endpoint_telemetry("records", metric="latency")] == ["metric"]
    answer = CliRunner().invoke(main, ["endpoints", "telemetry", "records", "--kind", "metric"])
    assert answer.exit_code == 0, answer.output
    assert answer.output.splitlines()[1].split()[3:-1] == ["metric", "latency", "12.5", "count=3.0", "stage=test"]
    with pytest.raises(BadInputError, match="limit must be 1 to 10000, not 0"):
        workspace.cloud.endpoint_telemetry("records", limit=0)
