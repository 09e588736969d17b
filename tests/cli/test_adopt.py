"""`adopt` makes the ledger believe what Stripe holds, so that the next report changes nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.windows import rfc3339

ODD = NOON + 37 * MINUTE + 42
"""An anchor inside a minute."""


@pytest.fixture
def customer(world: World) -> str:
    """A customer whose subscription began at an odd second."""
    world.travel(ODD)
    customer = world.customer()
    world.subscription(world.metered_price()[0], customer)
    return customer


def report_as_another(world: World, customer: str, stamp: int, value: str, identifier: str = "") -> None:
    """A meter event of somebody else's reporter."""
    params: dict[str, Any] = {
        "event_name": "tokens",
        "payload": {"stripe_customer_id": customer, "value": value},
        "timestamp": stamp,
    }
    if identifier:
        params["identifier"] = identifier
    world.client.v1.billing.meter_events.create(params)


def values(world: World, customer: str) -> list[Decimal]:
    return [event["value"] for event in world.meter_events(customer)]


def test_usage_of_another_reporter_is_adopted(run: Run, world: World, stack: str, customer: str) -> None:
    for hour in range(3):
        at = ODD + 5 * MINUTE + hour * HOUR
        world.use(customer, at, 10 + hour)
        world.travel(at + MINUTE)
        report_as_another(world, customer, at, str(10 + hour))
    world.travel(NOON + 5 * HOUR)
    held = run("report", "--stack", stack)
    assert f"run `usage-reporter adopt --stack {stack} --customer {customer}`" in held.out

    adopted = run("adopt", "--stack", stack, "--customer", customer, "--yes")
    after = run("report", "--stack", stack, "--json")

    assert adopted.code == 0, adopted.err
    assert after.code == 0
    assert after.json["summary"]["unchanged"] == 1
    assert values(world, customer) == [10, 11, 12]


def test_the_hours_are_shown_side_by_side(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, ODD + MINUTE, 10)
    world.use(customer, NOON + HOUR, 4)
    report_as_another(world, customer, ODD + MINUTE, "7.5")
    world.travel(NOON + 4 * HOUR)

    result = run("adopt", "--stack", stack, "--customer", customer, "--yes", "--json")
    text = run("adopt", "--stack", stack, "--customer", customer, "--yes").out

    [meter] = result.json["meters"]
    assert meter["openmeter_meter"] == "m1"
    assert meter["hours"] == [
        {"hour": rfc3339(NOON), "stripe": "7.5", "openmeter": "10"},
        {"hour": rfc3339(NOON + HOUR), "stripe": "0", "openmeter": "4"},
    ]
    rows = [line.split() for line in text.splitlines()]
    assert [rfc3339(NOON), "7.5", "10", "+2.5"] in rows
    assert ["total", "7.5", "14", "+6.5"] in rows


def test_what_is_missing_is_sent_next(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, ODD + MINUTE, 10)
    report_as_another(world, customer, ODD + MINUTE, "7.5")
    world.travel(NOON + 4 * HOUR)

    run("adopt", "--stack", stack, "--customer", customer, "--yes")
    assert values(world, customer) == [Decimal("7.5")]
    run("report", "--stack", stack)

    assert sorted(values(world, customer)) == [Decimal("2.5"), Decimal("7.5")]
    assert run("report", "--stack", stack, "--json").json["summary"]["unchanged"] == 1


def test_usage_around_a_bound_is_told_apart(run: Run, world: World, stack: str) -> None:
    """A renewal inside a minute: each side of it is adopted for its own period."""
    world.travel(ODD - 30 * DAY)
    customer = world.customer()
    world.subscription(world.metered_price()[0], customer)
    for at, value in ((ODD - 10, 3), (ODD - 20 * MINUTE, 4), (ODD + 2 * MINUTE, 5)):
        world.use(customer, at, value)
    world.travel(ODD + 10 * MINUTE)
    report_as_another(world, customer, ODD - 1, "7")
    report_as_another(world, customer, ODD + 3 * MINUTE, "5")
    world.travel(ODD + 70 * MINUTE + HOUR)

    run("adopt", "--stack", stack, "--customer", customer, "--yes")

    assert adopted_slices(world) == {NOON: 7, ODD: 5}
    assert run("report", "--stack", stack, "--json").json["summary"]["reported"] == 0
    assert values(world, customer) == [7, 5]


