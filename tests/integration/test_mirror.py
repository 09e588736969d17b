"""Stripe holds for each hour what OpenMeter holds for it."""

from __future__ import annotations

from decimal import Decimal

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World


def test_the_month_so_far_is_mirrored_hour_by_hour(world: World) -> None:
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, NOON + 10, 5)
    world.use(customer, NOON + 3 * HOUR, 7)
    world.travel(NOON + 4 * HOUR + 2 * MINUTE)

    world.tick()

    events = world.meter_events(customer)
    assert [(event["timestamp"], event["value"]) for event in events] == [
        (NOON + HOUR - 1, Decimal(5)),
        (NOON + 4 * HOUR - 1, Decimal(7)),
    ]


def test_doing_it_again_changes_nothing(world: World) -> None:
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, NOON + 10, 5)
    world.travel(NOON + DAY)
    world.tick()
    before = world.meter_events()

    world.tick()
    world.tick("closing")

    assert world.meter_events() == before
    assert len(before) == 1


def test_late_usage_is_added_to_its_hour(world: World) -> None:
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, NOON + 10, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(customer, NOON + 20, "2.5")
    world.travel(NOON + 3 * HOUR)

    world.tick()

    assert [event["value"] for event in world.meter_events()] == [Decimal(5), Decimal("2.5")]
    assert world.held(customer, NOON, NOON + HOUR) == Decimal("7.5")
