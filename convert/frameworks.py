"""Import Keras and TensorFlow with the settings that every conversion needs.

TensorFlow reads its environment variables when it is imported, so nothing else in this package imports either framework first.
"""

from __future__ import annotations

import os
from typing import Any


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
