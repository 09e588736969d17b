"""Usage around the instants at which billing changes."""

from __future__ import annotations

from decimal import Decimal

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.heads import Options
from usage_reporting.model import Status

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY


def test_usage_before_the_subscription_is_not_billed(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, START - 1, 100)
    world.use(customer, START, 1)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(customer, START - 2, 1000)
    world.use(customer, START + 2, 2)
    world.travel(NOON + 4 * HOUR)
    world.tick()

    assert world.held(customer, 0, NOON + DAY) == 3


def test_an_hour_with_a_bound_is_not_asked_exactly_again_and_again(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, START - 1, 100)
    world.use(customer, START, 1)
    queries = []
    for hours in (1, 2, 3, 4):
        world.travel(NOON + hours * HOUR + MINUTE)
        world.openmeter.calls.reset()
        world.tick()
        queries.append(len(world.openmeter.calls.queries))

    assert queries == [3, 3, 1, 1]


def test_what_moves_across_a_bound_is_seen_though_the_hour_stays_equal(world: World) -> None:
    """Where events take usage back: one of the wrong time is voided, and comes again on the other side."""
    world.clock.set(START)
    world.settings["allow_decrease"] = True
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, END - 2, 5)
    world.travel(END + MINUTE)
    world.tick("closing")
    world.use(customer, END - 2, -5)
    world.use(customer, END + 2, 5)
    world.travel(END + 50 * MINUTE)
    world.tick("closing")
    world.travel(END + 3 * HOUR)
    world.tick()

    assert world.billed(subscription.id)[-1][1] == 0
    assert world.held(customer, END - END % MINUTE + MINUTE, END + DAY) == 5


def test_a_trial_that_is_over_and_invoiced_needs_no_correction(world: World) -> None:
    world.clock.set(START)
    world.settings["allow_decrease"] = True
    price, _ = world.metered_price()
    subscription = world.subscription(price, trial_end=START + 10 * DAY)
    customer = str(subscription.customer)
    world.use(customer, NOON + HOUR, 5)
    world.travel(NOON + 3 * HOUR)
    world.tick()
    world.use(customer, NOON + HOUR, -2)
    world.use(customer, NOON + 2 * HOUR, 4)
    world.travel(START + 10 * DAY + 3 * HOUR)
    reports = world.report_all(Options(full=True))

    assert [(report.status, report.reasons) for report in reports] == [(Status.UNCHANGED, [])]
    assert world.billed(subscription.id)[-1][2] == "paid"


def test_usage_in_a_trial_is_not_billed_and_after_it_is(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    trial_end = START + 10 * DAY + 5
    subscription = world.subscription(price, trial_end=trial_end)
    customer = str(subscription.customer)
    world.use(customer, trial_end - 1, 10)
    world.use(customer, trial_end, 1)
    for hours in range(1, 4):
        world.travel(trial_end + hours * HOUR)
        world.tick()
    world.travel(trial_end + 31 * DAY + 3 * HOUR)

    billed = [quantity for _, quantity, status in world.billed(subscription.id) if status != "draft"]

    assert sum(billed, Decimal(0)) == 1


def test_cancelled_and_subscribed_again_within_a_minute(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    customer = world.customer()
    first = world.subscription(price, customer, cancel_at_period_end=True)
    world.travel(END - MINUTE)
    world.tick("closing")
    world.travel(END + 8)
    second = world.subscription(price, customer)
    world.use(customer, END - 1, 4)
    world.use(customer, END + 3, 100)
    world.use(customer, END + 8, 8)
    world.travel(END + 30)
    world.tick("closing")
    world.travel(END + 50 * MINUTE)
    world.tick()
    world.travel(END + 3 * HOUR)
    world.tick()
    world.travel(END + 32 * DAY)

    assert world.billed(first.id)[-1][1] == 4
    assert world.billed(second.id)[-1][1] == 8


def canceled_at_once(world: World, *, invoice_now: bool) -> tuple[str, str]:
    """A subscription cancelled twelve minutes after a tick, with two units not yet reported."""
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.listen()
    world.use(customer, START + HOUR, 1)
    world.travel(START + 5 * HOUR)
    world.tick()
    world.use(customer, START + 5 * HOUR + MINUTE, 2)
    world.travel(START + 5 * HOUR + 12 * MINUTE)
    world.client.v1.subscriptions.cancel(subscription.id, {"invoice_now": invoice_now})
    world.stripe.run_due()
    return subscription.id, customer


def test_an_immediate_cancellation_with_a_draft_is_reported_to_its_end(world: World) -> None:
    subscription, _ = canceled_at_once(world, invoice_now=True)

    assert [(one.code, one.status) for one in world.deliver()] == [(200, "sent")]

    world.travel(START + DAY)
    assert world.billed(subscription)[-1][1] == 3


def test_an_immediate_cancellation_without_an_invoice_counts_what_nothing_bills(world: World) -> None:
    _, customer = canceled_at_once(world, invoice_now=False)

    [told] = world.deliver()

    assert (told.code, told.status) == (200, "unbillable")
    assert "2 units" in told.reason
    assert world.held(customer, START, START + DAY) == 1
