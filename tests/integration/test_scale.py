"""How many calls a tick takes."""

from __future__ import annotations

import json
import random
from collections import Counter

from sandbox.bench.population import subscribe
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from tests.layer.test_lister import Steps
from usage_reporting.budget import Budget
from usage_reporting.container import Container
from usage_reporting.lister import Lister
from usage_reporting.pages import Cursor, Scope, cursor_message, read_message

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


def test_several_ranges_of_creation_time_list_every_subscription_once(world: World) -> None:
    """Half of them were imported within a minute, a year before the others."""
    world.clock.set(NOON - 400 * DAY)
    price, _ = world.metered_price()
    world.clock.set(NOON)
    imported = [NOON - 330 * DAY + number // 5 for number in range(300)]
    anchors = imported + [NOON - 20 * DAY + number * HOUR for number in range(300)]
    customers = {one.customer for one in subscribe(world.stripe, price, anchors, item_metadata=NAMED)}
    made = world.container()
    made.lister = early_in_ranges(made)
    world.stripe.log.clear()

    queued, rest = made.run(made.lister.queue_pages(Cursor(Scope.ALL), Budget()))

    assert (queued, rest) == (600, [])
    assert sent_to(world) == Counter(customers)
    listed = [one for one in world.stripe.log.requests if one.path == "/v1/subscriptions"]
    assert sum("created" in one.params for one in listed) > 4
    assert len(listed) <= 6 + 5

    queued, rest = made.run(made.lister.queue_pages(Cursor(Scope.ALL), Steps(3).budget))

    assert queued < 600
    # How far each range came depends on the machine's load, but not that it goes on as a range.
    assert any(not cursor.range.is_whole for cursor in rest)
    for cursor in rest:
        read = read_message(json.dumps(cursor_message(cursor)))
        assert isinstance(read, Cursor)
        assert made.run(made.lister.queue_pages(read, Budget()))[1] == []
    assert sent_to(world) == Counter(customers)


NAMED = {"om_meter_id": "m1"}


def early_in_ranges(made: Container) -> Lister:
    """A lister that goes on in ranges after the first page."""
    return Lister(made.billing, made.endings, made.ledger, made.queue, made.clock, whole_pages=1)


def sent_to(world: World) -> Counter[str]:
    """How often each customer is on the queue, which is empty then."""
    found: Counter[str] = Counter()
    while messages := world.sqs.receive_message(QueueUrl=world.queue_url, MaxNumberOfMessages=10).get(
        "Messages"
    ):
        for message in messages:
            page = read_message(message["Body"])
            assert isinstance(page, list)
            found.update(one.customer for one in page)
            world.sqs.delete_message(QueueUrl=world.queue_url, ReceiptHandle=message["ReceiptHandle"])
    return found


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
