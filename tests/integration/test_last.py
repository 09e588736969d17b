"""Meters that take the last value: each invoice carries the total of just its time, however that ends."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.integration.test_faults import Crash, die_at, meters_of
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.heads import Options

EVENTS = "/v1/billing/meter_events"
START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY
SECOND_END = END + 31 * DAY


@pytest.fixture
def price(world: World) -> str:
    """A price on a meter that takes the last value; OpenMeter's `m1` takes the largest."""
    world.clock.set(START)
    world.openmeter.delete_meter("m1")
    world.openmeter.create_meter("m1", "used", aggregation="MAX")
    return world.metered_price(formula="last")[0]


def billed(world: World, subscription: str) -> list[tuple[Decimal, str]]:
    """Quantity and status of the lines, oldest invoice first."""
    return [(quantity, status) for _, quantity, status in world.billed(subscription)]


def quantities(world: World, subscription: str) -> list[Decimal]:
    return [quantity for quantity, _ in billed(world, subscription)]


def statuses(world: World, options: Options | None = None) -> list[str]:
    return [str(report.status) for report in world.report_all(options)]


USED: dict[int, list[float]] = {
    START + 3 * DAY: [5, 3],
    START + 9 * DAY + 7: [8],
    END - HOUR: [4],
    END - 1: [2],
    END: [9],
    END + 12 * DAY: [7, 7],
    SECOND_END - 30 * MINUTE: [6],
    SECOND_END: [100],
}


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("SUM", [22, 29]),
        ("COUNT", [5, 4]),
        ("UNIQUE_COUNT", [5, 3]),
        ("MAX", [8, 9]),
        ("MIN", [2, 6]),
        ("AVG", [Decimal("4.4"), Decimal("7.25")]),
        ("LATEST", [2, 6]),
    ],
)
def test_each_aggregation_through_two_periods(world: World, aggregation: str, expected: list[Any]) -> None:
    world.clock.set(START)
    world.openmeter.create_meter("any", "any_used", aggregation=aggregation)
    price, _ = world.metered_price(formula="last")
    subscription = world.subscription(price, om_meter_id="any")
    customer = str(subscription.customer)
    world.listen()
    ticks = [(START + day * DAY, "all") for day in (1, 4, 10, 20, 30)]
    ticks += [(END - 20 * MINUTE, "closing"), (END + 16, "webhook"), (END + 10 * MINUTE, "closing")]
    ticks += [(END + 45 * MINUTE, "closing"), (END + 2 * HOUR, "all"), (END + 13 * DAY, "all")]
    ticks += [(SECOND_END - 5 * MINUTE, "closing"), (SECOND_END + 20 * MINUTE, "closing")]
    waiting = dict(USED)
    for instant, how in ticks:
        world.travel(instant)
        for time in [time for time in waiting if time <= instant]:
            for value in waiting.pop(time):
                world.use(customer, time, value, meter="any")
        if how == "webhook":
            assert {one.code for one in world.deliver()} == {200}
        else:
            assert world.tick(how)["failures"] == 0
    world.travel(SECOND_END + 2 * HOUR)

    assert [quantity for quantity, status in billed(world, subscription.id) if status != "draft"] == expected
    stamps = [event["timestamp"] for event in world.meter_events()]
    assert len(set(stamps)) == len(stamps)


def subscribed(world: World, price: str, **params: Any) -> tuple[str, str]:
    """A subscription that starts now, and its customer."""
    subscription = world.subscription(price, **params)
    return str(subscription.id), str(subscription.customer)


def test_late_usage_in_the_draft_hour_is_billed(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price)
    world.use(customer, START + DAY, 5)
    world.travel(END + 16)
    world.tick("closing")
    world.use(customer, END - 2, 7)
    world.use(customer, END + 1, 99)
    world.travel(END + 30 * MINUTE)
    world.tick("closing")
    world.travel(END + 2 * HOUR)

    assert quantities(world, subscription) == [7]
    inside = [event["timestamp"] for event in world.meter_events() if event["timestamp"] < END]
    assert inside == [END - 600, END - 599]


