"""The other ways in which a period ends: schedules, several intervals, pauses, trials, pages, added items."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from sandbox.stripe.undocumented import Undocumented
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting import stripe_api
from usage_reporting.renewals import DELETED, UPDATED

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY


def priced(world: World, meter: str, interval: str = "month", name: str = "other") -> str:
    """A price on a meter, mapped to m1."""
    return str(
        world.client.v1.prices.create(
            {
                "currency": "usd",
                "unit_amount": 20,
                "product": world.client.v1.products.create({"name": name}).id,
                "recurring": {"interval": interval, "usage_type": "metered", "meter": meter},
                "metadata": {"om_meter_id": "m1"},
            }
        ).id
    )


def by_price(world: World, subscription: str) -> dict[str, Decimal]:
    """What the invoices that are final bill, by price."""
    total: dict[str, Decimal] = {}
    for price, quantity, status in world.billed(subscription):
        if status != "draft":
            total[price] = total.get(price, Decimal(0)) + quantity
    return total


def ticks(world: World, *instants: int) -> None:
    for instant in instants:
        world.travel(instant)
        world.tick("closing")
        world.tick()


@pytest.mark.parametrize("is_told", [True, False], ids=["webhook", "webhook lost"])
@pytest.mark.parametrize("other_meter", [False, True], ids=["same meter", "other meter"])
@pytest.mark.parametrize("replaces", [False, True], ids=["item stays", "new item"])
def test_a_schedule_swaps_the_price_at_the_renewal(
    world: World, *, replaces: bool, other_meter: bool, is_told: bool
) -> None:
    world.stripe.change_settings(
        undocumented=Undocumented(schedule_replaces_items=replaces), renewal_delay=16
    )
    world.clock.set(START)
    old, meter = world.metered_price()
    new = priced(world, world.metered_price("second")[1] if other_meter else meter)
    subscription = world.subscription(old, items=[{"price": old, "metadata": {"om_meter_id": "m1"}}])
    customer = str(subscription.customer)
    made = world.client.v1.subscription_schedules.create({"from_subscription": subscription.id})
    phase = made.phases[0]
    first = {"start_date": phase.start_date, "end_date": phase.end_date, "items": [{"price": old}]}
    second = {"end_date": END + 60 * DAY, "items": [{"price": new}]}
    world.client.v1.subscription_schedules.update(made.id, {"phases": [first, second]})
    world.listen(enabled_events=[UPDATED])
    world.use(customer, END - 2 * HOUR, 1)
    ticks(world, END - HOUR)
    world.use(customer, END - 1, 10)
    world.use(customer, END, 100)
    world.travel(END + 20)
    answers = world.deliver()
    if is_told:
        assert [(told.code, told.status) for told in answers] == [(200, "sent")]
    ticks(world, END + 20 * MINUTE, END + 50 * MINUTE, END + 2 * HOUR)

    assert by_price(world, subscription.id) == {old: 11}
    ticks(world, END + 31 * DAY + 20 * MINUTE)
    world.travel(END + 31 * DAY + 2 * HOUR)
    assert by_price(world, subscription.id) == {old: 11, new: 100}


def test_a_daily_and_a_monthly_price_on_one_subscription_end_each_by_itself(world: World) -> None:
    world.clock.set(START)
    monthly, _ = world.metered_price()
    daily = priced(world, world.metered_price("second")[1], "day")
    rows = [
        {"price": price, "metadata": {"om_meter_id": meter}}
        for price, meter in ((monthly, "m1"), (daily, "m2"))
    ]
    world.openmeter.create_meter("m2", "asked")
    customer = world.customer()
    subscription = world.subscription(
        monthly, customer, items=rows, billing_mode={"type": "flexible"}, cancel_at=START + 3 * DAY + HOUR
    )
    world.listen(enabled_events=[UPDATED, DELETED])
    for day in range(4):
        world.use(customer, START + day * DAY, 10**day)
        world.use(customer, START + day * DAY, 2 * 10**day, meter="m2")
    world.use(customer, START + 3 * DAY + HOUR, 10**6)
    ends = [START + day * DAY for day in (1, 2, 3)]
    for end in (*ends, START + 3 * DAY + HOUR):
        world.travel(end + 30)
        assert {told.code for told in world.deliver()} <= {200}
        ticks(world, end + 20 * MINUTE)
    world.travel(START + 5 * DAY)

    assert by_price(world, subscription.id) == {monthly: 1111, daily: 2222}
    assert [quantity for price, quantity, _ in world.billed(subscription.id) if price == daily] == [
        2,
        20,
        200,
        2000,
    ]


@pytest.mark.parametrize("anchor", ["now", "unchanged"])
@pytest.mark.parametrize("is_told", [True, False], ids=["webhook", "webhook lost"])
def test_a_trial_that_ends_in_a_pause_and_is_resumed(world: World, anchor: str, *, is_told: bool) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    pause = {"end_behavior": {"missing_payment_method": "pause"}}
    subscription = world.subscription(price, trial_period_days=10, trial_settings=pause)
    customer = str(subscription.customer)
    world.listen(enabled_events=[UPDATED])
    ended, resumed = START + 10 * DAY, START + 12 * DAY + 40 * MINUTE + 5
    world.use(customer, ended - 1, 1)
    ticks(world, ended + MINUTE, ended + HOUR)
    world.use(customer, ended + HOUR, 10)
    ticks(world, ended + 3 * HOUR, ended + DAY)
    held = world.held(customer, ended, resumed + DAY)
    assert held == 0
    world.travel(resumed)
    world.use(customer, resumed - 1, 100)
    world.use(customer, resumed, 1000)
    world.client.v1.subscriptions.resume(subscription.id, {"billing_cycle_anchor": anchor})
    world.stripe.run_due()
    answers = world.deliver()
    if is_told:
        assert {told.code for told in answers} == {200}
    ticks(world, resumed + HOUR, resumed + 2 * HOUR)
    reports = world.report_all()

    assert sum((report.late + report.unbillable for report in reports), Decimal(0)) == 0
    assert world.held(customer, resumed, resumed + DAY) == 1000
    assert world.held(customer, ended, resumed) == 0
    end = world.client.v1.subscriptions.retrieve(subscription.id)["items"].data[0].current_period_end
    ticks(world, end + 20 * MINUTE)
    world.travel(end + 2 * HOUR)
    assert by_price(world, subscription.id)[price] == 1000


@pytest.mark.parametrize(("scope", "minutes"), [("closing", -12), ("all", 20)])
def test_a_pause_that_is_over_just_before_the_period_ends(world: World, scope: str, minutes: int) -> None:
    """With the webhook lost, Stripe's events alone say since when usage counts, also after the renewal."""
    world.clock.set(START)
    price, _ = world.metered_price()
    pause = {"end_behavior": {"missing_payment_method": "pause"}}
    subscription = world.subscription(price, trial_period_days=10, trial_settings=pause)
    customer = str(subscription.customer)
    ended = START + 10 * DAY
    ticks(world, ended + HOUR)
    end = ended + 31 * DAY
    world.travel(end - 25 * MINUTE)
    world.client.v1.subscriptions.resume(subscription.id, {"billing_cycle_anchor": "unchanged"})
    [item] = world.client.v1.subscriptions.retrieve(subscription.id)["items"].data
    assert item.current_period_end == end
    world.use(customer, end - 26 * MINUTE, 100)
    world.use(customer, end - 24 * MINUTE, 1)
    world.travel(end + minutes * MINUTE)
    world.tick(scope)
    ticks(world, end + 30 * MINUTE)
    world.travel(end + 2 * HOUR)

    assert by_price(world, subscription.id)[price] == 1


