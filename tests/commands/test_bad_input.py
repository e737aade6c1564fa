"""Bad input of the commands from a model to its endpoint: one line, exit code 2, and nothing is registered or started."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest

from tests.commands.conftest import CommandLine

NAME = (
    "an endpoint's name must have 3 to 32 lower-case letters, digits and '-', begin with a letter and end with a letter or digit"
)
DEPLOY, BUILD, REGISTER = ["endpoints", "deploy"], ["images", "build"], ["models", "register"]
CREATE = ["environments", "create"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    joblib.dump({"a": 1}, tmp_path / "model.joblib")
    (tmp_path / "broken.yml").write_text("name: a\ndependencies: [x\n")
    (tmp_path / "syntax.py").write_text("def run(data:\n")
    return tmp_path


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        *(
            ([*DEPLOY, name, "--model", "pickled"], NAME)
            for name in ("ab", "Digits", "9digits", "a_b", "digits-", "a" * 33, "", "ä-b")
        ),
        ([*DEPLOY, "new", "--model", "missing-model"], "no model is called 'missing-model'"),
        ([*DEPLOY, "new", "--model", "pickled:7"], "model pickled has no version 7"),
        ([*DEPLOY, "new", "--model", "pickled@champion"], "model pickled has no alias champion"),
        ([*DEPLOY, "new"], "an endpoint must have a model, an entry script or an image: name at least one"),
        (
            [*DEPLOY, "new", "--script", "missing.py"],
            "missing.py: no such file; an entry script is a Python file with init() and",
        ),
        (
            [*DEPLOY, "new", "--model", "pickled"],
            "model.joblib is a pickle, which can run any code when it is opened: add --trust",
        ),
        ([*DEPLOY, "new", "--model", "pickled", "--trust", "--port", "PORT"], "must be free, but it cannot be used"),
        ([*DEPLOY, "new", "--model", "pickled", "--trust", "--environment", "none-such"], "no environment is called 'none-such'"),
        ([*BUILD, "pickled"], "model.joblib is a pickle, which can run any code when it is opened: add --trust if you made it"),
        ([*BUILD, "missing-model"], "no model is called 'missing-model'"),
        ([*REGISTER, "Bad Name", "model.joblib"], "a model's name must be lower-case letters and digits"),
        ([*REGISTER, "some", "missing.onnx"], "missing.onnx: no such file; a model is a file or a folder"),
        ([*CREATE, "x", "--conda", "broken.yml"], "broken.yml must be a conda environment in YAML: line 3: expected ',' or ']'"),
        ([*CREATE, "x", "--base-image", "NO SUCH"], "base_image must be a reference such as registry.example:5000/python:3.11"),
        (["serve", "syntax.py", "--port", "PORT"], "Address already in use; choose another port"),
        (["serve", "syntax.py", "--port", "0"], "syntax.py must be importable, but it raised SyntaxError in line 1"),
        (["serve", "missing.py"], "missing.py must be an entry script in Python, but there is no such file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str], line: str, edgewright: CommandLine, files: Path, used_port: int
) -> None:
    register = ("models", "register", "pickled", files / "model.joblib", "--framework", "sklearn")
    if "pickled" not in edgewright.ok("models", "list"):
        edgewright.ok(*register)
    known = {each.name: str(each) for each in files.iterdir()} | {"PORT": str(used_port)}
    before = [edgewright.ok(noun, "list") for noun in ("endpoints", "images", "models", "environments")]
    result = edgewright.run(*[known.get(word, word) for word in words])
    assert (result.exit_code, line in result.stderr.splitlines()[-1]) == (2, True), result.stderr
    assert [edgewright.ok(noun, "list") for noun in ("endpoints", "images", "models", "environments")] == before
