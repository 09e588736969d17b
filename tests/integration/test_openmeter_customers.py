"""Several subjects, one customer: what a final invoice bills where OPENMETER_CUSTOMERS is set."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.heads import Options

KEY = "external_key"
SEATS = ("seat_1", "seat_2", "seat_3")


@pytest.fixture
def by_customer(world: World) -> World:
    """A world whose functions ask for customers."""
    world.settings["openmeter_customers"] = True
    return world


each_api = pytest.mark.parametrize("api", ["v1", "v3"])


def bill(world: World, price: str, keys: Sequence[str], subjects: Sequence[Sequence[str]]) -> list[Any]:
    """A subscription for each key, whose OpenMeter customer has the subjects."""
    world.settings["subject_metadata_key"] = KEY
    for key, own in zip(keys, subjects, strict=True):
        world.openmeter.create_customer(key, own)
    return [world.subscription(price, world.customer(metadata={KEY: key})) for key in keys]


def quantities(world: World, subscription: Any) -> list[tuple[Decimal, str]]:
    return [(quantity, status) for _, quantity, status in world.billed(subscription.id)]


def statuses(world: World, options: Options | None = None) -> list[str]:
    return [str(report.status) for report in world.report_all(options)]


@each_api
def test_unique_users_of_three_subjects_are_billed_once(by_customer: World, api: str) -> None:
    world = by_customer
    world.settings["openmeter_api"] = api
    world.openmeter.create_meter("users", "login", aggregation="UNIQUE_COUNT")
    price, _ = world.metered_price("seats", formula="last")
    world.settings["subject_metadata_key"] = KEY
    world.openmeter.create_customer("acme", SEATS)
    world.openmeter.create_customer("other", ["seat_9"])
    acme, other = (
        world.subscription(price, world.customer(metadata={KEY: key}), om_meter_id="users")
        for key in ("acme", "other")
    )
    for subject, user in (
        ("seat_1", "ann"),
        ("seat_1", "bob"),
        ("seat_2", "bob"),
        ("seat_2", "cid"),
        ("seat_3", "ann"),
        ("acme", "cid"),
        ("seat_9", "ann"),
    ):
        world.use(subject, NOON + DAY, user, meter="users")
    end = NOON + 31 * DAY
    for at in (NOON + 2 * DAY, end + 16, end + 15 * MINUTE, end + 45 * MINUTE, end + 2 * HOUR):
        world.travel(at)
        world.tick("all" if at < end else "closing")

    assert quantities(world, acme)[-1] == (Decimal(3), "open")
    assert quantities(world, other)[-1] == (Decimal(1), "open")
    asked = [call for call in world.openmeter.calls.queries if call.query.customers]
    assert len(asked) == len(world.openmeter.calls.queries)


@each_api
def test_hours_of_three_subjects_are_summed(by_customer: World, api: str) -> None:
    world = by_customer
    world.settings["openmeter_api"] = api
    price, _ = world.metered_price()
    acme, other = bill(world, price, ["acme", "other"], [SEATS, ["seat_9"]])
    for number, subject in enumerate((*SEATS, "acme", "seat_9", "nobody")):
        world.use(subject, NOON + MINUTE, 10**number)
    end = NOON + 31 * DAY
    for at in (NOON + 2 * HOUR, end + 16, end + 15 * MINUTE, end + 45 * MINUTE, end + 2 * HOUR):
        world.travel(at)
        world.tick("all" if at < end else "closing")

    assert quantities(world, acme)[-1] == (Decimal(1111), "open")
    assert quantities(world, other)[-1] == (Decimal(10_000), "open")
    verdicts = [item for item in world.ledger() if item["sk"]["S"] == "verdict"]
    lines = [line["M"] for item in verdicts for line in item["lines"]["L"]]
    assert sorted(
        (line["verdict"]["S"], line["metered"]["N"]) for line in lines if line["quantity"]["N"] != "0"
    ) == [
        ("exact", "10000"),
        ("exact", "1111"),
    ]


@each_api
def test_a_customer_that_openmeter_has_not_does_not_stop_the_others(by_customer: World, api: str) -> None:
    world = by_customer
    world.settings["openmeter_api"] = api
    price, _ = world.metered_price()
    acme, _ = bill(world, price, ["acme", "other"], [SEATS, ["seat_9"]])
    world.subscription(price, world.customer(metadata={KEY: "unheard"}))
    world.use("seat_1", NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)

    reports = {str(report.status): report for report in world.report_all()}

    assert set(reports) == {"sent", "unchanged", "refused"}
    assert "OpenMeter has no customer with key 'unheard'" in reports["refused"].reason
    assert world.held(acme.customer, NOON, NOON + HOUR) == 5

    world.openmeter.create_customer("unheard", ["seat_7"])
    world.use("seat_7", NOON + MINUTE, 2)
    assert sorted(statuses(world)) == ["sent", "unchanged", "unchanged"]


def test_the_stripe_customer_id_is_the_key_where_no_metadata_is_named(by_customer: World) -> None:
    world = by_customer
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.openmeter.create_customer(customer, ["seat_1"])
    world.use("seat_1", NOON + MINUTE, 5)
    world.use(customer, NOON + 2 * MINUTE, 2)
    world.travel(NOON + 2 * HOUR)
    assert statuses(world) == ["sent"]
    assert world.held(customer, NOON, NOON + HOUR) == 7


@each_api
def test_a_customer_that_is_deleted_takes_nothing_off_a_bill(by_customer: World, api: str) -> None:
    world = by_customer
    world.settings["openmeter_api"] = api
    price, _ = world.metered_price()
    [acme] = bill(world, price, ["acme"], [SEATS])
    world.use("seat_1", NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.openmeter.delete_customer("acme")
    world.travel(NOON + 3 * HOUR)

    [report] = world.report_all(Options(full=True))
    assert (str(report.status), report.sent) == ("refused", [])
    assert "or it was deleted" in report.reason
    assert world.held(acme.customer, NOON, NOON + HOUR) == 5


def test_a_key_that_another_customer_has_now_is_held(by_customer: World) -> None:
    world = by_customer
    price, _ = world.metered_price()
    [acme] = bill(world, price, ["acme"], [["seat_1"]])
    world.use("seat_1", NOON + MINUTE, 5)
    world.use("seat_2", NOON + MINUTE, 50)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    before = world.openmeter.customer("acme")
    world.openmeter.replace_customer("acme", {"name": "Acme", "key": "acme-old"})
    after = world.openmeter.create_customer("acme", ["seat_2"])

    [report] = world.report_all()
    assert str(report.status) == "held"
    assert (
        f"'acme' is now {after.id!r}, but what was reported so far came from {before.id!r}" in report.reason
    )
    assert world.held(acme.customer, NOON, NOON + HOUR) == 5

    assert statuses(world, Options(accept=True, full=True)) == ["sent"]
    assert world.held(acme.customer, NOON, NOON + HOUR) == 50
    assert statuses(world) == ["unchanged"]


@pytest.mark.parametrize("formula", ["sum", "last"])
def test_a_subject_key_that_is_taken_away_is_a_decrease(by_customer: World, formula: str) -> None:
    world = by_customer
    price, _ = world.metered_price(formula=formula)
    [acme] = bill(world, price, ["acme"], [SEATS])
    for subject in SEATS:
        world.use(subject, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    assert statuses(world) == ["sent"]
    kept = {"name": "Acme", "key": "acme", "usageAttribution": {"subjectKeys": ["seat_1"]}}
    world.openmeter.replace_customer("acme", kept)

    assert statuses(world) == ["held"]
    [event] = world.meter_events(acme.customer)
    assert event["value"] == 15


def test_one_key_is_not_billed_to_two_customers(by_customer: World) -> None:
    world = by_customer
    price, _ = world.metered_price()
    bill(world, price, ["acme"], [SEATS])
    world.subscription(price, world.customer(metadata={KEY: "acme"}))
    world.use("seat_2", NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    assert sorted(statuses(world)) == ["held", "sent"]
    assert [event["value"] for event in world.meter_events()] == [5]


def test_an_openmeter_that_is_down_sends_nothing_and_asks_again(by_customer: World) -> None:
    world = by_customer
    price, _ = world.metered_price()
    bill(world, price, ["acme", "other"], [SEATS, ["seat_9"]])
    world.travel(NOON + 2 * HOUR)
    world.openmeter.faults.down = True
    assert statuses(world) == ["unknown", "unknown"]
