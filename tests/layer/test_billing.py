"""What is asked of Stripe about subscriptions and drafts, and whom it makes billed for what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, SETTINGS, Clock, D, MemoryTable
from tests.layer.test_customer_meters import STRIPE_METER, item, price, subscription
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.billing import Billing, Listing
from usage_reporting.config import Settings
from usage_reporting.errors import NotFoundError, NotPermittedError
from usage_reporting.ledger import Ledger
from usage_reporting.model import CustomerMeter, Span, SpanState, Target
from usage_reporting.renewals import EndedPeriod
from usage_reporting.stripe_api import StripeApi
from usage_reporting.windows import DAY, HOUR, MINUTE

Json = dict[str, Any]

METER_PATH = "/v1/billing/meters/mtr_1"
BY_METADATA = replace(SETTINGS, subject_metadata_key="om")


@dataclass
class FakeApi:
    """Stripe's objects by path, and its lists in pages; what was asked is noted."""

    objects: dict[str, Json] = field(default_factory=lambda: {METER_PATH: STRIPE_METER})
    lists: dict[str, list[list[Json]]] = field(default_factory=dict)
    failing: dict[str, Exception] = field(default_factory=dict)
    asked: list[tuple[str, Json]] = field(default_factory=list)
    account: str = OWN_ACCOUNT

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        self.asked.append((path, dict(params or {})))
        if path in self.failing:
            raise self.failing[path]
        if path not in self.objects:
            raise NotFoundError(f"Stripe says: no {path}")
        return self.objects[path]

    async def call(self, _method: str, path: str, params: Mapping[str, Any]) -> Json:
        return await self.get(path, params)

    async def page(self, path: str, params: Mapping[str, Any]) -> tuple[list[Json], bool]:
        self.asked.append((path, dict(params)))
        first, *others = self.lists.get(path, [[]])
        return first, bool(others)

    async def pages(self, path: str, params: Mapping[str, Any] | None = None) -> AsyncIterator[list[Json]]:
        self.asked.append((path, dict(params or {})))
        for page in self.lists.get(path, [[]]):
            if path in self.failing:
                raise self.failing[path]
            yield page


@dataclass
class Stripe:
    """Stripe's side, at noon."""

    settings: Settings = SETTINGS
    api: FakeApi = field(default_factory=FakeApi)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.billing = Billing(cast("StripeApi", self.api), self.settings, self.clock)

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    def all[T](self, listing: AsyncIterator[T]) -> list[T]:
        async def collect() -> list[T]:
            return [one async for one in listing]

        return asyncio.run(collect())

    def asked(self, path: str) -> list[Json]:
        return [query for asked, query in self.api.asked if asked == path]


def subscribed(*items: Json, **other: Any) -> Json:
    listed = [mapped(), *items] if not other.pop("only", False) else list(items)
    return subscription(items={"data": listed}, **other)


def mapped(**other: Any) -> Json:
    return item(**{"metadata": {"om_meter_id": "m1"}, **other})


def spans(found: Sequence[CustomerMeter]) -> list[tuple[int, int, SpanState]]:
    return [(one.start, one.end, one.state) for meter in found for one in meter.spans]


# Subscriptions


def test_a_subscription_is_billed_for_its_metered_items() -> None:
    stripe = Stripe()
    flat = item(id="si_2", price=price(recurring={"usage_type": "licensed", "meter": None}))

    [found] = stripe.run(stripe.billing.customer_meters(subscribed(flat)))

    assert (found.customer, found.openmeter_meter, found.target) == ("cus_1", "m1", Target.MIRROR)
    assert (found.seen_at, found.closing, found.partial, found.is_deleted) == (NOON, False, False, False)
    assert spans([found]) == [(MONTH_START, MONTH_END, SpanState.CURRENT)]
    assert stripe.billing.unmapped == {}
    assert [path for path, _ in stripe.api.asked] == [METER_PATH]


