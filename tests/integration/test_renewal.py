"""A period ends: its usage is in Stripe to the second, stamped inside it, and the next one's is not."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.heads import Options
from usage_reporting.ticks import tick

START = NOON - 22 * MINUTE - 18
"""2026-07-15T11:37:42Z, an odd second."""
END = START + 31 * 24 * HOUR


def subscribed(world: World) -> tuple[str, str]:
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    return subscription.id, str(subscription.customer)


def before_and_after_the_end(world: World, customer: str) -> None:
    world.use(customer, START, 1)
    world.use(customer, END - 2 * HOUR, 2)
    world.use(customer, END - 1, 4)
    world.use(customer, END, 8)
    world.use(customer, END + 1, 16)


@pytest.mark.parametrize("api_version", ["2026-05-27.dahlia", "2025-02-24.acacia"])
@pytest.mark.parametrize("seconds_after", [16, 20 * MINUTE, 50 * MINUTE])
def test_the_ended_period_is_reported_to_the_second(
    world: World, api_version: str, seconds_after: int
) -> None:
    subscription, customer = subscribed(world)
    world.listen(api_version)
    before_and_after_the_end(world, customer)
    world.travel(END)
    world.clock.set(END + seconds_after)

    answers = [answer for answer in world.deliver() if answer.status != "ignored"]

    assert [(answer.code, answer.status) for answer in answers] == [(200, "sent")]
    assert world.held(customer, START, END) == 7
    assert world.held(customer, END, END + HOUR) == 0
    world.travel(END + HOUR + 1)
    assert world.billed(subscription)[-1][1:] == (Decimal(7), "open")


def test_the_same_event_again_and_an_unrelated_update_change_nothing(world: World) -> None:
    subscription, customer = subscribed(world)
    world.listen()
    before_and_after_the_end(world, customer)
    world.travel(END)
    world.clock.set(END + 20)
    sent_twice = world.inbox * 2
    world.inbox = sent_twice
    world.deliver()
    before = world.meter_events()

    world.client.v1.subscriptions.update(subscription, {"metadata": {"colour": "red"}})
    world.stripe.run_due()
    answers = world.deliver()

    assert [(answer.code, answer.status) for answer in answers] == [(200, "ignored")]
    assert world.meter_events() == before


def test_the_next_periods_usage_follows_with_the_next_tick(world: World) -> None:
    subscription, customer = subscribed(world)
    before_and_after_the_end(world, customer)
    world.travel(END + 16)
    world.listen()
    world.travel(END + HOUR - MINUTE)
    world.tick()

    assert world.held(customer, START, END) == 7
    assert world.held(customer, END, END + HOUR) == 24
    world.travel(END + HOUR + 20)
    assert world.billed(subscription)[-1][1] == 7


def test_usage_after_the_final_invoice_is_late_and_counted_once(world: World) -> None:
    _, customer = subscribed(world)
    world.use(customer, END - 1, 4)
    world.travel(END + 16)
    world.tick()
    world.travel(END + 2 * HOUR)
    world.use(customer, END - 10, 3)

    reports = world.report_all()
    again = world.report_all()

    assert [report.late for report in reports] == [3]
    assert [report.late for report in again] == [0]
    assert world.held(customer, START, END) == 4


def test_a_deleted_subscription_is_reported_up_to_its_true_end(world: World) -> None:
    subscription, customer = subscribed(world)
    world.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    world.listen()
    before_and_after_the_end(world, customer)
    world.travel(END)
    world.clock.set(END + 30)

    answers = world.deliver()

    assert [(answer.code, answer.status) for answer in answers] == [(200, "sent")]
    assert world.held(customer, 0, 2 * END) == 7
    world.travel(END + 2 * HOUR)
    assert world.billed(subscription)[-1][1] == 7


def test_a_renewal_that_nobody_told_us_of_is_mended_by_the_closing_tick(world: World) -> None:
    subscription, customer = subscribed(world)
    before_and_after_the_end(world, customer)
    world.travel(END + 5 * MINUTE)

    world.tick("closing")

    assert world.held(customer, START, END) == 7
    world.travel(END + 2 * HOUR)
    assert world.billed(subscription)[-1][1] == 7


def test_a_licensed_item_first_and_two_metered_after_it_are_both_reported(world: World) -> None:
    world.clock.set(START)
    tokens, _ = world.metered_price("tokens")
    requests, _ = world.metered_price("requests")
    product = world.client.v1.products.create({"name": "seat"}).id
    seat = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 900, "product": product, "recurring": {"interval": "month"}}
    ).id
    world.openmeter.create_meter("m2", "asked", aggregation="COUNT")
    customer = world.customer()
    items = [
        {"price": seat},
        {"price": tokens, "metadata": {"om_meter_id": "m1"}},
        {"price": requests, "metadata": {"om_meter_id": "m2"}},
    ]
    subscription = world.subscription(tokens, customer, items=items)
    world.listen()
    world.use(customer, END - 1, 4)
    world.use(customer, END - 1, meter="m2")
    world.use(customer, END, meter="m2")
    world.travel(END)
    world.clock.set(END + 30)

    assert {answer.status for answer in world.deliver()} == {"sent"}

    world.travel(END + 2 * HOUR)
    lines = {price: quantity for price, quantity, _ in world.billed(subscription.id)[-3:]}
    assert lines[tokens] == 4
    assert lines[requests] == 1


def test_a_page_listed_before_the_end_asks_for_the_invoice_when_it_is_worked_off_after_it(
    world: World,
) -> None:
    _, customer = subscribed(world)
    world.use(customer, END - 10, 3)
    world.travel(END - MINUTE)
    tick(world.container(), {"scope": "closing"}, None)
    world.travel(END + 2 * HOUR)
    container = world.container()

    world.work(container)

    assert world.held(customer, START, END) == 0


def test_a_daily_period_is_judged_by_its_own_invoice_not_by_the_newest(world: World) -> None:
    world.clock.set(START)
    daily = {"interval": "day", "usage_type": "metered"}
    meter = world.metered_price()[1]
    product = world.client.v1.products.create({"name": "daily"}).id
    price = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 10, "product": product, "recurring": {**daily, "meter": meter}}
    ).id
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, START + HOUR, 1)
    world.travel(START + 2 * HOUR)
    world.tick()
    world.travel(START + DAY + 2 * HOUR)
    world.use(customer, START + 23 * HOUR, 5)
    world.travel(START + 2 * DAY + 10 * MINUTE)

    reports = world.report_all(Options(full=True))

    assert [report.late for report in reports] == [5]
    world.travel(START + 3 * DAY)
    assert [quantity for _, quantity, _ in world.billed(subscription.id)][:2] == [1, 0]


def test_a_stale_hint_is_checked_against_stripe(world: World) -> None:
    subscribed(world)
    world.listen()
    world.travel(END)
    event = json.loads(world.inbox[0])
    event["data"]["object"]["id"] = "sub_unknown"

    assert world.post(event, secret=_secret(world)).status == "not_ours"


def _secret(world: World) -> str:
    stored = world.secrets.get_secret_value(SecretId="keys")["SecretString"]
    return str(json.loads(stored)["stripe_webhook_secret"])
