"""Meters with formula `sum`: each slice is brought up to what OpenMeter holds by one difference.

Stripe can only add here. The ledger turns "set" into an addition: what is sent is the difference between
OpenMeter's value and the sum of our sends that are stamped in the slice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby

from usage_reporting import advice, identifiers
from usage_reporting.amounts import ZERO, is_same, round_units, to_wire
from usage_reporting.error_reports import Remedy, advice_for, remedy_for
from usage_reporting.model import CustomerMeter, Reading, Send
from usage_reporting.windows import rfc3339

_CUSTOMER_PART = 64


@dataclass(slots=True)
class Plan:
    """What follows from the readings of one customer meter."""

    sends: list[Send] = field(default_factory=list)
    undelivered: dict[Reading, Decimal] = field(default_factory=dict)
    """Usage that no invoice takes any more."""
    held: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    """Usage that Stripe took and discarded, and would discard again."""


def plan(
    customer_meter: CustomerMeter,
    readings: Sequence[Reading],
    *,
    may_fall: bool,
    now: int,
    accepted: bool = False,
    braked: Collection[Reading] = (),
) -> Plan:
    """Compare each hour's slices with what Stripe holds; `now` in UTC seconds.

    An hour that holds less than Stripe does is held unless it `may_fall`, and so is one of which OpenMeter
    misses a part that Stripe has. Usage may move between two slices of an hour while both take usage.
    `accepted`: an operator has looked, so that what was billed too much on a final invoice is noted instead
    of held, and what Stripe discarded is sent once more. `braked`: the brake holds these.
    """
    result = Plan()
    release = advice.accept(customer_meter.customer)
    ordered = sorted(readings, key=lambda reading: reading.piece)
    for _, hour in groupby(ordered, key=lambda reading: reading.piece.hour):
        slices = list(hour)
        if not any(reading.changed or reading.uncounted for reading in slices):
            continue
        held = _held(slices, release, may_fall=may_fall, accepted=accepted)
        if held:
            result.held.append(held)
            continue
        free = [reading for reading in slices if reading not in braked]
        # What one slice lost another may have gained: half a move would lose it.
        if len(free) == len(slices) or not any(r.changed and r.difference < 0 for r in free):
            _plan_hour(customer_meter, free, result, now, accepted=accepted)
    return result


def _held(hour: list[Reading], release: str, *, may_fall: bool, accepted: bool) -> str:
    """Why an hour is held; empty when it is not."""
    changed = [reading for reading in hour if reading.changed]
    if not accepted and any(reading.is_over and not reading.takes_usage for reading in changed):
        return _less(
            hour,
            f"its invoice takes no correction any more: credit the customer, then note it with {release}",
        )
    falls = [reading for reading in changed if reading.difference < 0 and reading.takes_usage]
    is_missing = any(reading.is_missing for reading in falls)
    is_less = falls and not may_fall and not _moves_only(hour, changed)
    if (is_missing or is_less) and not accepted:
        return _less(hour, f"check OpenMeter, then release it with {release}")
    return ""


def _plan_hour(
    customer_meter: CustomerMeter, hour: list[Reading], result: Plan, now: int, *, accepted: bool
) -> None:
    for reading in hour:
        if reading.uncounted:
            result.undelivered[reading] = reading.uncounted
        if not reading.changed:
            continue
        if not reading.takes_usage:
            result.undelivered[reading] = reading.difference
        elif reading.discarded_as and not accepted and remedy_for(reading.discarded_as) is Remedy.STOP:
            result.stopped.append(
                f"Stripe took {to_wire(reading.difference)} units of {rfc3339(reading.piece.start)}, and "
                f"discarded them afterwards as {reading.discarded_as}: {advice_for(reading.discarded_as)}. "
                f"{advice.accept(customer_meter.customer)} sends them once more"
            )
        elif reading.stamp is not None:
            result.sends.append(_send(customer_meter, reading, reading.stamp, now))


def _moves_only(hour: list[Reading], changed: list[Reading]) -> bool:
    value = sum((reading.value for reading in hour), ZERO)
    # What no invoice took is in OpenMeter's value: it must not make up for a decrease elsewhere.
    known = sum((r.mirrored + max(r.undelivered - r.dropped, ZERO) for r in hour), ZERO)
    not_less = value >= known or is_same(value, known)
    return not_less and all(r.takes_usage and r.stamp is not None for r in changed)


def _less(hour: list[Reading], advice: str) -> str:
    value = sum((reading.value for reading in hour), ZERO)
    mirrored = sum((reading.mirrored for reading in hour), ZERO)
    return (
        f"the hour {rfc3339(hour[0].piece.hour)} has {to_wire(value)} in OpenMeter, less than the "
        f"{to_wire(mirrored)} that Stripe holds, or its parts moved; {advice}"
    )


def _send(customer_meter: CustomerMeter, reading: Reading, stamp: int, now: int) -> Send:
    value = round_units(reading.difference)
    return Send(
        identifier=identifier(customer_meter, reading, stamp, value),
        slice_start=reading.piece.start,
        stamp=stamp,
        value=value,
        intended_at=now,
    )


def identifier(customer_meter: CustomerMeter, reading: Reading, stamp: int, value: Decimal) -> str:
    """Name the fact that is sent: `customer.slice-start.sequence.hash`, at most 100 characters.

    What Stripe held before is part of the fact: after `adopt` the sequence begins anew, and an equal
    difference at the same stamp is then another one than before.
    """
    whose = customer_meter.customer[:_CUSTOMER_PART]
    told = facts(stamp, reading.mirrored, value)
    return identifiers.identifier(customer_meter.pk, whose, reading.piece.start, reading.sequence, *told)


def facts(stamp: int, mirrored: Decimal, value: Decimal) -> tuple[str, str, str]:
    """What a send's identifier is made of beside its slice and its number; `stamp` in UTC seconds."""
    return str(stamp), to_wire(mirrored), to_wire(value)
