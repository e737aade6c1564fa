"""Ctrl-C at a moment when a native module is imported: pybind11 reports it as an ImportError whose cause is the interrupt."""

from __future__ import annotations

from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from edgewright import cli


@click.command()
@click.argument("cause")
def failing_import(cause: str) -> None:
    """Fail as the import of a native module does."""
    raise ImportError("initialization failed") from (KeyboardInterrupt() if cause == "interrupt" else OSError(cause))


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setitem(cli.COMMANDS, "fails", cli.Lazy(f"{__name__}:failing_import", "Fail.", None))
    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(failing_import=failing_import))
    return CliRunner()


def test_an_interrupt_inside_an_import_ends_as_an_interrupt(runner: CliRunner) -> None:
    result = runner.invoke(cli.main, ["fails", "interrupt"])
    assert (result.exit_code, result.stderr) == (130, "edgewright: interrupted\n")


def test_another_failed_import_keeps_its_traceback(runner: CliRunner) -> None:
    assert isinstance(runner.invoke(cli.main, ["fails", "a damaged library"]).exception, ImportError)
