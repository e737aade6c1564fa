"""Places where a test may kill the agent, by name: `EDGEWRIGHT_FAILPOINT=slot.before_rename` dies there by SIGKILL.

A power cut or the out-of-memory killer gives no warning, so neither does this. Unset, a failpoint is one comparison.
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
"""The failpoints between two steps of the store; those of the state table are `states.failpoints()`."""

RENEWAL_FAILPOINTS = (
    "certificate.after_key",
    "certificate.after_answer",
    "certificate.before_rename",
    "certificate.after_rename",
)
"""The failpoints between two steps of a renewal; they end its worker."""


MEASURE_FAILPOINTS = (
    "measure.after_layout",
    "measure.before_record",
    "measure.after_record",
)
"""The failpoints between two steps of choosing by measurement; they end the worker that fetches."""


def failpoint(name: str) -> None:
    """Kill this process without a word when the environment asks for it here."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
