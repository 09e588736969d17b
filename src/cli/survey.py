"""What Stripe and OpenMeter hold of many customer meters, hour by hour, before any of it is adopted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from cli.adoption import Adoption, plan
from cli.errors import CliError
from cli.outcome import whose
from cli.output import progress
from cli.wiring import Operator
from usage_reporting.accounts import of_account
from usage_reporting.amounts import ZERO, is_same, round_units, to_wire
from usage_reporting.errors import UsageReportingError
from usage_reporting.ledger import Head
from usage_reporting.model import CustomerMeter, Target
from usage_reporting.openmeter import MOST_SUBJECTS, Hours
from usage_reporting.period_bounds import measured
from usage_reporting.read_apart import read_apart
from usage_reporting.targets import last
from usage_reporting.windows import (
    BOUNDS_KEPT,
    DAY,
    OLDEST_SLICE,
    floor_hour,
    rfc3339,
    settled_until,
)

AT_ONCE = 4
"""Customer meters that Stripe is asked for side by side."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One adoption, and what OpenMeter has beside it by UTC hour."""

    adoption: Adoption
    measured: dict[int, Decimal]

    @property
    def hours(self) -> list[tuple[int, Decimal, Decimal]]:
        """Each hour in which either side has usage: what Stripe holds, what OpenMeter has."""
        held = self.adoption.hours
        both = {
            hour: (held.get(hour, ZERO), self.measured.get(hour, ZERO)) for hour in {*held, *self.measured}
        }
        return [(hour, *both[hour]) for hour in sorted(both) if any(both[hour])]

    @property
    def differs(self) -> bool:
        """Whether the two sides have another amount in any hour."""
        return any(not is_same(held, measured) for _, held, measured in self.hours)

    @property
    def totals(self) -> tuple[Decimal, Decimal]:
        """What Stripe holds in all, and what OpenMeter has."""
        hours = self.hours
        return sum((held for _, held, _ in hours), ZERO), sum((measured for *_, measured in hours), ZERO)

    @property
    def whom(self) -> str:
        """The customer, with the account unless that is the key's own."""
        one = self.adoption.customer_meter
        return of_account(one.customer, one.account)

    @property
    def title(self) -> str:
        """Whose usage on what."""
        meter = self.adoption.head.openmeter_meter
        return f"{name_of(self.adoption.customer_meter)}, from OpenMeter meter {meter}"

    def to_json(self) -> dict[str, Any]:
        """The comparison with every hour; amounts are texts, so that no digit is lost."""
        one = self.adoption.customer_meter
        return {
            **whose(one.account),
            "stripe_customer": one.customer,
            "stripe_meter": one.meter.id if one.meter else None,
            "openmeter_meter": self.adoption.head.openmeter_meter,
            "hours": [
                {"hour": rfc3339(hour), "stripe": to_wire(held), "openmeter": to_wire(measured)}
                for hour, held, measured in self.hours
            ],
        }


def name_of(one: CustomerMeter) -> str:
    """A customer meter as an operator knows it."""
    on = f"Stripe meter {one.meter.id}" if one.meter else f"item {one.spans[0].item}, billed by usage records"
    return f"{of_account(one.customer, one.account)} on {on}"


@dataclass(slots=True)
class Survey:
    """What is to be adopted, and what is not."""

    compared: list[Comparison] = field(default_factory=list)
    problems: list[tuple[str, Exception]] = field(default_factory=list)
    """Which customer meters, drafts or subscriptions cannot be adopted, and why."""
    known: int = 0
    """Customer meters that the ledger knows, left as they are."""
    unused: int = 0
    """New ones of which Stripe holds nothing yet: the functions begin with them by themselves."""
    refused: int = 0
    """Those that are not reported at all."""

    @classmethod
    def of_all(cls, several: Sequence[Survey]) -> Survey:
        """What was found in several accounts, as one."""
        return cls(
            [one for each in several for one in each.compared],
            [problem for each in several for problem in each.problems],
            sum(each.known for each in several),
            sum(each.unused for each in several),
            sum(each.refused for each in several),
        )


async def survey(parts: Operator, found: Sequence[CustomerMeter], *, only_held: bool) -> Survey:
    """Compare both sides of customer meters; one that cannot be read stops none of the others.

    `only_held`: only those that the functions hold because the ledger does not know them, or is another
    table's copy.
    """
    result = Survey()
    wanted = await _held_by_ledger(parts, found, result) if only_held else [(one, None) for one in found]
    await _ask_for_customers(parts, [one for one, _ in wanted])
    slots = asyncio.Semaphore(AT_ONCE)
    with progress("reading Stripe's hours", len(wanted)) as bar:

        async def read(one: CustomerMeter, head: Head | None) -> Adoption | None:
            try:
                async with slots:
                    if only_held and head is None and not await _is_used(parts, one):
                        result.unused += 1
                        return None
                    return await plan(parts.billing, parts.openmeter, parts.ledger, one, parts.clock())
            except (CliError, UsageReportingError) as error:
                result.problems.append((name_of(one), error))
                return None
            finally:
                bar.advance(bar.task_ids[0])

        adoptions = await asyncio.gather(*(read(one, head) for one, head in wanted))
    planned = [one for one in adoptions if one is not None]
    totals = [one for one in planned if one.customer_meter.target is Target.LAST]
    result.compared = await _measured(parts, [one for one in planned if one not in totals], result)
    result.compared += await _totalled(parts, totals, result)
    return result


