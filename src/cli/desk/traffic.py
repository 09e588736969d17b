"""What was sent and refused over time, what was metered by day beside it, and the verdicts; pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.ledger import Entry
from usage_reporting.model import Send, SendState
from usage_reporting.verdict import Finding, JudgedLine
from usage_reporting.windows import DAY, HOUR, floor_hour, rfc3339

HOURS_SHOWN = 48
DAYS_SHOWN = 31

_WORDS = {
    SendState.SENT: "sent",
    SendState.INTENT: "unknown",
    SendState.DOUBTED: "doubted",
    SendState.REJECTED: "rejected",
    SendState.DISCARDED: "discarded",
}
STATES = tuple(_WORDS.values())
"""What can become of a send, in the words that are shown."""


@dataclass(frozen=True, slots=True)
class SendsOfHour:
    """How many meter events were meant to be sent in a UTC hour, by what is known of them now."""

    start: int
    counts: Mapping[str, int]

    @property
    def refused(self) -> int:
        """How many Stripe does not count."""
        return self.counts.get("rejected", 0) + self.counts.get("discarded", 0)


@dataclass(frozen=True, slots=True)
class UsageOfDay:
    """Usage of a UTC day, in units: what OpenMeter has, and what Stripe was told."""

    start: int
    metered: Decimal
    told: Decimal


@dataclass(frozen=True, slots=True)
class Traffic:
    """The ledger's sends of some customer meters, and OpenMeter's usage of them."""

    customer_meters: int = 0
    """How many they are."""
    of: int = 0
    """How many there are in all."""
    hours: Sequence[SendsOfHour] = ()
    days: Mapping[str, Sequence[UsageOfDay]] = field(default_factory=dict)
    """By OpenMeter meter: units of two meters are never added."""
    refusals: Sequence[tuple[str, Send]] = ()
    """The customers and their sends that Stripe does not count, newest first."""

    def to_json(self) -> dict[str, Any]:
        """The traffic; amounts are texts."""
        return {
            "customer_meters": self.customer_meters,
            "of": self.of,
            "sends": [{"hour": rfc3339(one.start), **one.counts} for one in self.hours],
            "days": {
                meter: [
                    {
                        "day": rfc3339(day.start)[:10],
                        "metered": to_wire(day.metered),
                        "told": to_wire(day.told),
                    }
                    for day in days
                ]
                for meter, days in self.days.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The metered lines of the invoices that became final of late, newest first."""

    lines: Sequence[tuple[str, JudgedLine]] = ()
    """Each with its invoice."""
    unjudged: Sequence[str] = ()
    """Final invoices that the ledger has no verdict on."""

    @property
    def counts(self) -> dict[Finding, int]:
        """How many lines there are of each finding that occurs."""
        found = Counter(line.finding for _, line in self.lines)
        return {finding: found[finding] for finding in Finding if found[finding]}

    def to_json(self) -> dict[str, Any]:
        """The verdicts; amounts are texts."""
        return {
            "counts": {finding.value: number for finding, number in self.counts.items()},
            "lines": [
                {
                    "invoice": invoice,
                    "stripe_customer": line.customer,
                    "meter": line.meter,
                    "metered": None if line.metered is None else to_wire(line.metered),
                    "billed": to_wire(line.quantity),
                    "verdict": line.verdict,
                }
                for invoice, line in self.lines
            ],
            "not_judged_yet": list(self.unjudged),
        }


def sends_by_hour(entries: Iterable[Entry], now: int) -> list[SendsOfHour]:
    """The sends of the last 48 hours by the hour of their intention, every hour shown; UTC seconds."""
    first = floor_hour(now) - (HOURS_SHOWN - 1) * HOUR
    found: dict[int, Counter[str]] = {hour: Counter() for hour in range(first, now + 1, HOUR)}
    for entry in entries:
        for send in entry.sends.values():
            if (hour := floor_hour(send.intended_at)) in found:
                found[hour][_WORDS[send.state]] += 1
    return [SendsOfHour(hour, counts) for hour, counts in found.items()]


def refused_sends(entries: Iterable[tuple[str, Entry]], most: int) -> list[tuple[str, Send]]:
    """The newest sends that Stripe does not count, each with its customer."""
    found = [
        (customer, send) for customer, entry in entries for send in entry.sends.values() if not send.counts
    ]
    return sorted(found, key=lambda pair: pair[1].intended_at, reverse=True)[:most]


def usage_by_day(
    metered: Mapping[int, Decimal], entries: Iterable[Entry], now: int, days: int = DAYS_SHOWN
) -> list[UsageOfDay]:
    """What was metered by hour, and what Stripe was told of it by stamp, both by UTC day."""
    first = now // DAY * DAY - (days - 1) * DAY
    used: dict[int, Decimal] = defaultdict(lambda: ZERO)
    told: dict[int, Decimal] = defaultdict(lambda: ZERO)
    for hour, value in metered.items():
        used[hour // DAY * DAY] += value
    for entry in entries:
        for send in entry.sends.values():
            if send.counts:
                told[send.stamp // DAY * DAY] += send.value
    shown = range(first, now + 1, DAY)
    return [UsageOfDay(day, used[day], told[day]) for day in shown]
