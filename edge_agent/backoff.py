"""Random pauses between retries, so that a fleet does not reconnect all at once after an outage."""

from __future__ import annotations

import random


def full_jitter_s(attempt: int, base_s: float, cap_s: float) -> float:
    """Return a pause in seconds, uniform between 0 and `base_s * 2**attempt`, at most `cap_s`.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (the "full jitter" variant).
    """
    return random.uniform(0, min(cap_s, base_s * 2 ** min(attempt, 30)))  # noqa: S311  spreads load, not for security
