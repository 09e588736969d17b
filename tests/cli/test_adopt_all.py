"""`adopt --all`: a whole Stripe account taken over, or a whole lost ledger rebuilt."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cli.adoption import Adoption
from tests.cli.conftest import Run
from tests.integration.world import HOUR, MINUTE, NOON, World
from usage_reporting.errors import RefusedError
from usage_reporting.openmeter import OpenMeter
from usage_reporting.windows import rfc3339

ODD = NOON + 37 * MINUTE + 42


@pytest.fixture
def customers(world: World) -> list[str]:
    """Three customers whose usage of 10, 11 and 12 units another reporter sent, the last one's in part."""
    world.travel(ODD)
    price, _ = world.metered_price()
    made = [str(world.subscription(price).customer) for _ in range(3)]
    for number, customer in enumerate(made):
        world.use(customer, ODD + MINUTE, 10 + number)
    world.travel(ODD + 5 * MINUTE)
    for customer, value in zip(made, ("10", "11", "7.5"), strict=True):
        report_as_another(world, customer, value)
    world.travel(NOON + 4 * HOUR)
    return made


def report_as_another(world: World, customer: str, value: str) -> None:
    payload = {"stripe_customer_id": customer, "value": value}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": payload, "timestamp": world.clock() - MINUTE}
    )


def another(world: World) -> str:
    """A further customer on the same price."""
    price = world.client.v1.prices.list({}).data[0].id
    return str(world.subscription(price).customer)


def items_of(world: World, customer: str) -> list[dict[str, Any]]:
    return [item for item in world.ledger() if customer in item["pk"]["S"]]


def test_all_who_are_held_are_adopted_and_the_others_left_as_they_are(
    run: Run, world: World, stack: str, customers: list[str]
) -> None:
    known, unused = another(world), another(world)
    world.use(known, NOON + 4 * HOUR, 3)
    world.travel(NOON + 6 * HOUR)
    run("report", "--stack", stack, "--customer", known)
    before = items_of(world, known)
    assert run("report", "--stack", stack, "--json").json["summary"]["held"] == 3
    world.travel(NOON + 8 * HOUR)

    result = run("adopt", "--stack", stack, "--all", "--yes")

    assert result.code == 0, result.out
    rows = [line.split() for line in result.out.splitlines()]
    assert ["customer", "meter", "hours", "Stripe", "OpenMeter", "difference"] in rows
    assert [customers[0], "m1", "1", "10", "10", "0"] in rows
    assert [customers[2], "m1", "1", "7.5", "12", "+4.5"] in rows
    assert result.out.count(rfc3339(NOON)) == 1, "the hours of those that differ alone"
    assert "adopted: 3, not adopted: 0, left as they are: 2 that the ledger knows" in result.out
    assert items_of(world, known)[0]["sk"] == before[0]["sk"]
    after = run("report", "--stack", stack, "--json").json["summary"]
    assert (after["reported"], after["held"]) == (1, 0)
    assert sum(event["value"] for event in world.meter_events(customers[2])) == 12
    assert items_of(world, unused)


def test_who_has_no_usage_yet_is_left_alone(run: Run, world: World, stack: str, customers: list[str]) -> None:
    unused = another(world)

    result = run("adopt", "--stack", stack, "--all", "--yes", "--json")

    assert result.json["left"] == {"known": 0, "unused": 1, "refused": 0}
    assert items_of(world, unused) == []
    assert {one["stripe_customer"] for one in result.json["meters"]} == set(customers)
    assert all(one["adopted"] and one["hours"] for one in result.json["meters"])


def test_a_second_time_there_is_nothing_to_do(
    run: Run, world: World, stack: str, customers: list[str]
) -> None:
    assert run("adopt", "--stack", stack, "--all", "--yes").code == 0
    before = world.ledger()

    again = run("adopt", "--stack", stack, "--all")

    assert again.code == 0
    assert "adopted: 0, not adopted: 0, left as they are: 3 that the ledger knows" in again.out
    assert world.ledger() == before