def test_usage_after_the_invoice_was_final_is_late_and_counted_once(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price)
    world.use(customer, START + DAY, 5)
    world.travel(END + 16)
    world.tick("closing")
    world.travel(END + 2 * HOUR)
    world.use(customer, END - 2, 7)

    [first], [again] = world.report_all(), world.report_all()

    assert (str(first.status), int(first.late)) == ("late", 2)
    assert (str(again.status), int(again.late)) == ("unchanged", 0)
    assert quantities(world, subscription) == [5]
    world.tick("closing")
    [verdict] = [item for item in world.ledger() if item["sk"]["S"] == "verdict"]
    assert verdict["lines"]["L"][0]["M"]["verdict"] == {"S": "short"}
    assert verdict["lines"]["L"][0]["M"]["causes"] == {"M": {"late": {"N": "2"}}}


def test_what_was_billed_too_much_is_held_until_an_operator_notes_it(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price(formula="last")
    _, customer = subscribed(world, price)
    world.use(customer, START + DAY, 5)
    world.travel(END + 16)
    world.tick("closing")
    world.travel(END + 2 * HOUR)
    world.use(customer, START + DAY, -3)

    assert statuses(world) == ["held"]
    [noted] = world.report_all(Options(full=True, accept=True))

    assert noted.status == "late"
    assert "3 units" in noted.reason
    assert statuses(world) == ["unchanged"]


def test_the_period_is_complete_without_any_tick_before_its_end(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price)
    world.listen(enabled_events=["invoice.created"])
    world.use(customer, END - 40, 5)
    world.travel(END + 16)

    assert [(one.code, one.status) for one in world.deliver()] == [(200, "sent")]

    world.travel(END + 2 * HOUR)
    assert quantities(world, subscription) == [5]


# Prices that change


def new_price(world: World, old: str) -> str:
    meter = world.client.v1.prices.retrieve(old).recurring.meter
    product = world.client.v1.products.create({"name": "dearer"}).id
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    params = {"currency": "usd", "unit_amount": 20, "product": product, "recurring": recurring}
    return str(world.client.v1.prices.create({**params, "metadata": {"om_meter_id": "m1"}}).id)


def swap(world: World, subscription: str, new: str, how: str = "in place") -> None:
    item = world.client.v1.subscriptions.retrieve(subscription)["items"].data[0].id
    items: Any = (
        [{"id": item, "price": new}]
        if how == "in place"
        else [{"id": item, "deleted": True}, {"price": new, "metadata": {"om_meter_id": "m1"}}]
    )
    world.client.v1.subscriptions.update(subscription, {"items": items})


def verdicts(world: World) -> set[str]:
    """What was found of the lines that were judged."""
    judged = [item["lines"]["L"] for item in world.ledger() if item["sk"]["S"] == "verdict"]
    return {line["M"]["verdict"]["S"] for lines in judged for line in lines}


def close(world: World, subscription: str) -> dict[str, Decimal]:
    """What is billed by price when the period is over, and found exact."""
    world.travel(END + 16)
    world.tick("closing")
    world.travel(END + 2 * HOUR)
    world.tick("closing")
    assert verdicts(world) <= {"exact", "free"}
    assert "exact" in verdicts(world)
    total: dict[str, Decimal] = {}
    for one, quantity, status in world.billed(subscription):
        if status != "draft":
            total[one] = total.get(one, Decimal(0)) + quantity
    return total


@pytest.mark.parametrize("how", ["in place", "removed and added"])
@pytest.mark.parametrize("mode", ["flexible", "classic"])
def test_a_swap_begins_anew_and_what_was_not_told_is_counted(
    world: World, price: str, mode: str, how: str
) -> None:
    subscription, customer = subscribed(world, price, billing_mode={"type": mode})
    new = new_price(world, price)
    at = START + 15 * DAY
    world.use(customer, START + DAY, 50)
    world.travel(at - 30 * MINUTE)
    world.tick()
    world.use(customer, at - 10 * MINUTE, 60)
    world.travel(at)
    swap(world, subscription, new, how)
    world.use(customer, at + MINUTE, 7)
    world.travel(at + 30 * MINUTE)
    first = world.report_all()
    world.travel(at + 2 * HOUR)
    again = world.report_all()

    # Classic mode bills nothing from before the swap, told or not.
    assert [report.unbillable for report in first] == [10 if mode == "flexible" else 60]
    assert [report.unbillable for report in again] == [0]
    assert close(world, subscription) == {price: 50 if mode == "flexible" else 0, new: 7}


def test_a_swap_right_after_an_eager_report_is_exact(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price, billing_mode={"type": "flexible"})
    new = new_price(world, price)
    at = START + 15 * DAY
    world.use(customer, at - 5 * MINUTE, 60)
    world.travel(at - MINUTE)
    world.report_all(Options(full=True, eager=True))
    world.travel(at)
    swap(world, subscription, new)
    world.travel(at + HOUR)

    [report] = world.report_all()

    assert (str(report.status), int(report.unbillable)) == ("unchanged", 0)
    assert close(world, subscription) == {price: 60, new: 0}


@pytest.mark.parametrize("last", [4, 70])
def test_swaps_between_two_ticks_are_told_apart(world: World, price: str, last: int) -> None:
    """Also where the whole period's largest value stays the same: then at its end."""
    subscription, customer = subscribed(world, price, billing_mode={"type": "flexible"})
    new = new_price(world, price)
    at = START + 15 * DAY
    world.use(customer, START + DAY, 50)
    world.travel(at)
    world.tick()
    for minutes, to, value in ((10, new, 8), (20, price, 3)):
        world.travel(at + minutes * MINUTE)
        swap(world, subscription, to)
        world.use(customer, at + minutes * MINUTE + 5, value)
    world.travel(at + HOUR)

    world.use(customer, at + 50 * MINUTE, last)

    [report] = world.report_all()

    # The other price was on the item for ten minutes, and Stripe was not told of them.
    if last > 50:
        assert (int(report.unbillable), [int(send.value) for send in report.sent]) == (8, [last])
    assert close(world, subscription) == {price: 50 + last, new: 0}


def test_a_swap_just_before_the_renewal_is_noticed_after_it(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price, billing_mode={"type": "flexible"})
    new = new_price(world, price)
    world.use(customer, START + DAY, 50)
    world.travel(END - 30 * MINUTE)
    world.tick()
    world.travel(END - 10 * MINUTE)
    swap(world, subscription, new)
    world.use(customer, END - 5 * MINUTE, 3)

    assert close(world, subscription) == {price: 50, new: 3}


def test_a_swap_just_before_the_renewal_takes_nothing_from_the_old_price_afterwards(
    world: World, price: str
) -> None:
    subscription, customer = subscribed(world, price, billing_mode={"type": "flexible"})
    new = new_price(world, price)
    world.use(customer, START + DAY, 50)
    world.travel(END - 30 * MINUTE)
    world.tick()
    world.travel(END - 10 * MINUTE)
    swap(world, subscription, new)
    world.use(customer, END - 5 * MINUTE, 70)
    assert close(world, subscription) == {price: 50, new: 70}
    world.travel(END + 5 * HOUR)

    [report] = world.report_all(Options(full=True))

    assert report.late == report.unbillable == 0


def test_at_first_sight_a_new_price_counts_from_where_it_was_put_on(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price, billing_mode={"type": "flexible"})
    new = new_price(world, price)
    at = START + 15 * DAY
    world.use(customer, START + DAY, 50)
    world.travel(at)
    swap(world, subscription, new)
    world.use(customer, at + MINUTE, 7)
    world.travel(at + DAY)

    [report] = world.report_all()

    assert report.unbillable == 50
    assert close(world, subscription) == {price: 0, new: 7}


def test_without_the_permission_to_read_events_nothing_is_guessed(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price, billing_mode={"type": "flexible"})
    new = new_price(world, price)
    at = START + 15 * DAY
    world.use(customer, START + DAY, 50)
    world.travel(at - MINUTE)
    world.tick()
    world.travel(at)
    swap(world, subscription, new)
    world.stripe.faults.add("status", "GET", "/v1/events", status=403, times=None)
    world.use(customer, at + MINUTE, 7)
    world.travel(at + HOUR)

    [report] = world.report_all()

    assert report.status == "unknown"
    assert "may not do this" in report.reason
    assert len(world.meter_events()) == 1
    world.stripe.faults.clear()
    assert close(world, subscription) == {price: 50, new: 7}


# Endings


@pytest.mark.parametrize(("invoice_now", "status", "lines"), [(True, "sent", [8]), (False, "unbillable", [])])
def test_an_immediate_cancellation(
    world: World, price: str, invoice_now: bool, status: str, lines: list[int]
) -> None:
    subscription, customer = subscribed(world, price)
    world.listen()
    world.use(customer, START + HOUR, 5)
    world.travel(START + 5 * HOUR)
    world.tick()
    world.use(customer, START + 5 * HOUR + MINUTE, 8)
    world.travel(START + 5 * HOUR + 12 * MINUTE)
    world.client.v1.subscriptions.cancel(subscription, {"invoice_now": invoice_now})
    world.stripe.run_due()

    [told] = world.deliver()

    assert (told.code, told.status) == (200, status)
    assert invoice_now or "8 units" in told.reason
    world.travel(START + 2 * DAY)
    assert quantities(world, subscription) == lines


def test_a_cancellation_at_the_periods_end(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price, cancel_at_period_end=True)
    world.listen()
    world.use(customer, END - 5, 5)
    world.travel(END + 16)

    assert [(one.code, one.status) for one in world.deliver()] == [(200, "sent")]
    world.travel(END + 2 * HOUR)
    assert quantities(world, subscription) == [5]


def test_an_anchor_reset_begins_anew(world: World, price: str) -> None:
    subscription, customer = subscribed(world, price)
    world.listen()
    at = START + 10 * DAY + 5
    world.use(customer, START + DAY, 50)
    world.travel(at - HOUR)
    world.tick()
    world.use(customer, at - MINUTE, 60)
    world.travel(at)
    world.client.v1.subscriptions.update(subscription, {"billing_cycle_anchor": "now"})
    world.stripe.run_due()
    world.use(customer, at, 7)
    world.travel(at + 30)
    assert {one.code for one in world.deliver()} == {200}
    world.travel(at + 45 * MINUTE)
    world.tick()
    world.travel(at + 2 * HOUR)
    world.tick()
    world.travel(at + 32 * DAY)

    assert quantities(world, subscription)[:2] == [60, 7]


def test_a_trials_usage_is_in_no_total(world: World, price: str) -> None:
    trial_end = START + 10 * DAY + 5
    subscription, customer = subscribed(world, price, trial_end=trial_end)
    world.use(customer, trial_end - 1, 90)
    world.use(customer, trial_end, 1)
    for hours in (-2, 1, 3):
        world.travel(trial_end + hours * HOUR)
        world.tick()
    world.travel(trial_end + 31 * DAY + 3 * HOUR)

    assert quantities(world, subscription)[-1] == 1


def test_an_added_item_counts_from_then_on(world: World, price: str) -> None:
    world.openmeter.create_meter("other", "other_used", aggregation="MAX")
    plain, _ = world.metered_price("plain")
    world.openmeter.create_meter("sum", "sum_used")
    subscription, customer = subscribed(world, plain, om_meter_id="sum")
    world.use(customer, START + DAY, 50, meter="other")
    world.travel(START + 3 * DAY)
    world.client.v1.subscription_items.create(
        {"subscription": subscription, "price": price, "metadata": {"om_meter_id": "other"}}
    )
    world.use(customer, START + 4 * DAY, 7, meter="other")
    world.travel(START + 5 * DAY)
    world.tick()

    assert close(world, subscription) == {plain: 0, price: 7}


def test_cancelled_and_subscribed_again_within_a_minute(world: World, price: str) -> None:
    customer = world.customer()
    first, _ = subscribed(world, price, customer=customer, cancel_at_period_end=True)
    world.use(customer, START + DAY, 50)
    world.travel(END - MINUTE)
    world.tick("closing")
    world.travel(END + 8)
    second, _ = subscribed(world, price, customer=customer)
    world.use(customer, END - 1, 60)
    world.use(customer, END + 3, 99)
    world.use(customer, END + 8, 8)
    for minutes in (1, 20, 50):
        world.travel(END + minutes * MINUTE)
        world.tick("closing")
        assert set(statuses(world)) <= {"sent", "unchanged"}
    world.travel(END + 32 * DAY)

    assert quantities(world, first) == [60]
    assert quantities(world, second)[0] == 8


# What goes wrong


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_between_any_two_calls_tells_each_total_once(
    world: World, price: str, *, after: bool
) -> None:
    customers = [str(world.subscription(price).customer) for _ in range(5)]
    for customer in customers:
        world.use(customer, START + HOUR, 5)
    world.travel(START + 3 * HOUR)
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
        assert [event["value"] for event in world.meter_events(customer)] == [5]
    # The head, the intent, the call, the outcome, and the head after a full read.
    assert crashes == 5


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("error_after", {"status": 500, "times": 4}),
        ("drop", {"times": 3}),
        ("drop_before", {"times": 2}),
        ("rate_limited", {"reason": None}),
    ],
)
def test_lost_answers(world: World, price: str, kind: str, details: dict[str, Any]) -> None:
    _, customer = subscribed(world, price)
    world.use(customer, START + HOUR, 5)
    world.travel(START + 3 * HOUR)
    world.stripe.faults.add(kind, "POST", EVENTS, **details)

    assert world.tick()["failures"] == 0
    world.tick()

    assert [event["value"] for event in world.meter_events()] == [5]


