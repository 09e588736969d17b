"""What a migration changes in money: each customer's running period and last invoice at both prices.

The prices are the same; a bill differs where whole numbers were billed of usage that has decimals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from cli.migration.comparing import Bill, bill_of
from cli.migration.few_at_once import few_at_once
from cli.migration.found import Found, LegacyItem, LegacyPrice
from cli.migration.periods import cut_of, newest_period
from cli.wiring import Operator
from usage_reporting.amounts import ZERO, round_units, round_whole
from usage_reporting.errors import UsageReportingError
from usage_reporting.targets import usage_record


@dataclass(slots=True)
class Forecast:
    """One item's bills."""

    running: Bill | None = None
    """Of what was used of its running period so far."""
    last: Bill | None = None
    """Of its last invoice; None in its first period."""
    problem: str = ""
    """Why the money is not known."""


@dataclass(slots=True)
class Total:
    """The bills of one currency, in its minor unit."""

    old: Decimal = ZERO
    new: Decimal = ZERO
    up: Decimal = ZERO
    """What is added to bills."""
    down: Decimal = ZERO
    """What is taken off others, as a positive amount."""


@dataclass(slots=True)
class Forecaster:
    """Asks OpenMeter what was measured, and prices it; one item that fails does not stop the others."""

    parts: Operator
    forecasts: dict[str, Forecast] = field(default_factory=dict)
    """By the id of the item."""

    async def forecast(self, found: Found, done: Callable[[], None] = lambda: None) -> None:
        """Price all items that can be migrated; `done` is called after each."""

        async def one(pair: tuple[LegacyPrice, LegacyItem]) -> None:
            self.forecasts[pair[1].id] = await self._forecast(*pair)

        await few_at_once(priced(found), one, done)

    async def _forecast(self, price: LegacyPrice, item: LegacyItem) -> Forecast:
        try:
            return Forecast(await self._running(price, item), await self._last(price, item))
        except UsageReportingError as error:
            return Forecast(problem=error.reason)
        except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
            return Forecast(problem=f"an answer lacks or misshapes something: {error!r}")

    async def _running(self, price: LegacyPrice, item: LegacyItem) -> Bill | None:
        if item.span is None:
            return None
        start, end = cut_of(self.parts, item.span)
        until = usage_record.readable_until(end, self.parts.clock())
        measured = await self._measured(price, item, start, until)
        whole = Decimal(round_whole(measured, self.parts.settings.rounding))
        return bill_of(price, item, whole, measured)

    async def _last(self, price: LegacyPrice, item: LegacyItem) -> Bill | None:
        period = await newest_period(self.parts, item)
        if period is None:
            return None
        measured = await self._measured(price, item, period.measured_from, period.measured_until)
        return bill_of(price, item, period.quantity, measured)

    async def _measured(self, price: LegacyPrice, item: LegacyItem, start: int, end: int) -> Decimal:
        """What OpenMeter has of the customer in [start, end), UTC seconds."""
        one = item.customer_meter
        if one is None or not one.subject or end <= start:
            return ZERO
        found = await self.parts.openmeter.totals(price.openmeter_meter, [one.subject], start, end)
        return round_units(found.get(one.subject, ZERO))


def priced(found: Found) -> list[tuple[LegacyPrice, LegacyItem]]:
    """The items whose price can be migrated, and whose usage is ours."""
    return [
        (price, item) for price, item in found.items if not price.refusal and item.customer_meter is not None
    ]


def totals(bills: Sequence[Bill | None]) -> dict[str, Total]:
    """Bills added up by currency."""
    found: dict[str, Total] = defaultdict(Total)
    for bill in bills:
        if bill is not None:
            total = found[bill.currency]
            total.old += bill.old
            total.new += bill.new
            total.up += max(bill.change, ZERO)
            total.down += max(-bill.change, ZERO)
    return dict(sorted(found.items()))
