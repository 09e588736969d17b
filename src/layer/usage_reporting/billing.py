"""Reads Stripe: who is billed for what, until when, and whether an ended period still takes usage."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.amounts import ZERO
from usage_reporting.catalog import Catalog
from usage_reporting.config import Settings
from usage_reporting.customer_meters import (
    OM_METER_ID,
    Facts,
    as_of,
    customer_meter,
    in_period,
    is_metered,
    merged,
    meter_id_of,
    named_meter,
    pk_of,
    product_of,
    span_of,
    stripe_meter,
    target_of,
    with_account,
    with_subject,
)
from usage_reporting.errors import (
    NotFoundError,
    NotPermittedError,
    RejectedError,
)
from usage_reporting.final_invoices import finalized_at, is_final
from usage_reporting.invoices import (
    draft_span,
    expanded_subscription,
    has_line,
    in_period_of,
    is_of_threshold,
    item_and_price,
    price_of_line,
    subscription_of,
    with_invoice,
)
from usage_reporting.ledger import Ledger
from usage_reporting.model import CustomerMeter, Span, SpanState, StripeMeter, Target
from usage_reporting.price_changes import PriceChanges
from usage_reporting.pricing import TIERS, Pricing
from usage_reporting.read_ahead import read_ahead
from usage_reporting.renewals import INVOICE_FINALIZED, EndedPeriod, invoice_id, mode_of
from usage_reporting.stripe_api import StripeApi
from usage_reporting.successors import beside, successor_of, without_meter
from usage_reporting.unmapped import Unmapped
from usage_reporting.windows import HOUR, OLDEST_SLICE, floor_minute

Json = dict[str, Any]

READ_AT_A_TIME = 5
"""Objects of a page that are read without a look at what else is under way."""

NO_PREVIEW = "invoice_upcoming_none"
"""Stripe's code where a subscription has no invoice to come."""

LONGEST_DRAFT = 73 * HOUR
"""A period without an invoice for so long gets none: Stripe keeps a draft at most 72 hours."""


@dataclass(slots=True)
class Listing:
    """One page of a listing."""

    customer_meters: list[CustomerMeter]
    cursor: str
    """The last object's id; the listing goes on after it."""


@dataclass(frozen=True, slots=True)
class SubscriptionPage:
    """One page of live subscriptions as Stripe shows them, newest first."""

    subscriptions: Sequence[Json]
    asked_at: int
    """UTC seconds."""
    has_more: bool

    @property
    def cursor(self) -> str:
        """The last one's id; the listing goes on after it."""
        return str(self.subscriptions[-1]["id"]) if self.subscriptions else ""

    @property
    def oldest(self) -> int:
        """When the last one was created, UTC seconds; 0: not known."""
        created = self.subscriptions[-1].get("created") if self.subscriptions else None
        return created if isinstance(created, int) else 0


@dataclass(frozen=True, slots=True)
class Finalized:
    """Ids of final invoices, all of one mode of Stripe's."""

    mode: str
    invoices: Sequence[str]
    cursor: str = ""
    """The last event's id; the listing goes on after it."""
    account: str = OWN_ACCOUNT
    """Whose they are, as it stands in the ledger's keys."""


