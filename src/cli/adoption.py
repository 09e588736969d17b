"""Rebuilds the ledger of a customer meter from what Stripe's summaries hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from cli.errors import NotDoneError
from usage_reporting.amounts import ZERO, round_units
from usage_reporting.billing import Billing
from usage_reporting.ledger import Entry, Head, Ledger
from usage_reporting.model import CustomerMeter, Send, SendState
from usage_reporting.windows import (
    DAY,
    HOUR,
    MINUTE,
    OLDEST_SLICE,
    Slice,
    cut,
    day_of,
    days_between,
    floor_hour,
    floor_minute,
)

SUMMARIES_LAG = HOUR
"""For so long after a send Stripe's summaries may not show it: they come with no promise."""

ADOPTED = "adopted"

LONG_AGO = 1
"""A full read of an adopted customer meter: so old that the next report reads everything, and not for the
first time, so that usage of before the adoption is not counted as lost."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is to be written for one customer meter. Nothing is written before `carry_out`."""

    customer_meter: CustomerMeter
    head: Head
    entries: Sequence[Entry]
    """Those that Stripe's hours change, with the versions that were read."""
    hours: Mapping[int, Decimal]
    """What Stripe holds, by UTC hour."""

    async def carry_out(self, ledger: Ledger, now: int) -> None:
        """Write the days, then the head: only that releases what was held. Raises LostRaceError."""
        for entry in self.entries:
            await ledger.write_entry(entry, now)
        await ledger.write_head(self.head, now)


async def plan(billing: Billing, ledger: Ledger, customer_meter: CustomerMeter, now: int) -> Adoption:
    """Read Stripe's hours, and what the ledger would be with them; `now` in UTC seconds.

    Legacy prices have no hours: their usage is set, not added, so that the head alone is made anew.
    Raises NotDoneError while Stripe's summaries may not yet show what was sent.
    """
    pk = customer_meter.pk
    head = await _head(ledger, customer_meter, now)
    if customer_meter.meter is None:
        return Adoption(customer_meter, head, [], {})
    oldest = (now - OLDEST_SLICE) // DAY * DAY
    keys = [(pk, day) for day in days_between(oldest, now + 1)]
    before = await ledger.entries(keys)
    _check_settled(before.values(), now)
    hours = await billing.hours_held(
        customer_meter.customer, customer_meter.meter.id, oldest, floor_hour(now) + HOUR
    )
    sends: dict[str, list[Send]] = {day: [] for _, day in keys}
    for hour, total in sorted(hours.items()):
        for piece, units in await _slices(billing, customer_meter, head.bounds, hour, total):
            if units:
                sends[day_of(hour)].append(_adopted(piece, units, now))
    entries = [_entry(before[(pk, day)], sends[day]) for _, day in keys]
    return Adoption(customer_meter, head, [entry for entry in entries if entry.version or entry.sends], hours)


async def _head(ledger: Ledger, customer_meter: CustomerMeter, now: int) -> Head:
    """The head with everything pinned as it is now; bounds that only the ledger knew are kept."""
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
        known,
        subject=subject,
        openmeter_meter=meter,
        table=await ledger.created_at(),
        seen_at=max(known.seen_at, customer_meter.seen_at),
        full_read_at=LONG_AGO,
    )
    return pinned.sees(customer_meter, now)


def _check_settled(entries: Iterable[Entry], now: int) -> None:
    newest = max(
        (
            send.intended_at
            for entry in entries
            for send in entry.sends.values()
            if not send.identifier.startswith(f"{ADOPTED}.")
        ),
        default=0,
    )
    if now - newest < SUMMARIES_LAG:
        minutes = (newest + SUMMARIES_LAG - now) // MINUTE + 1
        raise NotDoneError(
            f"usage was sent to Stripe {(now - newest) // MINUTE} minutes ago, and Stripe's summaries may "
            f"not show it yet; nothing was adopted, try again in {minutes} minutes"
        )


async def _slices(
    billing: Billing, customer_meter: CustomerMeter, bounds: frozenset[int], hour: int, total: Decimal
) -> list[tuple[Slice, Decimal]]:
    """An hour's usage by slice, told apart by whole minutes.

    The minute of a bound belongs to the slice before it: the slice after it stamps nothing there.
    """
    assert customer_meter.meter is not None
    pieces = list(cut(hour, hour + HOUR, bounds))
    found: list[tuple[Slice, Decimal]] = []
    counted = ZERO
    for piece in pieces[:-1]:
        end = floor_minute(piece.end + MINUTE - 1)
        until = await billing.usage_held(customer_meter.customer, customer_meter.meter.id, hour, end)
        found.append((piece, round_units(until - counted)))
        counted = until
    found.append((pieces[-1], round_units(total - counted)))
    return found


def _adopted(piece: Slice, units: Decimal, now: int) -> Send:
    # The newest stamp that it can stand for: the open hour is not read again to before it.
    stamp = max(min(piece.end, now) - 1, piece.start)
    return Send(f"{ADOPTED}.{piece.start}", piece.start, stamp, units, now, SendState.SENT)


def _entry(before: Entry, sends: Sequence[Send]) -> Entry:
    """The day with Stripe's hours in place of what the ledger believed; known losses stay counted."""
    return replace(before, sends={send.identifier: send for send in sends}, hours={})
