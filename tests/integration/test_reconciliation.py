"""What is compared, and what is not: bounds, pauses, spans whose total counts, several subscriptions, lag."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.test_legacy import legacy_subscription
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.billing import Billing
from usage_reporting.config import Mode
from usage_reporting.customer_meters import merged
from usage_reporting.heads import Options
from usage_reporting.model import Status
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.reconciled import Reconciled
from usage_reporting.reconciliation import Reconciler
from usage_reporting.verdict import Cause, Finding

ODD = NOON + 37 * MINUTE + 42
"""A second in the middle of an hour and of a minute."""


def reconcile(world: World, start: int = NOON - DAY, end: int = NOON + 99 * DAY) -> list[Reconciled]:
    made = world.container()
    reconciler = Reconciler(made.settings, made.billing, made.reporter.openmeter, made.reporter, world.clock)

    async def read() -> list[Reconciled]:
        listings = [listing async for listing in made.billing.subscriptions({})]
        listings += [listing async for listing in made.billing.drafts()]
        found = merged(one for listing in listings for one in listing.customer_meters)
        return await reconciler.compare(found, start, end, full=True)

    return made.run(read())


def only(world: World, start: int = NOON - DAY, end: int = NOON + 99 * DAY) -> Reconciled:
    [one] = reconcile(world, start, end)
    return one


def amounts(one: Reconciled) -> Any:
    return one.finding, one.metered, one.held, one.compared


def causes(one: Reconciled) -> Any:
    return one.causes


def subscribed(world: World, at: int = ODD, **params: Any) -> str:
    world.clock.set(at)
    return str(world.subscription(world.metered_price()[0], **params).customer)


def reported(world: World, at: int) -> None:
    world.travel(at)
    world.tick()
    world.travel(at + 4 * HOUR)


def test_usage_from_before_the_first_period_is_nobodys(world: World) -> None:
    customer = subscribed(world)
    world.use(customer, ODD - 2 * HOUR, 50)
    world.use(customer, ODD - MINUTE, 7)
    world.use(customer, ODD + MINUTE, 3)
    reported(world, NOON + 2 * HOUR)

    one = only(world)

    assert amounts(one) == (Finding.EXACT, 3, 3, 1)


def test_an_hour_with_a_renewal_inside_is_compared_whole(world: World) -> None:
    customer = subscribed(world)
    end = ODD + 31 * DAY
    world.use(customer, end - MINUTE, 2)
    world.use(customer, end + MINUTE, 5)
    world.travel(end + 16)
    world.tick("closing")
    reported(world, end + HOUR)

    one = only(world, end - DAY)

    assert amounts(one) == (Finding.EXACT, 7, 7, 1)


@pytest.mark.parametrize("setting", [PeriodBounds.HOUR, PeriodBounds.DAY])
def test_rounded_bounds_move_usage_to_another_hour_and_differ_in_nothing(
    world: World, setting: PeriodBounds
) -> None:
    world.settings["period_bounds"] = setting
    customer = subscribed(world)
    end = ODD + 31 * DAY
    for hours in (-20, -3, 0, 1):
        world.use(customer, end + hours * HOUR, 2)
    world.travel(end + 16)
    world.tick("closing")
    reported(world, end + 2 * HOUR)

    one = only(world, end - DAY)

    assert (amounts(one)[:3], one.differences) == ((Finding.EXACT, 8, 8), [])


def test_usage_of_a_pause_is_not_missed(world: World) -> None:
    """A trial that ends without a payment method pauses: neither is ever billed, whatever Stripe holds."""
    customer = subscribed(
        world,
        NOON,
        trial_end=NOON + DAY,
        trial_settings={"end_behavior": {"missing_payment_method": "pause"}},
    )
    world.use(customer, NOON + HOUR, 4)
    world.travel(NOON + 3 * HOUR)
    world.tick()
    world.travel(NOON + DAY + HOUR)
    world.use(customer, NOON + DAY + 2 * HOUR, 9)
    world.tick()
    reported(world, NOON + DAY + 4 * HOUR)

    one = only(world)

    assert world.held(customer, NOON, NOON + 2 * HOUR) == 4
    assert (one.finding, one.compared, one.differences) == (Finding.EXACT, 0, [])


def test_the_open_hour_and_the_last_ones_are_not_judged(world: World) -> None:
    customer = subscribed(world, NOON)
    world.use(customer, NOON + 4 * HOUR + MINUTE, 5)
    for hours, compared in ((5, 0), (6, 0), (6.2, 1)):
        world.travel(NOON + round(hours * HOUR))
        assert only(world).compared == compared, hours


def test_several_subscriptions_share_one_customer_meter(world: World) -> None:
    price, _ = world.metered_price()
    customer = world.customer()
    for _ in range(2):
        world.subscription(price, customer)
    world.use(customer, NOON + MINUTE, 3)
    reported(world, NOON + 2 * HOUR)

    one = only(world)

    assert (amounts(one), len(one.customer_meter.spans)) == ((Finding.EXACT, 3, 3, 1), 2)


def test_a_decrease_that_a_person_noted_is_no_difference(world: World) -> None:
    customer = subscribed(world, NOON)
    end = NOON + 31 * DAY
    world.use(customer, end - 2 * HOUR, 8)
    world.travel(end + 16)
    world.tick("closing")
    world.travel(end + HOUR + MINUTE)
    world.tick("closing")
    world.use(customer, end - 2 * HOUR, -3)
    reported(world, end + 2 * HOUR)
    assert only(world, end - DAY).finding is Finding.OVER

    world.report_all(Options(full=True, accept=True))

    assert only(world, end - DAY).finding is Finding.EXACT


def test_late_usage_is_named_as_such(world: World) -> None:
    customer = subscribed(world, NOON)
    end = NOON + 31 * DAY
    world.travel(end + HOUR + MINUTE)
    world.tick("closing")
    world.use(customer, end - 2 * HOUR, 3)
    reported(world, end + 2 * HOUR)

    one = only(world, end - DAY)

    assert (one.finding, causes(one)) == (Finding.SHORT, {Cause.LATE: 3})


def test_one_that_is_refused_is_not_judged_and_stops_no_other(world: World) -> None:
    price, _ = world.metered_price()
    good = world.customer()
    world.subscription(price, good)
    bad = str(world.subscription(price, om_meter_id="nothing").customer)
    world.travel(NOON + 4 * HOUR)

    found = {one.customer_meter.customer: one for one in reconcile(world)}

    assert (found[bad].finding, found[bad].report.status) == (Finding.NOT_JUDGED, Status.REFUSED)
    assert (found[bad].is_fine, found[good].is_fine) == (False, True)


def test_what_stripe_holds_and_never_bills_is_unbillable(world: World) -> None:
    """In classic billing mode, what was told at the old price is on no invoice."""
    price, meter = world.metered_price()
    subscription = world.subscription(price, billing_mode={"type": "classic"})
    customer = str(subscription.customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + HOUR + 15 * MINUTE)
    world.tick()
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    product = world.client.v1.products.create({"name": "dearer"}).id
    dearer = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 100, "product": product, "recurring": recurring}
    )
    items = [{"id": subscription["items"].data[0].id, "price": dearer.id}]
    world.client.v1.subscriptions.update(subscription.id, {"items": items})
    world.use(customer, NOON + 2 * HOUR, 3)
    reported(world, NOON + 4 * HOUR)

    one = only(world)

    assert (one.finding, one.verdict) == (Finding.SHORT, "SHORT by 5")
    assert causes(one) == {Cause.UNBILLABLE: 5}
    assert "5 that Stripe holds and never bills" in str(one.differences[0])


def test_what_a_lost_entry_had_told_is_billed_though_it_is_counted_as_late(world: World) -> None:
    customer = subscribed(world)
    end = ODD + 31 * DAY
    world.use(customer, end - MINUTE, 2)
    world.travel(end + 10 * MINUTE)
    world.tick("closing")
    world.travel(end + 2 * HOUR)
    for item in world.ledger():
        if "sends" in item:
            world.dynamodb.delete_item(TableName="ledger", Key={"pk": item["pk"], "sk": item["sk"]})
    reported(world, end + 3 * HOUR)

    one = only(world)

    assert (one.finding, one.beyond_ledger) == (Finding.EXACT, True)


def test_a_subject_that_is_billed_to_another_is_held_in_a_dry_run_too(world: World) -> None:
    world.settings["subject_metadata_key"] = "tenant"
    price = world.metered_price()[0]
    first = world.customer(metadata={"tenant": "t-1"})
    world.subscription(price, first)
    world.use("t-1", NOON + MINUTE, 3)
    reported(world, NOON + 2 * HOUR)
    second = world.customer(metadata={"tenant": "t-1"})
    world.subscription(price, second)

    found = {one.customer_meter.customer: one.report for one in reconcile(world)}

    assert (found[first].status, found[second].status) == (Status.UNCHANGED, Status.HELD)
    assert f"is billed to customer {first} already" in found[second].reason


def test_an_entry_of_no_numbers_stops_no_other(world: World) -> None:
    bad, good = subscribed(world), str(world.subscription(world.metered_price("calls")[0]).customer)
    for customer in (bad, good):
        world.use(customer, ODD + MINUTE, 2)
    reported(world, NOON + 2 * HOUR)
    [item] = [one for one in world.ledger() if bad in one["pk"]["S"] and "sends" in one and one["sends"]["M"]]
    [send] = item["sends"]["M"].values()
    send["M"]["value"] = {"S": "two"}
    world.dynamodb.put_item(TableName="ledger", Item=item)

    found = {one.customer_meter.customer: one for one in reconcile(world)}

    assert (found[bad].finding, found[good].finding) == (Finding.NOT_JUDGED, Finding.EXACT)
    assert "unexpected TypeError" in found[bad].unjudged


def test_a_lost_ledger_is_held_and_differs(world: World) -> None:
    customer = subscribed(world, NOON)
    world.use(customer, NOON + MINUTE, 3)
    reported(world, NOON + 2 * HOUR)
    for item in world.ledger():
        world.dynamodb.delete_item(TableName="ledger", Key={"pk": item["pk"], "sk": item["sk"]})

    one = only(world)

    assert (one.finding, one.is_fine, one.beyond_ledger) == (Finding.EXACT, False, True)
    assert (one.head, one.report.status) == (None, Status.HELD)


def test_shadow_mode_keeps_no_ledger_to_differ_from(world: World) -> None:
    world.settings["mode"] = Mode.SHADOW
    customer = subscribed(world, NOON)
    world.use(customer, NOON + MINUTE, 3)
    payload = {"stripe_customer_id": customer, "value": "3"}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": payload, "timestamp": NOON + 60}
    )
    world.travel(NOON + 4 * HOUR)

    one = only(world)

    assert (one.finding, one.differences) == (Finding.EXACT, [])


class TestLast:
    """Where the last value counts: the total of the span up to where it was told."""

    @pytest.fixture
    def customer(self, world: World) -> str:
        world.openmeter.create_meter("peak", "used_most", aggregation="MAX")
        price, _ = world.metered_price(formula="last")
        customer = str(world.subscription(price, om_meter_id="peak").customer)
        world.use(customer, NOON + 5 * MINUTE, 8, meter="peak")
        world.travel(NOON + HOUR + 2 * MINUTE)
        world.tick()
        return customer

    def test_a_running_span(self, world: World, customer: str) -> None:
        world.travel(NOON + 5 * HOUR)
        world.use(customer, NOON + 4 * HOUR + 5 * MINUTE, 20, meter="peak")

        one = only(world)

        assert amounts(one) == (Finding.EXACT, 8, 8, 1)

    def test_a_value_that_was_never_told(self, world: World, customer: str) -> None:
        world.use(customer, NOON + 2 * HOUR, 11, meter="peak")
        world.travel(NOON + 6 * HOUR)

        one = only(world)

        assert (one.finding, causes(one)) == (Finding.SHORT, {Cause.NOT_REPORTED: 3})
        world.tick()
        world.travel(NOON + 8 * HOUR)
        assert only(world).finding is Finding.EXACT

    def test_a_value_that_was_told_just_now_is_awaited(self, world: World, customer: str) -> None:
        world.stripe.change_settings(aggregation_delay=50 * MINUTE)
        world.use(customer, NOON + 2 * HOUR, 11, meter="peak")
        world.travel(NOON + 6 * HOUR + 15 * MINUTE)
        world.tick()

        one = only(world)

        assert amounts(one) == (Finding.EXACT, 11, 11, 1)
        assert [send.value for send in one.awaited] == [11]

    def test_another_writer(self, world: World, customer: str) -> None:
        payload = {"stripe_customer_id": customer, "value": "30"}
        world.client.v1.billing.meter_events.create(
            {"event_name": "tokens", "payload": payload, "timestamp": NOON + 40 * MINUTE}
        )
        world.travel(NOON + 6 * HOUR)

        one = only(world)

        assert one.finding is Finding.EXACT, "ours has the later stamp"
        world.client.v1.billing.meter_events.create(
            {"event_name": "tokens", "payload": payload, "timestamp": NOON + 50 * MINUTE + 30}
        )
        world.travel(NOON + 6 * HOUR + MINUTE)
        one = only(world)
        assert (one.finding, causes(one)) == (Finding.OVER, {Cause.OTHER_WRITER: 22})

    def test_an_ended_span_with_its_draft(self, world: World, customer: str) -> None:
        end = NOON + 31 * DAY
        world.use(customer, end - MINUTE, 31, meter="peak")
        world.travel(end + 16)
        world.tick("closing")
        world.travel(end + HOUR + 10 * MINUTE)

        one = only(world, end - DAY)

        assert amounts(one) == (Finding.EXACT, 31, 31, 1)


class TestLegacy:
    """A legacy price: Stripe tells nothing of it, so the ledger stands for what it holds."""

    @pytest.fixture
    def customer(self, world: World) -> str:
        customer = legacy_subscription(world)[2]
        world.use(customer, NOON + 5 * MINUTE, "7.4")
        world.travel(NOON + HOUR + 2 * MINUTE)
        world.tick()
        return customer

    def test_a_running_period(self, world: World, customer: str) -> None:
        world.travel(NOON + 5 * HOUR)
        world.use(customer, NOON + 4 * HOUR + 5 * MINUTE, 20)

        one = only(world)

        assert amounts(one) == (Finding.EXACT, 7, 7, 1)

    def test_what_was_not_told(self, world: World, customer: str) -> None:
        world.use(customer, NOON + 2 * HOUR, 4)
        world.travel(NOON + 6 * HOUR)

        one = only(world)

        assert (one.finding, causes(one)) == (Finding.SHORT, {Cause.NOT_REPORTED: 4})

    def test_what_came_after_the_period_is_late(self, world: World, customer: str) -> None:
        world.travel(NOON + 31 * DAY + 10 * MINUTE)
        world.use(customer, NOON + 2 * HOUR, 4)
        world.travel(NOON + 31 * DAY + 30 * MINUTE)

        one = only(world)

        assert (one.finding, causes(one)) == (Finding.SHORT, {Cause.LATE: 4})

    def test_what_had_no_answer_is_unknown(self, world: World, customer: str) -> None:
        world.use(customer, NOON + 2 * HOUR, 4)
        world.travel(NOON + 3 * HOUR + 2 * MINUTE)
        world.stripe.faults.add("drop_before", "POST", "*/usage_records", times=5)
        world.tick()
        world.travel(NOON + 6 * HOUR)

        one = only(world)

        assert (one.finding, causes(one)) == (Finding.SHORT, {Cause.UNKNOWN: 4})

    def test_an_operators_report_that_read_the_open_hour(self, world: World, customer: str) -> None:
        world.travel(NOON + 4 * HOUR + 6 * MINUTE)
        world.use(customer, NOON + 4 * HOUR + 2 * MINUTE, 3)
        world.report_all(Options(full=True, eager=True))
        world.travel(NOON + 5 * HOUR)

        assert only(world).finding is Finding.EXACT


def test_what_is_sent_while_it_is_read_is_no_difference(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick between the reading of the ledger and of Stripe: Stripe would show what the ledger did not."""
    customer = subscribed(world, NOON)
    other = str(world.subscription(world.client.v1.prices.list().data[0].id).customer)
    world.use(customer, NOON + MINUTE, 3)
    world.use(other, NOON + MINUTE, 1)
    world.travel(NOON + 6 * HOUR)
    read = Billing.hours_held
    asked: list[str] = []

    async def slow(self: Billing, whose: str, *rest: Any) -> Any:
        if not asked:
            await asyncio.to_thread(world.tick)
        asked.append(whose)
        return await read(self, whose, *rest)

    monkeypatch.setattr(Billing, "hours_held", slow)

    found = reconcile(world)

    assert [one.finding for one in found] == [Finding.EXACT, Finding.EXACT]
    assert [one.differences for one in found] == [[], []]
    assert len(asked) == 4


def test_amounts_add_up(world: World) -> None:
    customer = subscribed(world, NOON)
    world.use(customer, NOON + MINUTE, "0.1")
    world.use(customer, NOON + 2 * MINUTE, "0.2")
    reported(world, NOON + 2 * HOUR)

    one = only(world)

    assert (one.metered, one.held) == (Decimal("0.3"), Decimal("0.3"))
