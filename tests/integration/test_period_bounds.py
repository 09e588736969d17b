"""PERIOD_BOUNDS: renewals at odd seconds, cut at full windows, with an OpenMeter that refuses odd seconds."""

from __future__ import annotations

import itertools
from decimal import Decimal

import pytest

from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings
from sandbox.openmeter import create_app as openmeter_app
from tests.integration.conftest import Switch
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.heads import Options
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.renewals import INVOICE_FINALIZED

START = NOON - 22 * MINUTE - 18
"""11:37:42 on 15 July"""
END = START + 31 * DAY
SECOND_END = END + 31 * DAY
THIRD_END = SECOND_END + 30 * DAY

ROUNDED = [PeriodBounds.MINUTE, PeriodBounds.HOUR, PeriodBounds.DAY]
every_window = pytest.mark.parametrize("setting", ROUNDED)


@pytest.fixture
def old_openmeter(world: World, servers: tuple[Switch, str, Switch, str]) -> World:
    """The world with an OpenMeter of before March 2025."""
    world.openmeter = OpenMeterSandbox(world.clock, OpenMeterSettings(rounded_bounds=True))
    world.openmeter.create_meter("m1", "used")
    servers[2].app = openmeter_app(world.openmeter)
    return world


def subscribed(world: World, setting: PeriodBounds) -> tuple[str, str]:
    world.settings["period_bounds"] = setting
    world.clock.set(START)
    subscription = world.subscription(world.metered_price()[0])
    return str(subscription.id), str(subscription.customer)


def use_on_each_side(world: World, customer: str, setting: PeriodBounds, bound: int) -> None:
    """1 and 2 before the rounded bound, 10 and 20 between it and the bound, 100 and 200 after the bound."""
    at = setting.renewal(bound)
    world.use(customer, at - DAY, 1)
    world.use(customer, at - 1, 2)
    if at < bound:
        world.use(customer, at, 10)
        world.use(customer, bound - 1, 20)
    world.use(customer, bound, 100)
    world.use(customer, bound + 30 * MINUTE, 200)


def go_on(world: World, until: int) -> None:
    """Days with a tick, and each quarter of an hour around the end; all are looked at each hour."""
    for instant in (until - 2 * DAY, until - DAY, until - 2 * HOUR):
        world.travel(instant)
        world.tick()
    for quarter in range(-2, 6):
        world.travel(until + quarter * 15 * MINUTE + 40)
        world.tick("closing")
        if quarter % 4 == 1:
            world.tick("all")


