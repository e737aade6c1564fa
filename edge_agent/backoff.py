"""Random pauses between retries, so that a fleet does not reconnect all at once after an outage."""

from __future__ import annotations

import random


def full_jitter_s(attempt: int, base_s: float, cap_s: float) -> float:
    """Return a pause in seconds, uniform between 0 and `longest_pause_s`.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (the "full jitter" variant).
    """
    return random.uniform(0, longest_pause_s(attempt, base_s, cap_s))  # noqa: S311  spreads load, not for security


def longest_pause_s(attempt: int, base_s: float, cap_s: float) -> float:
    """Return the longest pause in seconds after `attempt` failures: `base_s * 2**attempt`, at most `cap_s`."""
    return min(cap_s, base_s * 2.0 ** min(attempt, 30))
