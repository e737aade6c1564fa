"""Names of the package nvidia-ml-py3, module nvidia_smi: NVIDIA's NVML through nvidia-ml-py.

Every function of NVML is here under its own name. On a machine without a driver, `nvmlInit` raises `NVMLError_LibraryNotFound`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edgewright.errors import BadInputError


def __getattr__(name: str) -> Any:
    """Return a name of NVML.

    Raises:
        AttributeError: NVML has no such name.
        BadInputError: nvidia-ml-py is not installed.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        library = import_module("pynvml")
    except ModuleNotFoundError as error:
        raise BadInputError(
            "nvidia_smi needs nvidia-ml-py, which is not installed. Run: pip install 'edgewright[gpu]'"
        ) from error
    return getattr(library, name)