def test_a_price_that_was_swapped_before_the_adoption_takes_nothing(
    run: Run, world: World, stack: str, customer: str
) -> None:
    """Stripe billed its part at once: what was not in it then is counted, not sent."""
    [subscription] = world.client.v1.subscriptions.list({"customer": customer}).data
    [item] = subscription["items"].data
    world.use(customer, ODD + MINUTE, 5)
    report_as_another(world, customer, ODD + MINUTE, "2")
    world.travel(NOON + 3 * HOUR)
    meter = item.price.recurring.meter
    other = world.client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 20,
            "product": item.price.product,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
        }
    )
    world.client.v1.subscriptions.update(subscription.id, {"items": [{"id": item.id, "price": other.id}]})
    world.travel(NOON + 5 * HOUR)

    assert run("adopt", "--stack", stack, "--customer", customer, "--yes").code == 0
    report = run("report", "--stack", stack)

    assert "3 units of" in report.out
    assert values(world, customer) == [2]


@pytest.mark.parametrize(
    ("stamped", "adopted"),
    [((7, 2), (7, 2)), ((7, 0), (7, 0)), ((5, 0), (5, 0)), ((0, 8), (7, 1)), ((7, 5), (7, 5))],
)
def test_usage_of_two_bounds_in_one_minute_is_told_apart_as_openmeter_does(
    run: Run, world: World, stack: str, stamped: tuple[int, int], adopted: tuple[int, int]
) -> None:
    """Summaries have whole minutes. What is less fills the earlier period, what is more the later."""
    customer = world.customer()
    price, _ = world.metered_price()
    for start in (ODD - 30 * DAY, ODD - 30 * DAY + 10):
        world.travel(start)
        world.subscription(price, customer)
    for at, used, units in ((ODD - 5, 7, stamped[0]), (ODD + 5, 2, stamped[1])):
        world.use(customer, at, used)
        world.travel(at + 1)
        if units:
            report_as_another(world, customer, at, str(units))
    world.travel(ODD + 4 * HOUR)

    run("adopt", "--stack", stack, "--customer", customer, "--yes")

    told = {NOON: adopted[0], ODD: adopted[1]}
    assert adopted_slices(world) == {start: units for start, units in told.items() if units}


def adopted_slices(world: World) -> dict[int, Decimal]:
    """What the ledger took over, by the start of the slice."""
    sends = [send["M"] for item in world.ledger() if "sends" in item for send in item["sends"]["M"].values()]
    assert all(send["state"]["S"] == "sent" for send in sends)
    return {int(send["slice"]["N"]): Decimal(send["value"]["N"]) for send in sends}


def test_a_restored_table_is_released(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, ODD + MINUTE, 10)
    world.travel(NOON + 2 * HOUR)
    run("report", "--stack", stack)
    backup = world.ledger()
    world.use(customer, NOON + 90 * MINUTE, 5)
    world.travel(NOON + 3 * HOUR)
    run("report", "--stack", stack)
    world.dynamodb.delete_table(TableName="ledger")
    world.create_table("ledger")
    for item in backup:
        head = {"table": {"S": "1"}} if item["sk"]["S"] == "head" else {}
        world.dynamodb.put_item(TableName="ledger", Item={**item, **head})
    world.travel(NOON + 5 * HOUR)
    held = run("report", "--stack", stack)
    assert held.code == 1
    assert "restored copy" in held.out

    assert run("adopt", "--stack", stack, "--customer", customer, "--yes").code == 0

    assert run("report", "--stack", stack, "--json").json["summary"]["unchanged"] == 1
    assert values(world, customer) == [10, 5]


