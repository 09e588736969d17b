"""The operator's commands over a price with a meter that follows a legacy one."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run
from tests.cli.test_explain import explained
from tests.integration.test_successors import (
    CUT,
    END,
    SECOND_END,
    START,
    renew,
    switch,
    use_around,
    with_successor,
)
from tests.integration.world import HOUR, MINUTE, World
from usage_reporting.windows import rfc3339


@pytest.fixture
def customer(world: World, stack: str) -> str:
    """A customer whose legacy price's usage its successor's meter holds, too."""
    subscription, _, customer, successor = with_successor(world)
    world.use(customer, START + MINUTE, 5)
    use_around(world, customer, END)
    world.travel(START + HOUR + 5 * MINUTE)
    world.tick()
    switch(world, subscription, successor)
    return customer


def test_beside_the_records_it_is_compared_and_no_money(
    run: Run, world: World, stack: str, customer: str
) -> None:
    world.travel(START + 5 * HOUR)
    planned = run("plan", "--stack", stack, "--json")
    compared = run("reconcile", "--stack", stack, "--since", "24h", "--json")

    assert [row["stripe_price"] for row in planned.json["periods"]] == [legacy_price(world)]
    assert compared.code == 0, compared.out
    found = [(one["finding"], one["openmeter"], one["stripe"]) for one in compared.json["customer_meters"]]
    assert found == [("exact", "5", "5")] * 2


def legacy_price(world: World) -> str:
    [price] = [one.id for one in world.stripe.account.prices if one.is_legacy]
    return price


def test_the_first_invoice_is_explained_from_where_the_last_record_ended(
    run: Run, world: World, stack: str, customer: str
) -> None:
    renew(world, END)
    world.travel(END + 4 * HOUR)
    compared = run("reconcile", "--stack", stack, "--customer", customer, "--since", "24h", "--json")
    adopted = run("adopt", "--stack", stack, "--customer", customer, "--yes")
    renew(world, SECOND_END)

    assert compared.code == 0, compared.out
    assert adopted.code == 0, adopted.out
    last, first = world.client.v1.invoices.list({"customer": customer, "limit": 2}).data[::-1]
    [legacy] = explained(run, last.id, "--stack", stack)
    [metered] = explained(run, first.id, "--stack", stack)
    assert (legacy["billed"], legacy["verdict"]) == ("6", "EXACT")
    assert (metered["billed"], metered["verdict"]) == ("130", "EXACT")
    assert rfc3339(CUT) in [one["from"] for one in metered["slices"]]
