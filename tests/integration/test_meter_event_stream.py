"""STRIPE_METER_STREAM: pages share requests, Stripe checks them afterwards, and the bill is right."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from tests.integration.test_faults import ON_THE_WAY, Crash, die_at
from tests.integration.test_rejections import settle, statuses, told
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.config import Mode
from usage_reporting.container import Container
from usage_reporting.model import CustomerMeter, Status

STREAM = "/v2/billing/meter_event_stream"
SESSION = "/v2/billing/meter_event_session"
V1 = "/v1/billing/meter_events"
END = NOON + 31 * DAY
LATE_CODES = frozenset({"meter_event_customer_not_found", "archived_meter", "timestamp_too_far_in_past"})


@pytest.fixture
def world(world: World) -> World:
    world.settings["stripe_meter_stream"] = True
    world.listen_to_refusals()
    return world


def subscribed(world: World, size: int, **price: Any) -> list[tuple[str, str]]:
    """Customers with a subscription each: (subscription, customer)."""
    made, _ = world.metered_price(**price)
    found = [world.subscription(made) for _ in range(size)]
    return [(str(one.id), str(one.customer)) for one in found]


def customers_of(world: World, size: int, **price: Any) -> list[str]:
    return [customer for _, customer in subscribed(world, size, **price)]


def calls(world: World) -> tuple[int, int, int]:
    """Requests to the stream, for a session, and for one event."""
    count = world.stripe.calls
    streamed, sessions, alone = (count.get(("POST", path), 0) for path in (STREAM, SESSION, V1))
    return streamed, sessions, alone


def held(world: World, customers: Sequence[str]) -> list[int]:
    return [int(world.held(customer, NOON, END)) for customer in customers]


def final(world: World, subscription: str) -> list[int]:
    return [int(units) for _, units, status in world.billed(subscription) if status != "draft"]


def test_a_tick_of_101_customers_takes_a_request_for_each_page(world: World) -> None:
    found = subscribed(world, 101)
    for number, (_, customer) in enumerate(found):
        world.use(customer, NOON + MINUTE, number + 1)
    world.travel(NOON + 2 * HOUR)
    process = world.container()

    assert world.tick(container=process)["failures"] == 0

    assert calls(world) == (2, 1, 0)
    assert held(world, [customer for _, customer in found]) == list(range(1, 102))
    for number in range(0, 101, 10):
        world.use(found[number][1], END - HOUR, 1000)
    world.travel(END - 30 * MINUTE)
    world.tick(container=process)
    assert calls(world) == (4, 2, 0), "ten of one page, and one of the other"
    world.travel(END + 30 * MINUTE)
    world.tick("closing", container=process)
    world.travel(END + 2 * HOUR)
    bills = [final(world, subscription) for subscription, _ in found]
    assert bills == [[number + 1 + (1000 if number % 10 == 0 else 0)] for number in range(101)]


def test_a_session_serves_ticks_until_it_ends(world: World) -> None:
    [customer] = customers_of(world, 1)
    process = world.container()
    for number, minutes in enumerate((120, 130, 133, 150)):
        world.travel(NOON + minutes * MINUTE)
        world.use(customer, NOON + number, 1)
        world.tick(container=process)

    assert calls(world) == (4, 2, 0)
    world.stripe.sessions._by_token.clear()  # Stripe may end one whenever it likes
    world.use(customer, NOON + 9, 1)
    world.tick(container=process)
    assert calls(world) == (6, 3, 0)
    assert held(world, [customer]) == [5]


# Refused at once


def test_one_that_is_refused_at_once_is_found_and_then_told_alone(world: World) -> None:
    customers = customers_of(world, 30)
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    bad = customers[17]
    world.travel(NOON + 2 * HOUR)
    fault = world.stripe.faults.add("status", "POST", STREAM, status=400, contains=bad, times=None)

    reports = {one.customer_meter.customer: one.status for one in world.report_all()}

    assert reports == {one: Status.REJECTED if one == bad else Status.SENT for one in customers}
    assert fault in world.stripe.faults.struck
    world.tick()
    assert held(world, customers) == [5] * 30
    assert calls(world)[2] == 1


# Refused afterwards


def test_an_archived_meter_refuses_all_and_is_told_anew_when_it_is_active(world: World) -> None:
    price, meter = world.metered_price()
    customers = [str(world.subscription(price).customer) for _ in range(5)]
    world.stripe.change_settings(checked_late=LATE_CODES, error_samples=100)
    world.travel(NOON + 2 * HOUR)
    process = world.container()
    world.tick(container=process)
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    world.client.v1.billing.meters.deactivate(meter)
    world.tick(container=process)  # which still believes that the meter is active
    assert (held(world, customers), calls(world)) == ([0] * 5, (1, 1, 0))

    assert told(world) == [(200, "rejected")]
    world.client.v1.billing.meters.reactivate(meter)
    world.tick()

    assert held(world, customers) == [5] * 5
    assert set(statuses(world)) == {Status.UNCHANGED}


def test_where_one_of_many_is_refused_all_are_doubted_and_only_it_is_sent_again(
    world: World, counted: dict[str, float]
) -> None:
    found = subscribed(world, 12)
    customers = [customer for _, customer in found]
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("archived_meter", customer=customers[3])
    world.tick()
    assert held(world, customers) == [5] * 3 + [0] + [5] * 8

    assert told(world) == [(200, "doubted")]
    assert counted["Rejected"] == 1
    assert statuses(world) == [Status.DOUBTED] * 12
    world.use(customers[0], NOON + 2 * HOUR + MINUTE, 1)
    settle(world)

    assert held(world, customers) == [6] + [5] * 11
    assert set(statuses(world)) == {Status.UNCHANGED}
    assert len(world.meter_events()) == 13
    world.travel(END + 2 * HOUR)
    assert [final(world, subscription) for subscription, _ in found] == [[6]] + [[5]] * 11


def test_refusals_of_which_samples_are_named_are_settled_too(world: World) -> None:
    customers = customers_of(world, 9)
    world.stripe.change_settings(error_samples=1)
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    for customer in customers[:3]:
        world.stripe.validation.refuse_next("timestamp_in_future", customer=customer)
    world.tick()
    assert told(world) == [(200, "doubted")]
    settle(world)

    assert held(world, customers) == [5] * 9
    assert len(world.meter_events()) == 9


def test_a_deleted_customer_in_a_request_costs_the_others_nothing_and_raises_the_alarm(
    world: World, counted: dict[str, float]
) -> None:
    customers = customers_of(world, 6)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    process = world.container()
    listed = process.run(everybody(process))
    gone = customers[2]
    world.client.v1.customers.delete(gone)
    for customer in customers:
        world.use(customer, NOON + HOUR + MINUTE, 5)
    assert {one.status for one in process.run(process.reporter.report(listed))} == {Status.SENT}

    assert told(world) == [(200, "doubted")]
    assert counted["Rejected"] == 1
    settle(world)

    assert held(world, customers) == [5, 5, 0, 5, 5, 5]
    assert set(statuses(world)) == {Status.UNCHANGED}
    assert counted["Unbillable"] == 5, "what no invoice will have"
    assert len(world.meter_events()) == 5


async def everybody(container: Container) -> list[CustomerMeter]:
    listings = [one async for one in container.billing.subscriptions({})]
    return [one for listing in listings for one in listing.customer_meters]


def test_two_meters_in_a_request_are_told_apart(world: World) -> None:
    world.openmeter.create_meter("m2", "called")
    tokens, _ = world.metered_price()
    calls_, meter = world.metered_price("calls")
    world.stripe.change_settings(checked_late=LATE_CODES)
    first = str(world.subscription(tokens).customer)
    second = str(world.subscription(calls_, om_meter_id="m2").customer)
    world.travel(NOON + 2 * HOUR)
    process = world.container()
    world.tick(container=process)
    world.use(first, NOON + MINUTE, 5)
    world.use(second, NOON + MINUTE, 7, meter="m2")
    listed = process.run(everybody(process))
    world.client.v1.billing.meters.deactivate(meter)
    process.run(process.reporter.report(listed))
    assert calls(world)[0] == 1

    assert told(world) == [(200, "rejected")]
    world.client.v1.billing.meters.reactivate(meter)
    world.tick()

    assert held(world, [first, second]) == [5, 7]


# Meters that take the last value


def test_totals_are_streamed_and_a_refusal_is_outdone_by_a_later_stamp(world: World) -> None:
    found = subscribed(world, 8, formula="last")
    customers = [customer for _, customer in found]
    for number, customer in enumerate(customers):
        world.use(customer, NOON + MINUTE, number + 1)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("timestamp_in_future", customer=customers[5])
    world.tick()
    assert calls(world) == (1, 1, 0)

    assert told(world) == [(200, "doubted")]
    world.tick()
    assert calls(world) == (1, 1, 8), "after a refusal each goes alone for once"
    world.use(customers[0], NOON + 2 * HOUR, 10)
    world.travel(NOON + 4 * HOUR)
    world.tick()
    assert calls(world) == (2, 2, 8)
    world.travel(END + 2 * HOUR)
    bills = [final(world, subscription) for subscription, _ in found]
    assert bills == [[11], *([number] for number in range(2, 9))]


def test_a_total_that_stripe_goes_on_refusing_ends_with_an_alarm(world: World) -> None:
    customers = customers_of(world, 4, formula="last")
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    bad = customers[1]
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("missing_dimension_payload_keys", customer=bad, times=99)
    answers = []
    for minutes in range(5, 65, 10):
        world.tick()
        answers += told(world)
        world.travel(NOON + 2 * HOUR + minutes * MINUTE)

    assert answers == [(200, "doubted"), (200, "rejected")]
    reports = {one.customer_meter.customer: one.status for one in world.report_all()}
    assert reports == {one: Status.REJECTED if one == bad else Status.UNCHANGED for one in customers}
    assert calls(world)[0] == 1
    assert len(world.meter_events()) == 2 * 3, "told once, and once more after the doubt"


# No answer, crashes, and another setting


@pytest.mark.parametrize(("kind", "details"), ON_THE_WAY)
@pytest.mark.parametrize("path", [STREAM, SESSION])
def test_what_goes_wrong_on_the_way_bills_each_once(
    world: World, kind: str, details: dict[str, Any], path: str
) -> None:
    customers = customers_of(world, 3)
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add(kind, "POST", path, **details)

    assert world.tick()["failures"] == 0
    world.tick()

    assert [event["value"] for event in world.meter_events()] == [5] * 3


@pytest.mark.parametrize("streamed_first", [False, True])
@pytest.mark.parametrize("has_it", [False, True])
def test_another_setting_between_two_ticks_bills_each_once(
    world: World, *, streamed_first: bool, has_it: bool
) -> None:
    world.settings["stripe_meter_stream"] = streamed_first
    customers = customers_of(world, 3)
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    for path, first in ((STREAM, 1), (V1, 3)):
        if has_it:
            world.stripe.faults.add("drop", "POST", path, times=first)
        world.stripe.faults.add("drop_before", "POST", path, times=None, skip=first if has_it else 0)
    assert world.tick()["failures"] == 1
    world.stripe.faults.clear()
    before = calls(world)
    for customer in customers:
        world.use(customer, NOON + HOUR + MINUTE, 7)

    world.settings["stripe_meter_stream"] = not streamed_first
    world.tick()
    world.tick()

    assert [event["value"] for event in world.meter_events()] == [5] * 3 + [7] * 3
    streamed, _, alone = (now - then for now, then in zip(calls(world), before, strict=True))
    assert (streamed, alone) == (1, 3), "what was open went the way that it had gone"


def test_without_a_stream_on_the_account_the_setting_can_be_taken_back_at_once(world: World) -> None:
    customers = customers_of(world, 3)
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add("status", "POST", SESSION, status=400, times=None)
    reports = world.report_all()
    assert {one.status for one in reports} == {Status.UNKNOWN}
    assert "without STRIPE_METER_STREAM they go one by one" in reports[0].reason

    world.settings["stripe_meter_stream"] = False
    world.tick()

    assert held(world, customers) == [5] * 3


def test_shadow_mode_streams_nothing(world: World) -> None:
    [customer] = customers_of(world, 1)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)

    world.settings["mode"] = Mode.SHADOW

    [report] = world.report_all()

    assert report.status is Status.SHADOW
    assert calls(world) == (0, 0, 0)
    assert world.ledger() == []


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_between_any_two_calls_of_a_page_ends_right(world: World, *, after: bool) -> None:
    pages = [customers_of(world, 2, event_name=f"tokens{number}") for number in range(19)]
    usage = {MINUTE: 1, HOUR + MINUTE: 2, 20 * HOUR: 4}
    for customer in itertools.chain(*pages):
        for seconds, units in usage.items():
            world.use(customer, NOON + seconds, units)
    world.travel(NOON + 24 * HOUR)
    lister = world.container()
    listed = {one.customer: one for one in lister.run(everybody(lister))}
    crashes = 0
    for point, customers in enumerate(pages):
        page = [listed[customer] for customer in customers]
        doomed = world.container()
        die_at(doomed, point, after=after)
        try:
            doomed.run(doomed.reporter.report(page))
        except Crash:
            crashes += 1
        bury(doomed)
        survivor = world.container()
        survivor.run(survivor.reporter.report(page))
        for customer in customers:
            assert sorted(event["value"] for event in world.meter_events(customer)) == [1, 2, 4], point
    # Two heads twice, a session, and for each of two days: two intents, what the request carries, the
    # request, two outcomes.
    assert crashes == 17


def bury(container: Container) -> None:
    """Nothing of a process that died goes on."""

    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    container.run(end())
