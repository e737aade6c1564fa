"""Import Keras and TensorFlow with the settings that every conversion needs.

TensorFlow reads its environment variables when it is imported, so nothing else in this package imports either framework first.
"""

from __future__ import annotations

import os
import re
from typing import Any

from edgewright.errors import one_line

_WRAPPER = re.compile(r"Exception encountered(?: when calling [^\n]*)?:?\s*")
"""Text of Keras before the cause of an error, after the configuration of the layer."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def configure_tensorflow() -> None:
    """Turn off TensorFlow's log and oneDNN kernels, unless the user has set the variables.

    The plain kernels give the same bits on every run. Set `TF_ENABLE_ONEDNN_OPTS=1` to train faster.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def import_keras() -> Any:
    """Return the module `keras`."""
    configure_tensorflow()
    import keras

    return keras


def import_tensorflow() -> Any:
    """Return the module `tensorflow`."""
    configure_tensorflow()
    import tensorflow

    return tensorflow


def cause_of(error: BaseException) -> str:
    """Return the cause of a framework's error on one line: without the layer's configuration and arguments around it."""
    inner = _WRAPPER.split(_COLOURS.sub("", str(error)))[-1]
    return one_line(ValueError(inner.partition("Arguments received by")[0].strip() or type(error).__name__))