def test_a_pause_in_mid_period_bills_what_stripe_held_and_the_rest_is_unbillable(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price, billing_mode={"type": "flexible"})
    customer = str(subscription.customer)
    world.listen(enabled_events=[UPDATED])
    world.use(customer, START + HOUR, 1)
    ticks(world, START + 2 * HOUR)
    world.use(customer, START + 2 * HOUR + MINUTE, 2)
    world.travel(START + 2 * HOUR + 9 * MINUTE)
    # Newer API versions can pause at once, whichever version we are pinned to.
    [row] = world.stripe.account.subscriptions
    before = world.stripe.events.render(row)
    row.status = "paused"
    world.stripe.events.emit("customer.subscription.updated", row, before)
    world.stripe.run_due()

    [told] = world.deliver()

    assert (told.code, told.status) == (200, "unbillable")
    assert told.reason.startswith("2 units")
    world.use(customer, START + 4 * HOUR, 100)
    ticks(world, START + 6 * HOUR)
    assert world.held(customer, 0, END) == 1


@pytest.mark.parametrize("behavior", ["keep_as_draft", "void", "mark_uncollectible"])
def test_a_paused_collection_goes_on_invoicing(world: World, behavior: str) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price, billing_mode={"type": "flexible"})
    customer = str(subscription.customer)
    world.client.v1.subscriptions.update(subscription.id, {"pause_collection": {"behavior": behavior}})
    world.use(customer, END - 1, 4)
    ticks(world, END + 20 * MINUTE)
    world.travel(END + 2 * HOUR)
    world.use(customer, END - 2, 8)
    reports = world.report_all()
    ticks(world, END + 3 * HOUR)

    final = {"keep_as_draft": "draft", "void": "void", "mark_uncollectible": "uncollectible"}[behavior]
    if behavior == "keep_as_draft":
        # Nobody finalizes it: it takes usage as long as Stripe does.
        draft = world.client.v1.invoices.list({"status": "draft"}).data[0]
        world.client.v1.invoices.finalize_invoice(draft.id)
        assert by_price(world, subscription.id) == {price: 12}
    else:
        assert world.billed(subscription.id)[-1] == (price, Decimal(4), final)
        assert sum((report.late for report in reports), Decimal(0)) == 8