def test_a_meter_is_named_by_the_item_the_price_the_product_or_the_event() -> None:
    def named(one: Json, product: Json | None = None, **settings: Any) -> str:
        stripe = Stripe(replace(SETTINGS, **settings))
        stripe.api.objects["/v1/products/prod_1"] = product or {"metadata": None}
        found = stripe.run(stripe.billing.customer_meters(subscribed(one, only=True)))
        if not found:
            [left_out] = stripe.billing.unmapped.values()
            assert (left_out.item, left_out.subscription) == ("si_1", "sub_1")
        return found[0].openmeter_meter if found else ""

    of_product = {"metadata": {"om_meter_id": "m3"}}
    assert named(mapped(price=price(metadata={"om_meter_id": "m2"})), of_product) == "m1"
    assert named(item(price=price(metadata={"om_meter_id": "m2"})), of_product) == "m2"
    assert named(item(), of_product, openmeter_map_by_event_name=True) == "m3"
    assert named(item(), openmeter_map_by_event_name=True) == "tokens"
    assert named(item()) == ""
    without_product = item(price=price(product=None))
    assert named(without_product) == ""
    legacy = item(price=price(recurring={"meter": None}))
    assert named(legacy, openmeter_map_by_event_name=True) == ""


def test_a_legacy_price_needs_no_meter() -> None:
    stripe = Stripe()
    one = mapped(price=price(recurring={"meter": None}))

    [found] = stripe.run(stripe.billing.customer_meters(subscribed(one, only=True)))

    assert (found.target, found.meter, stripe.api.asked) == (Target.USAGE_RECORD, None, [])


def test_objects_are_asked_once_in_ten_minutes() -> None:
    stripe = Stripe()
    for seconds in (0, 10 * MINUTE, 1):
        stripe.clock.now += seconds
        stripe.run(stripe.billing.customer_meters(subscribed()))

    assert len(stripe.asked(METER_PATH)) == 2
    stripe.api.objects["/v1/prices/price_1"] = {"id": "price_1"}
    assert stripe.run(stripe.billing.price("price_1")) == {"id": "price_1"}


def test_items_beyond_the_first_page_are_asked_for() -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/subscription_items"] = [[mapped(id="si_3")], [mapped(id="si_4")]]
    long = subscription(items={"data": [mapped(), mapped(id="si_2")], "has_more": True})

    found = stripe.run(stripe.billing.items(long))

    assert [one["id"] for one in found] == ["si_1", "si_2", "si_3", "si_4"]
    assert stripe.asked("/v1/subscription_items") == [{"subscription": "sub_1", "starting_after": "si_2"}]
    assert stripe.run(stripe.billing.items(subscription(items={"data": [], "has_more": True}))) == []
    assert stripe.run(stripe.billing.items(subscription())) == []
    assert len(stripe.asked("/v1/subscription_items")) == 1


def test_subscriptions_are_listed_page_by_page() -> None:
    stripe = Stripe()
    other = subscribed(id="sub_2", customer="cus_2")
    stripe.api.lists["/v1/subscriptions"] = [[subscribed(), other], []]

    first, last = stripe.all(stripe.billing.subscriptions({"status": "active"}, "sub_0"))

    assert [one.customer for one in first.customer_meters] == ["cus_1", "cus_2"]
    assert (first.cursor, last) == ("sub_2", Listing([], ""))
    assert stripe.asked("/v1/subscriptions") == [{"status": "active", "starting_after": "sub_0"}]
    stripe.all(stripe.billing.subscriptions({}))
    assert stripe.asked("/v1/subscriptions")[1] == {}


def test_a_page_is_seen_when_it_was_asked_for() -> None:
    """Reading it takes time, in which a newer look may come: that knows better."""
    stripe = Stripe()
    stripe.api.lists["/v1/subscriptions"] = [[subscribed()], [subscribed(id="sub_2", customer="cus_2")]]
    asked_at = stripe.clock()
    answer = stripe.billing.customer_meters

    async def slowly(listed: Json) -> list[CustomerMeter]:
        stripe.clock.now += 40
        return await answer(listed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Billing, "customer_meters", lambda _self, listed: slowly(listed))
        pages = stripe.all(stripe.billing.subscriptions({}))

    # The second page is asked for before the first one is read.
    assert [one.seen_at for page in pages for one in page.customer_meters] == [asked_at, asked_at]


