"""The rows of the console: one for each period that still takes usage of a customer meter; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from cli.desk.words import units
from usage_reporting.amounts import ZERO, is_same, to_wire
from usage_reporting.model import CustomerMeter, Line, Report, Span, SpanState, Status, Target
from usage_reporting.stripe_api import redacted
from usage_reporting.windows import DAY, rfc3339


class Condition(StrEnum):
    """What is to be said of a period; the words that an operator filters by."""

    READING = "being read"
    EXACT = "exact"
    TO_SEND = "to send"
    DIFFERS = "differs"
    """Stripe was told all, and shows another amount."""
    UNBILLED = "on no invoice"
    DOUBTED = "doubted"
    HELD = "held"
    REFUSED = "refused"
    REJECTED = "rejected"
    UNKNOWN = "unknown"

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be done for it, by anybody."""
        return self in {Condition.EXACT, Condition.READING}

    @property
    def needs_somebody(self) -> bool:
        """Whether it does not end well by itself, or nothing can be said of it."""
        return self in {Condition.HELD, Condition.REFUSED, Condition.REJECTED, Condition.UNKNOWN}


_CONDITIONS = {
    Status.REFUSED: Condition.REFUSED,
    Status.HELD: Condition.HELD,
    Status.REJECTED: Condition.REJECTED,
    Status.UNKNOWN: Condition.UNKNOWN,
    Status.HANDED_OVER: Condition.UNKNOWN,
    Status.DOUBTED: Condition.DOUBTED,
}
_COUNTED = {Status.LATE, Status.UNBILLABLE}
_SOON = DAY

Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Period:
    """One billing period [start, end) of a customer meter, UTC seconds; amounts in units."""

    customer_meter: CustomerMeter
    name: str
    """The customer's, as Stripe has it; empty where it is not known."""
    start: int
    end: int
    deadline: int | None
    """When its draft becomes final; None: it has no draft, or the draft waits for somebody."""
    invoice: str
    """Its draft; empty: it has none."""
    metered: Decimal | None = None
    since: int = 0
    """From when on it was metered, UTC seconds: of a long period the last 34 days; 0: from its start."""
    held: Decimal | None = None
    """What Stripe's own summary shows since then; None: it was not asked, or there is none."""
    to_send: tuple[Decimal, ...] = ()
    """What a report would send now."""
    condition: Condition = Condition.READING
    reason: str = ""

    @property
    def key(self) -> Key:
        """What makes it the same period at the next reading."""
        return (self.customer_meter.pk, self.start, self.end)

    @property
    def customer(self) -> str:
        """The Stripe customer."""
        return self.customer_meter.customer

    @property
    def meter(self) -> str:
        """The meter in OpenMeter."""
        return self.customer_meter.openmeter_meter or "(of a removed item)"

    @property
    def subscription(self) -> str:
        """A subscription that it is a period of."""
        return next(s.subscription for s in self.customer_meter.spans if s.start == self.start)

    @property
    def is_draft(self) -> bool:
        """Whether the period is over, and its usage goes on a draft."""
        return bool(self.invoice)

    @property
    def closes_at(self) -> int:
        """From when on it takes no usage, as far as is known, UTC seconds."""
        return self.deadline if self.deadline is not None else self.end

    @property
    def difference(self) -> Decimal | None:
        """What Stripe lacks; negative: it shows more."""
        if self.metered is None or self.held is None:
            return None
        found = self.metered - self.held
        return ZERO if is_same(self.metered, self.held) else found

    @property
    def words(self) -> str:
        """Its condition as a sentence would say it."""
        match self.condition:
            case Condition.TO_SEND if self.customer_meter.target is Target.MIRROR:
                said = f"{units(sum(self.to_send, ZERO))} to send"
            case Condition.TO_SEND:
                said = f"a total of {units(self.to_send[-1])} to send"
            case Condition.DIFFERS:
                said = f"Stripe was told all, and shows {units(self.held)}: its summary lags, or see its page"
            case _:
                said = f"{self.condition}: {self.reason}" if self.reason else str(self.condition)
        return said

    def with_held(self, held: Decimal) -> Period:
        """The period with what Stripe shows of it."""
        found = replace(self, held=held)
        tells = found.difference is not None and found.difference != ZERO
        if tells and self.condition is Condition.EXACT:
            return replace(found, condition=Condition.DIFFERS)
        return found

    def urgency(self, now: int) -> tuple[int, int, str]:
        """What sorts the periods: first what is not settled and closes soon. `now` in UTC seconds."""
        is_closing = self.is_draft or self.end - now <= _SOON
        if self.condition.is_settled:
            rank = 3 if self.is_draft else 4
        elif is_closing:
            rank = 0 if self.is_draft else 1
        else:
            rank = 2 if self.condition.needs_somebody else 4
        return (rank, self.closes_at, self.customer)

    def to_json(self) -> dict[str, Any]:
        """The period; amounts are texts, so that no digit is lost."""
        return {
            "stripe_customer": self.customer,
            "name": self.name,
            "meter": self.meter,
            "subscription": self.subscription,
            "invoice": self.invoice or None,
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "closes_at": rfc3339(self.closes_at),
            "metered": _wire(self.metered),
            "in_stripe": _wire(self.held),
            "difference": _wire(self.difference),
            "condition": self.condition.value,
            "words": self.words,
        }


