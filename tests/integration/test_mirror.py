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


def test_a_month_read_in_several_queries_is_whole(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    for hour in range(0, 27 * 24, 5):
        world.use(customer, NOON + hour * HOUR + 5 * MINUTE, 1)
        world.use(customer, NOON + hour * HOUR + 50 * MINUTE, 2)
    world.travel(NOON + 27 * DAY + 34 * MINUTE)

    world.tick()

    assert len(world.openmeter.calls.queries) == 4
    assert {event["value"] for event in world.meter_events()} == {Decimal(3)}
    assert len(world.meter_events()) == 130


def test_the_open_hour_is_read_when_it_is_ten_minutes_old(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + 2 * HOUR + 30, 1)
    world.use(customer, NOON + 2 * HOUR + 9 * MINUTE + 30, 2)
    stamps = []
    for minute in (2, 9, 11, 12):
        world.travel(NOON + 2 * HOUR + minute * MINUTE)
        world.tick()
        stamps.append(
            [(event["timestamp"] - NOON - 2 * HOUR, event["value"]) for event in world.meter_events()]
        )

    assert stamps == [[], [], [(599, 3)], [(599, 3)]]
