"""How long to wait before a call is tried again."""

from __future__ import annotations

import random

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0


_JITTER = random.SystemRandom()
"""Python's own generator would go on alike in all functions that start from one snapshot."""


def pause(attempt: int) -> float:
    """Seconds to wait after the try number `attempt` (from 0): doubling, with jitter on the upper half."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt)
    return longest * (0.5 + _JITTER.random() / 2)
