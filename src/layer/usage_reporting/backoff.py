"""How long to wait before a call is tried again."""

from __future__ import annotations

import random

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0


def pause(attempt: int) -> float:
    """Seconds to wait after the try number `attempt` (from 0): doubling, with jitter on the upper half."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt)
    return longest * (0.5 + random.random() / 2)  # noqa: S311 - jitter, not a secret
