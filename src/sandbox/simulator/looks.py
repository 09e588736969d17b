"""When the product certainly looked at a segment: what faults leave of its ticks, and of its memory.

All instants in UTC seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import replace

from sandbox.simulator.history import Usage
from sandbox.simulator.ledger_strikes import LOST
from sandbox.simulator.oracle import Segment
from sandbox.simulator.outcome import Line, Loss, Outcome
from sandbox.simulator.processes import Reported
from usage_reporting.model import Status

MINUTE = 60
HOUR = 3600
RENEWAL_DELAY = 16
"""So long after a period's end a renewal was observed."""
LISTED_BEFORE = 45 * MINUTE
"""So long before its end the ticks that close periods list a subscription."""
LONGEST_HOLD = 72 * HOUR
"""Unanswered, `invoice.created` holds a draft so long (Subscription webhooks)."""
FULL_READ_EVERY = 20 * HOUR
REREAD = 6 * HOUR
EVENTS_LISTED = 26 * HOUR
REMEMBERED = 35 * 24 * HOUR


class Looks:
    """The looks of one history that nothing disturbed."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._holds_drafts = outcome.played.hold_drafts
        self._closing = sorted(outcome.closing_ticks)
        self._full = sorted(outcome.full_ticks)
        self._reports: dict[tuple[str, str], list[Reported]] = defaultdict(list)
        for one in outcome.reports:
            self._reports[outcome.names.of_key(one.report.customer_meter.pk)].append(one)

    def closing(self, segment: Segment, line: Line | None) -> Segment:
        """The segment with the instant at which its quantity is fixed: a draft waits for the webhook.

        With HOLD_DRAFTS one that lacks usage is kept open by the product, as long as Stripe would.
        """
        if line is None or segment.closes <= line.created:
            return segment
        final = line.finalized_at or 0
        if self._holds_drafts and segment.closes < final <= line.created + LONGEST_HOLD:
            return replace(segment, closes=final)
        if segment.is_sent:
            return segment  # final at once, or held by nothing
        limit = line.created + LONGEST_HOLD
        answered = limit if line.answered_at is None else min(line.answered_at, limit)
        return replace(segment, closes=max(segment.closes, answered))

    def was_due(self, segment: Segment, use: Usage) -> bool:
        """Whether a tick that nothing disturbed could see it before the quantity was fixed."""
        if segment.how == "dropped":
            return False
        if segment.how == "received":
            return self.saw_in_course(segment, use)
        since = max(use.seen_at, segment.end + RENEWAL_DELAY)
        return self.last_closing(segment, since, segment.closes) > 0

    def last_closing(self, segment: Segment, start: int, end: int) -> int:
        """The last look of a closing tick at a segment in [start, end); 0: there was none."""
        for tick in reversed(self._closing[: bisect_left(self._closing, end)]):
            if tick < start:
                return 0
            if not self.is_blind(segment, tick):
                return tick
        return 0

    def last_full(self, segment: Segment, end: int) -> int:
        """The last look of a tick of every live subscription before `end`; its start if there was none."""
        ticks = [t for t in self._full if segment.start <= t < end and not self.is_blind(segment, t)]
        return max(ticks, default=segment.start)

    def saw_in_course(self, segment: Segment, use: Usage) -> bool:
        """Whether a tick of every live subscription certainly saw it before the segment closed."""
        return any(
            use.seen_at <= tick < segment.closes
            and use.time < _read_until(tick)
            and use.time >= tick - tick % HOUR - REREAD
            and not self.is_blind(segment, tick)
            for tick in self._full
        )

    def saw_after(self, use: Usage, until: float) -> bool:
        """Whether a full reading certainly came after it was seen and before `until`."""
        first = next((tick for tick in self._full if tick >= use.seen_at), None)
        return first is not None and any(first + FULL_READ_EVERY < tick < until for tick in self._full)

    def saw_ended(self, segment: Segment, use: Usage) -> bool:
        """Whether a tick certainly came upon Stripe's event that the segment's subscription is over."""
        since = max(use.seen_at, segment.end + RENEWAL_DELAY)
        return any(
            since <= tick < min(segment.end + EVENTS_LISTED, self.forgotten_at(segment))
            and not self.is_blind(segment, tick)
            for tick in self._full
        )

    def is_blind(self, segment: Segment, at: int) -> bool:
        """Whether the ledger was lost, so that nothing of the segment's customer meter was sent at `at`."""
        return any(
            strike.at <= at < self.mended_at(strike, segment) and self.held_by(strike, segment)
            for strike in self._outcome.losses
        )

    def held_by(self, strike: Loss, segment: Segment) -> bool:
        """Whether a loss stops a customer meter until an operator has looked."""
        if strike.kind != LOST:
            return True
        if segment.item.kind == "legacy":
            return False
        return self.has_any(segment.customer, segment.item.holder, strike.at)

    def has_any(self, customer: str, holder: str, at: int) -> bool:
        """Whether Stripe's meter held any usage of a customer then."""
        held = [
            event.value
            for event in self._outcome.received
            if (event.customer, event.meter) == (customer, holder)
            and event.at <= at
            and event.stamp > at - REMEMBERED
        ]
        return sum(held) != 0

    def mended_at(self, strike: Loss, segment: Segment) -> float:
        """When an operator had adopted the segment's customer meter; never: infinity."""
        return strike.adopted.get((segment.customer, holder_of(segment)), math.inf)

    def forgotten_at(self, segment: Segment) -> float:
        """When the ledger was lost though the segment had closed, or too late to be mended in time for it.

        It does not know of the segment any more then. Infinity: never.
        """
        return min(
            (strike.at for strike in self._outcome.losses if self._forgets(strike, segment)), default=math.inf
        )

    def _forgets(self, strike: Loss, segment: Segment) -> bool:
        mended = self.mended_at(strike, segment)
        if segment.item.kind == "legacy":
            # What was set before the ledger knew of a period is in it no more, so nothing is counted late.
            since = strike.at if strike.kind == LOST else mended
            ticks = (tick for tick in (*self._closing, *self._full) if tick >= since)
            return min(ticks, default=math.inf) >= segment.end
        is_held = self.held_by(strike, segment)
        return strike.at >= segment.closes or (is_held and mended >= segment.closes)

    def was_held(self, segment: Segment) -> bool:
        """Whether the last report before its quantity was fixed held a segment's usage."""
        reports = self._reports[segment.customer, holder_of(segment)]
        before = [one for one in reports if segment.start <= one.at <= segment.closes]
        return bool(before) and before[-1].report.status is Status.HELD

    def is_held(self, one: Reported) -> bool:
        """Whether a loss of the ledger explains that a report was held."""
        customer, holder = self._outcome.names.of_key(one.report.customer_meter.pk)
        is_legacy = one.report.customer_meter.meter is None
        return any(
            strike.at <= one.at <= strike.adopted.get((customer, holder), math.inf)
            and (strike.kind != LOST or (not is_legacy and self.has_any(customer, holder, one.at)))
            for strike in self._outcome.losses
        )


def _read_until(tick: int) -> int:
    """Up to when a tick reads the open hour: not before it is ten minutes old, and a minute back."""
    into = tick % HOUR
    return (tick - MINUTE) // MINUTE * MINUTE if into >= 10 * MINUTE else tick - into


def holder_of(segment: Segment) -> str:
    """What holds a segment's usage in Stripe, as an outcome names it."""
    is_legacy = segment.item.kind == "legacy"
    return f"{segment.contract} {segment.item.meter}" if is_legacy else segment.item.holder
