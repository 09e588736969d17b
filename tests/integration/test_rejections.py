"""Stripe takes usage and refuses it afterwards, or gives no answer for a day: the bill is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.config import Mode
from usage_reporting.container import Container
from usage_reporting.heads import Options
from usage_reporting.model import Status
from usage_reporting.renewals import INVOICE_CREATED

EVENTS = "/v1/billing/meter_events"
END = NOON + 31 * DAY


@pytest.fixture
def world(world: World) -> World:
    world.listen_to_refusals()
    return world


def refuse_late(world: World, *codes: str, samples: int = 3) -> None:
    late = frozenset({"meter_event_customer_not_found", *codes})
    world.stripe.change_settings(checked_late=late, error_samples=samples)


def archive(world: World, meter: str) -> None:
    world.client.v1.billing.meters.deactivate(meter)


def reactivate(world: World, meter: str) -> None:
    world.client.v1.billing.meters.reactivate(meter)


def told(world: World, seconds: int = 15) -> list[tuple[int, str]]:
    """Let the thin events arrive, and give the answers."""
    world.travel(world.clock() + seconds)
    return [(answer.code, answer.status) for answer in world.deliver()]


def statuses(world: World, options: Options | None = None) -> list[Status]:
    return [report.status for report in world.report_all(options)]


def settle(world: World) -> None:
    """Ticks for two looks at the summaries, and others when they are believed whatever they lack."""
    start = world.clock()
    for minutes in (*range(10, 160, 15), 25 * 60, 25 * 60 + 15):
        world.travel(start + minutes * MINUTE)
        world.tick()


def test_a_meter_that_was_archived_for_a_while(world: World) -> None:
    price, meter = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    refuse_late(world, "archived_meter")
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    process = world.container()
    world.tick(container=process)
    world.use(customer, NOON + HOUR + MINUTE, 7)
    archive(world, meter)
    world.tick(container=process)  # which still believes that the meter is active
    assert world.held(customer, NOON, END) == 5

    [answer] = told(world)
    assert answer == (200, "rejected")
    world.travel(world.clock() + 3 * HOUR)  # till it is not believed active any more
    [report] = world.report_all()
    assert (report.status, "reactivate" in report.reason) == (Status.REFUSED, True)
    reactivate(world, meter)
    world.tick()

    assert world.held(customer, NOON, END) == 12
    used = [event["identifier"].split(".")[2] for event in world.meter_events()]
    assert used == ["0", "1"], "the identifier of what was refused is used up"
    world.travel(END + 2 * HOUR)
    assert [quantity for _, quantity, status in world.billed(subscription.id) if status != "draft"] == [12]


def test_refused_usage_of_long_before_the_last_hours_is_sent_again_at_once(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.travel(NOON + 3 * DAY)
    world.tick()
    world.use(customer, NOON + MINUTE, 5)
    world.stripe.validation.refuse_next("timestamp_in_future")
    world.travel(NOON + 4 * DAY)
    world.tick()
    assert world.meter_events() == []

    assert told(world) == [(200, "rejected")]
    world.tick()

    assert world.held(customer, NOON, NOON + HOUR) == 5


def test_refused_usage_of_an_hour_with_a_bound_is_found_again(world: World) -> None:
    """Such an hour is asked whole only, as long as its total is as known."""
    world.clock.set(NOON + 37 * MINUTE + 42)
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + 50 * MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("timestamp_in_future")
    world.tick()
    world.tick()
    assert world.meter_events() == []

    told(world)
    world.tick()

    assert world.held(customer, NOON, NOON + HOUR) == 5


def test_where_stripe_names_samples_only_the_summaries_tell_the_others(world: World) -> None:
    price, meter = world.metered_price()
    customers = [str(world.subscription(price).customer) for _ in range(5)]
    refuse_late(world, "archived_meter", samples=2)
    world.travel(NOON + 2 * HOUR)
    process = world.container()
    world.tick(container=process)
    world.use(customers[0], NOON + MINUTE, 1)
    world.tick(container=process)  # in the window, and counted
    for customer in customers[1:]:
        world.use(customer, NOON + MINUTE, 3)
    archive(world, meter)
    world.tick(container=process)
    reactivate(world, meter)
    assert told(world) == [(200, "rejected")]

    world.tick()
    # The two that were named are sent again; of the other three it is not known yet.
    assert sorted(statuses(world)) == ["doubted"] * 3 + ["unchanged"] * 2
    assert sum(world.held(customer, NOON, END) for customer in customers) == 7
    settle(world)

    assert [world.held(customer, NOON, END) for customer in customers] == [1, 3, 3, 3, 3]
    assert set(statuses(world)) == {Status.UNCHANGED}
    assert len(world.meter_events(customers[0])) == 1


def test_a_report_that_comes_twice_or_late_doubts_nothing_anew(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    refuse_late(world, samples=0)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("timestamp_in_future")
    world.tick()
    world.travel(world.clock() + 15)
    body = world.inbox[0]
    assert [answer.status for answer in world.deliver()] == ["doubted"]
    settle(world)
    assert world.held(customer, NOON, END) == 5

    world.inbox.append(body)
    assert [answer.status for answer in world.deliver()] == ["doubted"]
    assert statuses(world) == [Status.UNCHANGED]
    settle(world)
    assert len(world.meter_events()) == 1


def test_a_deleted_customer_alarms_and_is_not_sent_again(world: World) -> None:
    price, _ = world.metered_price()
    gone, other = (str(world.subscription(price).customer) for _ in range(2))
    world.travel(NOON + 2 * HOUR)
    world.tick()
    listed: list[Any] = []
    process = world.container()

    async def list_all() -> None:
        async for listing in process.billing.subscriptions({}):
            listed.extend(listing.customer_meters)

    process.run(list_all())
    world.client.v1.customers.delete(gone)
    for customer in (gone, other):
        world.use(customer, NOON + HOUR + MINUTE, 5)

    def report(container: Container) -> dict[str, Status]:
        reports = container.run(container.reporter.report(listed))
        return {one.customer_meter.customer: one.status for one in reports}

    assert report(process) == {gone: Status.SENT, other: Status.SENT}
    world.travel(world.clock() + 15)
    [answer] = world.deliver()
    assert answer.status == "rejected"
    assert "the customer was deleted in Stripe" in answer.reason
    assert gone in answer.reason
    sent = world.stripe.calls["POST", EVENTS]
    assert report(world.container())[other] is Status.UNCHANGED
    assert world.stripe.calls["POST", EVENTS] == sent


def test_what_would_be_refused_again_waits_for_a_person(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("missing_dimension_payload_keys")
    world.tick()
    assert told(world) == [(200, "rejected")]

    for _ in range(3):
        [report] = world.report_all()
        assert (report.status, "on a meter without them" in report.reason) == (Status.REJECTED, True)
    assert world.meter_events() == []
    assert statuses(world, Options(accept=True)) == [Status.SENT]
    assert world.held(customer, NOON, END) == 5
    assert statuses(world) == [Status.UNCHANGED]


@pytest.mark.parametrize("has_it", [True, False])
def test_an_unknown_of_a_day_is_settled_by_two_looks(world: World, has_it: bool) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    if has_it:
        world.stripe.faults.add("drop", "POST", EVENTS)
    world.stripe.faults.add("drop_before", "POST", EVENTS, times=None, skip=int(has_it))
    world.tick()
    world.stripe.faults.clear()
    world.travel(NOON + 26 * HOUR)
    sent = world.stripe.calls["POST", EVENTS]

    assert statuses(world) == [Status.DOUBTED]
    world.travel(NOON + 26 * HOUR + 9 * MINUTE)
    assert statuses(world) == [Status.DOUBTED]
    assert world.stripe.calls["POST", EVENTS] == sent, "never a new identifier while it is unknown"
    world.use(customer, NOON + 26 * HOUR + MINUTE, 2)
    for minutes in (9, 24):
        world.travel(NOON + 27 * HOUR + minutes * MINUTE)
        world.tick()

    assert world.held(customer, NOON, END) == 7
    assert [event["value"] for event in world.meter_events()] == [5, 2]
    assert statuses(world) == [Status.UNCHANGED]


def test_a_summary_that_explains_nothing_is_held_with_both_numbers(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(customer, NOON + 2 * MINUTE, 3)
    world.stripe.faults.add("drop_before", "POST", EVENTS, times=None)
    world.tick()
    world.stripe.faults.clear()
    foreign = {"stripe_customer_id": customer, "value": "100"}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": foreign, "timestamp": NOON + 1, "identifier": "of another"}
    )
    world.travel(NOON + 26 * HOUR)
    assert statuses(world) == [Status.DOUBTED]
    world.travel(NOON + 26 * HOUR + 10 * MINUTE)

    for _ in range(2):
        [report] = world.report_all()
        assert report.status is Status.HELD
        assert "holds 105 units" in report.reason
        assert "3 units that are doubted beside the 5 that are known" in report.reason
    assert len(world.meter_events()) == 2


def test_a_draft_waits_until_it_is_certain_what_stripe_counts(world: World) -> None:
    world.stripe.change_settings(finalization_grace=26 * HOUR)
    price, _ = world.metered_price()
    customer = world.customer()
    subscription = world.client.v1.subscriptions.create(
        {"customer": customer, "items": [{"price": price, "metadata": {"om_meter_id": "m1"}}]}
    )
    refuse_late(world, samples=0)
    world.use(customer, END - HOUR, 5)
    world.travel(END - 30 * MINUTE)
    world.stripe.validation.refuse_next("timestamp_in_future")
    world.tick()
    assert told(world) == [(200, "doubted")]
    world.travel(END + 20)
    [draft] = world.client.v1.invoices.list({"status": "draft"}).data
    event = {"type": INVOICE_CREATED, "data": {"object": {"id": draft.id}}}

    def answered() -> tuple[int, str]:
        answer = world.post(event, secret=world.thin_secret)
        return answer.code, answer.status

    assert answered() == (503, "doubted")
    world.travel(END + 45 * MINUTE)
    assert answered() == (503, "doubted")
    world.travel(END + 56 * MINUTE)
    assert answered() == (503, "doubted"), "the summary may only be late"
    world.travel(END + DAY)
    assert answered() == (200, "sent")
    world.travel(END + DAY + 3 * HOUR)
    assert [quantity for _, quantity, status in world.billed(subscription.id) if status != "draft"] == [5]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda event: {**event, "type": "v1.billing.meter.updated"}, (200, "ignored")),
        (lambda event: {**event, "context": "acct_1"}, (200, "not_ours")),
        (lambda event: {**event, "id": "evt_unknown"}, (200, "not_ours")),
        (lambda event: {**event, "id": "../customers"}, (400, "bad_request")),
        (lambda event: {**event, "object": "event"}, (200, "ignored")),
        (lambda event: event, (200, "not_ours")),
    ],
)
def test_thin_events_that_are_not_ours(
    world: World, change: Callable[[dict[str, Any]], dict[str, Any]], expected: tuple[int, str]
) -> None:
    """The last one is a report of what somebody else sent, and names all of it."""
    price, _ = world.metered_price()
    payload = {"stripe_customer_id": "cus_nobody", "value": "1"}
    world.client.v1.billing.meter_events.create({"event_name": "tokens", "payload": payload})
    world.travel(NOON + MINUTE)
    event = json.loads(world.inbox.pop())

    answer = world.post(change(event), secret=world.thin_secret)

    assert (answer.code, answer.status) == expected
    assert world.ledger() == []
    assert price


def test_a_thin_event_needs_a_signature_and_shadow_mode_takes_none(world: World) -> None:
    world.metered_price()
    refuse_late(world, samples=0)
    payload = {"stripe_customer_id": "cus_nobody", "value": "1"}
    world.client.v1.billing.meter_events.create({"event_name": "tokens", "payload": payload})
    world.travel(NOON + MINUTE)
    [body] = world.inbox

    assert world.post(body, secret="whsec_of_nobody").code == 400
    world.settings["mode"] = Mode.SHADOW
    assert world.post(body, secret=world.thin_secret).status == "ignored"
    assert world.ledger() == []
    world.settings["mode"] = Mode.LIVE
    assert world.post(body, secret=world.thin_secret).status == "doubted"
    assert [item["sk"]["S"] for item in world.ledger()] == ["doubts"]


def test_a_report_that_cannot_be_fetched_now_is_asked_for_again(world: World) -> None:
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("timestamp_in_future")
    world.tick()
    world.travel(world.clock() + 15)
    [body] = world.inbox
    world.stripe.faults.add("status", "GET", "/v2/core/events/*", status=500, times=None)
    assert [answer.code for answer in world.deliver()] == [503]
    world.stripe.faults.clear()

    world.inbox.append(body)
    assert [answer.status for answer in world.deliver()] == ["rejected"]
    world.tick()
    assert world.held(customer, NOON, END) == 5


def test_an_unchanged_page_reads_one_key_more_than_its_heads_and_days(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    price, _ = world.metered_price()
    for _ in range(3):
        world.subscription(price)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    keys: list[int] = []
    process = world.container()
    read = process.table.get

    def counted(asked: Any) -> Any:
        keys.append(len(asked))
        return read(asked)

    monkeypatch.setattr(process.table, "get", counted)
    world.tick(container=process)

    of_the_meter = 1  # by the listing, which finds it kept from the last tick
    assert keys == [of_the_meter, 3 + 1, 3]


def test_a_refused_total_of_a_meter_of_the_last_value_is_told_anew(world: World) -> None:
    price, _ = world.metered_price(formula="last")
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("archived_meter")
    world.tick()
    assert world.meter_events() == []

    assert told(world) == [(200, "rejected")]
    world.travel(NOON + 3 * HOUR)
    world.tick()

    assert [event["value"] for event in world.meter_events(customer)] == [5]
    world.travel(END + 2 * HOUR)
    assert [quantity for _, quantity, status in world.billed(subscription.id) if status != "draft"] == [5]


def refused_total(world: World, code: str) -> str:
    """A customer whose total of 5 on a meter of the last value Stripe took, and discarded with this code."""
    price, _ = world.metered_price(formula="last")
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next(code)
    world.tick()
    assert told(world) == [(200, "rejected")]
    return customer


def test_a_total_that_would_be_refused_again_waits_for_a_person(world: World) -> None:
    customer = refused_total(world, "missing_dimension_payload_keys")

    for hour in (3, 4):
        world.travel(NOON + hour * HOUR)
        [report] = world.report_all()
        assert (report.status, "on a meter without them" in report.reason) == (Status.REJECTED, True)
    assert world.meter_events() == []
    assert statuses(world, Options(accept=True)) == [Status.SENT]
    assert [event["value"] for event in world.meter_events(customer)] == [5]
    assert statuses(world) == [Status.UNCHANGED]


def test_another_total_than_the_refused_one_is_told(world: World) -> None:
    customer = refused_total(world, "meter_event_value_too_many_digits")
    world.use(customer, NOON + 2 * HOUR + MINUTE, 2)
    world.travel(NOON + 4 * HOUR)

    assert statuses(world) == [Status.SENT]

    assert [event["value"] for event in world.meter_events(customer)] == [7]


def test_doubts_of_a_subscription_that_is_over_are_settled_by_the_walk_over_recent_endings(
    world: World,
) -> None:
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    refuse_late(world, samples=0)
    world.use(str(subscription.customer), NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("timestamp_in_future")
    world.tick()
    world.client.v1.subscriptions.cancel(subscription.id)
    assert told(world) == [(200, "doubted")]

    def states() -> list[str]:
        table = world.container().table
        keys = [(item["pk"]["S"], item["sk"]["S"]) for item in world.ledger() if item["sk"]["S"][:2] == "20"]
        return [send["state"] for item in table.get(keys) for send in item["sends"].values()]

    seen = []
    for hour in (1, 2, 24):
        world.travel(NOON + (2 + hour) * HOUR + 2 * MINUTE)
        world.tick()
        seen += states()

    assert seen == ["doubted", "doubted", "discarded"]


@pytest.mark.parametrize("uses_more", [False, True])
def test_summaries_that_are_late_bill_nothing_twice(world: World, *, uses_more: bool) -> None:
    """Stripe promises no freshness: what one lacks counts a day later, or where it shows later usage."""
    price, _ = world.metered_price()
    refused, taken = (str(world.subscription(price).customer) for _ in range(2))
    refuse_late(world, samples=0)
    world.stripe.change_settings(aggregation_delay=2 * HOUR + 30 * MINUTE)
    world.travel(NOON + 3 * HOUR)
    for customer in (refused, taken):
        world.use(customer, NOON + MINUTE, 5)
    world.stripe.validation.refuse_next("timestamp_in_future", customer=refused)
    world.tick()
    assert told(world) == [(200, "doubted")]
    more = NOON + 3 * HOUR + 30 * MINUTE
    world.travel(NOON + 5 * HOUR)
    if uses_more:
        world.use(refused, more, 1)
    settle(world)

    found = [world.held(customer, NOON, NOON + HOUR) for customer in (refused, taken)]
    assert found == [5, 5]
    assert [event["value"] for event in world.meter_events(taken)] == [5]
