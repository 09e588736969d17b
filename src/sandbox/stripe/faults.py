"""Faults on demand: what a test or the demo wants to go wrong."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase

KINDS = ("status", "error_after", "drop_before", "drop", "rate_limited", "delay", "delay_after")


@dataclass
class Fault:
    """One fault.

    kind: `status` answers before doing the work; `error_after` does the work, then answers
    `status`, which is stored and replayed under the Idempotency-Key; `drop_before` and `drop` cut
    the connection before or after the work; `rate_limited` answers 429 with
    `Stripe-Rate-Limited-Reason: reason` (none without a reason, as for lock timeouts); `delay` and
    `delay_after` wait `seconds` before or after the work. `path` is a pattern as in
    `/v1/billing/meters/*/event_summaries`; `contains` must occur in the encoded parameters; `skip`
    lets so many matches pass first; `times` None: for ever.
    """

    kind: str
    method: str = "*"
    path: str = "*"
    contains: str = ""
    status: int = 500
    reason: str | None = None
    seconds: float = 0.0
    times: int | None = 1
    probability: float = 1.0
    skip: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        if not 0 < self.probability <= 1:
            raise ValueError("probability must lie in (0, 1]")


class Faults:
    """The faults that wait for their request; the first match of each kind strikes."""

    def __init__(self, seed: int | None) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._waiting: list[Fault] = []
        self.struck: list[Fault] = []

    def add(self, kind: str, method: str = "*", path: str = "*", **details: object) -> Fault:
        """Let something go wrong; members as in Fault. Raises TypeError or ValueError."""
        fault = Fault(kind, method, path, **details)  # type: ignore[arg-type]
        with self._lock:
            self._waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._waiting.clear()

    def __len__(self) -> int:
        """How many faults still wait for a request."""
        return len(self._waiting)

    def take(self, method: str, path: str, encoded: str) -> dict[str, Fault]:
        """The faults that strike this request, one of a kind."""
        with self._lock:
            struck: dict[str, Fault] = {}
            for fault in self._waiting:
                if fault.kind not in struck and self._strikes(fault, method, path, encoded):
                    struck[fault.kind] = fault
                    self.struck.append(fault)
            self._waiting = [fault for fault in self._waiting if fault.times != 0]
            return struck

    def _strikes(self, fault: Fault, method: str, path: str, encoded: str) -> bool:
        if not (
            fault.method in ("*", method) and fnmatchcase(path, fault.path) and fault.contains in encoded
        ):
            return False
        if fault.skip > 0:
            fault.skip -= 1
            return False
        if self._random.random() >= fault.probability:
            return False
        if fault.times is not None:
            fault.times -= 1
        return True
