"""How many calls a tick takes."""

from __future__ import annotations

import random

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World

SUBSCRIPTIONS = 130
"""More than a page of Stripe's lists."""


def test_two_pages_of_subscriptions_with_scattered_anchors(world: World) -> None:
    price, _ = world.metered_price()
    scattered = random.Random(SUBSCRIPTIONS)
    customers = []
    for start in sorted(scattered.randrange(NOON - 28 * DAY, NOON - DAY) for _ in range(SUBSCRIPTIONS)):
        world.travel(start)
        customers.append(str(world.subscription(price).customer))
    for customer in customers:
        for _ in range(3):
            world.use(customer, scattered.randrange(NOON - 20 * HOUR, NOON), 1)
    world.travel(NOON + 2 * MINUTE)

    world.stripe.log.clear()
    world.openmeter.calls.reset()
    first = world.tick()

    assert first["customer_meters"] == SUBSCRIPTIONS
    assert first["failures"] == 0
    assert sum(event["value"] for event in world.meter_events()) == 3 * SUBSCRIPTIONS
    assert world.stripe.calls[("GET", "/v1/subscriptions")] <= 2
    assert len(world.openmeter.calls.queries) <= 6 + SUBSCRIPTIONS

    for customer in customers:
        world.use(customer, NOON + 5 * MINUTE, 1)
    world.travel(NOON + HOUR + 2 * MINUTE)
    world.stripe.log.clear()
    world.openmeter.calls.reset()
    world.tick()

    assert sum(event["value"] for event in world.meter_events()) == 4 * SUBSCRIPTIONS
    assert world.stripe.calls[("GET", "/v1/subscriptions")] <= 2
    assert len(world.openmeter.calls.queries) <= 6


def test_a_tick_in_which_nothing_changed_sends_and_writes_nothing(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + MINUTE, 1)
    world.travel(NOON + 3 * HOUR)
    world.tick()
    ledger = world.ledger()
    world.travel(NOON + 4 * HOUR)
    world.stripe.log.clear()

    world.tick()

    assert world.ledger() == ledger
    assert [path for _, path in world.stripe.calls if "meter" in path and "events" in path] == []


def test_items_beyond_the_embedded_page_are_reported(world: World) -> None:
    customer = world.customer()
    prices = [world.metered_price(f"event_{number}")[0] for number in range(13)]
    for number in range(13):
        world.openmeter.create_meter(f"om_{number}", f"used_{number}")
    items = [
        {"price": price, "metadata": {"om_meter_id": f"om_{number}"}} for number, price in enumerate(prices)
    ]
    world.subscription(prices[0], customer, items=items)
    for number in range(13):
        world.use(customer, NOON + MINUTE, 1, meter=f"om_{number}")
    world.travel(NOON + 2 * HOUR)

    world.tick()

    assert len(world.meter_events(customer)) == 13
