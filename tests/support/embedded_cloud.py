"""A scratch folder without a configured cloud, whose embedded cloud ends with the block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud.state.directory import stop


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Work in `folder` without a configured cloud; stop its embedded cloud afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        for name in [each for each in os.environ if each.startswith(("EDGEWRIGHT_CLOUD", "EDGEWRIGHT_TOKEN", "AZUREML_"))]:
            patch.delenv(name)
        try:
            yield folder
        finally:
            stop(folder / ".edgewright" / "cloud")
