"""Whether anybody else writes to the same Stripe meters: Stripe then holds more than the ledger sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from cli.checks.finding import Finding, count, duration, ok, problem, some_of, warning
from cli.checks.patient import Patient
from usage_reporting.amounts import ZERO, is_same, to_wire
from usage_reporting.errors import NotPermittedError, UsageReportingError
from usage_reporting.ledger import Entry, Head
from usage_reporting.model import CustomerMeter, Send, SendState, Target
from usage_reporting.settlement import SUMMARIES_LAG
from usage_reporting.windows import DAY, days_between, floor_hour, rfc3339

LOOKED_BACK = DAY
AT_ONCE = 4
"""Customers whose summaries Stripe is asked for side by side."""
MOST_SHOWN = 20

_UNSETTLED = frozenset({SendState.INTENT, SendState.DOUBTED})


@dataclass(frozen=True, slots=True)
class Foreign:
    """Hours of a customer meter in which Stripe holds what the ledger did not send."""

    customer_meter: CustomerMeter
    hours: Mapping[int, tuple[Decimal, Decimal]]
    """By UTC hour: what Stripe holds, and what the ledger sent."""

    @property
    def seen(self) -> str:
        """One line for the operator."""
        one = self.customer_meter
        assert one.meter is not None
        hour, (held, sent) = next(iter(sorted(self.hours.items())))
        more = f", and {len(self.hours) - 1} more hours" if len(self.hours) > 1 else ""
        return (
            f"somebody else writes usage of {one.customer} to Stripe meter {one.meter.id}: in the hour "
            f"{rfc3339(hour)} it holds {to_wire(held)}, of which this stack sent {to_wire(sent)}{more}"
        )


async def writers(patient: Patient) -> list[Finding]:
    """Compare Stripe's summaries of the last day's settled hours with the ledger, for a sample."""
    live = await patient.live()
    metered = [one for one in live.customer_meters if one.meter is not None and not one.refusal]
    heads = await patient.operator.ledger.heads([one.pk for one in metered])
    known = [one for one in metered if one.pk in heads]
    chosen = _sample(known, patient.sample)
    end = floor_hour(patient.now - SUMMARIES_LAG)
    start = end - LOOKED_BACK
    entries = await _entries(patient, chosen, heads, start, end)
    slots = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def look(one: CustomerMeter) -> Foreign | UsageReportingError | None:
        nonlocal done
        async with slots:
            try:
                assert one.meter is not None
                held = await patient.operator.billing.hours_held(one.customer, one.meter.id, start, end)
            except NotPermittedError:
                raise
            except UsageReportingError as error:
                return error
            finally:
                done += 1
                patient.say(f"comparing Stripe's hours with the ledger: {done} of {len(chosen)}")
        sends = [send for entry in entries[one.pk] for send in entry.sends.values()]
        hours = foreign_hours(held, sends, patient.now, is_last=one.target is Target.LAST)
        return Foreign(one, hours) if hours else None

    found = await asyncio.gather(*(look(one) for one in chosen))
    foreign = [one for one in found if isinstance(one, Foreign)]
    errors = [one for one in found if isinstance(one, UsageReportingError)]
    how_many = f"{len(chosen) - len(errors):,} of {count(len(metered), 'customer meter')} looked at"
    said = [problem(one.seen, _fix(patient, one)) for one in foreign[:MOST_SHOWN]]
    if metered and not known:
        return [
            warning(
                f"the ledger knows none of {count(len(metered), 'customer meter')}: nothing can be compared",
                "wait for the first hourly tick in live mode; shadow mode keeps no ledger",
            )
        ]
    if len(foreign) > MOST_SHOWN:
        said.append(problem(f"{len(foreign) - MOST_SHOWN:,} more like these", "mend these first"))
    if errors:
        reasons = some_of(sorted({error.reason for error in errors}))
        said.append(
            warning(f"{count(len(errors), 'customer meter')} could not be read: {reasons}", "run it again")
        )
    if not said:
        return [ok(f"nobody else wrote in the last {duration(LOOKED_BACK)} ({how_many})")]
    return said


def _fix(patient: Patient, one: Foreign) -> str:
    customer = one.customer_meter.customer
    return (
        "find it in Stripe's Workbench, logs of /v1/billing/meter_events; stop it, wait an hour, then "
        + patient.command("adopt", "--customer", customer)
    )


def _sample(known: Sequence[CustomerMeter], most: int) -> list[CustomerMeter]:
    """At most so many of them, evenly from all: a stack's other writer mostly writes for everybody."""
    if len(known) <= most:
        return list(known)
    return [known[number * len(known) // most] for number in range(most)]


async def _entries(
    patient: Patient, chosen: Sequence[CustomerMeter], heads: Mapping[str, Head], start: int, end: int
) -> dict[str, list[Entry]]:
    """What the ledger keeps of sends stamped in [start, end): with rounded bounds maybe a day beside it."""
    days = days_between(start - DAY, end + DAY)
    keys = [
        (one.pk, sk)
        for one in chosen
        for sk in (_starts(one, heads[one.pk]) if one.target is Target.LAST else days)
    ]
    read = await patient.operator.ledger.entries(keys)
    found: dict[str, list[Entry]] = {one.pk: [] for one in chosen}
    for (pk, _), entry in read.items():
        found[pk].append(entry)
    return found


def _starts(one: CustomerMeter, head: Head) -> list[str]:
    """Where a meter takes the last value, entries are named by the start of their span."""
    return sorted({str(span.start) for span in (*one.spans, *head.spans)})


def foreign_hours(
    held: Mapping[int, Decimal], sends: Sequence[Send], now: int, *, is_last: bool
) -> dict[int, tuple[Decimal, Decimal]]:
    """The hours in which Stripe holds more than was sent; where the last value counts: another value.

    Hours of which a send is young or unsettled say nothing yet: summaries lag.
    """
    by_hour: dict[int, list[Send]] = {}
    for send in sends:
        by_hour.setdefault(floor_hour(send.stamp), []).append(send)
    found = {}
    for hour, units in held.items():
        told = by_hour.get(hour, [])
        if any(send.state in _UNSETTLED or send.told_at > now - SUMMARIES_LAG for send in told):
            continue
        counted = [send for send in told if send.counts]
        sent = _newest(counted) if is_last else sum((send.value for send in counted), ZERO)
        if not is_same(units, sent) and (is_last or units > sent):
            found[hour] = (units, sent)
    return found


def _newest(sends: Sequence[Send]) -> Decimal:
    return max(sends, key=lambda send: send.stamp).value if sends else ZERO
