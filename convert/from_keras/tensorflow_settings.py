"""What TensorFlow must be told before anything imports it, for afterwards it does not listen."""

from __future__ import annotations

import os


def settle_tensorflow() -> None:
    """Ask for the plain kernels, which give the same bits on every run, and for no page of log; the user's own settings win."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
