"""An hour in which a period ends, seen by views that show more or less of it."""

from __future__ import annotations

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY


def test_the_first_part_hour_of_a_period_is_billed_in_the_stacks_own_rhythm(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, END - 100, 7)
    world.use(customer, END + 100, 5)
    hour = END - END % HOUR
    for minutes in (0, 2, 15, 30, 45, 60, 62, 75, 90, 105, 120, 122, 182, 242):
        world.travel(hour + minutes * MINUTE)
        world.tick("all" if minutes % 15 else "closing")

    assert world.held(customer, START, END) == 7
    assert world.held(customer, END, END + DAY) == 5
    world.travel(END + 31 * DAY + 2 * HOUR)
    assert [quantity for _, quantity, _ in world.billed(subscription.id)][-2:] == [7, 5]


def test_a_second_subscription_found_later_divides_an_hour_that_was_sent_whole(world: World) -> None:
    price, _ = world.metered_price()
    customer = world.customer()
    world.subscription(price, customer)
    hour = NOON + 5 * HOUR
    world.use(customer, hour + 10 * MINUTE, 4)
    world.use(customer, hour + 50 * MINUTE, 6)
    world.travel(hour + HOUR + 2 * MINUTE)
    world.tick()
    backdated = hour + 25 * MINUTE + 13
    world.subscription(price, customer, backdate_start_date=backdated, billing_mode={"type": "classic"})
    world.travel(hour + 2 * HOUR + 2 * MINUTE)

    world.tick()

    assert world.held(customer, hour, backdated) == 4
    assert world.held(customer, backdated, hour + HOUR) == 6


def test_one_bad_meter_does_not_stop_the_listing(world: World) -> None:
    bad, meter = world.metered_price("bad")
    good, _ = world.metered_price("good")
    world.subscription(bad)
    customer = str(world.subscription(good).customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add("status", "GET", f"/v1/billing/meters/{meter}", status=404, times=None)

    world.tick()

    assert world.held(customer, NOON, NOON + HOUR) == 5
