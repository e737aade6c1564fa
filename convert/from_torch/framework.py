"""Import PyTorch for files whose author is trusted, keep it quiet, and pass arrays to it and from it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.errors import BadInputError, ModelError


def import_torch(path: Path, *, trust: bool, holds: str) -> Any:
    """Return the module `torch`, to open the file at `path`.

    Args:
        path: the file to be opened.
        trust: the author of the file is trusted.
        holds: format of the file, with the reason for the trust that it needs, as in "a PyTorch program, whose weights …".

    Raises:
        ModelError: the file is not trusted.
        BadInputError: PyTorch is not installed.
    """
    if not trust:
        raise ModelError(f"{path} is {holds}: add --trust if you made it, or export the model to ONNX yourself and convert that")
    try:
        import torch
    except ModuleNotFoundError as missing:
        raise BadInputError(f"{path} needs PyTorch, which is not installed. Run: pip install torch onnxscript") from missing
    return torch


def tensors(arrays: Sequence[npt.NDArray[Any]]) -> list[Any]:
    """Return arrays as tensors."""
    import torch

    return [torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)) for array in arrays]


def leaves(outputs: Any) -> list[Any]:
    """Return the tensors in a result of lists, tuples and dictionaries, in the order of the graph's outputs."""
    import torch

    return [leaf for leaf in torch.utils._pytree.tree_flatten(outputs)[0] if leaf is not None]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress torch's warnings and log messages."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
