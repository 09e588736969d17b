"""Whether a fault, or what the merchant did, explains that a report was not simply done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sandbox.simulator.history import Usage
from sandbox.simulator.looks import Looks
from sandbox.simulator.oracle import Segment
from sandbox.simulator.outcome import Outcome
from sandbox.simulator.processes import Reported

HOUR = 3600
SHORTEST_LEGACY_PERIOD = 2 * HOUR
"""A shorter one of a legacy price is refused."""
_DONE = {"unchanged", "sent"}
_COUNTED = {"late", "unbillable"}
"""Their numbers are compared with the truth, to the unit."""
_LEAVES_OPEN = {
    "crash",
    "slow_call",
    "dynamodb_throttle",
    "dynamodb_lost_answer",
    "stripe_timeout",
    "stripe_lost_answer",
}
"""Faults after which it is not written down what Stripe answered."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """Knows what struck, and what each segment of a history used."""

    outcome: Outcome
    looks: Looks
    segments: Sequence[Segment]
    used: Callable[[Segment], Sequence[Usage]]

    def explains(self, one: Reported, status: str) -> bool:
        """Whether a report had to come to its status, or at least may have."""
        if status in _DONE or status in _COUNTED:
            return True
        if status in {"unknown", "handed_over"}:
            return bool(one.strikes) or self._repeats_stored_error(one)
        if status == "held" and one.report.is_braked:
            return True  # its bill tells whether it was let go in time
        if status == "held":
            was_empty = "openmeter_empty" in one.strikes
            return was_empty or self.looks.is_held(one) or self._is_taken_back_late(one)
        return status == "refused" and self._is_refused(one.report.customer_meter.customer)

    def _is_taken_back_late(self, one: Reported) -> bool:
        """Whether usage was taken back of a time that Stripe had billed, or not for sure before that."""
        name = self.outcome.names.customers.get(one.report.customer_meter.customer)
        return "takes no correction any more" in one.report.reason and any(
            is_taken_back(use) and not self.looks.was_due(segment, use)
            for segment in self.segments
            if segment.customer == name and segment.closes <= one.at
            for use in self.used(segment)
        )

    def _repeats_stored_error(self, one: Reported) -> bool:
        """Whether what a crash left open is answered as before, for a day (Idempotent requests)."""
        lately = {kind for at, kind in self.outcome.struck if one.at - 24 * HOUR <= at <= one.at}
        was_cut_off = bool(lately & _LEAVES_OPEN)
        return was_cut_off and "stripe_500_stored" in lately and "answered 500" in one.report.reason

    def _is_refused(self, customer: str) -> bool:
        """Whether a customer has a period of a legacy price under two hours."""
        name = self.outcome.names.customers.get(customer)
        return any(
            one.customer == name
            and one.item.kind == "legacy"
            and one.end - one.start < SHORTEST_LEGACY_PERIOD
            for one in self.segments
        )


def is_taken_back(use: Usage) -> bool:
    """Whether an event takes usage back."""
    return use.value.startswith("-")