def test_a_send_that_stayed_unknown_is_settled_by_what_stripe_holds(
    run: Run, world: World, stack: str, customer: str
) -> None:
    world.use(customer, ODD + MINUTE, 10)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add(kind="drop_before", path="/v1/billing/meter_events", times=None)
    assert run("report", "--stack", stack, "--json").json["summary"]["unknown"] == 1
    world.stripe.faults.clear()
    world.travel(NOON + 30 * HOUR)
    assert "it is not certain whether Stripe counts 10 units" in run("report", "--stack", stack).out

    assert run("adopt", "--stack", stack, "--customer", customer, "--yes").code == 0
    run("report", "--stack", stack)

    assert values(world, customer) == [10]
    assert run("report", "--stack", stack, "--json").json["summary"]["unchanged"] == 1


def test_an_equal_difference_as_before_the_adoption_is_sent(
    run: Run, world: World, stack: str, customer: str
) -> None:
    """Its identifier must not be one that Stripe knows from before."""
    world.use(customer, ODD + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    run("report", "--stack", stack)
    for hours in (3, 5):
        world.use(customer, ODD + hours * MINUTE, 3)
        world.travel(NOON + hours * HOUR)
        if hours == 5:
            adopted = run("adopt", "--stack", stack, "--customer", customer, "--yes")
            assert adopted.code == 0
        run("report", "--stack", stack)

    assert values(world, customer) == [5, 3, 3]


def test_usage_sent_a_moment_ago_is_waited_for(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, ODD + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    run("report", "--stack", stack)
    world.travel(NOON + 2 * HOUR + 20 * MINUTE)
    before = world.ledger()

    result = run("adopt", "--stack", stack, "--customer", customer, "--yes")

    assert result.code == 1
    assert "try again in 41 minutes" in result.err
    assert world.ledger() == before


def test_the_open_hour_is_not_read_to_before_what_was_adopted(
    run: Run, world: World, stack: str, customer: str
) -> None:
    world.travel(NOON + 2 * HOUR + 30 * MINUTE)
    world.use(customer, NOON + 2 * HOUR + 29 * MINUTE + 30, 5)
    report_as_another(world, customer, NOON + 2 * HOUR + 29 * MINUTE + 30, "5")

    run("adopt", "--stack", stack, "--customer", customer, "--yes")

    assert run("report", "--stack", stack).code == 0
    world.travel(NOON + 4 * HOUR)
    assert run("report", "--stack", stack, "--json").json["summary"]["unchanged"] == 1


def test_it_asks_first(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_as_another(world, customer, ODD + 1, "5")
    world.travel(NOON + 4 * HOUR)
    adopt = ["adopt", "--stack", stack, "--customer", customer]

    alone = run(*adopt)
    assert alone.code == 2
    assert "pass --yes" in alone.err
    assert rfc3339(NOON) in alone.out

    monkeypatch.setattr("cli.adopt.is_terminal", lambda: True)
    assert run(*adopt, input="n\n").code == 1
    assert world.ledger() == []
    agreed = run(*adopt, input="y\n")
    assert agreed.code == 0
    assert "must have stopped an hour ago" in agreed.err
    assert world.ledger() != []


def test_a_writer_in_between_is_not_overwritten(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.use(customer, ODD + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    run("report", "--stack", stack)
    world.travel(NOON + 4 * HOUR)
    monkeypatch.setattr("cli.adopt.is_terminal", lambda: True)

    def overtaken(*_: object, **__: object) -> bool:
        for item in world.ledger():
            item["version"]["N"] = str(int(item["version"]["N"]) + 1)
            world.dynamodb.put_item(TableName="ledger", Item=item)
        return True

    monkeypatch.setattr("typer.confirm", overtaken)

    result = run("adopt", "--stack", stack, "--customer", customer)

    assert result.code == 1
    assert "run adopt again" in result.err


def test_a_legacy_price_of_a_restored_table_is_released(run: Run, world: World, stack: str) -> None:
    customer = run("setup", "--legacy", "--json").json["customer"]["id"]
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + HOUR)
    run("report", "--stack", stack)
    head = next(item for item in world.ledger() if item["sk"]["S"] == "head")
    world.dynamodb.put_item(TableName="ledger", Item={**head, "table": {"S": "1"}})
    assert run("report", "--stack", stack).code == 1

    result = run("adopt", "--stack", stack, "--customer", customer, "--yes")

    assert "billed by usage records" in result.out
    assert run("report", "--stack", stack).code == 0


def test_in_shadow_mode_nothing_is_adopted(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODE", "shadow")

    result = run("adopt", "--stack", stack, "--customer", customer, "--yes")

    assert result.code == 2
    assert "deploy Mode=live" in result.err
    assert world.ledger() == []


def test_an_adopted_loss_is_sent_again_under_another_identifier(
    run: Run, world: World, stack: str, customer: str
) -> None:
    """Stripe took it, does not count it, and still knows its identifier."""
    world.use(customer, ODD + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.validation.refuse_next("archived_meter")
    run("report", "--stack", stack)
    world.travel(NOON + 4 * HOUR)

    assert run("adopt", "--stack", stack, "--customer", customer, "--yes").code == 0
    run("report", "--stack", stack)

    assert values(world, customer) == [5]


# Meters that take the last value


@pytest.fixture
def totalled(world: World) -> str:
    """A customer on a price that bills the last value."""
    world.travel(ODD)
    customer = world.customer()
    world.subscription(world.metered_price(formula="last")[0], customer)
    return customer


def test_the_last_value_of_another_reporter_is_adopted(
    run: Run, world: World, stack: str, totalled: str
) -> None:
    for minutes, total in ((5, "10"), (90, "15")):
        world.use(totalled, ODD + minutes * MINUTE, 10 if total == "10" else 5)
        world.travel(ODD + (minutes + 1) * MINUTE)
        report_as_another(world, totalled, ODD + minutes * MINUTE, total)
    world.travel(NOON + 5 * HOUR)
    assert run("report", "--stack", stack, "--json").json["summary"]["held"] == 1

    adopted = run("adopt", "--stack", stack, "--customer", totalled, "--yes", "--json")

    assert adopted.json["meters"][0]["hours"] == [{"hour": rfc3339(ODD), "stripe": "15", "openmeter": "15"}]
    [send] = [send["M"] for item in world.ledger() if "sends" in item for send in item["sends"]["M"].values()]
    assert int(send["stamp"]["N"]) // MINUTE == (ODD + 90 * MINUTE) // MINUTE
    assert run("report", "--stack", stack, "--json").json["summary"]["unchanged"] == 1
    world.use(totalled, NOON + 5 * HOUR, 2)
    world.travel(NOON + 7 * HOUR)
    run("report", "--stack", stack)
    assert values(world, totalled) == [10, 15, 17]


def test_the_values_of_two_periods_are_told_apart(run: Run, world: World, stack: str) -> None:
    world.travel(ODD - 30 * DAY)
    customer = world.customer()
    world.subscription(world.metered_price(formula="last")[0], customer)
    world.use(customer, ODD - 20 * MINUTE, 7)
    world.use(customer, ODD + 2 * MINUTE, 5)
    world.travel(ODD + 10 * MINUTE)
    report_as_another(world, customer, ODD - 1, "7")
    report_as_another(world, customer, ODD + 3 * MINUTE, "5")
    world.travel(ODD + 40 * MINUTE)

    run("adopt", "--stack", stack, "--customer", customer, "--yes")

    assert adopted_slices(world) == {ODD - 30 * DAY: 7, ODD: 5}
    assert run("report", "--stack", stack, "--json").json["summary"]["reported"] == 0
    assert values(world, customer) == [7, 5]


def test_what_a_canceled_subscription_was_billed_is_not_counted_again(
    run: Run, world: World, stack: str
) -> None:
    world.travel(ODD)
    customer = world.customer()
    price = world.metered_price(formula="last")[0]
    canceled = world.subscription(price, customer).id
    world.use(customer, ODD + 2 * MINUTE, 5)
    world.travel(NOON + 3 * HOUR)
    run("report", "--stack", stack)
    world.client.v1.subscriptions.cancel(canceled, {"invoice_now": True, "prorate": True})
    world.travel(NOON + 4 * HOUR)
    world.subscription(price, customer)
    world.travel(NOON + 5 * HOUR)
    run("report", "--stack", stack)
    head = next(item for item in world.ledger() if item["sk"]["S"] == "head")
    world.dynamodb.put_item(TableName="ledger", Item={**head, "table": {"S": "1"}})
    assert run("report", "--stack", stack).code == 1

    run("adopt", "--stack", stack, "--customer", customer, "--yes")
    world.travel(NOON + 6 * HOUR)
    after = run("report", "--stack", stack, "--json").json["summary"]

    assert world.billed(canceled)[-1][1] == 5
    assert [after[name] for name in ("unbillable_units", "late_units", "held")] == ["0", "0", 0]


def test_what_a_removed_item_was_told_is_adopted(run: Run, world: World, stack: str, totalled: str) -> None:
    """Without that its usage would be counted as on no invoice, though Stripe bills it."""
    [subscription] = world.client.v1.subscriptions.list({"customer": totalled}).data
    [item] = subscription["items"].data
    world.openmeter.create_meter("m2", "calls")
    world.client.v1.subscription_items.create(
        {
            "subscription": subscription.id,
            "price": world.metered_price("calls")[0],
            "metadata": {"om_meter_id": "m2"},
        }
    )
    world.use(totalled, ODD + MINUTE, 15)
    world.travel(ODD + 5 * MINUTE)
    report_as_another(world, totalled, ODD + 2 * MINUTE, "15")
    world.travel(ODD + HOUR)
    world.client.v1.subscriptions.update(subscription.id, {"items": [{"id": item.id, "deleted": True}]})
    world.travel(ODD + 4 * HOUR)

    adopted = run("adopt", "--stack", stack, "--customer", totalled, "--yes", "--json")

    meters = {one["openmeter_meter"]: one["hours"] for one in adopted.json["meters"]}
    assert meters["m1"] == [{"hour": rfc3339(ODD), "stripe": "15", "openmeter": "15"}]


def test_a_restored_ledger_does_not_know_of_a_cancellation(
    run: Run, world: World, stack: str, totalled: str
) -> None:
    """The span that its copy shows as running is adopted as far as it went: a later one has its own value."""
    world.use(totalled, ODD + MINUTE, 15)
    world.travel(NOON + 2 * HOUR)
    run("report", "--stack", stack)
    world.travel(ODD + DAY)
    [subscription] = world.client.v1.subscriptions.list({"customer": totalled}).data
    price = subscription["items"].data[0].price.id
    world.client.v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    world.travel(ODD + DAY + MINUTE)
    world.subscription(price, totalled)
    world.use(totalled, ODD + DAY + 2 * MINUTE, 4)
    world.travel(ODD + DAY + HOUR)
    report_as_another(world, totalled, ODD + DAY + 3 * MINUTE, "4")
    world.travel(ODD + 4 * DAY)

    run("adopt", "--stack", stack, "--customer", totalled, "--yes")
    told = {int(item["sk"]["S"]): sends_of(item) for item in world.ledger() if item["sk"]["S"].isdigit()}
    after = run("report", "--stack", stack, "--json")

    assert told == {ODD: [15], ODD + DAY + MINUTE: [4]}
    assert after.json["summary"]["unchanged"] == 1


def sends_of(item: dict[str, Any]) -> list[Decimal]:
    return [Decimal(send["M"]["value"]["N"]) for send in item["sends"]["M"].values()]