def test_a_single_page_says_where_it_ends_and_whether_more_follow() -> None:
    stripe = Stripe(BY_METADATA)
    customer = {"id": "cus_1", "metadata": {"om": "s1"}}
    shown = [subscribed(customer=customer), subscribed(customer=customer, id="sub_2", created=7)]
    stripe.api.lists["/v1/subscriptions"] = [shown, []]
    created = {"created": {"gte": 5}}

    first = stripe.run(stripe.billing.subscription_page(created, "sub_0"))
    stripe.api.lists["/v1/subscriptions"] = [[{**shown[0], "created": None}]]
    last = stripe.run(stripe.billing.subscription_page({}))

    assert (first.cursor, first.oldest, first.has_more) == ("sub_2", 7, True)
    [found] = stripe.run(stripe.billing.read_page(first)).customer_meters
    assert (found.subject, found.seen_at) == ("s1", NOON)
    assert (last.cursor, last.oldest, last.has_more) == ("sub_1", 0, False)
    assert stripe.asked("/v1/subscriptions") == [
        {**created, "starting_after": "sub_0", "expand": ["data.customer"]},
        {"expand": ["data.customer"]},
    ]


def test_a_single_page_is_seen_when_it_was_asked_for() -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/subscriptions"] = [[subscribed()]]
    answer = stripe.api.page

    async def slowly(path: str, params: Mapping[str, Any]) -> tuple[list[Json], bool]:
        stripe.clock.now += 40
        return await answer(path, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stripe.api, "page", slowly)
        page = stripe.run(stripe.billing.subscription_page({}))

    assert [one.seen_at for one in stripe.run(stripe.billing.read_page(page)).customer_meters] == [NOON]


def test_two_subscriptions_of_a_customer_on_one_page_are_one_customer_meter() -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/subscriptions"] = [[subscribed(), subscribed(id="sub_2")]]

    [listing] = stripe.all(stripe.billing.subscriptions({}))

    [found] = listing.customer_meters
    assert [one.subscription for one in found.spans] == ["sub_1", "sub_2"]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (
            {"items": {"data": [mapped(price={"recurring": {"usage_type": "metered"}})]}},
            "Stripe's answer lacks or misshapes something: KeyError",
        ),
        ({"items": {"data": [mapped(price=price(recurring={"meter": "gone"}))]}}, "Stripe says: no /v1/bil"),
    ],
)
def test_what_cannot_be_read_stops_no_other(broken: Json, why: str) -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/subscriptions"] = [[subscription(id="sub_9") | broken, subscribed()]]

    [listing] = stripe.all(stripe.billing.subscriptions({}))

    assert [one.customer for one in listing.customer_meters] == ["cus_1"]
    assert list(stripe.billing.unreadable) == ["sub_9"]
    assert stripe.billing.unreadable["sub_9"].startswith(why)


# Customers


def test_the_subject_stands_in_the_customers_metadata() -> None:
    stripe = Stripe(BY_METADATA)
    stripe.api.objects["/v1/customers/cus_1"] = {"id": "cus_1", "metadata": {"om": "acme"}}

    [found] = stripe.run(stripe.billing.customer_meters(subscribed()))
    [expanded] = stripe.run(
        stripe.billing.customer_meters(subscribed(customer={"id": "cus_2", "metadata": {"om": "beta"}}))
    )
    [without] = stripe.run(stripe.billing.customer_meters(subscribed(customer={"id": "cus_2"})))

    assert (found.subject, expanded.subject) == ("acme", "beta")
    assert "has no metadata 'om'" in str(without.refusal)
    assert len(stripe.asked("/v1/customers/cus_1")) == 1
    stripe.all(stripe.billing.subscriptions({}))
    assert stripe.asked("/v1/subscriptions") == [{"expand": ["data.customer"]}]
    stripe.api.objects["/v1/subscriptions/sub_1"] = subscribed()
    assert stripe.run(stripe.billing.subscription("sub_1")) == subscribed()
    assert stripe.asked("/v1/subscriptions/sub_1") == [{"expand": ["customer"]}]


