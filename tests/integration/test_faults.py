"""What goes wrong does not change a bill."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.container import Container
from usage_reporting.heads import Options
from usage_reporting.model import CustomerMeter, Status

EVENTS = "/v1/billing/meter_events"

ON_THE_WAY: list[tuple[str, dict[str, Any]]] = [
    ("error_after", {"status": 500}),
    ("error_after", {"status": 500, "times": 4}),
    ("drop", {}),
    ("drop", {"times": 3}),
    ("drop_before", {"times": 2}),
    ("status", {"status": 503, "times": 2}),
    ("rate_limited", {"reason": "endpoint-rate", "times": 3}),
    ("rate_limited", {"reason": None}),
]
"""What goes wrong between us and Stripe, in the words of its stand-in: before or after it took the usage."""


@pytest.fixture
def customer(world: World) -> str:
    price, _ = world.metered_price()
    return str(world.subscription(price).customer)


def test_openmeter_down_gives_the_message_back_and_mends_later(world: World, customer: str) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.openmeter.faults.down = True
    assert world.tick()["failures"] == 1
    assert world.meter_events() == []

    world.openmeter.faults.down = False
    world.tick()

    assert world.held(customer, NOON, NOON + HOUR) == 5


def test_openmeter_down_at_a_renewal_asks_stripe_to_come_again(world: World, customer: str) -> None:
    end = NOON + 31 * DAY
    world.listen()
    world.use(customer, end - 1, 5)
    world.travel(end)
    world.clock.set(end + 16)
    event = world.inbox[0]
    world.openmeter.faults.down = True
    assert [answer.code for answer in world.deliver()] == [503]

    world.openmeter.faults.down = False
    world.inbox.append(event)
    assert [answer.code for answer in world.deliver()] == [200]

    assert world.held(customer, NOON, end) == 5


def test_stripe_down_at_a_renewal_asks_stripe_to_come_again(world: World, customer: str) -> None:
    end = NOON + 31 * DAY
    world.listen()
    world.use(customer, end - 1, 5)
    world.travel(end)
    world.clock.set(end + 16)
    event = world.inbox[0]
    world.stripe.faults.add("status", "GET", "/v1/subscriptions/*", status=500, times=None)
    assert [answer.code for answer in world.deliver()] == [503]

    world.stripe.faults.clear()
    world.inbox.append(event)
    assert [answer.code for answer in world.deliver()] == [200]

    assert world.held(customer, NOON, end) == 5


@pytest.mark.parametrize(("kind", "details"), ON_THE_WAY)
def test_an_event_that_stripe_took_without_saying_so_is_billed_once(
    world: World, customer: str, kind: str, details: dict[str, Any]
) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add(kind, "POST", EVENTS, **details)

    assert world.tick()["failures"] == 0
    world.tick()

    assert [event["value"] for event in world.meter_events()] == [5]


def test_an_outage_longer_than_a_run_is_mended_by_the_next_with_the_same_identifier(
    world: World, customer: str
) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add("error_after", "POST", EVENTS, status=500, times=12)

    assert [world.tick()["failures"] for _ in range(4)] == [1, 1, 0, 0]

    assert [event["value"] for event in world.meter_events()] == [5]


def test_an_empty_answer_of_openmeter_changes_no_bill(world: World) -> None:
    price, _ = world.metered_price()
    customers = [str(world.subscription(price).customer) for _ in range(12)]
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    before = world.meter_events()
    world.travel(NOON + 3 * HOUR)
    world.openmeter.faults.empty(times=1000)

    reports = world.report_all()

    assert {report.status for report in reports} == {"held"}
    assert world.meter_events() == before


def test_a_new_hour_is_not_sent_either_when_most_of_a_page_comes_back_empty(world: World) -> None:
    price, _ = world.metered_price()
    customers = [str(world.subscription(price).customer) for _ in range(12)]
    for customer in customers:
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    for customer in customers[:8]:
        world.use(customer, NOON + 2 * MINUTE, -5)
    world.use(customers[-1], NOON + 2 * HOUR + MINUTE, 3)
    world.travel(NOON + 4 * HOUR)

    reports = world.report_all()

    assert {report.status for report in reports} == {"held"}
    assert len(world.meter_events()) == 12


def test_a_smaller_hour_is_held_until_it_is_accepted(world: World, customer: str) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(customer, NOON + 2 * MINUTE, -2)
    world.use(customer, NOON + 2 * HOUR + MINUTE, 7)
    world.travel(NOON + 4 * HOUR)

    reports = world.report_all()

    assert [report.status for report in reports] == ["held"]
    assert world.held(customer, NOON, NOON + HOUR) == 5
    assert world.held(customer, NOON + 2 * HOUR, NOON + 3 * HOUR) == 7
    accepted = world.report_all(Options(full=True, accept=True))
    assert [report.status for report in accepted] == ["sent"]
    assert world.held(customer, NOON, NOON + HOUR) == 3


def test_decreases_are_sent_where_they_are_allowed(world: World, customer: str) -> None:
    world.settings["allow_decrease"] = True
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(customer, NOON + 2 * MINUTE, -2)
    world.travel(NOON + 3 * HOUR)

    world.tick()

    assert world.held(customer, NOON, NOON + HOUR) == 3


def test_usage_that_was_all_taken_back_is_no_empty_openmeter(world: World, customer: str) -> None:
    world.settings["allow_decrease"] = True
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(customer, NOON + MINUTE, -5)
    world.travel(NOON + 3 * HOUR)

    world.tick()

    assert world.held(customer, NOON, NOON + HOUR) == 0


def test_one_customer_whose_usage_is_rejected_does_not_stop_the_others(world: World) -> None:
    price, _ = world.metered_price()
    bad, good = (str(world.subscription(price).customer) for _ in range(2))
    for customer in (bad, good):
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add("status", "POST", EVENTS, status=400, contains=bad, times=None)

    assert world.tick()["failures"] == 0

    assert [event["value"] for event in world.meter_events(good)] == [5]
    assert world.meter_events(bad) == []
    world.stripe.faults.clear()
    world.travel(NOON + 3 * HOUR)
    world.tick()
    assert [event["value"] for event in world.meter_events(bad)] == [5]


class Crash(BaseException):
    """The process dies here; a BaseException, so that nothing in the product can catch it."""


def die_at(container: Container, point: int, *, after: bool) -> None:
    """Let the container's process die before or after its n-th write to the ledger or to Stripe."""
    table, api = container.reporter.ledger._table, container.billing.api
    real_put, real_call = table.put, api.call
    steps = itertools.count()

    def put(item: dict[str, Any], version: int) -> None:
        dies = next(steps) == point
        if dies and not after:
            raise Crash
        real_put(item, version)
        if dies:
            raise Crash

    async def call(method: str, path: str, params: Any, **more: Any) -> Any:
        if method == "get":
            return await real_call(method, path, params, **more)
        dies = next(steps) == point
        if dies and not after:
            raise Crash
        answer = await real_call(method, path, params, **more)
        if dies:
            raise Crash
        return answer

    for holder, name, stand_in in ((table, "put", put), (api, "call", call)):
        setattr(holder, name, stand_in)


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_between_any_two_calls_ends_right(world: World, *, after: bool) -> None:
    price, _ = world.metered_price()
    usage = {MINUTE: 1, HOUR + MINUTE: 2, 20 * HOUR: 4, 30 * HOUR: 8}
    customers = [str(world.subscription(price).customer) for _ in range(14)]
    for customer in customers:
        for seconds, units in usage.items():
            world.use(customer, NOON + seconds, units)
    world.travel(NOON + 32 * HOUR)
    crashes = 0
    for point, customer in enumerate(customers):
        doomed = world.container()
        [customer_meter] = doomed.run(meters_of(doomed, customer))
        die_at(doomed, point, after=after)
        try:
            doomed.run(doomed.reporter.report([customer_meter]))
        except Crash:
            crashes += 1
        survivor = world.container()
        survivor.run(survivor.reporter.report([customer_meter]))
        held = [world.held(customer, NOON + h * HOUR, NOON + (h + 1) * HOUR) for h in range(32)]
        assert [units for units in held if units] == [1, 2, 4, 8]
        assert len(world.meter_events(customer)) == 4
    # Two days with four sends, one head twice: ten writes and calls, each of which was a point.
    assert crashes == 10


