"""Named points at which tests kill the agent: `EDGEWRIGHT_FAILPOINT=slot.before_rename` sends SIGKILL there.

Like a power cut or the out-of-memory killer, a failpoint gives no warning. Without the variable it is one comparison.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "EDGEWRIGHT_FAILPOINT"

STORE_FAILPOINTS = (
    "blob.before_rename",
    "blob.after_rename",
    "slot.before_rename",
    "slot.after_rename",
    "active.before_rename",
    "active.after_rename",
    "last_good.before_rename",
    "last_good.after_rename",
    "collect.before_unlink",
)
"""Failpoints between the steps of the store; those of the state table are `states.failpoints()`."""

RENEWAL_FAILPOINTS = (
    "certificate.after_key",
    "certificate.after_answer",
    "certificate.before_rename",
    "certificate.after_rename",
)
"""Failpoints between the steps of a renewal; they kill its worker."""

MEASURE_FAILPOINTS = (
    "measure.after_layout",
    "measure.before_record",
    "measure.after_record",
)
"""Failpoints between the steps of a choice by measuring; they kill the worker that fetches."""


def failpoint(name: str) -> None:
    """Kill this process if the environment selects this failpoint."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
