"""What goes wrong, when, and how often it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sandbox.simulator.history import Fault

CALL_FAULTS: Final = (
    "crash",
    "slow_call",
    "two_workers",
    "stripe_unreachable",
    "stripe_lost_answer",
    "stripe_500",
    "stripe_500_stored",
    "stripe_429",
    "stripe_timeout",
    "openmeter_error",
    "openmeter_timeout",
    "openmeter_down",
    "openmeter_outage",
    "openmeter_empty",
    "dynamodb_throttle",
    "dynamodb_lost_answer",
    "sqs_error",
)
"""They strike a call of a function."""

EVENT_FAULTS: Final = (
    "webhook_lost",
    "webhook_duplicated",
    "webhook_late",
    "webhook_very_late",
    "webhook_reordered",
    "webhook_twin",
    "tick_skipped",
    "ticks_skipped",
    "tick_doubled",
    "message_duplicated",
    "partial_batch",
    "clock_skew",
    "webhook_secret_rolled",
    "api_key_rolled",
    "ledger_lost",
    "ledger_restored",
)
"""They strike what comes to a function."""

USAGE_FAULTS: Final = ("late_usage", "usage_after_final", "openmeter_lag")
"""They are usage that OpenMeter shows later than it happened."""

ACCOUNT_FAULTS: Final = ("account_down", "account_limited")
"""They strike every call for one account while they last; only in worlds of several."""

KINDS: Final = (*CALL_FAULTS, *EVENT_FAULTS, *USAGE_FAULTS)
"""All, in the order from which worlds are drawn: in another one each seed would be another world."""

GROUPS: Final = {
    "functions": ("crash", "slow_call", "two_workers", "clock_skew"),
    "Stripe": tuple(kind for kind in KINDS if kind.startswith("stripe_")),
    "OpenMeter": tuple(kind for kind in KINDS if kind.startswith("openmeter_")),
    "AWS": ("dynamodb_throttle", "dynamodb_lost_answer", "sqs_error", "message_duplicated", "partial_batch"),
    "webhooks": tuple(
        kind for kind in KINDS if kind.startswith("webhook_") and kind != "webhook_secret_rolled"
    ),
    "ticks": ("tick_skipped", "ticks_skipped", "tick_doubled"),
    "operation": ("webhook_secret_rolled", "api_key_rolled", "ledger_lost", "ledger_restored"),
    "usage": ("late_usage", "usage_after_final"),
    "accounts": ACCOUNT_FAULTS,
}
"""The kinds as a user reads them, by what goes wrong; each is in one group."""


class CrashError(BaseException):
    """The process is gone; nothing of the product can catch it."""


@dataclass(slots=True)
class _Armed:
    fault: Fault
    skip: int
    times: int


class Trouble:
    """The faults of one history. `struck` tells when which one struck (UTC seconds).

    `told`: is told of each that strikes, too.
    """

    def __init__(
        self, faults: Iterable[Fault], clock: Callable[[], int], told: Trouble | None = None
    ) -> None:
        self._clock = clock
        self._told = told
        self._coming = sorted(faults, key=lambda fault: fault.at)
        self._armed: dict[str, list[_Armed]] = {}
        self.struck: list[tuple[int, str]] = []

    @property
    def counts(self) -> Counter[str]:
        """How often each kind struck."""
        return Counter(kind for _, kind in self.struck)

    def take(self, kind: str) -> Fault | None:
        """The fault of a kind that strikes this chance, if one does."""
        if self._coming:
            self._arm()
        for armed in self._armed.get(kind, ()):
            if armed.skip:
                armed.skip -= 1
                continue
            armed.times -= 1
            if not armed.times:
                self._armed[kind].remove(armed)
            self._strike(kind)
            return armed.fault
        return None

    def lasts(self, kind: str) -> bool:
        """Whether a fault of a kind is going on: it began and its seconds are not over."""
        self._arm()
        now = self._clock()
        going_on = [a for a in self._armed.get(kind, []) if a.fault.at <= now < a.fault.at + a.fault.seconds]
        if going_on:
            self._strike(kind)
        return bool(going_on)

    def stop(self) -> None:
        """Let nothing go wrong any more."""
        self._coming.clear()
        self._armed.clear()

    def _strike(self, kind: str) -> None:
        self.struck.append((self._clock(), kind))
        if self._told is not None:
            self._told._strike(kind)

    def _arm(self) -> None:
        now = self._clock()
        while self._coming and self._coming[0].at <= now:
            fault = self._coming.pop(0)
            self._armed.setdefault(fault.kind, []).append(_Armed(fault, fault.skip, fault.times))
