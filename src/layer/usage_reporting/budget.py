"""How much of a function's time is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """Ends at `ends_at` on a clock that never goes back, in seconds."""

    ends_at: float = float("inf")
    monotonic: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, seconds: float) -> Budget:
        """A budget of so many seconds from now."""
        return cls(time.monotonic() + seconds)

    def part(self, share: float) -> Budget:
        """A budget that ends when so large a share of the time that is left has passed."""
        if self.ends_at == float("inf"):
            return self
        now = self.monotonic()
        return Budget(now + (self.ends_at - now) * share, self.monotonic)

    @property
    def seconds_left(self) -> float:
        """The time that is left."""
        return max(self.ends_at - self.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        """Whether nothing new should be begun."""
        return self.ends_within(0)

    def ends_within(self, seconds: float) -> bool:
        """Whether nothing should be begun, so that this much time is left."""
        return self.monotonic() >= self.ends_at - seconds
