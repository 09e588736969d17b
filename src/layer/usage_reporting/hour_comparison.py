"""The columns side by side, by hour: what OpenMeter measured, Stripe holds, and the ledger says was sent."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from usage_reporting.amounts import round_units
from usage_reporting.billing import Billing
from usage_reporting.errors import UsageReportingError
from usage_reporting.ledger import Entry, Head, Ledger
from usage_reporting.model import CustomerMeter
from usage_reporting.openmeter import MOST_SUBJECTS, OpenMeter
from usage_reporting.read_apart import read_apart
from usage_reporting.windows import HOUR, days_between, floor_hour

SUMMARIES_AT_ONCE = 4
"""Customers whose summaries Stripe is asked for side by side."""


@dataclass(slots=True)
class HourComparison:
    """A customer meter on both sides. Only on a meter that sums do hours mean the same on either side."""

    customer_meter: CustomerMeter
    head: Head | None = None
    """None: the ledger does not know it."""
    entries: Mapping[str, Entry] = field(default_factory=dict)
    """By UTC day."""
    metered: Mapping[int, Decimal] = field(default_factory=dict)
    """What OpenMeter has, by hour, in units."""
    held: Mapping[int, Decimal] = field(default_factory=dict)
    """What Stripe's summaries have, by hour, in units; they lag by minutes."""
    error: UsageReportingError | None = None
    """Why it could not be compared."""

    @property
    def subject(self) -> str:
        """The subject in OpenMeter, as it was pinned at first sight."""
        return self.head.subject if self.head else self.customer_meter.subject

    @property
    def openmeter_meter(self) -> str:
        """The meter in OpenMeter, as it was pinned at first sight."""
        return self.head.openmeter_meter if self.head else self.customer_meter.openmeter_meter

    @property
    def hours(self) -> list[int]:
        """The starts of those of which either side, or the ledger, has anything, in order, UTC seconds; none
        where an error stands."""
        if self.error is not None:
            return []
        told = {floor_hour(send.stamp) for entry in self.entries.values() for send in entry.sends.values()}
        lost = {floor_hour(start) for entry in self.entries.values() for start in entry.undelivered}
        return sorted({*self.metered, *self.held, *told, *lost})


@dataclass(frozen=True, slots=True)
class HourComparer:
    """Reads all three afresh. An error stands beside the one customer meter that it concerns."""

    billing: Billing
    openmeter: OpenMeter
    ledger: Ledger

    async def compare(
        self, customer_meters: Sequence[CustomerMeter], start: int, end: int
    ) -> list[HourComparison]:
        """The hours of [start, end), UTC seconds, widened to full hours. Raises LedgerUnavailableError."""
        start, end = floor_hour(start), floor_hour(end + HOUR - 1)
        found = [HourComparison(one) for one in customer_meters]
        await self._read_ledger(found, start, end)
        await asyncio.gather(self._read_openmeter(found, start, end), self._read_stripe(found, start, end))
        return found

    async def _read_ledger(self, found: Sequence[HourComparison], start: int, end: int) -> None:
        days = days_between(start, end)
        pks = [one.customer_meter.pk for one in found]
        heads = await self.ledger.heads(pks)
        entries = await self.ledger.entries([(pk, day) for pk in pks for day in days])
        for one in found:
            pk = one.customer_meter.pk
            one.head = heads.get(pk)
            one.entries = {day: entries[(pk, day)] for day in days}

    async def _read_openmeter(self, found: Sequence[HourComparison], start: int, end: int) -> None:
        by_meter: dict[str, list[HourComparison]] = defaultdict(list)
        for one in found:
            by_meter[one.openmeter_meter].append(one)
        for meter, several in by_meter.items():
            for first in range(0, len(several), MOST_SUBJECTS):
                await self._query(meter, several[first : first + MOST_SUBJECTS], start, end)

    async def _query(self, meter: str, several: Sequence[HourComparison], start: int, end: int) -> None:
        async def read(page: Sequence[HourComparison]) -> None:
            subjects = sorted({one.subject for one in page})
            hours = await self.openmeter.hours(meter, subjects, start, end)
            for one in page:
                of_subject = hours.get(one.subject, {})
                one.metered = {hour: round_units(value) for hour, value in of_subject.items()}

        def not_read(one: HourComparison, error: UsageReportingError) -> None:
            one.error = error

        await read_apart(several, read, not_read)

    async def _read_stripe(self, found: Sequence[HourComparison], start: int, end: int) -> None:
        slots = asyncio.Semaphore(SUMMARIES_AT_ONCE)

        async def read(one: HourComparison) -> None:
            meter = one.customer_meter.meter
            if one.error is not None or meter is None:
                return
            try:
                async with slots:
                    one.held = await self.billing.hours_held(
                        one.customer_meter.customer, meter.id, start, end
                    )
            except UsageReportingError as error:
                one.error = error

        await asyncio.gather(*(read(one) for one in found))
