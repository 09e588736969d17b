"""What was not read for a while, or is older than Stripe takes, and the last look before a draft is final."""

from __future__ import annotations

from decimal import Decimal

from sandbox.simulator.queue import MemoryQueue
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.heads import Options
from usage_reporting.ledger import DynamoTable, Head
from usage_reporting.ticks import tick, work_off


def head(world: World) -> Head:
    [item] = DynamoTable("ledger", world.dynamodb).get(
        [(row["pk"]["S"], "head") for row in world.ledger() if row["sk"]["S"] == "head"]
    )
    return Head.from_item(item)


def test_after_ten_hours_without_a_tick_the_hours_since_the_last_one_are_read(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.travel(NOON + HOUR + 2 * MINUTE)
    world.tick()
    world.use(customer, NOON + 2 * HOUR, 5)
    world.travel(NOON + 11 * HOUR + 2 * MINUTE)
    world.tick()

    assert world.held(customer, NOON, NOON + DAY) == 5


def test_the_head_is_written_every_three_hours_at_most(world: World) -> None:
    price, _ = world.metered_price()
    world.subscription(price)
    written = []
    for hour in range(1, 14):
        world.travel(NOON + hour * HOUR + 2 * MINUTE)
        world.tick()
        written.append(head(world).version)

    assert head(world).read_at > NOON + 10 * HOUR
    assert written[-1] - written[0] == 4


def test_usage_older_than_stripe_takes_is_counted_once_however_often_the_first_reading_fails(
    world: World,
) -> None:
    _, meter = world.metered_price()
    yearly = world.client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 10,
            "product": world.client.v1.products.create({"name": "yearly"}).id,
            "recurring": {"interval": "year", "usage_type": "metered", "meter": meter},
        }
    ).id
    customer = str(world.subscription(yearly).customer)
    world.use(customer, NOON + DAY, 3)
    world.use(customer, NOON + 59 * DAY, 4)
    world.travel(NOON + 60 * DAY)
    world.stripe.faults.add("status", method="POST", path="/v1/billing/meter_events", times=5)
    counted = []
    for _ in range(3):
        counted += [report.unbillable for report in world.report_all(Options())]

    assert sum(counted, Decimal(0)) == 3
    assert world.held(customer, NOON, NOON + 61 * DAY) == 4


def test_a_draft_that_is_final_before_the_next_tick_gets_what_openmeter_shows_after_this_one(
    world: World,
) -> None:
    start = NOON - 22 * MINUTE - 18
    end = start + 31 * DAY
    world.clock.set(start)
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, end - 10, 1)
    # The draft of 11:37:42 is final at 12:37:42, seven minutes after the last tick.
    world.stripe.change_settings(finalization_grace=HOUR + 5 * MINUTE)
    container = world.container()
    container.queue = container.lister.queue = queue = MemoryQueue(world.clock)
    for minutes in (1, 53):
        world.travel(end + minutes * MINUTE)
        tick(container, {"scope": "closing"}, None)
        while message := queue.receive():
            work_off(container, {"Records": [{"messageId": "1", "body": message.body}]}, None)
            queue.delete(message)
    world.use(customer, end - 5, 2)
    world.travel(end + 65 * MINUTE - 10 * MINUTE)
    message = queue.receive()
    assert message is not None
    work_off(container, {"Records": [{"messageId": "1", "body": message.body}]}, None)
    world.travel(end + 2 * HOUR)

    assert world.billed(subscription.id)[-1][1] == 3
