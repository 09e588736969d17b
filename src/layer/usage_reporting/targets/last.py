"""Meters with formula `last`: the total of the span so far, with a later stamp each time.

Stripe bills the value with the newest stamp of the billed time (Configure meters, "Aggregation formula").
Two values with one stamp are never sent: which of them counts is not documented.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from usage_reporting import advice, identifiers
from usage_reporting.amounts import ZERO, is_same, to_wire
from usage_reporting.error_reports import Remedy, advice_for, remedy_for
from usage_reporting.ledger import Entry, newest_discarded
from usage_reporting.model import CustomerMeter, Send, Span, SpanState
from usage_reporting.windows import BOUNDS_KEPT, HOUR, MINUTE, floor_minute, rfc3339, settled_until

ROOM = 10 * MINUTE
"""Stamps trail by it, so that a span that ends unforeseen leaves seconds for later totals."""

OLDEST_STAMP = BOUNDS_KEPT - HOUR
"""A little less than the 35 days that Stripe takes."""

_CUSTOMER_PART = 64
_ENDED_EARLY = frozenset({SpanState.CANCELED, SpanState.BILLED, SpanState.DROPPED, SpanState.FREE})


@dataclass(frozen=True, slots=True)
class Total:
    """What OpenMeter holds of one span, beside what Stripe was told of it."""

    span: Span
    value: Decimal | None
    """None: OpenMeter has no row."""
    measured: int
    """Up to when the span was read, UTC seconds."""
    held: Decimal
    """What Stripe holds, or may hold."""
    undelivered: Decimal
    """What was already counted as usage that no invoice takes."""
    sequence: int
    previous: int | None = None
    """The newest stamp that was used, UTC seconds."""
    floor: int = 0
    """Stamp nothing before it: another span of the customer ended there, UTC seconds."""
    is_doubtful: bool = False
    """Whether it is not known what Stripe holds, so that it has to be told again."""
    discarded_as: str = ""
    """Stripe's code, if it took this very total last and discarded it afterwards for one; else empty."""

    @property
    def units(self) -> Decimal:
        """What OpenMeter holds; no row is zero."""
        return ZERO if self.value is None else self.value

    @property
    def takes_usage(self) -> bool:
        """Whether an invoice still takes it."""
        return self.span.state.takes_usage

    @property
    def accounted(self) -> Decimal:
        """What Stripe holds, and what was counted instead while no invoice takes it."""
        return self.held if self.takes_usage else self.held + self.undelivered

    @property
    def changed(self) -> bool:
        """Whether Stripe and OpenMeter differ by more than floating-point noise."""
        return self.is_doubtful or not is_same(self.units, self.accounted)

    @property
    def is_less(self) -> bool:
        """Whether OpenMeter holds less than Stripe does, or than was counted."""
        return self.units < self.accounted and not is_same(self.units, self.accounted)

    @property
    def is_missing(self) -> bool:
        """Whether Stripe holds something, and OpenMeter has no row at all."""
        return self.value is None and self.held != 0


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from a total; nothing of it is set when nothing is to be done."""

    send: Send | None = None
    undelivered: Decimal = ZERO
    """Units that no invoice takes and that were not counted yet; negative: billed too much."""
    held: str = ""
    stopped: str = ""
    """A total that Stripe took and discarded, and would discard again."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which totals may be told though they are less than Stripe holds."""

    falling: bool = False
    """The aggregation falls by itself."""
    decreases: bool = False
    """ALLOW_DECREASE: of a span that is still open."""
    accepted: bool = False
    """An operator has looked: what was billed too much is noted too, what was discarded told again."""
    nothing: bool = False
    """An operator knows that OpenMeter has nothing at all; whatever else is allowed says nothing of that."""


def measured_until(end: int, now: int, *, eager: bool = False) -> int:
    """Up to when usage that is measured up to `end` is read at `now`, UTC seconds."""
    return end if end <= now else settled_until(now, eager=eager)


def told_until(entry: Entry) -> int:
    """A full minute up to which a span may have been read when Stripe was told of it last, UTC seconds."""
    told = max((send.intended_at for send in entry.sends.values() if send.counts), default=0)
    return min([settled_until(told, eager=True), *([max(entry.cuts.values())] if entry.cuts else [])])


def cuts_kept(entry: Entry, spans: Iterable[Span]) -> dict[int, int]:
    """Where spans that begin with an entry's were cut when Stripe was told of them, by their bounds."""
    if not entry.version:
        return {}
    return dict(entry.cuts) or {edge: edge for span in spans for edge in (span.start, span.end)}


def first_stamp(span: Span) -> int:
    """The first second that is stamped, UTC seconds.

    The minute in which a span begins is left to the span before, because Stripe's summaries have whole
    minutes (API reference, "List billing meter event summaries"), unless the span ends in it.
    """
    whole = floor_minute(span.start + MINUTE - 1)
    return whole if whole < span.end else span.start


def stamp_of(span: Span, measured: int, previous: int | None, latest: int, floor: int = 0) -> int | None:
    """The second that a total measured up to `measured` is stamped with; None: there is none (yet).

    Later than `previous` and not before `floor`; `latest` is the last instant at which the span was seen
    to go on, so that the value does not land beyond an end that is not known yet. All UTC seconds.
    """
    least = max(first_stamp(span), floor, 0 if previous is None else previous + 1)
    stamp = max(least, min(measured, span.end) - ROOM)
    # The last second is for when it is over: nothing could correct what is told there before.
    last = span.end - 1 if latest >= span.end else min(span.end - 2, latest)
    return None if least > last else min(stamp, last)