@dataclass(slots=True)
class Billing:
    """Stripe's side of the mirror. Meters, products and prices are asked seldom (see `catalog`).

    Raises StripeUnavailableError when asking again may help.
    """

    api: StripeApi
    settings: Settings
    clock: Callable[[], int]
    ledger: Ledger | None = None
    """Where what seldom changes is kept for other processes."""
    unmapped: dict[str, Unmapped] = field(default_factory=dict)
    """Metered items without an OpenMeter meter, by id."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Subscriptions and drafts that could not be read, and why: their usage is not reported."""
    price_changes: PriceChanges = field(init=False)
    catalog: Catalog = field(init=False)

    def __post_init__(self) -> None:
        """Wire the parts that read events and what seldom changes."""
        self.price_changes = PriceChanges(self.api, self.clock)
        self.catalog = Catalog(self.api, self.ledger, self.clock)

    @property
    def account(self) -> str:
        """The account that is read, as it stands in the ledger's keys."""
        return self.api.account

    def subscriptions(self, filters: Mapping[str, Any], cursor: str = "") -> AsyncGenerator[Listing]:
        """Customer meters of live subscriptions, a list page at a time."""
        query = self._subscriptions_query(filters, cursor)
        return self._listings("/v1/subscriptions", query, self.customer_meters)

    async def subscription_page(self, filters: Mapping[str, Any], cursor: str = "") -> SubscriptionPage:
        """One page of live subscriptions; to read it takes time, in which the next can be asked for."""
        asked_at = self.clock()
        page, has_more = await self.api.page("/v1/subscriptions", self._subscriptions_query(filters, cursor))
        return SubscriptionPage(page, asked_at, has_more)

    async def read_page(self, page: SubscriptionPage) -> Listing:
        """The customer meters of a page of subscriptions, as of when it was asked for."""
        return await self._listing(page.asked_at, page.subscriptions, self.customer_meters)

    def _subscriptions_query(self, filters: Mapping[str, Any], cursor: str) -> Json:
        query = {**filters, **({"starting_after": cursor} if cursor else {})}
        if self.settings.subject_metadata_key:
            query["expand"] = ["data.customer"]
        return query

    def drafts(self, cursor: str = "", filters: Mapping[str, Any] | None = None) -> AsyncGenerator[Listing]:
        """Customer meters of draft invoices whose lines' periods have ended, with their subscriptions."""
        query = {**(filters or {}), "status": "draft", **({"starting_after": cursor} if cursor else {})}
        # A call for each draft's subscription would be the dearest part of a closing tick.
        query["expand"] = ["data.parent.subscription_details.subscription"]
        if self.settings.subject_metadata_key:
            query["expand"].append("data.customer")
        return self._listings("/v1/invoices", query, self._of_draft)

    async def subscription(self, subscription: str) -> Json:
        """One subscription as it is now. Raises NotFoundError."""
        expand = {"expand": ["customer"]} if self.settings.subject_metadata_key else {}
        return await self.api.get(f"/v1/subscriptions/{subscription}", expand)

    async def customer_meters(self, subscription: Json) -> list[CustomerMeter]:
        """The customer meters of one subscription's current periods."""
        items = await self.items(subscription)
        pairs = [(item, span_of(subscription, item)) for item in items]
        return await self._mapped(subscription, pairs, with_successors=True)

    async def ended(self, subscription: Json, periods: Sequence[EndedPeriod]) -> list[CustomerMeter]:
        """The customer meters of periods that an event says are over, up to their true end."""
        pairs: list[tuple[Json, Span | None]] = []
        items = await self.items(subscription)
        known = {item["id"]: item for item in items}
        for period in periods:
            for item in [period.item] if period.item else items:
                old = in_period({**known.get(item["id"], {}), **item}, period.start, period.end)
                span = span_of(subscription, old, SpanState.ENDED)
                if span and period.price_left:
                    span = replace(span, state=span.when_left)
                pairs.append((old, span))
        return await self.closing(subscription, pairs)

    async def last_periods(self, subscription: Json) -> list[CustomerMeter]:
        """The customer meters of a subscription that is over, up to its true end."""
        items = await self.items(subscription)
        pairs = [(item, span_of(subscription, item, SpanState.ENDED)) for item in items]
        return await self.closing(subscription, pairs)

    async def closing(
        self, subscription: Json, pairs: Iterable[tuple[Json, Span | None]]
    ) -> list[CustomerMeter]:
        """The customer meters of items and their ended spans: those are read whole, and nothing more."""
        return [_closing(found) for found in await self._mapped(subscription, pairs)]

    async def drafted(self, invoice: str) -> list[CustomerMeter] | None:
        """The customer meters of a draft's lines whose periods have ended; None if it is no draft."""
        found = await self.api.get(f"/v1/invoices/{invoice}")
        if found.get("status") != "draft":
            return None
        now = self.clock()
        return [one for one in await self._of_draft(found) if all(span.end <= now for span in one.spans)]

    async def invoice(self, invoice: str) -> Json:
        """One invoice as it is now, with all its lines. Raises NotFoundError."""
        found = await self.api.get(f"/v1/invoices/{invoice}")
        return {**found, "lines": {"data": await self._lines(found)}}

    async def invoices(self, filters: Mapping[str, Any]) -> AsyncGenerator[Json]:
        """Invoices with all their lines, newest first."""
        async for page in self.api.pages("/v1/invoices", filters):
            for found in page:
                yield {**found, "lines": {"data": await self._lines(found)}}

    async def preview(self, subscription: str) -> Json | None:
        """The invoice that a subscription's period would have now; None where no further one comes.

        Source: API reference, "Create a preview invoice". Raises NotPermittedError.
        """
        try:
            return await self.api.call("post", "/v1/invoices/create_preview", {"subscription": subscription})
        except RejectedError as error:
            if error.code == NO_PREVIEW:
                return None
            raise

    async def subscriptions_of(self, customer: str) -> AsyncGenerator[Json]:
        """All subscriptions of a customer as Stripe shows them, also those that are over."""
        async for page in self.api.pages("/v1/subscriptions", {"customer": customer, "status": "all"}):
            for found in page:
                yield found

    async def customer(self, customer: str) -> Json:
        """One customer; a deleted one says so. Raises NotFoundError."""
        return await self.api.get(f"/v1/customers/{customer}")

    async def billed_on(self, invoice: Json) -> list[CustomerMeter]:
        """The customer meters of an invoice's lines, as its subscription shows them now."""
        return await self._of_draft(invoice)

    async def finalized(
        self, since: int, cursor: str = "", *, until: int | None = None
    ) -> AsyncIterator[Finalized]:
        """Invoices that became final in [since, until), UTC seconds, a page of events at a time."""
        created = {"gte": since} if until is None else {"gte": since, "lt": until}
        query: Json = {"type": INVOICE_FINALIZED, "created": created}
        if cursor:
            query["starting_after"] = cursor
        async for page in self.api.pages("/v1/events", query):
            if page:
                invoices = [invoice_id(event) for event in page]
                yield Finalized(mode_of(page[0]), invoices, page[-1]["id"], self.account)

    async def final_since(self, since: int, customer: str = "") -> AsyncIterator[Finalized]:
        """Invoices of subscriptions that became final since then (UTC seconds), a page of a list at a time.

        Unlike events, a list goes back for longer than 30 days. It is by creation, so that a draft that was
        kept open for longer than Stripe does it by itself is missed.
        """
        query: Json = {"created": {"gte": since - LONGEST_DRAFT}}
        if customer:
            query["customer"] = customer
        async for page in self.api.pages("/v1/invoices", query):
            final = [one for one in page if is_final(one) and finalized_at(one) >= since]
            own = [one["id"] for one in final if subscription_of(one)]
            if own:
                yield Finalized(mode_of(final[0]), own, page[-1]["id"], self.account)

    async def price(self, price: str) -> Json:
        """A price, asked seldom."""
        return await self.catalog.get(f"/v1/prices/{price}")

    async def pricing(self, price: str) -> Pricing:
        """What a price charges, asked seldom. Raises RefusedError for one that has no amounts."""
        return Pricing.of(await self.catalog.get(f"/v1/prices/{price}", expand=TIERS))

    async def stripe_meter(self, meter: str) -> StripeMeter:
        """How a meter is fed, asked seldom."""
        return stripe_meter(await self.catalog.get(f"/v1/billing/meters/{meter}"))

    async def target_of(self, meter: str) -> Target:
        """How a meter is made to hold usage; none, of a legacy price: by usage records."""
        return target_of(await self.catalog.get(f"/v1/billing/meters/{meter}") if meter else None)

    async def usage_held(self, customer: str, meter: str, start: int, end: int) -> Decimal:
        """What Stripe's summary holds of a customer on a meter; whole minutes, UTC seconds."""
        path = f"/v1/billing/meters/{meter}/event_summaries"
        query = {
            "customer": customer,
            "start_time": floor_minute(start),
            "end_time": floor_minute(end),
        }
        total = ZERO
        async for page in self.api.pages(path, query):
            total += sum((Decimal(summary["aggregated_value"]) for summary in page), ZERO)
        return total

    async def hours_held(self, customer: str, meter: str, start: int, end: int) -> dict[int, Decimal]:
        """What Stripe's summaries hold of a customer on a meter for each UTC hour."""
        path = f"/v1/billing/meters/{meter}/event_summaries"
        query = {
            "customer": customer,
            "start_time": start,
            "end_time": end,
            "value_grouping_window": "hour",
        }
        held: dict[int, Decimal] = {}
        async for page in self.api.pages(path, query):
            for summary in page:
                held[int(summary["start_time"])] = Decimal(summary["aggregated_value"])
        return held

    async def state_of(self, span: Span, now: int) -> Span:
        """An ended span with what Stripe says of its invoice: draft, final, or not yet made."""
        if span.state not in {SpanState.ENDED, SpanState.CANCELED}:
            return span
        invoice = await self._invoice_of(span)
        if invoice is not None:
            found = with_invoice(span, invoice)
        elif span.state is SpanState.CANCELED:
            found = replace(span, state=SpanState.DROPPED)
        elif now - span.end > LONGEST_DRAFT:
            found = replace(span, state=SpanState.FINAL)
        else:
            found = replace(span, state=SpanState.CURRENT)
        is_free = span.when_left is SpanState.FREE and not found.state.takes_usage
        return replace(found, state=SpanState.FREE) if is_free else found

    async def _invoice_of(self, span: Span) -> Json | None:
        """The invoice that bills an ended span: the one with its line, else the renewal's first."""
        query = {"subscription": span.subscription, "created": {"gte": span.end}}
        found = [
            invoice
            async for page in self.api.pages("/v1/invoices", query)
            for invoice in page
            if invoice.get("created", 0) >= span.end and subscription_of(invoice) == span.subscription
        ]
        found.sort(key=lambda invoice: int(invoice["created"]))
        for invoice in found:
            if has_line(await self._lines(invoice), span):
                return invoice
        renewals = (one for one in found if one.get("billing_reason") == "subscription_cycle")
        return next(renewals, None)

    async def _listings(
        self, path: str, query: Json, read: Callable[[Json], Awaitable[list[CustomerMeter]]]
    ) -> AsyncGenerator[Listing]:
        """List pages as of when they were asked for: reading one takes time, in which much may change."""
        async with aclosing(read_ahead(self._asked(path, query))) as pages:
            async for asked_at, page in pages:
                yield await self._listing(asked_at, page, read)

    async def _asked(self, path: str, query: Json) -> AsyncGenerator[tuple[int, list[Json]]]:
        """The pages of a list, each with when it was asked for, UTC seconds."""
        asked_at = self.clock()
        async with aclosing(self.api.pages(path, query)) as pages:
            async for page in pages:
                yield asked_at, page
                asked_at = self.clock()

    async def _listing(
        self, asked_at: int, page: Sequence[Json], read: Callable[[Json], Awaitable[list[CustomerMeter]]]
    ) -> Listing:
        """The customer meters of a list page as of when it was asked for, UTC seconds.

        What cannot be read of it does not stop the others.
        """
        found: list[CustomerMeter] = []
        for number, one in enumerate(page):
            if number % READ_AT_A_TIME == 0:
                await asyncio.sleep(0)  # what was asked for meanwhile goes out, or comes in
            try:
                found.extend(await read(one))
            except RejectedError as error:
                self.unreadable[one["id"]] = error.reason
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                self.unreadable[one["id"]] = f"Stripe's answer lacks or misshapes something: {error!r}"
        return Listing(as_of(asked_at, merged(found)), page[-1]["id"] if page else "")

    async def items(self, subscription: Json) -> list[Json]:
        """All items of a subscription, beyond the page that it shows."""
        listed = subscription.get("items") or {}
        items = list(listed.get("data", []))
        if listed.get("has_more") and items:
            query = {"subscription": subscription["id"], "starting_after": items[-1]["id"]}
            async for page in self.api.pages("/v1/subscription_items", query):
                items.extend(page)
        return items

    async def _mapped(
        self,
        subscription: Json,
        pairs: Iterable[tuple[Json, Span | None]],
        named_by_ledger: frozenset[str] = frozenset(),
        *,
        with_successors: bool = False,
    ) -> list[CustomerMeter]:
        found: list[CustomerMeter] = []
        for item, span in pairs:
            if span is None or not is_metered(item):
                continue
            name = await self._openmeter_meter(item)
            if not name and item["id"] not in named_by_ledger:
                if not subscription.get("ended_at"):
                    pk = pk_of(subscription, item, self.account)
                    self.unmapped[item["id"]] = Unmapped(item["id"], subscription["id"], pk)
                continue
            facts = await self._facts(subscription, item)
            one = customer_meter(subscription, item, facts, openmeter_meter=name, spans=[span])
            if facts.customer_metadata is not None:
                one = with_subject(one, self.settings.subject_metadata_key, facts.customer_metadata)
            if self.settings.subject_with_account:
                one = with_account(one)
            found.append(one)
            if with_successors and span.state is SpanState.CURRENT and (next_ := successor_of(item["price"])):
                found.append(await self._beside(one, next_))
        return merged(found)

    async def _beside(self, legacy: CustomerMeter, successor: str) -> CustomerMeter:
        """What the successor's meter holds beside a legacy price; nothing wrong with it stops a record."""
        try:
            meter = meter_id_of(await self.price(successor))
            if not meter:
                return without_meter(legacy, successor, "which has no meter itself")
            found = await self.catalog.get(f"/v1/billing/meters/{meter}")
        except (RejectedError, NotPermittedError) as error:
            return without_meter(legacy, successor, f"which Stripe does not show: {error.reason}")
        return beside(legacy, found, self.settings.period_bounds)

    async def _openmeter_meter(self, item: Json) -> str:
        name = named_meter(item)
        if not name and (product := product_of(item["price"])):
            metadata = (await self.catalog.get(f"/v1/products/{product}")).get("metadata") or {}
            name = str(metadata.get(OM_METER_ID) or "")
        meter = meter_id_of(item["price"])
        if not name and meter and self.settings.openmeter_map_by_event_name:
            name = str((await self.catalog.get(f"/v1/billing/meters/{meter}"))["event_name"])
        return name

    async def _facts(self, subscription: Json, item: Json) -> Facts:
        meter = meter_id_of(item["price"])
        meters = {meter: await self.catalog.get(f"/v1/billing/meters/{meter}")} if meter else {}
        customer = await self._customer(subscription)
        return Facts(
            meters=meters,
            customer_metadata=customer.get("metadata") or {} if self.settings.subject_metadata_key else None,
            asked_at=self.clock(),
            is_deleted=bool(customer.get("deleted")),
            account=self.account,
        )

    async def _customer(self, subscription: Json) -> Json:
        """The subscription's customer, where its metadata is needed or it may have been deleted."""
        customer: Json | str = subscription["customer"]
        if isinstance(customer, dict):
            return customer
        if self.settings.subject_metadata_key:
            return await self.customer(customer)
        if not subscription.get("ended_at"):
            return {}  # deleting a customer cancels its subscriptions ("Delete a customer")
        try:
            return await self.customer(customer)
        except NotPermittedError:
            return {}

    async def _of_draft(self, invoice: Json) -> list[CustomerMeter]:
        subscription_id = subscription_of(invoice)
        if not subscription_id or is_of_threshold(invoice) or await self._is_too_old(invoice):
            return []
        subscription = expanded_subscription(invoice)
        if subscription is None:
            try:
                subscription = await self.subscription(subscription_id)
            except NotFoundError:
                return []
        items = {item["id"]: item for item in await self.items(subscription)}
        pairs: list[tuple[Json, Span | None]] = []
        for line in await self._lines(invoice):
            item_id, price_id = item_and_price(line)
            if not item_id or not price_id or line["period"]["start"] >= line["period"]["end"]:
                continue  # the first invoice in classic billing mode has lines of no time at all
            item = items.get(item_id, {"id": item_id})
            if item.get("price", {}).get("id") != price_id:
                item = {**item, "price": await self.catalog.get(f"/v1/prices/{price_id}")}
            span = draft_span(invoice, line, subscription, item)
            # An item's creation parts its first period, and no other.
            pairs.append((in_period_of(line, item) if span.first else item, span))
        gone = frozenset(item["id"] for item, _ in pairs if item["id"] not in items)
        found = await self._mapped(subscription, pairs, named_by_ledger=gone)
        return [_closing(one) for one in found]

    async def _is_too_old(self, invoice: Json) -> bool:
        """Whether Stripe takes no usage of the invoice's lines any more: a paused collection keeps drafts."""
        if invoice.get("created", 0) > self.clock() - OLDEST_SLICE:
            return False
        return all(line["period"]["end"] < self.clock() - OLDEST_SLICE for line in await self._lines(invoice))

    async def bounds_billed(
        self, customer: str, meter: str, since: int, swapped: Collection[tuple[str, int]] = ()
    ) -> frozenset[int]:
        """Where periods of a meter's prices begin and end, by a customer's invoices; UTC seconds.

        `swapped`: subscriptions and when only a price of theirs was swapped, which is not asked for.
        """
        query = {"customer": customer, "created": {"gte": since}}
        edges = {
            int(line["period"][edge])
            async for page in self.api.pages("/v1/invoices", query)
            for invoice in page
            for line in await self._lines(invoice)
            if await self._is_on(line, meter)
            for edge in ("start", "end")
            if (subscription_of(invoice), int(line["period"][edge])) not in swapped
        }
        return frozenset(edge for edge in edges if edge > since)

    async def _is_on(self, line: Json, meter: str) -> bool:
        price = price_of_line(line)
        return bool(price) and meter_id_of(await self.price(price)) == meter

    async def _lines(self, invoice: Json) -> list[Json]:
        listed = invoice.get("lines") or {}
        lines = list(listed.get("data", []))
        if listed.get("has_more") and lines:
            query = {"starting_after": lines[-1]["id"]}
            async for page in self.api.pages(f"/v1/invoices/{invoice['id']}/lines", query):
                lines.extend(page)
        return lines


def _closing(found: CustomerMeter) -> CustomerMeter:
    """Read the ended periods whole, and nothing after them: what goes on is not shown, and may be over."""
    return replace(found, closing=True, partial=True, read_until=max(span.end for span in found.spans))
