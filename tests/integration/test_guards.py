"""Never guess: first sight, pins, restored ledgers, shadow, refusals, and time that runs out."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.budget import Budget
from usage_reporting.config import Mode
from usage_reporting.heads import Options
from usage_reporting.ledger import DynamoTable
from usage_reporting.pages import Cursor, Part, Scope, cursor_message, page_message
from usage_reporting.ticks import tick, work_off


@pytest.fixture
def customer(world: World) -> str:
    price, _ = world.metered_price()
    return str(world.subscription(price).customer)


def foreign_usage(world: World, customer: str, stamp: int, value: str) -> None:
    """Usage that another reporter sent."""
    payload = {"stripe_customer_id": customer, "value": value}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": payload, "timestamp": stamp, "identifier": f"foreign-{stamp}"}
    )


def test_usage_that_another_reporter_sent_is_not_sent_again(world: World, customer: str) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    foreign_usage(world, customer, NOON + 30 * MINUTE, "5")

    reports = world.report_all()

    assert [report.status for report in reports] == ["held"]
    assert "adopt" in reports[0].reason
    assert len(world.meter_events(customer)) == 1


def test_a_lost_ledger_is_noticed(world: World, customer: str) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.dynamodb.delete_table(TableName="ledger")
    world.create_table("ledger")

    reports = world.report_all()

    assert [report.status for report in reports] == ["held"]
    assert len(world.meter_events(customer)) == 1


def test_a_restored_ledger_is_noticed(world: World, customer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    monkeypatch.setattr(DynamoTable, "created_at", lambda _self: "another table's")
    world.use(customer, NOON + MINUTE, 5)

    reports = world.report_all()

    assert [report.status for report in reports] == ["held"]
    assert "restored" in reports[0].reason
    assert len(world.meter_events(customer)) == 1


def test_another_openmeter_meter_is_held_until_it_is_accepted(world: World, customer: str) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.openmeter.create_meter("m2", "used_otherwise")
    world.use(customer, NOON + MINUTE, 9, meter="m2")
    item = world.client.v1.subscription_items.list(
        {"subscription": world.client.v1.subscriptions.list({"customer": customer}).data[0].id}
    ).data[0]
    world.client.v1.subscription_items.update(item.id, {"metadata": {"om_meter_id": "m2"}})

    reports = world.report_all()

    assert [report.status for report in reports] == ["held"]
    assert "'m1'" in reports[0].reason
    assert "'m2'" in reports[0].reason
    assert world.held(customer, NOON, NOON + HOUR) == 5
    world.report_all(Options(full=True, accept=True))
    assert world.held(customer, NOON, NOON + HOUR) == 9


def test_shadow_sends_and_writes_nothing_and_says_what_it_would_send(world: World, customer: str) -> None:
    world.settings["mode"] = Mode.SHADOW
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)

    reports = world.report_all()

    assert [report.status for report in reports] == ["shadow"]
    assert [send.value for send in reports[0].sent] == [5]
    assert str(reports[0].lines[0]).startswith(f"stripe_customer: {customer}, stripe_price: price_")
    assert world.meter_events() == []
    assert world.ledger() == []


def test_shadow_never_asks_stripe_to_come_again(world: World, customer: str) -> None:
    world.settings["mode"] = Mode.SHADOW
    world.listen()
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 31 * DAY)
    world.clock.set(NOON + 31 * DAY + 16)
    event = world.inbox[0]
    world.openmeter.faults.down = True
    assert [one.code for one in world.deliver()] == [200]

    world.inbox.append(event)
    world.stripe.faults.add("status", "GET", "*", status=500, times=None)
    assert [one.code for one in world.deliver()] == [200]


@pytest.mark.parametrize(
    ("meter", "words"),
    [
        ({"default_aggregation": {"formula": "count"}}, "sum"),
        ({"event_time_window": "hour"}, "event_time_window"),
    ],
)
def test_prices_that_cannot_be_mirrored_are_refused_with_what_to_do(
    world: World, meter: dict[str, Any], words: str
) -> None:
    made = world.client.v1.billing.meters.create(
        {"display_name": "x", "event_name": "x", "default_aggregation": {"formula": "sum"}, **meter}
    )
    product = world.client.v1.products.create({"name": "x"}).id
    price = world.client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 1,
            "product": product,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": made.id},
        }
    ).id
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)

    reports = world.report_all()

    assert [report.status for report in reports] == ["refused"]
    assert words in reports[0].reason
    assert world.meter_events() == []


def test_an_aggregation_that_does_not_add_up_is_refused(world: World) -> None:
    world.openmeter.create_meter("users", "login", aggregation="UNIQUE_COUNT", value_property="$.user")
    price, _ = world.metered_price()
    world.subscription(price, om_meter_id="users")
    world.travel(NOON + 2 * HOUR)

    reports = world.report_all()

    assert [report.status for report in reports] == ["refused"]
    assert "UNIQUE_COUNT" in reports[0].reason


@pytest.mark.parametrize(("name", "words"), [("no-such-slug", "cannot be"), ("unknown", "no meter")])
def test_a_wrong_mapping_is_refused_and_stops_nobody_else(
    world: World, customer: str, name: str, words: str
) -> None:
    other, _ = world.metered_price("other")
    world.subscription(other, om_meter_id=name)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)

    by_status = {report.status: report for report in world.report_all()}

    assert set(by_status) == {"refused", "sent"}
    assert words in by_status["refused"].reason  # type: ignore[index]


def test_the_mapping_may_stand_on_the_price_or_its_product(world: World) -> None:
    world.openmeter.create_meter("on_product", "p")
    on_price, _ = world.metered_price("a", metadata={"om_meter_id": "m1"})
    on_product, _ = world.metered_price("b")
    product = world.client.v1.prices.retrieve(on_product).product
    world.client.v1.products.update(product, {"metadata": {"om_meter_id": "on_product"}})
    unmapped, _ = world.metered_price("c")
    customer = world.customer()
    items = [{"price": on_price}, {"price": on_product}, {"price": unmapped}]
    world.subscription(on_price, customer, items=items)
    world.use(customer, NOON + MINUTE, 5)
    world.use(customer, NOON + MINUTE, 7, meter="on_product")
    world.travel(NOON + 2 * HOUR)

    assert world.tick()["customer_meters"] == 2
    assert sorted(event["value"] for event in world.meter_events(customer)) == [5, 7]


def test_the_subject_may_be_named_by_the_customers_metadata(world: World) -> None:
    world.settings["subject_metadata_key"] = "external_key"
    price, _ = world.metered_price()
    named = world.customer(metadata={"external_key": "tenant-7"})
    nameless = world.customer()
    for customer in (named, nameless):
        world.subscription(price, customer)
    world.use("tenant-7", NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)

    by_status = {str(report.status): report for report in world.report_all()}

    assert set(by_status) == {"sent", "refused"}
    assert "external_key" in by_status["refused"].reason
    assert world.held(named, NOON, NOON + HOUR) == 5


def test_an_item_whose_meters_name_is_taken_away_is_held(
    world: World, customer: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    [row] = world.stripe.account.subscriptions
    world.client.v1.subscription_items.update(row.items[0].id, {"metadata": {"om_meter_id": ""}})

    def held(scope: str, instant: int) -> bool:
        caplog.clear()
        world.travel(instant)
        world.tick(scope)
        return "names no OpenMeter meter, though" in caplog.text

    assert held("all", NOON + 3 * HOUR)
    assert held("closing", NOON + 31 * DAY - 20 * MINUTE)
    assert held("all", NOON + 33 * DAY)
    assert not held("all", NOON + 34 * DAY)
    world.client.v1.subscription_items.update(row.items[0].id, {"metadata": {"om_meter_id": "m1"}})
    assert not held("all", NOON + 35 * DAY)


def test_one_subject_is_not_billed_to_two_customers(world: World) -> None:
    world.settings["subject_metadata_key"] = "external_key"
    price, _ = world.metered_price()
    customers = [world.customer(metadata={"external_key": "tenant-7"}) for _ in range(2)]
    for customer in customers:
        world.subscription(price, customer)
    world.use("tenant-7", NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)

    reports = {report.customer_meter.customer: report for report in world.report_all()}

    assert sorted(str(report.status) for report in reports.values()) == ["held", "sent"]
    [second] = [customer for customer, report in reports.items() if report.status == "held"]
    assert "billed to customer cus_" in reports[second].reason
    assert sum(world.held(customer, NOON, NOON + HOUR) for customer in customers) == 5

    assert {str(report.status) for report in world.report_all(Options(accept=True))} == {"sent", "unchanged"}
    assert world.held(second, NOON, NOON + HOUR) == 5


def test_a_subject_may_move_to_a_new_customer(world: World) -> None:
    world.settings["subject_metadata_key"] = "external_key"
    price, _ = world.metered_price()
    old, new = (world.customer(metadata={"external_key": "tenant-7"}) for _ in range(2))
    subscription = world.subscription(price, old)
    world.use("tenant-7", NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.client.v1.subscriptions.cancel(subscription.id)
    world.tick()
    world.travel(NOON + 3 * HOUR + 7)
    world.subscription(price, new)
    world.use("tenant-7", NOON + 3 * HOUR + MINUTE, 7)
    world.travel(NOON + 5 * HOUR)

    assert [str(report.status) for report in world.report_all()] == ["sent"]
    assert world.held(old, NOON, NOON + 5 * HOUR) == 5
    assert world.held(new, NOON, NOON + 5 * HOUR) == 7


def test_a_former_customer_that_comes_back_is_not_billed_beside_the_new_one(world: World) -> None:
    world.settings["subject_metadata_key"] = "external_key"
    price, _ = world.metered_price()
    old, new = (world.customer(metadata={"external_key": "tenant-7"}) for _ in range(2))
    subscription = world.subscription(price, old)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.client.v1.subscriptions.cancel(subscription.id)
    world.tick()
    world.travel(NOON + 3 * HOUR)
    world.subscription(price, new)
    world.travel(NOON + 5 * HOUR)
    world.tick()
    back = NOON + 10 * DAY
    world.travel(back)
    world.subscription(price, old)
    world.use("tenant-7", back + MINUTE, 7)
    world.travel(back + 3 * HOUR)

    reports = {report.customer_meter.customer: report for report in world.report_all()}

    assert [str(reports[one].status) for one in (old, new)] == ["held", "sent"]
    assert f"billed to customer {new} already" in reports[old].reason


def test_a_subject_that_is_changed_to_another_customers_is_said_to_be(world: World) -> None:
    world.settings["subject_metadata_key"] = "external_key"
    price, _ = world.metered_price()
    first, second = (world.customer(metadata={"external_key": f"tenant-{n}"}) for n in (7, 8))
    for customer in (first, second):
        world.subscription(price, customer)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.client.v1.customers.update(second, {"metadata": {"external_key": "tenant-7"}})
    world.travel(NOON + 4 * HOUR)

    reports = {report.customer_meter.customer: report for report in world.report_all()}

    assert reports[first].status == "unchanged"
    assert "the subject is now 'tenant-7'" in reports[second].reason
    assert f"is billed to customer {first} already" in reports[second].reason


def test_what_was_billed_too_much_is_held_until_an_operator_notes_it(world: World, customer: str) -> None:
    end = NOON + 31 * DAY
    world.use(customer, end - HOUR, 5)
    world.travel(end + 16)
    world.tick("closing")
    world.travel(end + 2 * HOUR)
    world.use(customer, end - HOUR + 1, -3)

    held = world.report_all(Options(full=True))
    noted = world.report_all(Options(full=True, accept=True))
    after = world.report_all(Options(full=True))

    assert [report.status for report in held + noted + after] == ["held", "late", "unchanged"]
    assert "credit" in held[0].reason
    assert "3 units" in noted[0].reason
    assert world.held(customer, NOON, end) == 5


def test_two_subscriptions_of_a_customer_on_one_meter_share_one_mirror(world: World) -> None:
    price, _ = world.metered_price()
    customer = world.customer()
    first = world.subscription(price, customer)
    world.use(customer, NOON + 1, 1)
    world.travel(NOON + 10 * DAY + 1234)
    second = world.subscription(price, customer)
    world.use(customer, NOON + 10 * DAY + 1233, 10)
    world.use(customer, NOON + 10 * DAY + 1234, 100)
    world.travel(NOON + 20 * DAY)
    world.tick()
    world.travel(NOON + 31 * DAY + 16)
    world.tick("closing")
    world.travel(NOON + 31 * DAY + 2 * HOUR)

    assert world.billed(first.id)[-1][1] == 111
    world.travel(NOON + 42 * DAY)
    assert world.billed(second.id)[-1][1] == 100


def test_a_page_near_the_time_limit_is_handed_over_and_loses_nothing(world: World) -> None:
    price, _ = world.metered_price()
    customers = [str(world.subscription(price).customer) for _ in range(5)]
    for customer in customers:
        for hour in range(4):
            world.use(customer, NOON + hour * HOUR, 1)
    world.travel(NOON + 5 * HOUR)
    container = world.container()
    found = container.run(_page(container))
    ticking = iter(range(10_000))
    budget = Budget(ends_at=9, monotonic=lambda: float(next(ticking)))

    reports = container.run(container.reporter.report(found, budget=budget))

    assert "handed_over" in {report.status for report in reports}
    sent = len(world.meter_events())
    assert sent < 20
    rest = [report.customer_meter for report in reports if report.status == "handed_over"]
    container.queue.send(page_message(rest))
    assert world.work() == 0
    assert len(world.meter_events()) == 20


async def _page(container: Any) -> Any:
    return [one async for page in container.billing.subscriptions({}) for one in page.customer_meters]


class Hurried:
    """A Lambda context whose time is over."""

    def get_remaining_time_in_millis(self) -> int:
        return 1000


def test_a_worker_without_time_puts_its_page_back_and_succeeds(world: World, customer: str) -> None:
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    container = world.container()
    page = page_message(container.run(_page(container)))

    answer = work_off(container, {"Records": [{"messageId": "1", "body": json.dumps(page)}]}, Hurried())

    assert answer["batchItemFailures"] == []
    assert world.meter_events() == []
    world.work()
    assert world.held(customer, NOON, NOON + HOUR) == 5


def test_a_listing_without_time_goes_on_by_its_cursor(world: World) -> None:
    price, _ = world.metered_price()
    customers = [str(world.subscription(price).customer) for _ in range(105)]
    for customer in customers[:3] + customers[-3:]:
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)

    first = tick(world.container(), {"scope": "all"}, Hurried())
    assert first["customer_meters"] == 100
    world.work()

    assert len(world.meter_events()) == 6


def test_an_unreadable_message_is_given_back_to_end_in_the_dead_letters(world: World) -> None:
    for body in ("", "{}", "[]", '{"scope": "x"}', '{"customer_meters": [{}]}'):
        answer = work_off(world.container(), {"Records": [{"messageId": "7", "body": body}]}, None)
        assert answer["batchItemFailures"] == [{"itemIdentifier": "7"}]


def test_a_cursor_may_point_into_the_drafts(world: World, customer: str) -> None:
    end = NOON + 31 * DAY
    world.use(customer, end - 1, 5)
    world.travel(end + 5 * MINUTE)
    container = world.container()

    container.queue.send(cursor_message(Cursor(Scope.CLOSING, Part.DRAFTS)))
    world.work()

    assert world.held(customer, NOON, end) == 5


def test_old_messages_do_not_undo_what_newer_ones_found(world: World, customer: str) -> None:
    container = world.container()
    [listed] = container.run(_page(container))
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()

    stale = replace(listed, seen_at=NOON - HOUR)
    [report] = container.run(container.reporter.report([stale]))

    assert report.status == "unchanged"
    assert world.held(customer, NOON, NOON + HOUR) == Decimal(5)
