"""A price that leaves its meter, a subscription or a customer that goes: what no invoice takes is counted."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.heads import Options
from usage_reporting.model import Report
from usage_reporting.renewals import DELETED, UPDATED

START = NOON - 22 * MINUTE - 18
TICK = START + 5 * HOUR
"""When Stripe was told last: two units were used by then, and four a minute later."""
GONE = TICK + 12 * MINUTE + 7
"""An odd second, in the hour of the tick."""


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """Every report that the functions come to."""
    seen: list[Report] = []

    def record(made: Sequence[Report], _now: int) -> None:
        seen.extend(made)

    monkeypatch.setattr("usage_reporting.telemetry.record", record)
    return seen


def unbillable(reports: list[Report]) -> Decimal:
    return sum((report.unbillable for report in reports), Decimal(0))


def seat(world: World) -> str:
    product = world.client.v1.products.create({"name": "seat"}).id
    recurring = {"interval": "month"}
    params = {"currency": "usd", "unit_amount": 900, "product": product, "recurring": recurring}
    return str(world.client.v1.prices.create(params).id)


def metered(world: World, mode: str = "flexible", **params: Any) -> tuple[str, str, str]:
    """A seat and a metered item, with usage around a tick; the ids of subscription, item and customer."""
    world.clock.set(START)
    price, _ = world.metered_price()
    customer = world.customer(metadata={"external_key": "ada"})
    rows = [{"price": price, "metadata": {"om_meter_id": "m1"}}, {"price": seat(world)}]
    subscription = world.client.v1.subscriptions.create(
        {"customer": customer, "items": rows, "billing_mode": {"type": mode}, **params}
    )
    item = next(row.id for row in subscription["items"].data if row.price.id == price)
    subject = "ada" if world.settings else customer
    world.use(subject, START + HOUR, 2)
    world.travel(TICK)
    world.tick()
    world.use(subject, TICK + MINUTE, 4)
    world.travel(GONE)
    return subscription.id, item, customer


def remove(world: World, subscription: str, item: str) -> None:
    world.client.v1.subscriptions.update(subscription, {"items": [{"id": item, "deleted": True}]})
    world.stripe.run_due()


def billed(world: World, subscription: str) -> Decimal:
    """What all invoices of a subscription bill of usage in the end."""
    world.travel(START + 35 * DAY)
    invoices = world.client.v1.invoices.list({"subscription": subscription, "limit": 100}).data
    lines = [line for invoice in invoices for line in invoice.lines.data]
    metered = [line for line in lines if line.description.endswith("product of tokens")]
    return sum((Decimal(line.quantity_decimal) for line in metered), Decimal(0))


@pytest.mark.parametrize(("mode", "on_invoice", "counted"), [("flexible", 2, 4), ("classic", 0, 6)])
@pytest.mark.parametrize("is_told", [True, False], ids=["webhook", "webhook lost"])
def test_the_only_item_on_a_meter_is_removed(
    world: World, reports: list[Report], mode: str, on_invoice: int, counted: int, *, is_told: bool
) -> None:
    subscription, item, customer = metered(world, mode)
    world.listen(enabled_events=[UPDATED])
    remove(world, subscription, item)
    if is_told:
        assert [(told.code, told.status) for told in world.deliver()] == [(200, "unbillable")]
        assert unbillable(reports) == counted
    world.use(customer, GONE, 100)
    for hours in (1, 2, 3):
        world.travel(TICK + hours * HOUR)
        world.tick()

    assert unbillable(reports) == counted
    assert world.held(customer, 0, GONE + DAY) == 2
    assert billed(world, subscription) == on_invoice


@pytest.mark.parametrize(("mode", "on_invoice", "counted"), [("flexible", 2, 4), ("classic", 0, 6)])
def test_an_item_goes_on_with_a_price_of_another_meter(
    world: World, reports: list[Report], mode: str, on_invoice: int, counted: int
) -> None:
    subscription, item, customer = metered(world, mode)
    other, _ = world.metered_price("other")
    world.openmeter.create_meter("m2", "asked")
    world.listen(enabled_events=[UPDATED])
    swap = [{"id": item, "price": other, "metadata": {"om_meter_id": "m2"}}]
    world.client.v1.subscriptions.update(subscription, {"items": swap})
    world.stripe.run_due()
    world.use(customer, GONE + 5, 8, meter="m2")
    world.deliver()
    world.travel(TICK + HOUR)
    world.tick()

    assert unbillable(reports) == counted
    assert billed(world, subscription) == on_invoice
    last = world.client.v1.invoices.list({"subscription": subscription}).data[0]
    assert [int(line.quantity_decimal) for line in last.lines.data if "other" in line.description] == [8]


def test_usage_of_a_removed_item_that_openmeter_shows_late_is_counted_by_the_next_ticks(
    world: World, reports: list[Report]
) -> None:
    subscription, item, customer = metered(world)
    remove(world, subscription, item)
    world.travel(TICK + HOUR)
    world.tick()
    world.use(customer, GONE - 3, 8)
    world.use(customer, GONE, 100)
    world.travel(TICK + 9 * HOUR)
    world.tick()

    assert unbillable(reports) == 12


def test_an_item_removed_in_its_trial_leaves_nothing_to_count(world: World, reports: list[Report]) -> None:
    subscription, item, _ = metered(world, trial_period_days=10)
    world.listen(enabled_events=[UPDATED])
    remove(world, subscription, item)

    assert [(told.code, told.status) for told in world.deliver()] == [(200, "unchanged")]
    assert unbillable(reports) == 0


def test_a_classic_price_swap_drops_all_from_before_it_but_the_hours_rest_goes_to_the_new_price(
    world: World, reports: list[Report]
) -> None:
    subscription, item, customer = metered(world, "classic")
    _, meter = world.metered_price("unused")
    old = world.client.v1.subscription_items.retrieve(item).price
    dearer = world.client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 20,
            "product": old.product,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": old.recurring.meter},
            "metadata": {"om_meter_id": "m1"},
        }
    ).id
    assert meter
    world.tick()
    world.use(customer, GONE - 1, 16)
    world.client.v1.subscriptions.update(subscription, {"items": [{"id": item, "price": dearer}]})
    for hours in (1, 2, 21, 22):
        world.travel(TICK + hours * HOUR + 20 * MINUTE)
        world.tick()

    assert unbillable(reports) == 6
    assert billed(world, subscription) == 16


@pytest.mark.parametrize("is_told", [True, False], ids=["webhook", "webhook lost"])
@pytest.mark.parametrize(("invoice_now", "on_invoice", "counted"), [(True, 2, 4), (False, 0, 6)])
def test_a_subscription_is_canceled_at_once(
    world: World, reports: list[Report], invoice_now: bool, on_invoice: int, counted: int, *, is_told: bool
) -> None:
    subscription, _, customer = metered(world)
    world.listen(enabled_events=[DELETED])
    world.client.v1.subscriptions.cancel(subscription, {"invoice_now": invoice_now})
    world.stripe.run_due()
    if is_told:
        assert [(told.code, told.status) for told in world.deliver()] == [(200, "unbillable")]
    world.use(customer, GONE, 100)
    for hours in (1, 2, 3):
        world.travel(TICK + hours * HOUR)
        world.tick()
    assert unbillable(reports) == counted
    world.use(customer, GONE - 2, 8)
    world.travel(TICK + 4 * HOUR)
    world.tick()

    assert unbillable(reports) == counted + 8
    assert world.held(customer, 0, GONE + DAY) == 2
    assert billed(world, subscription) == on_invoice


def test_twelve_seconds_after_a_tick_the_rest_is_unbillable_to_the_unit(
    world: World, reports: list[Report]
) -> None:
    subscription, _, customer = metered(world)
    world.tick()
    for second in range(12):
        world.use(customer, GONE + second, 1)
    world.travel(GONE + 12)
    world.listen(enabled_events=[DELETED])
    world.client.v1.subscriptions.cancel(subscription, {"invoice_now": True})
    world.stripe.run_due()
    held = world.held(customer, 0, GONE + DAY)
    world.deliver()

    assert unbillable(reports) == 2 + 4 + 12 - held
    assert billed(world, subscription) == held


def test_an_anchor_reset_bills_what_stripe_held_and_the_rest_is_unbillable(
    world: World, reports: list[Report]
) -> None:
    subscription, _, customer = metered(world)
    world.listen(enabled_events=[UPDATED])
    world.client.v1.subscriptions.update(
        subscription, {"billing_cycle_anchor": "now", "proration_behavior": "none"}
    )
    world.stripe.run_due()
    assert [(told.code, told.status) for told in world.deliver()] == [(200, "unbillable")]
    world.use(customer, GONE, 8)
    for hours in (1, 2):
        world.travel(TICK + hours * HOUR)
        world.tick()

    assert unbillable(reports) == 4
    assert world.held(customer, GONE, GONE + DAY) == 8
    assert billed(world, subscription) == 2 + 8


@pytest.mark.parametrize("key", ["", "external_key"])
@pytest.mark.parametrize("is_told", [True, False], ids=["webhook", "webhook lost"])
def test_a_deleted_customer(world: World, reports: list[Report], key: str, *, is_told: bool) -> None:
    world.settings = {"subject_metadata_key": key} if key else {}
    subscription, _, customer = metered(world)
    world.listen(enabled_events=[DELETED])
    world.client.v1.customers.delete(customer)
    world.stripe.run_due()
    if is_told:
        assert [(told.code, told.status) for told in world.deliver()] == [(200, "unbillable")]
    for hours in (1, 2, 20, 30):
        world.travel(TICK + hours * HOUR)
        assert world.tick()["failures"] == 0

    assert unbillable(reports) == 6
    assert {report.status.value for report in reports} <= {"sent", "unbillable", "unchanged"}
    assert world.stripe.meters.rejected == []
    assert billed(world, subscription) == 0


def test_a_customer_deleted_while_its_last_invoice_is_a_draft_is_sent_nothing_more(
    world: World, reports: list[Report]
) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, START + HOUR, 2)
    world.travel(TICK)
    world.tick()
    end = START + 31 * DAY
    world.use(customer, end - 3, 4)
    world.travel(end + MINUTE)
    world.client.v1.customers.delete(customer)
    world.travel(end + 15 * MINUTE)
    assert world.tick("closing")["failures"] == 0
    world.tick()

    assert unbillable(reports) == 4
    assert world.stripe.meters.rejected == []


def test_another_subscription_on_the_meter_still_bills_what_the_first_one_no_longer_does(
    world: World, reports: list[Report]
) -> None:
    subscription, item, customer = metered(world)
    price = world.client.v1.subscription_items.retrieve(item).price.id
    other = world.subscription(price, customer, backdate_start_date=START, proration_behavior="none")
    world.listen(enabled_events=[DELETED])
    world.use(customer, GONE, 8)
    world.travel(GONE + MINUTE)
    world.client.v1.subscriptions.cancel(subscription)
    world.stripe.run_due()
    world.deliver()
    world.travel(TICK + HOUR)
    [corrected] = world.report_all(Options(full=True))

    assert unbillable([*reports, corrected]) == 6
    assert world.held(customer, GONE, GONE + DAY) == 8
    assert billed(world, other.id) == 8


def test_the_net_costs_one_list_call_where_nothing_ended(world: World) -> None:
    metered(world)
    before = dict(world.stripe.calls)
    world.travel(TICK + HOUR)
    world.tick()

    made = {call: count - before.get(call, 0) for call, count in world.stripe.calls.items()}
    assert made["GET", "/v1/events"] == 1


def test_a_key_without_the_permission_for_events_does_not_stop_the_tick(world: World) -> None:
    subscription, item, customer = metered(world)
    read = dict.fromkeys(("subscription", "invoice", "billing_meter", "product", "price"), "read")
    world.stripe.change_settings(
        restricted_keys={"rk_test_1": {**read, "billing_meter_event": "write"}}, api_keys={"sk_test_sandbox"}
    )
    remove(world, subscription, item)
    world.secrets.put_secret_value(
        SecretId="keys", SecretString='{"stripe_api_key": "rk_test_1", "stripe_webhook_secret": "whsec_1"}'
    )
    world.travel(TICK + HOUR)

    assert world.tick()["status"] == "queued"
    assert world.held(customer, GONE, GONE + DAY) == 0