def test_a_customer_is_asked_for_only_when_it_may_have_been_deleted() -> None:
    stripe = Stripe()
    ended = subscribed(ended_at=NOON)
    stripe.run(stripe.billing.last_periods(subscribed()))
    assert stripe.asked("/v1/customers/cus_1") == []

    stripe.api.failing["/v1/customers/cus_1"] = NotPermittedError("may not read customers")
    assert [one.is_deleted for one in stripe.run(stripe.billing.last_periods(ended))] == [False]
    del stripe.api.failing["/v1/customers/cus_1"]
    stripe.api.objects["/v1/customers/cus_1"] = {"id": "cus_1", "deleted": True}
    assert [one.is_deleted for one in stripe.run(stripe.billing.last_periods(ended))] == [True]


# Periods that are over


def test_the_last_periods_end_where_the_subscription_did() -> None:
    stripe = Stripe()
    stripe.api.objects["/v1/customers/cus_1"] = {"id": "cus_1"}

    [found] = stripe.run(stripe.billing.last_periods(subscribed(ended_at=NOON)))

    assert spans([found]) == [(MONTH_START, NOON, SpanState.CANCELED)]
    assert (found.closing, found.partial, found.read_until) == (True, True, NOON)


def test_an_ended_period_is_that_of_the_old_item_with_what_is_known_of_it_now() -> None:
    stripe = Stripe()
    old = {"id": "si_1", "price": price(id="price_0", metadata={"om_meter_id": "m0"}), "metadata": {}}
    periods = [EndedPeriod(MONTH_START - 30 * DAY, MONTH_START, old)]

    [found] = stripe.run(stripe.billing.ended(subscribed(mapped(id="si_2")), periods))

    assert (found.openmeter_meter, [one.price for one in found.spans]) == ("m0", ["price_0"])
    assert spans([found]) == [(MONTH_START - 30 * DAY, MONTH_START, SpanState.ENDED)]
    assert (found.closing, found.partial, found.read_until) == (True, True, MONTH_START)


@pytest.mark.parametrize(("mode", "state"), [("flexible", SpanState.BILLED), ("classic", SpanState.DROPPED)])
def test_a_period_whose_price_left_takes_nothing_more(mode: str, state: SpanState) -> None:
    """Flexible billing mode bills what it had received, on an invoice yet to come; classic never does."""
    stripe = Stripe()
    old = {"id": "si_1", "price": price(id="price_0", metadata={"om_meter_id": "m0"}), "metadata": {}}
    periods = [EndedPeriod(MONTH_START - 30 * DAY, MONTH_START, old, price_left=True)]

    [found] = stripe.run(stripe.billing.ended(subscribed(billing_mode={"type": mode}), periods))

    assert spans([found]) == [(MONTH_START - 30 * DAY, MONTH_START, state)]


def test_without_an_old_item_the_period_of_every_item_ended() -> None:
    stripe = Stripe()
    periods = [EndedPeriod(MONTH_START - 30 * DAY, MONTH_START)]

    [found] = stripe.run(stripe.billing.ended(subscribed(mapped(id="si_2")), periods))

    assert [one.item for one in found.spans] == ["si_1", "si_2"]


# Drafts


WITH_SUBSCRIPTION = "data.parent.subscription_details.subscription"


def line(**other: Any) -> Json:
    values = {"item": "si_1", "price": "price_1", "start": MONTH_START, "end": NOON, **other}
    return {
        "id": "il_1",
        "period": {"start": values["start"], "end": values["end"]},
        "parent": {"subscription_item_details": {"subscription_item": values["item"]}},
        "pricing": {"price_details": {"price": values["price"]}},
    }


def draft(*lines: Json, **other: Any) -> Json:
    return {
        "id": "in_1",
        "status": "draft",
        "created": NOON,
        "automatically_finalizes_at": NOON + HOUR,
        "parent": {"subscription_details": {"subscription": "sub_1"}},
        "lines": {"data": list(lines)},
        **other,
    }


def drafted(stripe: Stripe, invoice: Json) -> list[CustomerMeter] | None:
    stripe.api.objects.setdefault("/v1/subscriptions/sub_1", subscribed())
    stripe.api.objects["/v1/invoices/in_1"] = invoice
    return stripe.run(stripe.billing.drafted("in_1"))