def test_stopped_half_way_it_goes_on(
    run: Run, world: World, stack: str, customers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = Adoption.carry_out
    written: list[str] = []

    async def interrupted(self: Adoption, *arguments: Any) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(self.customer_meter.customer)
        await carry_out(self, *arguments)

    with monkeypatch.context() as stopped:
        stopped.setattr(Adoption, "carry_out", interrupted)
        assert run("adopt", "--stack", stack, "--all", "--yes").code != 0

    result = run("adopt", "--stack", stack, "--all", "--yes", "--json")

    assert result.code == 0
    assert (result.json["adopted"], result.json["left"]["known"]) == (2, 1)
    assert run("report", "--stack", stack, "--json").json["summary"]["held"] == 0


def test_a_lost_ledger_is_rebuilt_but_for_whom_usage_was_sent_a_moment_ago(
    run: Run, world: World, stack: str, customers: list[str]
) -> None:
    run("adopt", "--stack", stack, "--all", "--yes")
    run("report", "--stack", stack)  # sends what the last customer lacks
    for item in world.ledger():
        if item["sk"]["S"] == "head":
            world.dynamodb.put_item(TableName="ledger", Item={**item, "table": {"S": "1"}})

    result = run("adopt", "--stack", stack, "--all", "--yes")

    assert result.code == 1
    assert f"not adopted: {customers[2]} on Stripe meter" in result.out
    assert "try again in" in result.out
    assert "adopted: 2, not adopted: 1" in result.out
    world.travel(NOON + 6 * HOUR)
    assert run("adopt", "--stack", stack, "--all", "--yes").code == 0
    assert run("report", "--stack", stack, "--json").json["summary"]["unchanged"] == 3
    assert [event["value"] for event in world.meter_events(customers[2])] == [Decimal("7.5"), Decimal("4.5")]


def test_one_whom_openmeter_refuses_stops_no_other(
    run: Run, world: World, stack: str, customers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = OpenMeter.hours

    async def refusing(self: OpenMeter, slug: str, subjects: list[str], start: int, end: int) -> Any:
        if customers[1] in subjects:
            raise RefusedError("OpenMeter refuses the query")
        return await hours(self, slug, subjects, start, end)

    monkeypatch.setattr(OpenMeter, "hours", refusing)

    result = run("adopt", "--stack", stack, "--all", "--yes", "--json")

    assert result.code == 1
    assert result.json["adopted"] == 2
    [problem] = result.json["problems"]
    assert problem["what"].startswith(customers[1])
    assert "refuses the query" in problem["reason"]


def test_of_two_customers_with_one_subject_one_is_adopted(
    run: Run, world: World, stack: str, customers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBJECT_METADATA_KEY", "tenant")
    for customer in customers:
        tenant = "1" if customer == customers[0] else "2"
        world.client.v1.customers.update(customer, {"metadata": {"tenant": tenant}})

    result = run("adopt", "--stack", stack, "--all", "--yes", "--json")

    assert (result.code, result.json["adopted"]) == (1, 2)
    [problem] = result.json["problems"]
    assert "the subject '2' of OpenMeter meter 'm1' is billed to customer" in problem["reason"]


def test_a_writer_in_between_is_named_and_the_others_are_adopted(
    run: Run, world: World, stack: str, customers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.adopt.is_terminal", lambda: True)

    def overtaken(question: str, **_: object) -> bool:
        assert "3 customers" in question
        meter = world.client.v1.billing.meters.list({}).data[0].id
        pk = f"self#test#{customers[0]}#{meter}"
        world.dynamodb.put_item(
            TableName="ledger", Item={"pk": {"S": pk}, "sk": {"S": "head"}, "version": {"N": "1"}}
        )
        return True

    monkeypatch.setattr("typer.confirm", overtaken)

    result = run("adopt", "--stack", stack, "--all")

    assert result.code == 1
    assert f"not adopted: {customers[0]}" in result.out
    assert "adopted: 2, not adopted: 1" in result.out


def test_answered_with_no_nothing_is_written(
    run: Run, world: World, stack: str, customers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("adopt", "--stack", stack, "--all").code == 2
    monkeypatch.setattr("cli.adopt.is_terminal", lambda: True)

    assert run("adopt", "--stack", stack, "--all", input="n\n").code == 1
    assert world.ledger() == []


@pytest.mark.parametrize("arguments", [[], ["--all", "--customer", "cus_1"]])
def test_it_is_said_whose(run: Run, stack: str, arguments: list[str]) -> None:
    result = run("adopt", "--stack", stack, *arguments)

    assert result.code == 2
    assert "--customer cus_... for one, or --all" in result.err


def test_many_customers_are_one_query_of_openmeter(
    run: Run, world: World, stack: str, customers: list[str]
) -> None:
    world.openmeter.calls.reset()

    run("adopt", "--stack", stack, "--all", "--yes")

    assert len(world.openmeter.calls.queries) == 1