@pytest.mark.parametrize("setting", PeriodBounds)
def test_two_renewals_lose_nothing_and_bill_nothing_twice(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    is_rounded = setting is not PeriodBounds.EXACT
    world.openmeter.settings = OpenMeterSettings(rounded_bounds=is_rounded)
    subscription, customer = subscribed(world, setting)
    world.use(customer, START - 1 + 18 * is_rounded, 1000)
    world.use(customer, START + 18, 4)
    for bound in (END, SECOND_END):
        use_on_each_side(world, customer, setting, bound)
        go_on(world, bound)
    world.travel(THIRD_END + 2 * HOUR)

    first, second = [quantity for _, quantity, _ in world.billed(subscription)][-3:-1]
    assert first == 4 + 3
    assert second == 300 + 30 * is_rounded + 3
    assert world.openmeter.calls.queries
    assert {call.status for call in world.openmeter.calls.queries} == {200}


@every_window
def test_late_usage_goes_where_its_window_does(old_openmeter: World, setting: PeriodBounds) -> None:
    world = old_openmeter
    subscription, customer = subscribed(world, setting)
    at = setting.renewal(END)
    world.use(customer, at - 1, 1)
    world.use(customer, END + 1, 10)
    world.travel(END + 10 * MINUTE)
    world.tick()
    world.use(customer, at - 2, 2)
    world.use(customer, at, 20)
    world.travel(END + 25 * MINUTE)

    world.tick()

    assert world.held(customer, START, END) == 3
    assert world.held(customer, END, END + HOUR) == 30
    world.travel(END + 2 * HOUR)
    assert world.billed(subscription)[-1][1] == 3


@every_window
def test_the_window_of_a_renewal_is_not_read_before_it(old_openmeter: World, setting: PeriodBounds) -> None:
    world = old_openmeter
    _, customer = subscribed(world, setting)
    at = setting.renewal(END)
    world.use(customer, at - 1, 1)
    world.use(customer, at, 10)
    world.travel(END - 1)
    world.tick()
    world.work()

    assert world.held(customer, 0, 2 * END) == 1


@every_window
def test_a_renewals_webhook_closes_what_its_window_left_of_the_period(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    subscription, customer = subscribed(world, setting)
    world.listen()
    use_on_each_side(world, customer, setting, END)
    world.travel(END)
    world.clock.set(END + 16)

    assert [(answer.code, answer.status) for answer in world.deliver()] == [(200, "sent")]

    assert world.held(customer, START, END) == 3
    assert world.held(customer, END, 2 * END) == 0
    world.travel(END + 2 * HOUR)
    assert world.billed(subscription)[-1][1] == 3


@every_window
def test_final_invoices_are_judged_by_what_their_windows_give_them(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    subscription, customer = subscribed(world, setting)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    world.client.v1.subscriptions.update(subscription, {"cancel_at": SECOND_END})
    world.use(customer, START + 17, 1000)
    for bound in (END, SECOND_END):
        use_on_each_side(world, customer, setting, bound)
        world.travel(bound + 16)
        world.tick("closing")
        world.inbox.clear()
        world.travel(bound + HOUR + MINUTE)

        assert [(told.code, told.status) for told in world.deliver()] == [(200, "exact")]
    # The very end is cut at its minute, whatever the setting.
    last = 13 if setting is not PeriodBounds.MINUTE else 3
    assert [quantity for _, quantity, _ in world.billed(subscription)][-2:] == [3, 330 + last]


@every_window
def test_a_cancellation_at_the_periods_end_is_cut_at_its_minute(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    subscription, customer = subscribed(world, setting)
    world.listen()
    world.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    world.use(customer, PeriodBounds.DAY.renewal(END) + 5, 1)
    world.use(customer, PeriodBounds.MINUTE.renewal(END) - 1, 2)
    world.use(customer, PeriodBounds.MINUTE.renewal(END), 10)
    world.use(customer, END + 1, 100)
    world.travel(END)
    world.clock.set(END + 30)
    world.deliver()
    world.tick()

    assert world.held(customer, 0, 2 * END) == 3
    world.travel(END + 2 * HOUR)
    assert world.billed(subscription)[-1][1] == 3


@every_window
def test_the_very_first_period_starts_with_the_next_full_minute(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    _, customer = subscribed(world, setting)
    world.use(customer, START - 1, 1)
    world.use(customer, START + 17, 10)
    world.use(customer, START + 18, 100)
    world.travel(START + 3 * HOUR)
    world.tick()

    assert world.held(customer, 0, 2 * END) == 100


@every_window
def test_an_immediate_cancellation_leaves_in_its_period_what_was_sent(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    subscription, customer = subscribed(world, setting)
    now = NOON + 5 * DAY + 40 * MINUTE
    world.use(customer, now - 20 * MINUTE, 1)
    world.travel(now)
    world.tick()
    world.client.v1.subscriptions.cancel(subscription, {"invoice_now": True})
    world.listen()
    world.travel(now + 5 * MINUTE)
    world.tick()

    assert world.held(customer, START, now) == 1
    assert world.held(customer, now, 2 * END) == 0


def reset_anchor_amid_usage(world: World, subscription: str, customer: str) -> int:
    """13 units before the new anchor, 3 of them reported before it, and 100 after it; when that is."""
    reset = NOON + 5 * DAY + 40 * MINUTE + 17
    world.use(customer, reset - 40 * MINUTE, 1)
    world.use(customer, reset - 20 * MINUTE, 2)
    world.travel(reset - 10 * MINUTE)
    world.tick()
    world.use(customer, reset - 5 * MINUTE, 10)
    world.travel(reset)
    world.client.v1.subscriptions.update(subscription, {"billing_cycle_anchor": "now"})
    world.use(customer, reset + MINUTE, 100)
    return reset


@every_window
def test_an_anchor_reset_bills_nothing_twice_though_its_window_was_read(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    subscription, customer = subscribed(world, setting)
    reset = reset_anchor_amid_usage(world, subscription, customer)
    for minutes in (5, 20, 35):
        world.travel(reset + minutes * MINUTE)
        world.tick()

    assert world.held(customer, 0, 2 * END) == 113
    assert world.held(customer, START, reset) == (13 if setting is PeriodBounds.MINUTE else 3)


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(PeriodBounds, 2)])
def test_another_setting_while_a_period_is_a_draft_changes_no_bill(
    world: World, before: PeriodBounds, after: PeriodBounds
) -> None:
    subscription, customer = subscribed(world, before)
    use_on_each_side(world, customer, PeriodBounds.DAY, END)
    world.travel(END + 35 * MINUTE)
    world.tick()
    held = world.held(customer, START, END)
    world.settings["period_bounds"] = after

    for minutes in (40, 55, 70, 200):
        world.travel(END + minutes * MINUTE)
        assert {report.status for report in world.report_all(Options(full=True))} <= {"sent", "unchanged"}
    assert world.billed(subscription)[-1][1] == held
    assert world.held(customer, START, 2 * END) == 333


@every_window
def test_adopt_takes_over_what_was_cut_at_a_window(old_openmeter: World, setting: PeriodBounds) -> None:
    from cli.adoption import plan  # noqa: PLC0415

    world = old_openmeter
    _, customer = subscribed(world, setting)
    use_on_each_side(world, customer, setting, END)
    world.travel(END + 40 * MINUTE)
    world.tick()
    world.travel(END + 3 * HOUR)
    world.tick()
    world.travel(END + 5 * HOUR)
    before = world.meter_events()
    container = world.container()

    async def adopt() -> None:
        found = [one async for page in container.billing.subscriptions({}) for one in page.customer_meters]
        world.clock.advance(HOUR)
        reporter = container.reporter
        adopted = await plan(container.billing, reporter.openmeter, reporter.ledger, found[0], world.clock())
        await adopted.carry_out(container.reporter.ledger, world.clock())

    container.run(adopt())
    reports = world.report_all(Options(full=True))

    assert [report.status for report in reports] == ["unchanged"]
    assert world.meter_events() == before


# Meters that take the last value


def on_last(world: World, setting: PeriodBounds) -> tuple[str, str]:
    world.settings["period_bounds"] = setting
    world.clock.set(START)
    subscription = world.subscription(world.metered_price(formula="last")[0])
    return str(subscription.id), str(subscription.customer)


@every_window
def test_the_last_value_is_the_total_of_what_the_window_gives_its_period(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    subscription, customer = on_last(world, setting)
    world.use(customer, START + 17, 1000)
    world.use(customer, START + 18, 4)
    for bound in (END, SECOND_END):
        use_on_each_side(world, customer, setting, bound)
        go_on(world, bound)
    world.travel(THIRD_END + 2 * HOUR)

    quantities = [quantity for _, quantity, status in world.billed(subscription) if status != "draft"]
    assert quantities[:2] == [7, 333]
    assert {call.status for call in world.openmeter.calls.queries} == {200}


@every_window
def test_an_anchor_reset_tells_no_usage_twice_as_a_last_value(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    subscription, customer = on_last(world, setting)
    reset = reset_anchor_amid_usage(world, subscription, customer)
    for minutes in (5, 20, 35):
        world.travel(reset + minutes * MINUTE)
        assert {report.status for report in world.report_all()} <= {"sent", "unchanged", "unbillable"}

    before = 13 if setting is PeriodBounds.MINUTE else 3
    assert newest(world, START, reset) == before
    assert newest(world, reset, 2 * END) == 113 - before
    assert world.openmeter.calls.queries[-1].status == 200


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(PeriodBounds, 2)])
def test_another_setting_tells_no_usage_twice_as_a_last_value(
    world: World, before: PeriodBounds, after: PeriodBounds
) -> None:
    subscription, customer = on_last(world, before)
    use_on_each_side(world, customer, PeriodBounds.DAY, END)
    world.travel(END - 5 * DAY)
    world.tick()
    world.travel(END + 35 * MINUTE)
    world.tick()
    world.settings["period_bounds"] = after

    for minutes in (40, 55, 70, 200):
        world.travel(END + minutes * MINUTE)
        assert {report.status for report in world.report_all(Options(full=True))} <= {"sent", "unchanged"}
    told = world.billed(subscription)[-1][1], newest(world, END, 2 * END)
    assert sum(told) == 333


def newest(world: World, start: int, end: int) -> Decimal:
    """The value with the newest stamp in [start, end)."""
    inside = [event for event in world.meter_events() if start <= event["timestamp"] < end]
    return max(inside, key=lambda event: event["timestamp"])["value"] if inside else Decimal(0)


# Legacy prices


@every_window
def test_a_legacy_period_is_cut_at_the_window_half_an_hour_before_its_end(
    old_openmeter: World, setting: PeriodBounds
) -> None:
    world = old_openmeter
    world.settings["period_bounds"] = setting
    world.clock.set(START)
    item, customer = _legacy(world)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    at = setting.renewal(END - 30 * MINUTE)
    world.use(customer, START + 17, 1000)
    world.use(customer, at - 1, 1)
    world.use(customer, at, 10)
    world.use(customer, END + MINUTE, 100)
    world.travel(END - 20 * MINUTE)
    world.tick("closing")
    world.travel(END + 2 * HOUR)
    world.tick()

    assert world.usage_records(item) == {START + 1: 1, END + 1: 110}
    told = world.deliver()[-1]
    assert (told.code, told.status) == (200, "exact")


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(PeriodBounds, 2)])
def test_another_setting_bills_no_legacy_usage_twice(
    world: World, before: PeriodBounds, after: PeriodBounds
) -> None:
    world.settings["period_bounds"] = before
    world.clock.set(START)
    item, customer = _legacy(world)
    for earlier in (DAY, 11 * HOUR, 65 * MINUTE, 31 * MINUTE):
        world.use(customer, END - earlier, 1)
    world.travel(END - 25 * MINUTE)
    world.tick("closing")
    world.settings["period_bounds"] = after
    world.travel(END + 3 * HOUR)
    world.tick()

    assert sum(world.usage_records(item).values()) == 4


def _legacy(world: World) -> tuple[str, str]:
    acacia = {"stripe_version": "2025-02-24.acacia"}
    product = world.client.v1.products.create({"name": "legacy"}).id
    recurring = {"interval": "month", "usage_type": "metered"}
    price = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 10, "product": product, "recurring": recurring}, acacia
    ).id
    customer = world.customer()
    subscription = world.client.v1.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": price, "metadata": {"om_meter_id": "m1"}}],
            "collection_method": "send_invoice",
            "days_until_due": 30,
        },
        acacia,
    )
    return subscription["items"].data[0].id, customer
