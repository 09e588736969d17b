"""Rebuilds the ledger of a customer meter from what Stripe's summaries hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import groupby

from cli.errors import NotDoneError
from usage_reporting.amounts import ZERO, is_same, round_units
from usage_reporting.billing import LONGEST_DRAFT, Billing
from usage_reporting.early_ends import cut_where_it_ended
from usage_reporting.errors import RejectedError, StripeUnavailableError
from usage_reporting.heads import LONG_AGO, Heads
from usage_reporting.hours import is_stamped_in, known_spans
from usage_reporting.ledger import Entry, Head, Key, Ledger
from usage_reporting.model import CustomerMeter, Send, SendState, Span, SpanState, Target
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import Cuts, PeriodBounds, cuts_of
from usage_reporting.settlement import SUMMARIES_LAG
from usage_reporting.subjects import Subjects
from usage_reporting.targets import last
from usage_reporting.windows import (
    BOUNDS_KEPT,
    DAY,
    HOUR,
    MINUTE,
    OLDEST_SLICE,
    Block,
    Slice,
    blocks,
    ceil_minute,
    day_of,
    days_between,
    floor_hour,
    floor_minute,
)

ADOPTED = "adopted"


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is to be written for one customer meter. Nothing is written before `carry_out`."""

    customer_meter: CustomerMeter
    head: Head
    entries: Sequence[Entry]
    """Those that Stripe's hours change, with the versions that were read."""
    hours: Mapping[int, Decimal]
    """What Stripe holds, by UTC hour; where the last value counts, by the span's start."""
    spans: Sequence[Span] = ()
    """Those that were looked at, where the last value counts."""
    cuts: Cuts = field(default_factory=dict)
    """Where these are cut for each bound."""
    subjects: Subjects | None = None
    """Where two customers may have one subject, and this one is new."""

    async def carry_out(self, ledger: Ledger, now: int) -> None:
        """Write the days, then the head: only that releases what was held.

        Raises LostRaceError, and HeldError where the subject is billed to another customer.
        """
        if self.subjects is not None:
            one = self.customer_meter
            await self.subjects.claim(one.customer, self.head, one.spans, accepted=False)
        for entry in self.entries:
            await ledger.write_entry(entry, now)
        await ledger.write_head(self.head, now)


async def plan(
    billing: Billing, openmeter: OpenMeter, ledger: Ledger, customer_meter: CustomerMeter, now: int
) -> Adoption:
    """Read Stripe's hours, and what the ledger would be with them; `now` in UTC seconds.

    Legacy prices have no hours: their usage is set, not added, so that the head alone is made anew.
    Raises NotDoneError while Stripe's summaries may not yet show what was sent, HeldError where the subject
    is billed to another customer.
    """
    head = await _head(billing, openmeter, ledger, customer_meter, now)
    settings = billing.settings
    may_collide = settings.subject_metadata_key or settings.connected_accounts
    subjects = Subjects(ledger) if may_collide and not head.version else None
    if subjects is not None:
        await subjects.check(customer_meter.customer, head, customer_meter.spans)
    planned = await _plan(billing, openmeter, ledger, customer_meter, head, now)
    return replace(planned, subjects=subjects)


async def _plan(
    billing: Billing,
    openmeter: OpenMeter,
    ledger: Ledger,
    customer_meter: CustomerMeter,
    head: Head,
    now: int,
) -> Adoption:
    pk = customer_meter.pk
    if customer_meter.meter is None:
        return Adoption(customer_meter, head, [], {})
    head = replace(head, bounds=head.bounds | await _billed_bounds(billing, customer_meter, now))
    if customer_meter.target is Target.LAST:
        return await _plan_totals(billing, ledger, customer_meter, head, now)
    oldest = (now - OLDEST_SLICE) // DAY * DAY
    keys = [(pk, day) for day in days_between(oldest, now + 1)]
    before = await ledger.entries(keys)
    _check_settled(before.values(), now)
    hours = await billing.hours_held(
        customer_meter.customer, customer_meter.meter.id, oldest, floor_hour(now) + HOUR
    )
    sends: dict[str, list[Send]] = {day: [] for _, day in keys}
    kept = {bound: at for entry in before.values() for bound, at in entry.cuts.items()}
    stamps = await _stamps(billing, customer_meter, head, hours)
    cuts = cuts_of(head.bounds, head.spans, billing.settings.period_bounds, stamps=stamps, kept=kept)
    sources = _Sources(billing, openmeter, customer_meter, head, before)
    for block in blocks(oldest, floor_hour(now) + HOUR, cuts):
        for piece, units in await _slices(sources, block, hours):
            if units:
                sends[day_of(piece.start)].append(_adopted(piece, units, now))
    entries = [_entry(before[(pk, day)], sends[day], now) for _, day in keys]
    return Adoption(customer_meter, head, [entry for entry in entries if entry.version or entry.sends], hours)


