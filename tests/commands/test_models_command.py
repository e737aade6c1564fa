"""`edgewright models`: register, show, tag, alias, download and delete, run against a real cloud."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import CommandLine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "churn.pkl"
    path.write_bytes(b"weights" * 1000)
    return path


def test_a_model_goes_through_its_life(edgewright: CommandLine, model: Path, tmp_path: Path) -> None:
    options = ("--framework", "sklearn", "--framework-version", "1.5.2", "--tag", "stage=test", "--property", "data=2026-11")
    assert edgewright.ok("models", "register", "churn", model, *options) == "registered churn:1: 1 file, 7.0 kB\n"
    edgewright.ok("models", "register", "churn", model)
    assert edgewright.ok("models", "alias", "churn", "champion", "1") == "churn@champion is churn:1\n"
    shown = edgewright.ok("models", "show", "churn@champion")
    for text in ("churn:1", "champion", "sklearn 1.5.2", "stage=test", "data=2026-11", "churn.pkl (7.0 kB)"):
        assert text in shown
    edgewright.ok("models", "tag", "churn:1", "stage=live", "team=a")
    edgewright.ok("models", "tag", "churn:1", "team=")
    assert [each["registration"]["tags"] for each in edgewright.json("models", "list", "--tag", "stage=live")] == [
        {"stage": "live"}
    ]
    edgewright.ok("models", "download", "churn@champion", "-o", tmp_path / "back")
    assert (tmp_path / "back" / "churn.pkl").read_bytes() == model.read_bytes()
    assert edgewright.ok("models", "alias", "churn", "champion", "--remove") == "churn@champion is removed\n"
    assert edgewright.ok("models", "delete", "churn:1") == "deleted churn:1\n"
    assert [each["version"] for each in edgewright.json("models", "show", "churn")] == [2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["register", "churn", "nothing"], "nothing: no such file; a model is a file or a folder"),
        (["register", "Churn", "."], "a model's name must be"),
        (["register", "churn", "/dev/null"], "/dev/null: no such file"),
        (["register", "churn", "model", "--cpu", "-1"], "cpu must be a positive number, not -1"),
        (["show", "known:99"], "model known has no version 99"),
        (["show", "known@missing"], "model known has no alias missing; known: none"),
        (["show", "known@"], "an alias's name must be"),
        (["download", "known", "-o", "out"], "must hold source files, but only a package was published"),
        (["delete", "known"], "a version must be named, as in known:2, but known has none"),
        (["alias", "known", "3", "1"], "an alias must not be a number"),
        (["alias", "known", "best", "99"], "model known has no version 99"),
    ],
)
def test_a_refusal_is_one_line(
    arguments: list[str], line: str, edgewright: CommandLine, publish: Callable[[str], Any], model: Path
) -> None:
    if arguments[0] != "register":
        publish("known")
    assert line in edgewright.refused("models", *[str(model) if each == "model" else each for each in arguments])