def held_by(entry: Entry, span: Span) -> Decimal:
    """The value of the counted send with the newest stamp: what Stripe holds of a span.

    Of a span that was billed at once, only what was sent before that; of one that Stripe dropped, nothing.
    """
    if span.state is SpanState.DROPPED:
        return ZERO
    door = span.end if span.state is SpanState.BILLED else None
    counted = [
        send for send in entry.sends.values() if send.counts and (door is None or send.intended_at < door)
    ]
    return max(counted, key=lambda send: send.stamp).value if counted else ZERO


def discarded_as(entry: Entry, units: Decimal) -> str:
    """Stripe's code, if it discarded the newest send of a span for one and that told these units; else empty.

    Another total, at another time, may be taken: it is told.
    """
    found = newest_discarded(entry.sends.values())
    return found.code if found is not None and is_same(found.value, units) else ""


def plan(
    customer_meter: CustomerMeter,
    total: Total,
    allowed: Allowed,
    *,
    now: int,
    latest: int,
) -> Step:
    """Compare a span's total with what Stripe holds; `now` and `latest` in UTC seconds (see `stamp_of`)."""
    if not total.changed:
        return Step()
    if held := _held(customer_meter, total, allowed):
        return Step(held=held)
    if total.takes_usage:
        if stopped := _stopped(customer_meter, total, allowed):
            return Step(stopped=stopped)
        stamp = stamp_of(total.span, total.measured, total.previous, latest, total.floor)
        if stamp is not None and stamp > now - OLDEST_STAMP:
            return Step(send=_send(customer_meter, total, stamp, now))
        if total.span.end > now:
            return Step()
    units = total.units - total.held - total.undelivered
    return Step() if is_same(units, ZERO) else Step(undelivered=units)


def _held(customer_meter: CustomerMeter, total: Total, allowed: Allowed) -> str:
    """Why a total is held; empty when it is not."""
    customer, has = customer_meter.customer, to_wire(total.units)
    if total.is_missing:
        # Nobody can look at the nothing of this very moment: that takes a word of its own.
        release = f"check OpenMeter, then release it with {advice.accept_empty(customer)}"
        return "" if allowed.nothing else _less(total, "nothing", release)
    if not total.is_less or allowed.falling or allowed.accepted:
        return ""
    if not total.takes_usage:
        credit = "its invoice takes no correction any more: credit the customer, then note it with "
        return _less(total, has, credit + advice.accept(customer))
    release = f"check OpenMeter, then release it with {advice.accept(customer)}"
    return "" if allowed.decreases else _less(total, has, release)


def _stopped(customer_meter: CustomerMeter, total: Total, allowed: Allowed) -> str:
    """Why a total waits that Stripe discarded before; empty when it does not."""
    code = total.discarded_as
    if not code or allowed.accepted or remedy_for(code) is not Remedy.STOP:
        return ""
    return (
        f"Stripe took the total of {to_wire(total.units)} from {rfc3339(total.span.start)}, and discarded it "
        f"afterwards as {code}: {advice_for(code)}. {advice.accept(customer_meter.customer)} "
        "sends it once more"
    )


def conflicts(span: Span, others: Iterable[Span]) -> list[Span]:
    """Spans that overlap with other bounds: one event would count for both, with one value.

    No conflict are those that Stripe ended early (canceled, billed at once): later stamps are then of
    the other span alone.
    """
    return [
        other
        for other in others
        if other.item != span.item
        and (other.start, other.end) != (span.start, span.end)
        and other.start < span.end
        and span.start < other.end
        and (other.start == span.start or not {span.state, other.state} & _ENDED_EARLY)
    ]


def floor_of(span: Span, others: Iterable[Span]) -> int:
    """Where the last span ended early inside this one, UTC seconds: stamps from there on are its own."""
    ends = [
        other.end
        for other in others
        if other.item != span.item and other.state in _ENDED_EARLY and span.start < other.end < span.end
    ]
    return max(ends, default=0)


def refusal(span: Span, others: Sequence[Span]) -> str:
    """Why spans that overlap are not billed, and what to do."""
    named = [span, *others]
    if len({one.subscription for one in named}) > 1:
        both = " and ".join(dict.fromkeys(one.subscription for one in named))
        what = f"subscriptions {both}"
    else:
        both = " and ".join(dict.fromkeys(one.item for one in named))
        what = f"items {both} of subscription {span.subscription}"
    return (
        f"{what} bill one Stripe meter that takes the last value, over times that overlap but are not the "
        "same; give each a Stripe meter of its own, or the same billing period"
    )


def _less(total: Total, has: str, what_to_do: str) -> str:
    return (
        f"the time from {rfc3339(total.span.start)} has {has} in OpenMeter, less than the "
        f"{to_wire(total.held)} that Stripe holds; {what_to_do}"
    )


def _send(customer_meter: CustomerMeter, total: Total, stamp: int, now: int) -> Send:
    return Send(
        identifier=identifier(customer_meter, total, stamp),
        slice_start=total.span.start,
        stamp=stamp,
        value=total.units,
        intended_at=now,
    )


def identifier(customer_meter: CustomerMeter, total: Total, stamp: int) -> str:
    """Name the fact that is sent: `customer.span-start.sequence.hash`, at most 100 characters."""
    whose = customer_meter.customer[:_CUSTOMER_PART]
    told = facts(stamp, total.held, total.units)
    return identifiers.identifier(customer_meter.pk, whose, total.span.start, total.sequence, *told)


def facts(stamp: int, held: Decimal, units: Decimal) -> tuple[str, str, str]:
    """What a send's identifier is made of beside its span and its number; `stamp` in UTC seconds."""
    return str(stamp), to_wire(held), to_wire(units)