async def _stamps(
    billing: Billing, customer_meter: CustomerMeter, head: Head, hours: Mapping[int, Decimal]
) -> list[int]:
    """The latest second that each hour's usage may be stamped with, in order.

    An hour in which a period's usage begins before the period does is told apart there: nothing of ours is
    stamped between the two.
    """
    assert customer_meter.meter is not None
    latest = {hour: hour + HOUR - 1 for hour, units in hours.items() if units}
    for span in head.spans:
        hour = floor_hour(span.begins)
        start, end = ceil_minute(span.begins), hour + HOUR
        if hour in latest and start < end <= span.start:
            held = await billing.usage_held(customer_meter.customer, customer_meter.meter.id, start, end)
            if is_same(held, ZERO):
                latest[hour] = span.begins - 1
    return sorted(latest.values())


async def _billed_bounds(billing: Billing, customer_meter: CustomerMeter, now: int) -> set[int]:
    """Where periods began and ended by the invoices; an hour in which only a price was swapped is not cut."""
    assert customer_meter.meter is not None
    since = now - BOUNDS_KEPT
    try:
        swaps = await billing.price_changes.swaps(since, now)
    except (RejectedError, StripeUnavailableError):
        swaps = []
    swapped = {
        (swap.subscription, swap.at) for swap in swaps if swap.begins is None and not swap.is_resumption
    }
    whose = customer_meter.customer, customer_meter.meter.id
    return {bound for bound in await billing.bounds_billed(*whose, since, swapped) if bound < now}


async def _plan_totals(
    billing: Billing, ledger: Ledger, customer_meter: CustomerMeter, head: Head, now: int
) -> Adoption:
    """What Stripe holds of each span of a meter that takes the last value."""
    assert customer_meter.meter is not None
    shown = {span.subscription for span in customer_meter.spans}
    spans: dict[int, Span] = {}
    for one in known_spans(customer_meter, head, now):
        is_over = one.end <= now or one.subscription in shown
        span = one if is_over else await cut_where_it_ended(billing, one)
        if span.start < now and span.end > now - LONGEST_DRAFT and span.state is not SpanState.FREE:
            spans[span.start] = span
    before = await ledger.entries([(customer_meter.pk, str(start)) for start in spans])
    _check_settled(before.values(), now)
    whose = customer_meter.customer, customer_meter.meter.id
    setting, own = billing.settings.period_bounds, tuple(spans.values())
    kept = {bound: at for entry in before.values() for bound, at in entry.cuts.items()}
    cuts = cuts_of({edge for one in own for edge in (one.start, one.end)}, own, setting, kept=kept)
    held: dict[int, Decimal] = {}
    entries = []
    for start, span in sorted(spans.items()):
        entry = before[(customer_meter.pk, str(start))]
        held[start], stamp = await _newest(billing, *whose, span, now)
        # It was told at its stamp at the earliest: so it counts where the span turns out to have been billed
        # before now.
        sends = [Send(f"{ADOPTED}.{start}", start, stamp, held[start], stamp, SendState.SENT)]
        # Written also where Stripe holds nothing: that is then known.
        adopted = _entry(entry, sends if held[start] else [], now)
        own_cuts = {edge: cuts[edge] for edge in (span.start, span.end)}
        is_exact = setting is PeriodBounds.EXACT and all(edge == at for edge, at in own_cuts.items())
        entries.append(adopted if is_exact else replace(adopted, cuts=own_cuts))
    return Adoption(customer_meter, head, entries, held, own, cuts)


