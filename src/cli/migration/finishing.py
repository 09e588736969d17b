"""After the switch: are the first invoices of the meters exact, and is nobody left on the old price?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.migration.few_at_once import few_at_once
from cli.migration.found import OM_SWITCH_AT, Found, LegacyPrice, switched_since
from cli.migration.legacy_api import LegacyApi
from cli.migration.step import Step
from cli.migration.switching import switched_of
from cli.wiring import Operator
from usage_reporting.customer_meters import id_of
from usage_reporting.errors import UsageReportingError
from usage_reporting.final_invoices import is_final
from usage_reporting.invoices import price_of_line
from usage_reporting.judging import Judge
from usage_reporting.renewals import mode_of
from usage_reporting.stripe_api import redacted
from usage_reporting.verdict import JudgedLine

Json = dict[str, Any]

MOVE_LOOKUP_KEY, MOVE_DEFAULT, ARCHIVE = "move lookup key", "set default price", "archive price"
UNMARK = "take the mark away"


@dataclass(frozen=True, slots=True)
class FirstInvoice:
    """The first invoice of a switched subscription that its meters bill."""

    subscription: str
    customer: str
    since: int
    """From when on its meters bill its usage, UTC seconds."""
    invoice: str = ""
    """Empty: there is none yet."""
    is_final: bool = False
    lines: Sequence[JudgedLine] = ()
    """Its lines of the new prices, judged afresh."""
    problem: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether it is final, and bills what was measured."""
        return self.is_final and not self.problem and all(line.finding.is_fine for line in self.lines)

    @property
    def is_wrong(self) -> bool:
        """Whether it is final, and does not, or could not be judged."""
        return bool(self.problem) or (self.is_final and not self.is_exact)

    @property
    def verdict(self) -> str:
        """What there is to say of it."""
        if self.problem:
            return redacted(self.problem)
        if not self.invoice:
            return "no invoice yet"
        if not self.is_final:
            return "its invoice is a draft"
        return "; ".join(dict.fromkeys(redacted(line.verdict) for line in self.lines)) or "nothing to bill"


@dataclass(slots=True)
class Finish:
    """Judges first invoices, and archives legacy prices that nobody holds any more."""

    parts: Operator
    step: Step
    invoices: list[FirstInvoice] = field(default_factory=list)

    async def finish(self, found: Found, done: Callable[[], None] = lambda: None) -> None:
        """Look at all that were switched, `done` is called after each; then archive what can be."""

        async def first(subscription: Json) -> FirstInvoice:
            return await self._first(subscription, found)

        self.invoices = await few_at_once(switched_of(found), first, done)
        for price in found.prices:
            if price.successor is None or price.refusal:
                continue
            why = found.unread or self._waits_for(price)
            if why:
                self.step.left[price.id] = why
            else:
                await self.step.guarded(price.id, self._archive(price))

    async def _first(self, subscription: Json, found: Found) -> FirstInvoice:
        new = {
            one.successor["id"]
            for one in found.prices
            if one.successor is not None and subscription["id"] in {each["id"] for each in one.switched}
        }
        at = max(switched_since(subscription, price) for price in new)
        first = FirstInvoice(subscription["id"], id_of(subscription["customer"]), at)
        try:
            return await self._judged(first, new, mode_of(subscription))
        except UsageReportingError as error:
            return FirstInvoice(first.subscription, first.customer, at, problem=error.reason)

    async def _judged(self, first: FirstInvoice, prices: set[str], mode: str) -> FirstInvoice:
        query = {"subscription": first.subscription, "created": {"gte": first.since}}
        with_lines = [
            one
            async for one in self.parts.billing.invoices(query)
            if any(price_of_line(line) in prices and _has_time(line) for line in one["lines"]["data"])
        ]
        if not with_lines:
            return first
        invoice = min(with_lines, key=lambda one: int(one["created"]))
        made = FirstInvoice(first.subscription, first.customer, first.since, invoice["id"])
        if not is_final(invoice):
            return made
        [judged] = await self._judge().judge([invoice["id"]], mode, afresh=True)
        lines = [
            line for line in (judged.judgement.lines if judged.judgement else ()) if line.price in prices
        ]
        return FirstInvoice(
            made.subscription,
            made.customer,
            made.since,
            made.invoice,
            is_final=True,
            lines=lines,
            problem=judged.error.reason if judged.error else "",
        )

    def _judge(self) -> Judge:
        parts = self.parts
        return Judge(
            parts.settings, parts.billing, parts.openmeter, parts.ledger, parts.reporter, parts.clock
        )

    def _waits_for(self, price: LegacyPrice) -> str:
        """What has to happen before a legacy price can be archived; empty: nothing."""
        if price.items:
            holders = sorted({item.subscription["id"] for item in price.items})
            more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
            return f"still held by {', '.join(holders[:3])}{more}"
        own = {one["id"] for one in price.switched}
        waiting = [one for one in self.invoices if one.subscription in own and not one.is_exact]
        if waiting:
            return (
                f"the first invoice of {waiting[0].subscription} is not final and exact: {waiting[0].verdict}"
            )
        return ""

    async def _archive(self, price: LegacyPrice) -> None:
        api, old, new = LegacyApi(self.parts.billing.api), price.document, price.successor
        assert new is not None
        if old.get("lookup_key"):
            params = {"lookup_key": old["lookup_key"], "transfer_lookup_key": True}
            path = f"/v1/prices/{new['id']}"
            await self.step.do(MOVE_LOOKUP_KEY, price.id, lambda: api.change(path, params), new["id"])
        product = f"/v1/products/{id_of(old['product'])}"
        if id_of((await api.get(product)).get("default_price")) == price.id:
            # Stripe does not archive the default price of a product.
            default = {"default_price": new["id"]}
            await self.step.do(MOVE_DEFAULT, price.id, lambda: api.change(product, default), new["id"])
        for one in price.switched:
            if (one.get("metadata") or {}).get(OM_SWITCH_AT):
                path = f"/v1/subscriptions/{one['id']}"
                await self.step.do(UNMARK, one["id"], _unmarking(api, path), one["id"])
        if old["active"]:
            path = f"/v1/prices/{price.id}"
            archived = {"active": False}
            await self.step.do(ARCHIVE, price.id, lambda: api.change(path, archived), price.id)


def _unmarking(api: LegacyApi, path: str) -> Callable[[], Awaitable[Json]]:
    return lambda: api.change(path, {"metadata": {OM_SWITCH_AT: ""}})


def _has_time(line: Json) -> bool:
    return bool(line["period"]["start"] < line["period"]["end"])
