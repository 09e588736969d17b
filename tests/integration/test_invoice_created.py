"""A draft invoice is the last call for its usage: until it is all there, Stripe is asked to wait."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.renewals import INVOICE_CREATED
from usage_reporting.webhook import Answer, answer

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY


def subscribed(world: World) -> tuple[str, str]:
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    world.listen(enabled_events=[INVOICE_CREATED])
    customer = str(subscription.customer)
    world.use(customer, END - 1, 4)
    world.use(customer, END, 8)
    return subscription.id, customer


def renewal_draft(world: World) -> bytes:
    """The event of the draft that the renewal made."""
    [event] = [body for body in world.inbox if b'"subscription_cycle"' in body]
    world.inbox = [event]
    return event


def test_openmeter_down_holds_the_draft_and_the_retried_event_makes_it_exact(world: World) -> None:
    subscription, customer = subscribed(world)
    world.travel(END)
    world.clock.set(END + 16)
    event = renewal_draft(world)
    world.openmeter.faults.down = True
    assert [told.code for told in world.deliver()] == [503]
    world.openmeter.faults.down = False
    world.inbox = [event]

    assert [(told.code, told.status) for told in world.deliver()] == [(200, "sent")]

    assert world.held(customer, START, END) == 4
    assert world.held(customer, END, END + HOUR) == 0
    world.travel(END + 2 * HOUR)
    assert world.billed(subscription)[-1][1] == 4


def test_a_final_invoice_is_left_alone(world: World) -> None:
    _, customer = subscribed(world)
    world.travel(END + 2 * HOUR)
    renewal_draft(world)

    assert [(told.code, told.status) for told in world.deliver()] == [(200, "ignored")]
    assert world.meter_events(customer) == []


def test_an_invoice_that_is_not_ours(world: World) -> None:
    subscribed(world)
    world.travel(END)
    event = json.loads(renewal_draft(world))
    event["data"]["object"]["id"] = "in_unknown"
    world.inbox = [json.dumps(event).encode()]
    assert [told.status for told in world.deliver()] == ["not_ours"]

    event["data"]["object"]["id"] = "sub_1"
    world.inbox = [json.dumps(event).encode()]
    told: list[Answer] = world.deliver()
    assert [one.code for one in told] == [400]


def test_a_line_whose_item_is_gone_is_mapped_by_the_ledger(world: World) -> None:
    subscription, customer = subscribed(world)
    world.use(customer, START + HOUR, 2)
    world.travel(START + 3 * HOUR)
    world.tick()
    world.travel(END)
    world.clock.set(END + 30)
    renewal_draft(world)
    item = world.client.v1.subscriptions.retrieve(subscription)["items"].data[0].id
    other, _ = world.metered_price("other")
    items = [{"id": item, "deleted": True}, {"price": other}]
    world.client.v1.subscriptions.update(subscription, {"items": items})

    assert [(told.code, told.status) for told in world.deliver()[:1]] == [(200, "sent")]
    assert world.held(customer, START, END) == 6


def test_stripe_itself_holds_the_draft_while_openmeter_is_down_and_its_retry_makes_it_exact(
    world: World,
) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    customer = world.customer()
    rows = [{"price": price, "metadata": {"om_meter_id": "m1"}}]
    subscription = world.client.v1.subscriptions.create({"customer": customer, "items": rows}).id
    world.use(customer, END - 1, 4)
    world.listen(enabled_events=[INVOICE_CREATED])
    told: list[int] = []
    container = world.container()

    def deliver(_url: str, headers: Mapping[str, str], body: bytes) -> int:
        call = {"headers": dict(headers), "body": body.decode(), "isBase64Encoded": False}
        told.append(answer(container, call).code)
        return told[-1]

    world.stripe.deliver = deliver
    world.openmeter.faults.down = True
    world.travel(END)
    assert told == [503]
    # Far beyond the grace period of an hour, with no tick at all: only Stripe's own retries.
    world.travel(END + 90 * MINUTE)
    assert [status for _, _, status in world.billed(subscription)] == ["draft"]
    world.openmeter.faults.down = False
    world.travel(END + 4 * HOUR)

    assert told[-1] == 200
    assert world.billed(subscription)[-1][1:] == (Decimal(4), "paid")
