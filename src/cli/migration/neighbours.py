"""Other items of a customer on the same Stripe meter: what of them stands in the way of a switch.

A meter holds a customer's usage once. A switched item leaves its last half hour to the period after the
renewal; an item that is billed by the meter counts it in the period before. Both cannot be had at one
instant, so that items whose half hours overlap are switched together, or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from cli.migration.few_at_once import few_at_once
from cli.migration.found import LegacyItem, LegacyPrice
from cli.migration.periods import cut_of
from cli.wiring import Operator
from usage_reporting.model import Span, SpanState
from usage_reporting.windows import rfc3339


@dataclass(slots=True)
class Neighbours:
    """The spans of customers on Stripe meters, as the functions see them."""

    parts: Operator
    _spans: dict[tuple[str, str], list[Span]] = field(default_factory=dict)
    """By customer and meter."""

    async def read(self, customers: Iterable[str]) -> None:
        """Ask Stripe for all that these customers have. Raises what `StripeApi` raises."""

        async def read(customer: str) -> None:
            async for page in self.parts.billing.subscriptions({"customer": customer}):
                for one in page.customer_meters:
                    if one.meter is not None:
                        self._spans.setdefault((customer, one.meter.id), []).extend(one.spans)

        await few_at_once(set(customers), read)

    def conflict(self, price: LegacyPrice, item: LegacyItem) -> str:
        """Why an item cannot be switched at its renewal, and what to do; empty where it can."""
        if item.span is None:
            return ""
        start, end = item.period
        for one in self._overlapping(price, item):
            if one.end != end:
                return (
                    f"{one.item} of {one.subscription} renews within half an hour of it, at "
                    f"{rfc3339(one.end)}, and shares its Stripe meter, which cannot tell the two half hours "
                    "apart; give one of the two the other's billing date, or switch them by hand"
                )
        (_, cut), setting = cut_of(self.parts, item.span), self.parts.settings.period_bounds
        for one in self._others(price, item):
            if one.state is SpanState.BESIDE:
                continue
            name = (
                f"{one.item} of {one.subscription}, which meter {price.meter} bills to this customer already"
            )
            edges = (edge for edge in (one.start, one.end) if cut < edge <= end)
            if any(setting.renewal(edge) > cut for edge in edges):
                return (
                    f"its half hour up to {rfc3339(end)} would be on no invoice: {name}, renews or begins in "
                    "it; give one of the two another billing date, or switch it by hand and bill that half "
                    "hour by an invoice item"
                )
            if price.formula == "last" and (one.start, one.end) != (start, end):
                return (
                    f"a meter with formula 'last' holds one total, and {name}, has another period; give it "
                    "that item's billing date, or switch it by hand"
                )
        return ""

    def together_with(self, price: LegacyPrice, item: LegacyItem) -> Collection[Span]:
        """The legacy items that have to be switched with one, for their half hour is the same."""
        return self._overlapping(price, item)

    def _overlapping(self, price: LegacyPrice, item: LegacyItem) -> list[Span]:
        if item.span is None:
            return []
        end, (_, cut) = item.period[1], cut_of(self.parts, item.span)
        return [
            one
            for one in self._others(price, item)
            if one.state is SpanState.BESIDE and not one.last and _until(one) < end and cut < one.end
        ]

    def _others(self, price: LegacyPrice, item: LegacyItem) -> list[Span]:
        spans = self._spans.get((item.customer, price.meter), [])
        return [one for one in spans if one.item != item.id]


def _until(span: Span) -> int:
    return span.end if span.usage_until is None else span.usage_until
