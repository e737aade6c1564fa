"""Environments with a real cloud: a version per change of the content (protocol.md P26)."""

from __future__ import annotations

import pytest

from edgewright.contracts.environments.definition import Environment
from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud


def test_p26_a_new_version_is_made_only_when_the_content_changes(client: CloudClient) -> None:
    first = client.create_environment(Environment(name="PythonEnv", pip_packages=("numpy==2.0",)))
    again = client.create_environment(Environment(name="PythonEnv", pip_packages=("numpy==2.0",)))
    changed = client.create_environment(Environment(name="PythonEnv", pip_packages=("numpy==2.1",)))
    back = client.create_environment(Environment(name="PythonEnv", pip_packages=("numpy==2.0",)))
    assert (first.version, again, changed.version, back.version) == (1, first, 2, 3)
    assert back.digest == first.digest
    assert client.environment("PythonEnv") == back
    assert client.environment("PythonEnv", 2) == changed
    assert client.environment_versions("PythonEnv") == (first, changed, back)


def test_p26_names_are_case_sensitive_and_listed_in_order(client: CloudClient) -> None:
    for name in ("zeta", "Zeta"):
        client.create_environment(Environment(name=name))
    names = [each.name for each in client.list_environments()]
    assert names == sorted(names)
    assert {"zeta", "Zeta"} <= set(names)


def test_an_unknown_environment_is_refused_with_the_nearest_names(client: CloudClient) -> None:
    client.create_environment(Environment(name="sklearn-env"))
    with pytest.raises(NotFoundError, match="no environment is called 'sklearn-en'; known: sklearn-env"):
        client.environment("sklearn-en")
    with pytest.raises(NotFoundError, match="environment sklearn-env has no version 9; its newest is 1"):
        client.environment("sklearn-env", 9)


def test_the_cloud_checks_definitions_itself(cloud: RunningCloud, client: CloudClient) -> None:
    answer = cloud.operator().post("/v1/environments", {"name": "x", "pip_packages": ["--index-url=http://x"]})
    assert answer.status == 400
    assert "a pip package must be a name with an optional version" in answer.error
    with pytest.raises(BadInputError, match="an environment's name must be letters"):
        client.environment("a/b")
