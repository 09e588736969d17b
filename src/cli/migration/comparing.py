"""The old records beside the new meter: for each ended period that was mirrored, and in money."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from cli.migration.few_at_once import few_at_once
from cli.migration.found import Found, LegacyItem, LegacyPrice
from cli.migration.periods import LegacyPeriod, ended_periods
from cli.wiring import Operator
from usage_reporting.amounts import ZERO, round_whole
from usage_reporting.errors import UsageReportingError
from usage_reporting.pricing import Pricing
from usage_reporting.windows import HOUR

Json = dict[str, Any]

SETTLED_AFTER = 2 * HOUR
"""From a period's end on: the mirror has read it whole by then, and Stripe's summaries show it."""


class Verdict(StrEnum):
    """What came of comparing a period."""

    EXACT = "EXACT"
    DIFFERS = "DIFFERS"
    PARTLY = "mirrored in part"
    """It began before its price had a successor."""
    PENDING = "not settled yet"
    """It differs, and ended so lately that the rest may be on its way."""


@dataclass(frozen=True, slots=True)
class Bill:
    """A quantity at the old price and one at the new, in the currency's minor unit."""

    currency: str
    old_units: Decimal
    new_units: Decimal
    old: Decimal
    new: Decimal

    @property
    def change(self) -> Decimal:
        """By how much the bill changes."""
        return self.new - self.old


@dataclass(frozen=True, slots=True)
class ComparedPeriod:
    """One ended period of a legacy item."""

    period: LegacyPeriod
    mirrored: Decimal
    """What the new meter holds of the same usage."""
    verdict: Verdict
    bill: Bill

    @property
    def difference(self) -> Decimal:
        """Units that the meter has more than the record."""
        return self.mirrored - self.period.quantity


@dataclass(slots=True)
class Compared:
    """The periods of one legacy item, newest first."""

    price: LegacyPrice
    item: LegacyItem
    periods: Sequence[ComparedPeriod] = ()
    problem: str = ""
    """Why it could not be compared."""

    @property
    def is_exact(self) -> bool:
        """Whether the newest period of which anything can be said is exact."""
        said = [one.verdict for one in self.periods if one.verdict in {Verdict.EXACT, Verdict.DIFFERS}]
        return bool(said) and said[0] is Verdict.EXACT

    @property
    def differs(self) -> bool:
        """Whether a period differs."""
        return any(one.verdict is Verdict.DIFFERS for one in self.periods)

    @property
    def first_possible(self) -> int:
        """When the first comparison is possible, UTC seconds."""
        return self.item.period[1] + HOUR


@dataclass(slots=True)
class Comparer:
    """Compares the items of prices that have a successor; one that fails does not stop the others."""

    parts: Operator
    compared: dict[str, Compared] = field(default_factory=dict)
    """By the id of the item."""

    async def compare(self, found: Found, done: Callable[[], None] = lambda: None) -> None:
        """Compare all items that are being mirrored; `done` is called after each."""

        async def one(pair: tuple[LegacyPrice, LegacyItem]) -> None:
            self.compared[pair[1].id] = await self._compare(*pair)

        await few_at_once(mirrored(found), one, done)

    async def _compare(self, price: LegacyPrice, item: LegacyItem) -> Compared:
        try:
            periods = await ended_periods(self.parts, item, price.mirrored_since)
            judged = [await self._judge(price, item, period) for period in periods]
            return Compared(price, item, judged)
        except UsageReportingError as error:
            return Compared(price, item, problem=error.reason)
        except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
            return Compared(price, item, problem=f"Stripe's answer lacks or misshapes something: {error!r}")

    async def _judge(self, price: LegacyPrice, item: LegacyItem, period: LegacyPeriod) -> ComparedPeriod:
        # The functions stamp in a period what its record has, though it was used half an hour earlier.
        held = self.parts.billing.usage_held
        mirrored = await held(item.customer, price.meter, period.start, period.end)
        bill = bill_of(price, item, period.quantity, mirrored)
        return ComparedPeriod(period, mirrored, self._verdict(price, period, mirrored), bill)

    def _verdict(self, price: LegacyPrice, period: LegacyPeriod, mirrored: Decimal) -> Verdict:
        whole = round_whole(max(mirrored, ZERO), self.parts.settings.rounding)
        began_before = period.measured_from < price.mirrored_since
        # Nothing on either side proves nothing of a period that the mirror did not see whole.
        if whole == period.quantity and (whole or not began_before):
            return Verdict.EXACT
        if self.parts.clock() < period.end + SETTLED_AFTER:
            return Verdict.PENDING
        return Verdict.PARTLY if began_before else Verdict.DIFFERS


def mirrored(found: Found) -> list[tuple[LegacyPrice, LegacyItem]]:
    """The items that are being mirrored."""
    return [
        (price, item)
        for price, item in found.items
        if price.is_mirrored and not price.refusal and item.customer_meter is not None
    ]


def bill_of(price: LegacyPrice, item: LegacyItem, old: Decimal, new: Decimal) -> Bill:
    """Quantities in money, in the currency of the subscription. Raises RefusedError.

    A successor that was named by hand may charge something else.
    """
    currency = str(item.subscription.get("currency") or "")
    before, after = (pricing_of(one, currency) for one in (price.document, price.successor or price.document))
    return Bill(before.currency, old, new, before.amount(old), after.amount(new))


def pricing_of(price: Mapping[str, Any], currency: str) -> Pricing:
    """What a price charges in a currency: its own, or one of its options. Raises RefusedError."""
    option = (price.get("currency_options") or {}).get(currency)
    if option is None or currency == price["currency"]:
        return Pricing.of(dict(price))
    return Pricing.of({**price, **option, "currency": currency})