def periods_of(customer_meter: CustomerMeter, names: Mapping[str, str]) -> list[Period]:
    """The periods of a customer meter that are billed; those of several items that agree are one."""
    found: dict[tuple[int, int], list[Span]] = {}
    for span in customer_meter.spans:
        if span.state is SpanState.BESIDE:
            continue
        found.setdefault((span.start, span.end), []).append(span)
    return [
        Period(
            customer_meter=customer_meter,
            name=names.get(customer_meter.customer, ""),
            start=start,
            end=end,
            deadline=min((span.deadline for span in spans if span.deadline is not None), default=None),
            invoice=next((span.invoice for span in spans if span.invoice), ""),
            condition=Condition.REFUSED if customer_meter.refusal else Condition.READING,
            reason=redacted(customer_meter.refusal or ""),
        )
        for (start, end), spans in found.items()
    ]


def with_report(period: Period, report: Report) -> Period:
    """The period with what a report that sends nothing finds out about it."""
    sends = [send for send in report.sent if period.start <= send.stamp < period.end]
    if report.status in _CONDITIONS:
        condition = _CONDITIONS[report.status]
    elif sends:
        condition = Condition.TO_SEND
    elif report.status in _COUNTED:
        condition = Condition.UNBILLED
    else:
        condition = Condition.EXACT
    line = _line(period, report)
    return replace(
        period,
        metered=line.total if line else None,
        since=line.start if line and line.start > period.start else 0,
        to_send=tuple(send.value for send in sorted(sends, key=lambda send: send.stamp)),
        condition=condition,
        reason=redacted(report.reason) if condition not in {Condition.EXACT, Condition.TO_SEND} else "",
    )


def _line(period: Period, report: Report) -> Line | None:
    """What OpenMeter has of the period up to what is settled; None: the report did not come so far."""
    spans = report.customer_meter.spans
    if len(report.lines) == len(spans):
        pairs = zip(spans, report.lines, strict=True)
        return next(line for span, line in pairs if (span.start, span.end) == (period.start, period.end))
    # What is measured begins near what is billed: half an hour early, or rounded.
    near = min(report.lines, key=lambda line: abs(line.start - period.start), default=None)
    return near if near and near.start < period.end else None


def counts(periods: Sequence[Period]) -> dict[Condition, int]:
    """How many periods there are of each condition that occurs."""
    return {
        one: number for one in Condition if (number := sum(period.condition is one for period in periods))
    }


def _wire(value: Decimal | None) -> str | None:
    return None if value is None else to_wire(value)
