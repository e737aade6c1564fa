"""Make PyTorch importable for these tests, and its exporter fast."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TORCH = Path(sys.prefix) / "torch"


@pytest.fixture(autouse=True)
def _torch(require_package: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the PyTorch that scripts/torch.sh installed importable, in this process and its children."""
    if (TORCH / "unavailable").exists():
        pytest.skip("the package index has no CPU build of PyTorch for this Python")
    monkeypatch.syspath_prepend(str(TORCH))
    monkeypatch.setenv("PYTHONPATH", str(TORCH), prepend=os.pathsep)
    require_package("torch")
    require_package("onnxscript")
    _share_the_table_of_operators()


@functools.cache
def _share_the_table_of_operators() -> None:
    """Build the exporter's table of operators once per session: it takes two thirds of the export of a small module."""
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    torch.set_num_threads(1)
    build: Any = functools.cache(ONNXRegistry.from_torchlib.__func__)
    ONNXRegistry.from_torchlib = classmethod(build)
