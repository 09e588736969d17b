"""Legacy metered prices: one usage record at one instant, holding the newest total."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.model import CustomerMeter, Report

ACACIA: Any = {"stripe_version": "2025-02-24.acacia"}


def legacy_subscription(world: World) -> tuple[str, str, str]:
    product = world.client.v1.products.create({"name": "legacy"}).id
    price = world.client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 10,
            "product": product,
            "recurring": {"interval": "month", "usage_type": "metered"},
        },
        ACACIA,
    ).id
    customer = world.customer()
    subscription = world.client.v1.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": price, "metadata": {"om_meter_id": "m1"}}],
            "collection_method": "send_invoice",
            "days_until_due": 30,
        },
        ACACIA,
    )
    return subscription.id, subscription["items"].data[0].id, customer


def test_one_record_holds_the_newest_total(world: World) -> None:
    _, item, customer = legacy_subscription(world)
    world.use(customer, NOON + MINUTE, "2.4")
    for hours in (1, 1, 2, 5):
        world.travel(NOON + hours * HOUR + 2 * MINUTE)
        world.tick()
    world.use(customer, NOON + 90, "0.2")
    world.travel(NOON + 6 * HOUR)
    world.tick()

    assert world.usage_records(item) == {NOON + 1: 3}


def test_the_lines_of_the_first_invoice_bill_no_time(world: World) -> None:
    """In classic billing mode it has one of nothing for each price; sent by e-mail it waits as a draft."""
    legacy_subscription(world)
    world.travel(NOON + 20 * MINUTE)
    assert [invoice.status for invoice in world.client.v1.invoices.list().data] == ["draft"]

    made = world.container()

    async def drafted() -> list[CustomerMeter]:
        return [one async for listing in made.billing.drafts() for one in listing.customer_meters]

    assert made.run(drafted()) == []


def test_an_unchanged_total_is_not_sent_again(world: World) -> None:
    _, item, customer = legacy_subscription(world)
    world.use(customer, NOON + MINUTE, 2)
    world.travel(NOON + HOUR)
    world.tick()
    world.stripe.log.clear()
    world.travel(NOON + 2 * HOUR)
    world.tick()

    assert ("POST", "/v1/subscription_items/{id}/usage_records") not in world.stripe.calls
    assert world.usage_records(item) == {NOON + 1: 2}


def test_the_last_half_hour_falls_into_the_next_period(world: World) -> None:
    subscription, item, customer = legacy_subscription(world)
    end = NOON + 31 * DAY
    world.use(customer, end - 31 * MINUTE, 1)
    world.use(customer, end - 30 * MINUTE, 10)
    world.use(customer, end + MINUTE, 100)
    world.travel(end - 20 * MINUTE)
    world.tick("closing")
    world.travel(end + 2 * HOUR)
    world.tick()
    world.travel(end + 3 * HOUR)

    assert world.billed(subscription)[-1][1] == Decimal(1)
    assert world.usage_records(item)[end + 1] == 110


def test_a_smaller_total_is_held(world: World) -> None:
    _, item, customer = legacy_subscription(world)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + HOUR)
    world.tick()
    world.openmeter.hold(subject=customer)
    world.use(customer, NOON + 2 * MINUTE, -4)
    world.openmeter.release(subject=customer)
    world.travel(NOON + 2 * HOUR)

    reports = world.report_all()

    assert [report.status for report in reports] == ["held"]
    assert world.usage_records(item) == {NOON + 1: 5}


def test_an_empty_answer_in_the_draft_hour_is_held_and_notes_nothing(world: World) -> None:
    subscription, _, customer = legacy_subscription(world)
    end = NOON + 31 * DAY
    world.use(customer, end - HOUR, 5)
    world.travel(end - 20 * MINUTE)
    world.tick("closing")
    world.travel(end + 15 * MINUTE)
    world.openmeter.faults.empty(times=100)
    made = world.container()

    async def report() -> list[Report]:
        listings = [listing async for listing in made.billing.drafts()]
        return await made.reporter.report([one for listing in listings for one in listing.customer_meters])

    reports = made.run(report())

    assert [report.status for report in reports] == ["held"]
    world.openmeter.faults.clear()
    assert [report.status for report in made.run(report())] == ["unchanged"]
    world.travel(end + 2 * HOUR)
    assert world.billed(subscription)[-1][1] == Decimal(5)


def test_a_lost_ledger_sets_an_earlier_total_again(world: World) -> None:
    """Its sequence begins anew, and Stripe would answer an equal request of this day from memory."""
    world.settings["allow_decrease"] = True
    _, item, customer = legacy_subscription(world)
    for hours, value in ((1, 5), (3, -2)):
        world.use(customer, NOON + hours * HOUR - 30 * MINUTE, value)
        world.travel(NOON + hours * HOUR + 2 * MINUTE)
        world.tick()
    assert world.usage_records(item) == {NOON + 1: 3}

    for stored in world.ledger():
        key = {name: stored[name] for name in ("pk", "sk")}
        world.dynamodb.delete_item(TableName="ledger", Key=key)
    world.use(customer, NOON + 4 * HOUR, 2)
    world.travel(NOON + 5 * HOUR + 2 * MINUTE)
    world.tick()

    assert world.usage_records(item) == {NOON + 1: 5}