async def _newest(billing: Billing, customer: str, meter: str, span: Span, now: int) -> tuple[Decimal, int]:
    """The last value that Stripe holds of a span, and the latest second that it can be stamped with.

    Nothing of ours is stamped in the minute that a span begins in; the last minute of what is cut short may
    be another's, too. Summaries tell no stamps, but they tell by whole minutes where there is no value.
    """
    low, high = floor_minute(last.first_stamp(span)), floor_minute(min(span.end, now) + MINUTE - 1)
    end = high
    value = await billing.usage_held(customer, meter, low, end) if low < end else ZERO
    while value and high - low > MINUTE:
        middle = floor_minute((low + high) // 2)
        if await billing.usage_held(customer, meter, middle, end):
            low = middle
        else:
            high = middle
    return round_units(value), max(min(low + MINUTE, span.end, now) - 1, span.start)


async def _head(
    billing: Billing, openmeter: OpenMeter, ledger: Ledger, customer_meter: CustomerMeter, now: int
) -> Head:
    """The head with everything pinned as it is now; bounds that only the ledger knew are kept."""
    heads = Heads(billing, ledger, lambda: now, customers=openmeter.customers)
    left = await heads.left_unseen(customer_meter)
    stored = (await ledger.heads([customer_meter.pk])).get(customer_meter.pk)
    fresh = Head(pk=customer_meter.pk, subject="", openmeter_meter="", table="")
    known = stored or fresh
    subject = customer_meter.subject or known.subject
    meter = customer_meter.openmeter_meter or known.openmeter_meter
    if not subject or not meter:
        raise NotDoneError(
            "neither Stripe nor the ledger says which usage in OpenMeter belongs to "
            f"{customer_meter.customer} on a removed item; bill it by an invoice item"
        )
    pinned = replace(
        known.with_left(left).of_usage(subject, meter, await heads.openmeter_customer(subject)),
        table=await ledger.created_at(),
        seen_at=max(known.seen_at, customer_meter.seen_at),
        full_read_at=LONG_AGO,
        known_from=now,
        doubtful=frozenset(),
    )
    return pinned.sees(customer_meter, now)


def _check_settled(entries: Iterable[Entry], now: int) -> None:
    newest = max(
        (send.intended_at for entry in entries for send in entry.sends.values() if not _is_adopted(send)),
        default=0,
    )
    if now - newest < SUMMARIES_LAG:
        minutes = (newest + SUMMARIES_LAG - now) // MINUTE + 1
        raise NotDoneError(
            f"usage was sent to Stripe {(now - newest) // MINUTE} minutes ago, and Stripe's summaries may "
            f"not show it yet; nothing was adopted, try again in {minutes} minutes"
        )


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the usage of one customer meter is asked for."""

    billing: Billing
    openmeter: OpenMeter
    customer_meter: CustomerMeter
    head: Head
    entries: Mapping[Key, Entry]

    async def held(self, start: int, end: int) -> Decimal:
        """What Stripe holds of [start, end), full minutes in UTC seconds."""
        assert self.customer_meter.meter is not None
        return await self.billing.usage_held(
            self.customer_meter.customer, self.customer_meter.meter.id, start, end
        )

    async def billable(self, piece: Slice) -> Decimal:
        """What OpenMeter has of a slice beyond what was counted as on no invoice."""
        if piece.start >= piece.end or self.is_free(piece):
            return ZERO
        subject = self.head.subject
        found = await self.openmeter.totals(self.head.openmeter_meter, [subject], piece.start, piece.end)
        entry = self.entries[(self.customer_meter.pk, day_of(piece.start))]
        return round_units(found.get(subject, ZERO)) - entry.undelivered.get(piece.start, ZERO)

    def is_free(self, piece: Slice) -> bool:
        """Whether all of a slice lies in a pause, or another time of which nothing is ever sent."""
        states = {span.state for span in self.head.spans if is_stamped_in(piece, span)}
        return states == {SpanState.FREE}


async def _slices(
    sources: _Sources, block: Block, hours: Mapping[int, Decimal]
) -> list[tuple[Slice, Decimal]]:
    """The usage of a block by slice, told apart by whole minutes.

    The minute of a bound belongs to the slice before it: the slice after it stamps nothing there, unless it
    ends in it.
    """
    held = [hours[hour] for hour in range(block.start, block.end, HOUR) if hour in hours]
    if not held:
        return []
    found: list[tuple[Slice, Decimal]] = []
    counted = ZERO
    for together in _by_minute(block.slices):
        is_last = together[-1] is block.slices[-1]
        end = ceil_minute(together[-1].closes)
        until = sum(held, ZERO) if is_last else await sources.held(block.start, end)
        found += await _apart(sources, together, round_units(until - counted))
        counted = until
    return found


def _by_minute(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices that end in one minute together: a summary cannot tell them apart."""
    return [list(some) for _, some in groupby(slices, key=lambda piece: ceil_minute(piece.closes))]


async def _apart(sources: _Sources, together: Sequence[Slice], units: Decimal) -> list[tuple[Slice, Decimal]]:
    """Usage of slices that end in one minute, as OpenMeter tells them apart.

    Where it has more in all, the earlier ones have what is theirs before the later ones. Where it has less,
    the last one has the rest: that can be mended longest. OpenMeter may lag, or events were taken back.
    """
    if len(together) == 1:
        return [(together[0], units)]
    left = units
    found: dict[Slice, Decimal] = {}
    for piece in together:
        found[piece] = min(await sources.billable(piece), left)
        left -= found[piece]
    last_one = next((piece for piece in reversed(together) if not sources.is_free(piece)), together[-1])
    found[last_one] += left
    return list(found.items())


def _adopted(piece: Slice, units: Decimal, now: int) -> Send:
    # The newest stamp that it can stand for: the open hour is not read again to before it.
    stamp = max(min(piece.closes, now) - 1, piece.opens)
    return Send(f"{ADOPTED}.{piece.start}", piece.start, stamp, units, now, SendState.SENT)


def _entry(before: Entry, sends: Sequence[Send], now: int) -> Entry:
    """The day with Stripe's hours in place of what the ledger believed; known losses stay counted.

    What was sent lately stays as discarded: Stripe still knows its identifier, and would take a new send
    under it for the old one.
    """
    lately = [
        replace(send, state=SendState.DISCARDED, code="")
        for send in before.sends.values()
        if send.uses_identifier and not _is_adopted(send) and now - send.intended_at < 2 * DAY
    ]
    adopted = {send.identifier: send for send in (*lately, *sends)}
    return replace(before, sends=adopted, hours={}, looks={})


def _is_adopted(send: Send) -> bool:
    return send.identifier.startswith(f"{ADOPTED}.")