def test_a_draft_bills_its_lines() -> None:
    found = drafted(Stripe(), draft(line()))

    assert found is not None
    [one] = found
    assert one.spans == (
        Span(
            MONTH_START,
            NOON,
            "sub_1",
            "si_1",
            "price_1",
            state=SpanState.DRAFT,
            deadline=NOON + HOUR,
            first=True,
            invoice="in_1",
        ),
    )
    assert (one.closing, one.partial, one.read_until, one.openmeter_meter) == (True, True, NOON, "m1")


def test_what_is_no_draft_bills_nothing_any_more() -> None:
    assert drafted(Stripe(), draft(line(), status="open")) is None


@pytest.mark.parametrize(
    "other",
    [
        {"end": NOON + 1},
        {"start": NOON},
        {"start": NOON + 1},
        {"item": None},
        {"price": None},
    ],
)
def test_lines_that_are_not_over_or_of_no_usage_are_left_out(other: Json) -> None:
    assert drafted(Stripe(), draft(line(**other))) == []


def test_a_draft_of_no_subscription_or_of_a_lost_one_is_not_ours() -> None:
    assert drafted(Stripe(), draft(line(), parent=None)) == []
    stripe = Stripe()
    stripe.api.failing["/v1/subscriptions/sub_1"] = NotFoundError("Stripe says: no such subscription")
    assert drafted(stripe, draft(line())) == []


def test_a_draft_shows_where_an_item_came_in_and_nothing_of_one_that_came_with_a_renewal() -> None:
    start = MONTH_START - DAY

    def bounds(late: int) -> frozenset[int]:
        stripe = Stripe()
        stripe.api.objects["/v1/subscriptions/sub_1"] = subscribed(
            mapped(created=start + late), start_date=start - DAY, created=start - DAY, only=True
        )
        [found] = drafted(stripe, draft(line(start=start, end=MONTH_START))) or []
        return found.bounds

    assert bounds(late=60) == {start - DAY, MONTH_START, MONTH_END}
    assert bounds(late=61) == {start - DAY, start, start + 61, MONTH_START}


def test_a_line_of_an_older_price_or_a_removed_item_is_mapped_by_that_price() -> None:
    stripe = Stripe()
    stripe.api.objects["/v1/prices/price_0"] = price(id="price_0")
    stripe.api.objects["/v1/products/prod_1"] = {}
    swapped, removed = line(price="price_0"), line(item="si_0", price="price_0")

    found = drafted(stripe, draft(swapped, line(), removed))

    assert found is not None
    [one] = found
    assert one.openmeter_meter == "m1"
    assert [(span.item, span.price) for span in one.spans] == [
        ("si_1", "price_0"),
        ("si_1", "price_1"),
        ("si_0", "price_0"),
    ]
    assert len(stripe.asked("/v1/prices/price_0")) == 1
    assert stripe.billing.unmapped == {}, "the ledger may know what it was"


def test_a_removed_item_alone_is_left_to_the_ledger() -> None:
    stripe = Stripe()
    stripe.api.objects["/v1/prices/price_0"] = price(id="price_0")
    stripe.api.objects["/v1/products/prod_1"] = {}

    found = drafted(stripe, draft(line(item="si_0", price="price_0")))

    assert found is not None
    assert [one.openmeter_meter for one in found] == [""]


@pytest.mark.parametrize(
    ("created", "end", "count"),
    [
        (NOON - 34 * DAY, NOON - 34 * DAY - 1, 0),
        (NOON - 34 * DAY, NOON - 34 * DAY, 1),
        (NOON - 34 * DAY + 1, NOON - 34 * DAY - 1, 1),
    ],
)
def test_a_draft_older_than_stripe_takes_usage_is_left_out(created: int, end: int, count: int) -> None:
    stripe = Stripe()
    invoice = draft(line(start=end - DAY, end=end), created=created)
    stripe.api.lists["/v1/invoices"] = [[invoice]]
    stripe.api.objects["/v1/subscriptions/sub_1"] = subscribed()

    [listing] = stripe.all(stripe.billing.drafts("in_0", {"customer": "cus_1"}))

    assert len(listing.customer_meters) == count
    assert listing.cursor == "in_1"
    [asked] = stripe.asked("/v1/invoices")
    assert asked == {
        "customer": "cus_1",
        "status": "draft",
        "starting_after": "in_0",
        "expand": [WITH_SUBSCRIPTION],
    }


