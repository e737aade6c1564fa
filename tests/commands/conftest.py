"""The command line with a running cloud."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgewright.cli import main
from tests.support.running_cloud import RunningCloud
from tests.support.trusting_cloud import publisher, trusting_cloud

__all__ = ["publisher", "trusting_cloud"]


class CommandLine:
    """Runner of `edgewright` commands against one cloud."""

    def __init__(self, state: Path) -> None:
        self._environment = {"EDGEWRIGHT_CLOUD": str(state)}

    def run(self, *words: object, cloud: str | None = None) -> Result:
        option = () if cloud is None else ("--cloud", cloud)
        return CliRunner().invoke(main, [str(word) for word in (*words, *option)], env=self._environment)

    def ok(self, *words: object) -> str:
        """Return the output of a command that must succeed."""
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: object) -> Any:
        return json.loads(self.ok(*words, "--json"))

    def refused(self, *words: object) -> str:
        """Return the line of a command that must exit with 2."""
        result = self.run(*words)
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.splitlines()
        return line


@pytest.fixture
def edgewright(trusting_cloud: RunningCloud) -> CommandLine:
    return CommandLine(trusting_cloud.state)


@pytest.fixture
def publish(edgewright: CommandLine, publisher: Path, tmp_path: Path) -> Callable[[str], Any]:
    """Publish the next version of a small model with the command, and return it."""
    from tests.support.small_packages import make_package

    def do(name: str) -> Any:
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        package = make_package(folder, name, folder.name.encode())
        return edgewright.json("publish", package.layout.path, "--key", publisher)

    return do