@pytest.mark.parametrize("is_taken", [True, False])
def test_what_stays_unknown_for_a_day_is_outdone_by_a_later_stamp(
    world: World, price: str, is_taken: bool
) -> None:
    subscription, customer = subscribed(world, price)
    world.use(customer, START + HOUR, 5)
    world.travel(START + 3 * HOUR)
    if is_taken:
        world.stripe.faults.add("drop", "POST", EVENTS)
    world.stripe.faults.add("drop_before", "POST", EVENTS, times=None, skip=int(is_taken))
    assert world.tick()["failures"] == 1
    world.stripe.faults.clear()
    world.travel(START + 30 * HOUR)

    assert statuses(world) == ["sent"]
    assert statuses(world) == ["unchanged"]
    assert {event["value"] for event in world.meter_events()} == {5}
    assert close(world, subscription)[price] == 5


def test_a_decrease_is_held_until_it_is_accepted(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price(formula="last")
    _, customer = subscribed(world, price)
    world.use(customer, START + HOUR, 5)
    world.travel(START + 3 * HOUR)
    world.tick()
    world.use(customer, START + HOUR, -2)
    world.travel(START + 4 * HOUR)

    [report] = world.report_all()

    assert report.status == "held"
    assert f"--customer {customer} --accept`" in report.reason
    assert statuses(world, Options(full=True, accept=True)) == ["sent"]
    assert [event["value"] for event in world.meter_events()] == [5, 3]
    world.settings["allow_decrease"] = True
    world.use(customer, START + HOUR, -1)
    assert statuses(world) == ["sent"]


def test_an_average_falls_by_itself(world: World) -> None:
    world.clock.set(START)
    world.openmeter.create_meter("mean", "mean_used", aggregation="AVG")
    price, _ = world.metered_price(formula="last")
    subscription, customer = subscribed(world, price, om_meter_id="mean")
    for hour, value in ((1, 9), (3, 3), (5, 3)):
        world.use(customer, START + hour * HOUR, value, meter="mean")
        world.travel(START + (hour + 1) * HOUR)
        assert statuses(world) == ["sent"]

    assert [event["value"] for event in world.meter_events()] == [9, 6, 5]
    assert close(world, subscription) == {price: 5}


@pytest.mark.parametrize("allow_decrease", [False, True])
def test_an_empty_openmeter_zeroes_no_invoice(world: World, allow_decrease: bool) -> None:
    world.settings["allow_decrease"] = allow_decrease
    world.clock.set(START)
    world.openmeter.create_meter("mean", "mean_used", aggregation="AVG")
    price, _ = world.metered_price(formula="last")
    subscription, customer = subscribed(world, price, om_meter_id="mean")
    world.use(customer, START + HOUR, 5, meter="mean")
    world.travel(START + 3 * HOUR)
    world.tick()
    world.travel(START + 4 * HOUR)
    world.openmeter.faults.empty(times=1000)

    assert statuses(world, Options(full=True, accept=True)) == ["held"]
    assert len(world.meter_events()) == 1
    world.openmeter.faults.clear()
    assert close(world, subscription) == {price: 5}


def test_nothing_of_a_page_is_sent_when_most_of_it_comes_back_empty(world: World, price: str) -> None:
    customers = [str(world.subscription(price).customer) for _ in range(12)]
    for customer in customers[:-1]:
        world.use(customer, START + HOUR, 5)
    world.travel(START + 3 * HOUR)
    world.tick()
    world.use(customers[-1], START + HOUR, 5)
    world.travel(START + 4 * HOUR)
    before = world.meter_events()
    world.openmeter.faults.empty(times=1000)

    assert set(statuses(world)) == {"held"}
    assert world.meter_events() == before


def test_a_total_below_zero_is_refused(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price(formula="last")
    _, customer = subscribed(world, price)
    world.use(customer, START + HOUR, -5)
    world.travel(START + 3 * HOUR)

    [report] = world.report_all()

    assert report.status == "refused"
    assert "-5" in report.reason
    assert world.meter_events() == []


def test_spans_that_overlap_are_refused_and_both_are_named(world: World, price: str) -> None:
    customer = world.customer()
    first, _ = subscribed(world, price, customer=customer)
    world.travel(START + DAY)
    second, _ = subscribed(world, price, customer=customer)
    world.use(customer, START + 2 * DAY, 5)
    world.travel(START + 3 * DAY)

    [report] = world.report_all()

    assert report.status == "refused"
    assert first in report.reason
    assert second in report.reason
    assert world.meter_events() == []


def test_an_overlap_is_noticed_from_one_message_to_the_next(world: World, price: str) -> None:
    customer = world.customer()
    first, _ = subscribed(world, price, customer=customer)
    world.travel(START + DAY)
    second, _ = subscribed(world, price, customer=customer)
    world.use(customer, START + 2 * DAY, 5)
    world.travel(START + 3 * DAY)
    container = world.container()
    retrieve = container.billing.subscription
    for subscription in (first, second):
        found = container.run(container.billing.customer_meters(container.run(retrieve(subscription))))
        reports = container.run(container.reporter.report(found))

    assert [str(report.status) for report in reports] == ["refused"]
    assert first in reports[0].reason


def test_two_subscriptions_over_just_the_same_time_both_bill_it(world: World, price: str) -> None:
    customer = world.customer()
    subscriptions = [subscribed(world, price, customer=customer)[0] for _ in range(2)]
    world.use(customer, START + 2 * DAY, 5)
    world.travel(START + 3 * DAY)
    world.tick()

    assert [event["value"] for event in world.meter_events()] == [5]
    world.travel(END + 2 * HOUR)
    assert [quantities(world, subscription) for subscription in subscriptions] == [[5], [5]]


def test_a_subscription_that_took_over_from_a_cancelled_one_is_billed(world: World, price: str) -> None:
    customer = world.customer()
    old, _ = subscribed(world, price, customer=customer)
    world.use(customer, START + DAY, 50)
    world.travel(START + 2 * DAY)
    world.tick()
    world.travel(START + 2 * DAY + 30 * MINUTE)
    new, _ = subscribed(world, price, customer=customer)
    world.travel(START + 2 * DAY + 32 * MINUTE)
    world.client.v1.subscriptions.cancel(old)
    world.use(customer, START + 2 * DAY + 40 * MINUTE, 7)
    world.travel(START + 2 * DAY + HOUR)

    [report] = world.report_all()

    # Stripe dropped what the cancelled one had used.
    assert ([int(send.value) for send in report.sent], int(report.unbillable)) == ([7], 50)
    world.travel(START + 34 * DAY)
    assert quantities(world, new) == [7]


def test_another_reporters_usage_is_held_at_first_sight(world: World, price: str) -> None:
    _, customer = subscribed(world, price)
    world.use(customer, START + HOUR, 5)
    world.travel(START + 3 * HOUR)
    payload = {"stripe_customer_id": customer, "value": "5"}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": payload, "timestamp": START + HOUR}
    )

    [report] = world.report_all()

    assert report.status == "held"
    assert "adopt" in report.reason


def test_invoices_collected_at_once_are_complete_when_they_are_made(world: World, price: str) -> None:
    """What was told before an anchor reset is on its invoice; the rest is counted."""
    subscription, customer = subscribed(
        world, price, collection_method="charge_automatically", days_until_due=None
    )
    at = START + 10 * DAY + 5
    world.use(customer, START + DAY, 50)
    world.travel(at - HOUR)
    world.tick()
    world.use(customer, at - MINUTE, 60)
    world.travel(at)
    world.client.v1.subscriptions.update(subscription, {"billing_cycle_anchor": "now"})
    world.travel(at + HOUR)

    [report] = world.report_all()

    assert (str(report.status), int(report.late + report.unbillable)) == ("unbillable", 10)
    assert quantities(world, subscription) == [50]