def test_all_drafts_are_listed() -> None:
    stripe = Stripe()
    assert stripe.all(stripe.billing.drafts()) == [Listing([], "")]
    assert stripe.asked("/v1/invoices") == [{"status": "draft", "expand": [WITH_SUBSCRIPTION]}]


def test_a_page_of_drafts_brings_their_subscriptions_with_it() -> None:
    stripe = Stripe(BY_METADATA)
    customer = {"id": "cus_1", "metadata": {"om": "acme"}}
    parent = {"subscription_details": {"subscription": subscribed()}}
    stripe.api.lists["/v1/invoices"] = [[draft(line(), parent=parent, customer=customer)]]

    [listing] = stripe.all(stripe.billing.drafts())

    [found] = listing.customer_meters
    assert (found.subject, [span.subscription for span in found.spans]) == ("acme", ["sub_1"])
    assert stripe.asked("/v1/invoices") == [
        {"status": "draft", "expand": [WITH_SUBSCRIPTION, "data.customer"]}
    ]
    assert stripe.asked("/v1/subscriptions/sub_1") == []
    assert stripe.asked("/v1/customers/cus_1") == []


def test_lines_beyond_the_first_page_are_asked_for() -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/invoices/in_1/lines"] = [[line(end=NOON - 1)], [line(end=NOON - 2)]]
    stripe.api.objects["/v1/invoices/in_1"] = draft(lines={"data": [line()], "has_more": True})

    found = stripe.run(stripe.billing.invoice("in_1"))

    assert [one["period"]["end"] for one in found["lines"]["data"]] == [NOON, NOON - 1, NOON - 2]
    assert (found["id"], stripe.asked("/v1/invoices/in_1/lines")) == ("in_1", [{"starting_after": "il_1"}])
    stripe.api.objects["/v1/subscriptions/sub_1"] = subscribed()
    assert len(stripe.run(stripe.billing.billed_on(found))[0].spans) == 3


def test_a_draft_tells_a_trial_and_its_own_currency() -> None:
    stripe = Stripe()
    of_usd = mapped(price=price(currency="usd"))
    stripe.api.objects["/v1/subscriptions/sub_1"] = subscribed(
        of_usd, only=True, trial_start=MONTH_START, trial_end=NOON
    )

    found = drafted(stripe, draft(line(), currency="eur"))

    assert found is not None
    [[one]] = [meter.spans for meter in found]
    assert (one.is_trial, one.currency) == (True, "eur")


TIERED = {
    "id": "price_1",
    "object": "price",
    "currency": "usd",
    "billing_scheme": "tiered",
    "tiers_mode": "volume",
    "unit_amount_decimal": None,
    "tiers": [{"up_to": None, "unit_amount_decimal": "2.5", "flat_amount_decimal": None}],
}


def test_a_price_is_asked_for_with_its_tiers_once() -> None:
    stripe = Stripe()
    stripe.api.objects["/v1/prices/price_1"] = TIERED

    first = stripe.run(stripe.billing.pricing("price_1"))
    assert stripe.run(stripe.billing.pricing("price_1")) == first

    assert first.amount(D(4)) == 10
    assert stripe.asked("/v1/prices/price_1") == [{"expand": ["tiers"]}]


def test_what_the_ledger_keeps_of_a_price_without_its_tiers_is_not_taken_for_it() -> None:
    ledger = Ledger(MemoryTable())
    before, after = Stripe(), Stripe()
    before.billing.catalog.ledger = after.billing.catalog.ledger = ledger
    without = {key: value for key, value in TIERED.items() if key != "tiers"}
    before.api.objects["/v1/prices/price_1"] = without
    before.run(before.billing.price("price_1"))

    after.api.objects["/v1/prices/price_1"] = TIERED
    assert after.run(after.billing.pricing("price_1")).amount(D(4)) == 10
    assert after.run(after.billing.price("price_1")) == without
    assert after.asked("/v1/prices/price_1") == [{"expand": ["tiers"]}]