async def meters_of(container: Container, customer: str) -> list[CustomerMeter]:
    listings = [one async for one in container.billing.subscriptions({"customer": customer})]
    return [one for listing in listings for one in listing.customer_meters]


def test_who_read_earlier_loses_and_reads_again(world: World, customer: str) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    slow, fast = world.container(), world.container()
    [customer_meter] = slow.run(meters_of(slow, customer))
    read_hours = slow.reporter.openmeter.hours

    async def overtaken(*args: Any) -> Any:
        found = await read_hours(*args)
        if not world.meter_events():
            world.use(customer, NOON + 2 * MINUTE, 3)
            thread = threading.Thread(target=lambda: fast.run(fast.reporter.report([customer_meter])))
            thread.start()
            thread.join()
        return found

    setattr(slow.reporter.openmeter, "hours", overtaken)  # noqa: B010
    [report] = slow.run(slow.reporter.report([customer_meter]))

    assert report.status in {Status.UNCHANGED, Status.SENT}
    assert [event["value"] for event in world.meter_events()] == [8]


def test_two_workers_and_the_webhook_at_once_end_with_the_newest_value(world: World, customer: str) -> None:
    end = NOON + 31 * DAY
    world.listen()
    world.use(customer, end - HOUR, 5)
    world.travel(end)
    world.clock.set(end + 16)
    workers = [world.container() for _ in range(3)]
    [customer_meter] = workers[0].run(meters_of(workers[0], customer))
    at_once = threading.Barrier(4)

    def work(container: Container) -> None:
        at_once.wait()
        for _ in range(3):
            container.run(container.reporter.report([customer_meter], Options(full=True)))

    def renew() -> None:
        at_once.wait()
        events = list(world.inbox)
        for _ in range(3):
            world.inbox = list(events)
            world.deliver(workers[2])

    threads = [threading.Thread(target=work, args=(workers[n],)) for n in range(2)]
    threads.append(threading.Thread(target=renew))
    for thread in threads:
        thread.start()
    at_once.wait()
    for second in range(20):
        world.use(customer, end - HOUR + second, 1)
    for thread in threads:
        thread.join()
    world.tick("closing")

    assert world.held(customer, NOON, end) == 25
    assert sum(event["value"] for event in world.meter_events()) == 25
