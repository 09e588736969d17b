"""Where the stand-ins get the time from."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
Timer = Callable[[], float]
"""Seconds that only grow, from an origin that means nothing, to measure spans with: `time.monotonic`."""


def system_clock() -> int:
    """The real time, in UTC unix seconds."""
    return int(time.time())


class ManualClock:
    """A clock that stands still until it is moved, in UTC unix seconds."""

    def __init__(self, now: int) -> None:
        self._now = now

    def __call__(self) -> int:
        return self._now

    def advance(self, seconds: int) -> None:
        """Move forward by seconds; raises ValueError when asked to go back."""
        if seconds < 0:
            raise ValueError("a clock does not run backwards: use set")
        self._now += seconds

    def set(self, now: int) -> None:
        """Show this instant from now on, earlier or later."""
        self._now = now
