"""`edgewright images`: refusals in one line; builds are tested in tests/cloud/images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import CommandLine


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["build"], "an image without a model needs a name: give --name"),
        (["build", "m", "--source", "."], "--source must come with --script"),
        (["build", "m", "--dockerfile", "out", "--no-follow"], "--dockerfile needs the finished image"),
        (["build", "missing-model"], "no model is called 'missing-model'"),
        (["build", "--name", "Upper"], "an image's name must be lower-case letters and digits"),
        (["build", "--name", "x", "--script", "no-script.py"], "no-script.py: no such file"),
        (["build", "--name", "x", "--script", "no-script.py", "--source", "."], "the entry script must be in the source folder"),
        (["build", "--name", "x", "--script", "SCRIPT", "--source", "FOLDER"], "must be in the source folder"),
        (["build", "--name", "x", "--env", "no-environment"], "no environment is called 'no-environment'"),
        (["build", "a", "b"], "an image of 2 models needs an entry script, which chooses between them"),
        (["show", "missing-image"], "no image is called 'missing-image'"),
        (["push", "missing-image", "registry/x", "--user", "u"], "--user and --password-stdin must be given together"),
    ],
)
def test_a_refusal_is_one_line(arguments: list[str], line: str, edgewright: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "score.py").write_text("")
    paths = {"SCRIPT": str(tmp_path / "score.py"), "FOLDER": str(tmp_path / "folder")}
    assert line in edgewright.refused("images", *[paths.get(each, each) for each in arguments])
