"""Manifests are right by the public schemas, and what the schemas refuse is refused here with its path."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import BadInputError
from edgewright.iotedge import create_options
from edgewright.iotedge.create_options import ContainerOptions
from edgewright.iotedge.manifest import Module, RegistryLogin, added, layered, standard
from edgewright.iotedge.validation import faults_of, warnings_of

Change = Callable[[dict[str, Any], dict[str, Any]], object]
AGENT = "modulesContent/$edgeAgent/properties.desired"
HUB = "modulesContent/$edgeHub/properties.desired"
CHURN = Module(
    name="churn",
    image="registry.example/churn:1",
    options=ContainerOptions(
        cpus=1.5, memory_mib=512, gpus="all", devices=("/dev/ttyUSB0", "/dev/ttyUSB1"), keys_folder="/etc/keys"
    ),
    environment={"LEVEL": "info"},
    startup_order=1,
)


def make() -> dict[str, Any]:
    """Return a manifest that uses every part: two modules, credentials, both forms of a route."""
    login = RegistryLogin("registry.example", "ci", "secret")
    manifest = standard(
        CHURN, routes={"up": "FROM /messages/modules/churn/outputs/* WHERE score > 0.5 INTO $upstream"}, login=login
    )
    manifest = added(manifest, Module(name="ocr", image="registry.example/ocr:2", version="2", restart_policy="on-failure"))
    hub = manifest["modulesContent"]["$edgeHub"]["properties.desired"]
    hub["routes"]["to_ocr"] = {
        "route": 'FROM /messages/modules/churn/outputs/crops INTO BrokeredEndpoint("/modules/ocr/inputs/images")',
        "priority": 1,
        "timeToLiveSecs": 60,
    }
    hub["schemaVersion"] = "1.2"
    manifest["modulesContent"]["ocr"] = {"properties.desired": {"threshold": 0.5}}
    return manifest


REFUSED_BY_BOTH: dict[str, tuple[Change, str]] = {
    "no agent": (lambda agent, _: agent.clear(), f"{AGENT}: must have schemaVersion"),
    "runtime type": (lambda agent, _: agent["runtime"].update(type="podman"), f"{AGENT}/runtime/type: must be docker"),
    "no system modules": (lambda agent, _: agent.pop("systemModules"), f"{AGENT}: must have systemModules"),
    "hub without a policy": (
        lambda agent, _: agent["systemModules"]["edgeHub"].pop("restartPolicy"),
        f"{AGENT}/systemModules/edgeHub: must have restartPolicy",
    ),
    "agent with a policy": (
        lambda agent, _: agent["systemModules"]["edgeAgent"].update(restartPolicy="always"),
        f"{AGENT}/systemModules/edgeAgent/restartPolicy: is no known key",
    ),
    "third system module": (
        lambda agent, _: agent["systemModules"].update(extra={}),
        f"{AGENT}/systemModules/extra: is no known key",
    ),
    "restart policy": (
        lambda agent, _: agent["modules"]["churn"].update(restartPolicy="sometimes"),
        f"{AGENT}/modules/churn/restartPolicy: must be never, on-failure, on-unhealthy or always, not 'sometimes'",
    ),
    "status": (lambda agent, _: agent["modules"]["churn"].update(status="paused"), f"{AGENT}/modules/churn/status: must be"),
    "pull policy": (
        lambda agent, _: agent["modules"]["churn"].update(imagePullPolicy="always"),
        f"{AGENT}/modules/churn/imagePullPolicy: must be never or on-create",
    ),
    "order below 0": (
        lambda agent, _: agent["modules"]["churn"].update(startupOrder=-1),
        f"{AGENT}/modules/churn/startupOrder: must be an integer from 0 to 4294967295, not -1",
    ),
    "order above": (lambda agent, _: agent["modules"]["churn"].update(startupOrder=2**32), f"{AGENT}/modules/churn/startupOrder"),
    "module name": (
        lambda agent, _: agent["modules"].update({"bad.name": agent["modules"]["churn"]}),
        f"{AGENT}/modules/bad.name: the key must be letters, digits, _ or -",
    ),
    "no image": (
        lambda agent, _: agent["modules"]["churn"]["settings"].pop("image"),
        f"{AGENT}/modules/churn/settings: must have image",
    ),
    "options as JSON": (
        lambda agent, _: agent["modules"]["churn"]["settings"].update(createOptions={"HostConfig": {}}),
        f"{AGENT}/modules/churn/settings/createOptions: must be a string that holds JSON",
    ),
    "environment value": (
        lambda agent, _: agent["modules"]["churn"]["env"].update(LIST={"value": [1]}),
        f"{AGENT}/modules/churn/env/LIST/value: must be a string, a number, true or false",
    ),
    "environment name": (
        lambda agent, _: agent["modules"]["churn"]["env"].update({"a.b": {"value": "1"}}),
        f"{AGENT}/modules/churn/env/a.b: the key must be a name",
    ),
    "credentials": (
        lambda agent, _: agent["runtime"]["settings"].update(registryCredentials={"r": {"username": "u", "address": "a"}}),
        f"{AGENT}/runtime/settings/registryCredentials/r: must have password",
    ),
    "no routes": (lambda _, hub: hub.pop("routes"), f"{HUB}: must have routes"),
    "priority": (
        lambda _, hub: hub["routes"]["to_ocr"].update(priority=10),
        f"{HUB}/routes/to_ocr/priority: must be an integer from 0 to 9, not 10",
    ),
    "route name": (
        lambda _, hub: hub["routes"].update({"a b": "FROM /* INTO $upstream"}),
        f"{HUB}/routes/a b: the key must be a name",
    ),
    "route of another kind": (lambda _, hub: hub["routes"].update(up=5), f"{HUB}/routes/up: must be a route"),
    "time to live": (
        lambda _, hub: hub.update(storeAndForwardConfiguration={}),
        f"{HUB}/storeAndForwardConfiguration: must have timeToLiveSecs",
    ),
}
REFUSED_HERE: dict[str, tuple[Change, str]] = {
    "a gap in the options": (
        lambda agent, _: agent["modules"]["ocr"]["settings"].update(createOptions02="{}"),
        "createOptions must be followed by createOptions01, 02 and so on without a gap",
    ),
    "a long piece": (
        lambda agent, _: agent["modules"]["ocr"]["settings"].update(createOptions=json.dumps({"Cmd": ["x" * 600]})),
        "must have at most 512 characters, not 613: split it",
    ),
    "options that are no JSON": (
        lambda agent, _: agent["modules"]["ocr"]["settings"].update(createOptions="{"),
        "must be JSON once its pieces are joined",
    ),
    "GPU capabilities in one list": (
        lambda agent, _: agent["modules"]["ocr"]["settings"].update(
            createOptions=json.dumps({"HostConfig": {"DeviceRequests": [{"Capabilities": ["gpu"]}]}})
        ),
        'must be a list of lists, as [["gpu"]], not ["gpu"]',
    ),
    "route without a sink": (
        lambda _, hub: hub["routes"].update(up="FROM /*"),
        "a route must be FROM <source> [WHERE <condition>] INTO <sink>",
    ),
    "unknown source": (
        lambda _, hub: hub["routes"].update(up="FROM /everything INTO $upstream"),
        "the source of a route must be",
    ),
    "unknown sink": (lambda _, hub: hub["routes"].update(up="FROM /* INTO $cloud"), "the sink of a route must be"),
    "route to no module": (
        lambda _, hub: hub["routes"].update(up='FROM /* INTO BrokeredEndpoint("/modules/gone/inputs/x")'),
        "names module gone, but the modules are: churn, ocr",
    ),
    "order in an old version": (
        lambda agent, _: agent.update(schemaVersion="1.0"),
        f'{AGENT}/modules/churn/startupOrder: needs schemaVersion "1.1"',
    ),
    "priority in an old version": (
        lambda _, hub: hub.update(schemaVersion="1.0"),
        f"{HUB}/routes/to_ocr: a route with a priority",
    ),
}


def changed(change: Change) -> dict[str, Any]:
    """Return a manifest after a change of its agent's and its hub's desired properties."""
    manifest = copy.deepcopy(make())
    content = manifest["modulesContent"]
    change(content["$edgeAgent"]["properties.desired"], content["$edgeHub"]["properties.desired"])
    return manifest


@pytest.fixture(scope="module")
def refusals(clients_python: Path) -> dict[str, list[str]]:
    """Return the public schemas that refuse each manifest of this module."""
    manifests = {"whole": make(), **{name: changed(change) for name, (change, _) in (REFUSED_BY_BOTH | REFUSED_HERE).items()}}
    script = Path(__file__).with_name("public_schemas.py")
    source = json.dumps(list(manifests.values()))
    output = subprocess.run([clients_python, script], input=source, capture_output=True, text=True, check=True).stdout
    return dict(zip(manifests, json.loads(output), strict=True))


def test_a_manifest_is_valid_by_the_public_schemas(refusals: dict[str, list[str]]) -> None:
    assert refusals["whole"] == []
    assert faults_of(make()) == []


@pytest.mark.parametrize("name", REFUSED_BY_BOTH)
def test_what_the_public_schemas_refuse_is_refused_with_its_path(name: str, refusals: dict[str, list[str]]) -> None:
    change, expected = REFUSED_BY_BOTH[name]
    assert refusals[name]
    assert any(str(fault).startswith(expected) for fault in faults_of(changed(change)))


@pytest.mark.parametrize("name", REFUSED_HERE)
def test_what_only_a_device_would_refuse_is_refused(name: str, refusals: dict[str, list[str]]) -> None:
    change, expected = REFUSED_HERE[name]
    assert [schema for schema in refusals[name] if schema == "azure-iot-edge-deployment-2.0"] == []
    assert any(expected in str(fault) for fault in faults_of(changed(change)))


def test_a_manifest_without_the_agent_or_with_an_unknown_key_is_refused() -> None:
    manifest = make()
    del manifest["modulesContent"]["$edgeAgent"]
    manifest["$schema"] = "x"
    texts = list(map(str, faults_of(manifest)))
    assert texts[0] == "$schema: is not allowed beside modulesContent"
    assert texts[1].startswith("modulesContent: must have $edgeAgent")


def test_twins_that_a_hub_cannot_hold_are_refused() -> None:
    manifest = make()
    deep: dict[str, Any] = {}
    for _ in range(11):
        deep = {"inner": deep}
    manifest["modulesContent"]["ocr"]["properties.desired"] = {"a.b": 1, "deep": deep, "long": "x" * 33_000}
    texts = " ".join(map(str, faults_of(manifest)))
    assert "ocr/properties.desired/a.b: the key of a twin must have no dot" in texts
    assert "must be nested at most 10 deep" in texts
    assert "must have at most 32768 bytes as JSON" in texts


def test_options_are_split_and_joined() -> None:
    document = {"HostConfig": {"Binds": [f"/data/{number}:/data/{number}" for number in range(150)]}}
    pieces = create_options.split(document)
    assert list(pieces) == ["createOptions", *(f"createOptions{number:02}" for number in range(1, len(pieces)))]
    assert max(map(len, pieces.values())) == 512
    assert json.loads(create_options.join({"image": "x", **dict(reversed(pieces.items()))})) == document


def test_options_over_eight_pieces_are_refused() -> None:
    with pytest.raises(BadInputError, match="createOptions must have at most 4096 characters"):
        create_options.split({"Cmd": ["x" * 4096]})


def test_an_old_runtime_gives_a_warning() -> None:
    assert warnings_of(standard(CHURN)) == []
    texts = warnings_of(standard(CHURN, runtime="1.5"))
    assert [text.partition(" is of IoT Edge")[0] for text in texts] == [
        "mcr.microsoft.com/azureiotedge-agent:1.5",
        "mcr.microsoft.com/azureiotedge-hub:1.5",
    ]


def test_a_layer_is_checked_by_the_rules_of_its_parts() -> None:
    manifest = layered(CHURN, {"up": "FROM /* INTO $upstream"})
    assert faults_of(manifest) == []
    content = manifest["modulesContent"]
    content["$edgeAgent"]["properties.desired.modules.churn"]["status"] = "paused"
    content["$edgeAgent"]["properties.desired.runtime"] = {}
    content["$edgeHub"]["properties.desired.routes.up"] = "FROM /*"
    content["churn"] = {"desired": {}}
    texts = list(map(str, faults_of(manifest)))
    assert texts[0].startswith(f"{AGENT}.modules/churn/status: must be running or stopped")
    assert texts[1].startswith(
        "modulesContent/$edgeAgent/properties.desired.runtime: must begin with properties.desired.modules."
    )
    assert "a route must be FROM" in texts[2]
    assert texts[3].startswith("modulesContent/churn/desired: must be properties.desired or begin with")