async def _held_by_ledger(
    parts: Operator, found: Sequence[CustomerMeter], result: Survey
) -> list[tuple[CustomerMeter, Head | None]]:
    heads = await parts.ledger.heads([one.pk for one in found])
    table = await parts.ledger.created_at()
    wanted = []
    for one in found:
        head = heads.get(one.pk)
        if head is not None and head.table == table:
            result.known += 1
        elif one.refusal:
            result.refused += 1
        else:
            wanted.append((one, head))
    return wanted


async def _ask_for_customers(parts: Operator, wanted: Sequence[CustomerMeter]) -> None:
    """Where subjects are the keys of OpenMeter's customers: ask for all at once, not for each by itself."""
    keys = sorted({one.subject for one in wanted} - {""})
    if parts.openmeter.customers is not None and keys:
        with contextlib.suppress(UsageReportingError):  # who is asked for by itself has it as its problem
            await parts.openmeter.customers.known(keys)


async def _is_used(parts: Operator, one: CustomerMeter) -> bool:
    """Whether the functions would hold it at first sight; usage records are set, so that they do not."""
    if one.meter is None:
        return False
    now = parts.clock()
    held = await parts.billing.usage_held(one.customer, one.meter.id, now - BOUNDS_KEPT, now)
    return not is_same(held, ZERO)


async def _measured(parts: Operator, adoptions: Sequence[Adoption], result: Survey) -> list[Comparison]:
    """Read OpenMeter's hours, many customers in one query."""
    measured: dict[str, dict[int, Decimal]] = {one.customer_meter.pk: {} for one in adoptions}
    failed: set[str] = set()
    by_meter: dict[str, list[Adoption]] = defaultdict(list)
    for one in adoptions:
        if one.customer_meter.meter is not None:
            by_meter[one.head.openmeter_meter].append(one)

    async def read(page: Sequence[Adoption]) -> None:
        start, end = min(_start(one, parts.clock()) for one in page), settled_until(parts.clock(), eager=True)
        subjects = sorted({one.head.subject for one in page})
        found = await parts.openmeter.hours(page[0].head.openmeter_meter, subjects, start, end)
        _take(measured, page, found, parts.clock)

    def not_read(one: Adoption, error: UsageReportingError) -> None:
        failed.add(one.customer_meter.pk)
        result.problems.append((name_of(one.customer_meter), error))

    pages = [
        several[first : first + MOST_SUBJECTS]
        for several in by_meter.values()
        for first in range(0, len(several), MOST_SUBJECTS)
    ]
    with progress("reading OpenMeter", len(adoptions)) as bar:
        for page in pages:
            await read_apart(page, read, not_read)
            bar.advance(bar.task_ids[0], len(page))
    return [
        Comparison(one, measured[one.customer_meter.pk])
        for one in adoptions
        if one.customer_meter.pk not in failed
    ]


async def _totalled(parts: Operator, adoptions: Sequence[Adoption], result: Survey) -> list[Comparison]:
    """Read OpenMeter's totals of spans where the last value counts."""
    compared = []
    for one in adoptions:
        try:
            compared.append(Comparison(one, await _totals(parts, one)))
        except UsageReportingError as error:
            result.problems.append((name_of(one.customer_meter), error))
    return compared


async def _totals(parts: Operator, one: Adoption) -> dict[int, Decimal]:
    """OpenMeter's total of each span so far, by its start."""
    found = {}
    for span in one.spans:
        start, end = measured(span, one.cuts)
        until = last.measured_until(end, parts.clock(), eager=True)
        if until > start:
            subject = one.head.subject
            values = await parts.openmeter.totals(one.head.openmeter_meter, [subject], start, until)
            found[span.start] = round_units(values.get(subject, ZERO))
    return found


def _take(
    measured: dict[str, dict[int, Decimal]],
    page: Sequence[Adoption],
    found: Hours,
    clock: Callable[[], int],
) -> None:
    taken = {}
    for one in page:
        start = _start(one, clock())
        hours = found.get(one.head.subject, {})
        taken[one.customer_meter.pk] = {
            hour: round_units(value) for hour, value in hours.items() if hour >= start
        }
    measured.update(taken)


def _start(one: Adoption, now: int) -> int:
    """The first hour to compare: nothing older is read or sent."""
    oldest = (now - OLDEST_SLICE) // DAY * DAY
    begins = [*one.hours, *(floor_hour(span.begins) for span in one.customer_meter.spans)]
    return max(min(begins), oldest)
