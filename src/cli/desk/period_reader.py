"""Reads the periods: Stripe's lists, a report that sends nothing, and Stripe's summaries of those shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cli.desk.periods import Condition, Key, Period, periods_of, with_report
from cli.wiring import Operator
from usage_reporting.amounts import ZERO, round_units
from usage_reporting.errors import NotPermittedError, UsageReportingError
from usage_reporting.heads import Options
from usage_reporting.hour_comparison import SUMMARIES_AT_ONCE
from usage_reporting.model import CustomerMeter
from usage_reporting.openmeter import MOST_SUBJECTS
from usage_reporting.windows import ceil_minute, floor_minute

MOST_REPORTED = 1000
"""Periods that are looked at in the ledger and in OpenMeter each time, the most urgent first."""

Publish = Callable[["Periods"], None]


@dataclass(frozen=True, slots=True)
class Periods:
    """All that still takes usage, the most urgent first."""

    periods: Sequence[Period] = ()
    unmapped: int = 0
    """Metered items without an OpenMeter meter: not ours."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Subscriptions and drafts that could not be read, and why."""


@dataclass(frozen=True, slots=True)
class PeriodReader:
    """Reads with one command's parts; nothing is sent, and nothing written."""

    parts: Operator

    async def read(self, before: Periods | None, publish: Publish) -> Periods:
        """Everything, and at once what Stripe lists, with what was known of it `before`.

        Raises StripeUnavailableError where the lists cannot be read.
        """
        listed = await self._listed()
        known = {period.key: period for period in before.periods} if before else {}
        found = {period.key: period for period in listed.periods}
        publish(replace(listed, periods=self._in_order(_as_before(one, known) for one in found.values())))
        found |= await self.reported(self._in_order(found.values())[:MOST_REPORTED])
        return replace(listed, periods=self._in_order(found.values()))

    async def reported(self, periods: Sequence[Period]) -> dict[Key, Period]:
        """The periods with what a report of them would say now, by key."""
        reports = {}
        for page in _pages(periods):
            for one in await self.parts.reporter.report(page, Options(full=True, dry_run=True)):
                reports[one.customer_meter.pk, one.customer_meter.spans] = one
        return {
            period.key: with_report(period, reports[period.customer_meter.pk, period.customer_meter.spans])
            for period in periods
        }

    async def with_held(self, periods: Sequence[Period]) -> dict[Key, Period]:
        """The periods with what Stripe's summaries show of each; by key, and those alone that it tells."""
        slots = asyncio.Semaphore(SUMMARIES_AT_ONCE)

        async def ask(period: Period) -> Period | None:
            async with slots:
                try:
                    return await self._with_held(period)
                except UsageReportingError:
                    return None  # the lists and the reports say already what does not answer

        found = await asyncio.gather(*(ask(period) for period in periods))
        return {period.key: period for period in found if period is not None}

    async def _with_held(self, period: Period) -> Period | None:
        one = period.customer_meter
        # Usage is never stamped in a minute that a period shares with the one before, but before the bound.
        start = ceil_minute(period.since or period.start)
        end = min(ceil_minute(period.end), ceil_minute(self.parts.clock()))
        if one.meter is None:
            return None
        if start >= end:
            is_new = period.end > self.parts.clock()  # nothing can be stamped in it yet
            return period.with_held(ZERO) if is_new else None
        return period.with_held(await self.parts.billing.usage_held(one.customer, one.meter.id, start, end))

    async def with_metered(self, periods: Sequence[Period]) -> dict[Key, Period]:
        """Those that a report did not read, as it was held or refused before, with what OpenMeter has."""
        found = {}
        for period in periods:
            one = period.customer_meter
            end = min(period.end, floor_minute(self.parts.clock()))
            if period.metered is None and one.subject and one.openmeter_meter and period.start < end:
                try:
                    values = await self.parts.openmeter.totals(
                        one.openmeter_meter, [one.subject], period.start, end
                    )
                    metered = round_units(values[one.subject]) if one.subject in values else None
                except UsageReportingError:
                    continue
                found[period.key] = replace(period, metered=metered)
        return found

    async def _listed(self) -> Periods:
        self.parts.billing.unmapped.clear()
        self.parts.billing.unreadable.clear()
        names: dict[str, str] = {}
        try:
            found = await self._of_subscriptions({"expand": ["data.customer"]}, names)
        except NotPermittedError:
            found = await self._of_subscriptions({}, names)  # names are not worth a page without periods
        async for listing in self.parts.billing.drafts():
            found.extend(listing.customer_meters)
        return Periods(
            [period for one in found for period in periods_of(one, names)],
            len(self.parts.billing.unmapped),
            dict(self.parts.billing.unreadable),
        )

    async def _of_subscriptions(
        self, filters: dict[str, list[str]], names: dict[str, str]
    ) -> list[CustomerMeter]:
        found: list[CustomerMeter] = []
        cursor = ""
        while True:
            page = await self.parts.billing.subscription_page(filters, cursor)
            for one in page.subscriptions:
                if isinstance(customer := one["customer"], dict):
                    names[customer["id"]] = str(customer.get("name") or "")
            found.extend((await self.parts.billing.read_page(page)).customer_meters)
            if not page.has_more:
                return found
            cursor = page.cursor

    def _in_order(self, periods: Iterable[Period]) -> list[Period]:
        now = self.parts.clock()
        return sorted(periods, key=lambda period: period.urgency(now))


def _as_before(period: Period, known: dict[Key, Period]) -> Period:
    """A period that is listed, with what was known of it when it was read last."""
    before = known.get(period.key)
    if before is None or period.condition is not Condition.READING:
        return period
    return replace(
        before,
        customer_meter=period.customer_meter,
        name=period.name,
        deadline=period.deadline,
        invoice=period.invoice,
    )


def _pages(periods: Sequence[Period]) -> Iterator[list[CustomerMeter]]:
    """The customer meters of periods by OpenMeter meter, as many at once as one query takes."""
    by_meter: dict[str, dict[tuple[object, ...], CustomerMeter]] = {}
    for period in periods:
        one = period.customer_meter
        by_meter.setdefault(one.openmeter_meter, {})[(one.pk, one.spans)] = one
    for several in by_meter.values():
        shown = list(several.values())
        for first in range(0, len(shown), MOST_SUBJECTS):
            yield shown[first : first + MOST_SUBJECTS]