def test_a_draft_that_is_kept_for_ever_costs_nothing_once_it_takes_no_more(world: World) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price, billing_mode={"type": "flexible"})
    keep = {"pause_collection": {"behavior": "keep_as_draft"}}
    world.client.v1.subscriptions.update(subscription.id, keep)
    world.travel(END + MINUTE)
    world.client.v1.subscriptions.cancel(subscription.id)
    world.travel(END + 36 * DAY)
    before = dict(world.stripe.calls)
    world.tick("closing")

    asked = {call[1] for call, count in world.stripe.calls.items() if count > before.get(call, 0)}
    assert "/v1/invoices" in asked
    assert "/v1/subscriptions/{subscription_exposed_id}" not in asked


def test_two_subscriptions_of_one_customer_on_different_list_pages(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe_api, "PAGE_SIZE", 1)
    world.clock.set(START)
    price, meter = world.metered_price()
    other = priced(world, meter)
    customer = world.customer()
    first = world.subscription(price, customer)
    world.clock.set(START + 5 * DAY + 7)
    second = world.subscription(other, customer)
    later = START + 5 * DAY + 7 + 31 * DAY
    for instant, units in ((START, 1), (START + 5 * DAY + 7, 10), (END - 1, 100), (END, 1000)):
        world.use(customer, instant, units)
    ticks(world, START + 6 * DAY, END + 20 * MINUTE)
    world.travel(END + 2 * HOUR)
    ticks(world, later + 20 * MINUTE)
    world.travel(later + 2 * HOUR)

    assert by_price(world, first.id) == {price: 111}
    assert by_price(world, second.id) == {other: 1110}


@pytest.mark.parametrize("mode", ["classic", "flexible"])
def test_an_item_that_is_added_in_mid_period_bills_from_its_first_second(world: World, mode: str) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    added, _ = world.metered_price("second")
    world.openmeter.create_meter("m2", "asked")
    subscription = world.subscription(price, billing_mode={"type": mode})
    customer = str(subscription.customer)
    at = START + 9 * DAY + 11
    world.use(customer, at - 1, 5, meter="m2")
    world.travel(at)
    row = {"price": added, "metadata": {"om_meter_id": "m2"}}
    world.client.v1.subscriptions.update(subscription.id, {"items": [row]})
    world.use(customer, at, 50, meter="m2")
    world.use(customer, END - 1, 500, meter="m2")
    world.use(customer, END, 5000, meter="m2")
    ticks(world, at + HOUR, END + 20 * MINUTE)
    world.travel(END + 2 * HOUR)

    assert by_price(world, subscription.id)[added] == 550


@pytest.mark.parametrize("ahead", [0, 40 * MINUTE + 3])
def test_an_end_that_was_set_before_is_billed_to_its_second(world: World, ahead: int) -> None:
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price)
    customer = str(subscription.customer)
    end = END - ahead
    change: Any = {"cancel_at": end} if ahead else {"cancel_at_period_end": True}
    world.client.v1.subscriptions.update(subscription.id, change)
    world.use(customer, end - 1, 4)
    world.use(customer, end, 100)
    ticks(world, end + 20 * MINUTE, end + 50 * MINUTE)
    world.travel(end + 2 * HOUR)

    assert by_price(world, subscription.id) == {price: 4}
