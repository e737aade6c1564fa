"""`edgewright environments`: create from files and options, list, show, refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import CommandLine

CONDA = "name: other\nchannels: [conda-forge]\ndependencies: [python=3.11, numpy=2.0, {pip: [keras]}]\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "env.yml").write_text(CONDA)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return tmp_path


def test_an_environment_is_created_listed_and_shown(edgewright: CommandLine, files: Path) -> None:
    options = ("--conda", files / "env.yml", "--pip", "pandas", "--variable", "LEVEL=2")
    assert edgewright.ok("environments", "create", "PythonEnv", *options) == "environment PythonEnv:1\n"
    assert edgewright.ok("environments", "create", "PythonEnv", *options) == "environment PythonEnv:1\n"
    assert edgewright.ok("environments", "create", "PythonEnv", *options, "--python", "3.12") == "environment PythonEnv:2\n"
    shown = edgewright.ok("environments", "show", "PythonEnv:1")
    for text in ("3.11", "conda-forge", "LEVEL=2", "numpy=2.0", "keras", "pandas"):
        assert text in shown
    assert ["PythonEnv", "2"] in [line.split()[:2] for line in edgewright.ok("environments", "list").splitlines()]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["create", "a b"], "an environment's name must be letters"),
        (["create", "x", "--conda", "nothing.yml"], "nothing.yml: no such file"),
        (["create", "x", "--conda", "env.yml", "--requirements", "requirements.txt"], "not both: omit one"),
        (["create", "x", "--dockerfile", "env.yml"], "must be a Dockerfile, which begins with FROM"),
        (["create", "x", "--dockerfile", "Dockerfile", "--base-image", "a"], "a base image or a Dockerfile, not both"),
        (["create", "x", "--python", "two"], "python_version must be a version such as 3.11, not 'two'"),
        (["show", "missing-environment"], "no environment is called 'missing-environment'"),
        (["show", "x:last"], "must be a whole number from 1, as in x:3, not 'last'"),
    ],
)
def test_a_refusal_is_one_line(arguments: list[str], line: str, edgewright: CommandLine, files: Path) -> None:
    paths = {each.name: str(each) for each in files.iterdir()}
    assert line in edgewright.refused("environments", *[paths.get(each, each) for each in arguments])
