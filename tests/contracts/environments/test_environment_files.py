"""Environments: Azure's names, and files of conda, pip and Docker; conda and pip themselves define what a file means."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewright.contracts import wire
from edgewright.contracts.environments.definition import (
    Environment,
    EnvironmentReference,
    check_environment_name,
    parse_environment_reference,
)
from edgewright.contracts.environments.reading import from_conda, from_dockerfile, from_requirements
from edgewright.errors import BadInputError

CONDA = """\
name: churn
channels: [conda-forge, defaults]
dependencies:
  - python=3.11.*
  - numpy=1.26   # pinned
  - pip
  - pip:
      - azureml-defaults
      - --index-url https://packages.example/simple
      - keras>=3
variables:
  OMP_NUM_THREADS: 2
"""

REQUIREMENTS = """\
# of the project
--index-url=https://packages.example/simple
numpy==1.26.4 \\
    --hash=sha256:aaaa
scikit-learn[extra]>=1.4 ; python_version > "3.8"  # later

pandas
"""


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_conda_file_becomes_an_environment(tmp_path: Path) -> None:
    assert from_conda(written(tmp_path, "env.yml", CONDA)) == Environment(
        name="churn",
        python_version="3.11",
        pip_packages=("azureml-defaults", "keras>=3"),
        pip_index_url="https://packages.example/simple",
        conda_packages=("numpy=1.26",),
        conda_channels=("conda-forge", "defaults"),
        variables={"OMP_NUM_THREADS": "2"},
    )


def test_a_requirements_file_becomes_an_environment(tmp_path: Path) -> None:
    assert from_requirements(written(tmp_path, "r.txt", REQUIREMENTS), name="churn") == Environment(
        name="churn",
        pip_index_url="https://packages.example/simple",
        pip_packages=("numpy==1.26.4", 'scikit-learn[extra]>=1.4 ; python_version > "3.8"', "pandas"),
    )


def test_a_dockerfile_is_kept_as_it_is(tmp_path: Path) -> None:
    text = "# base\nARG V=3\nFROM python:$V\n"
    assert from_dockerfile(written(tmp_path, "Dockerfile", text), name="docked").dockerfile == text


def test_law_an_environment_survives_its_json_form(tmp_path: Path) -> None:
    environment = from_conda(written(tmp_path, "env.yml", CONDA))
    assert wire.decode(wire.encode(environment), Environment, what="it") == environment


def test_the_digest_is_that_of_the_content_alone() -> None:
    one = Environment(name="a", pip_packages=("numpy",), description="first")
    assert one.digest == Environment(name="B", pip_packages=("numpy",)).digest
    assert one.digest != Environment(name="a", pip_packages=("numpy==2",)).digest


@pytest.mark.parametrize("name", ["PythonEnv", "a", "9.x", "with_-.all", "a" * 255])
def test_a_name_of_azures_rules_is_accepted(name: str) -> None:
    assert check_environment_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "a b", "a/b", "a" * 256, "AzureML-x", "microsoft", "ä", "a\n"])
def test_a_name_that_azure_refuses_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="an environment's name must"):
        check_environment_name(name)


def test_a_reference_is_a_name_with_or_without_a_number() -> None:
    assert parse_environment_reference("Env") == EnvironmentReference("Env")
    assert parse_environment_reference("Env:12") == EnvironmentReference("Env", 12)
    with pytest.raises(BadInputError, match="must be a whole number from 1, as in Env:3, not '0'"):
        parse_environment_reference("Env:0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"pip_packages": ("--index-url=http://x",)}, "a pip package must be a name", id="option as package"),
        pytest.param({"pip_packages": ("numpy\n--pre",)}, "a pip package must be a name", id="two lines"),
        pytest.param({"conda_packages": ("-c evil",)}, "a conda package must be a name", id="option as conda package"),
        pytest.param({"conda_channels": ("a b",)}, "a conda channel must be a name", id="channel"),
        pytest.param({"python_version": "2.7"}, "python_version must be a version such as 3.11", id="python"),
        pytest.param({"base_image": "UPPER CASE"}, "base_image must be a reference", id="image"),
        pytest.param({"base_image": "a", "dockerfile": "FROM a"}, "a base image or a Dockerfile, not both", id="two bases"),
        pytest.param({"variables": {"A B": "1"}}, "a variable must have a name of letters", id="variable"),
        pytest.param({"pip_index_url": "ftp://x"}, "pip_index_url must be an address", id="index"),
    ],
)
def test_an_impossible_definition_does_not_exist(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Environment(name="bad", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("dependencies: [a: b", "must be a conda environment in YAML", id="not YAML"),
        pytest.param("- a", "must be a conda environment with a list of dependencies", id="a list"),
        pytest.param("dependencies: text", "dependencies must be a list, not str", id="no list"),
        pytest.param("dependencies: [{npm: [a]}]", "a dependency must be a text or a list below pip", id="other tool"),
        pytest.param("dependencies: [3]", "a dependency must be a text", id="number"),
        pytest.param(b"\xff\xfe", "must be text in UTF-8", id="binary"),
        pytest.param("dependencies:\n- pip:\n  - -r other.txt", "a line must be a requirement or --index-url", id="file in file"),
        pytest.param("a: &a [*a]\ndependencies: &b [*b]", "a dependency must be a text", id="refers to itself"),
    ],
)
def test_a_file_that_is_not_a_conda_environment_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=message):
        from_conda(written(tmp_path, "env.yml", text))


def test_a_file_that_is_no_dockerfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="begins with FROM, but it begins with 'RUN'"):
        from_dockerfile(written(tmp_path, "Dockerfile", "RUN ls"), name="x")
