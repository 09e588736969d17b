"""The commands over connected accounts: all that the stack serves, or the one that --account names."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.cli.conftest import WEBHOOK_URL, Run, aws, secret_of
from tests.integration.world import HOUR, MINUTE, NOON, World

ONE, OTHER = "acct_1One", "acct_1Other"

Customers = dict[str, str]


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONNECTED_ACCOUNTS", f"{ONE},{OTHER}")


@pytest.fixture
def customers(world: World) -> Customers:
    """A customer in each account, who used 1, 2 and 3 units an hour ago."""
    found = {"self": str(world.subscription(world.metered_price()[0]).customer)}
    for account in (ONE, OTHER):
        with world.of_account(account):
            found[account] = str(world.subscription(world.metered_price()[0]).customer)
    for units, customer in enumerate(found.values(), 1):
        world.use(customer, NOON + MINUTE, units)
    world.travel(NOON + 2 * HOUR)
    return found


def told(world: World, account: str) -> list[Decimal]:
    return [row.value for row in world.stripe.connected[account].meters.accepted()]


def test_report_goes_over_all(world: World, run: Run, stack: str, customers: Customers) -> None:
    result = run("report", "--stack", stack)

    assert result.code == 0
    assert [row["value"] for row in world.meter_events()] == [1]
    assert (told(world, ONE), told(world, OTHER)) == ([Decimal(2)], [Decimal(3)])
    lines = result.out.splitlines()
    assert sum(line.endswith(f", stripe_account: {ONE}") for line in lines) == 1
    [own] = [line for line in lines if customers["self"] in line]
    assert "stripe_account" not in own


def test_one_account_or_one_customer_of_it(world: World, run: Run, stack: str, customers: Customers) -> None:
    lost = run("report", "--stack", stack, "--customer", customers[ONE])
    found = run("report", "--stack", stack, "--customer", customers[ONE], "--account", ONE, "--json")
    own = run("report", "--stack", stack, "--account", "self")

    assert (lost.code, found.code, own.code) == (2, 0, 0)
    assert "--account acct_..." in lost.err
    assert found.json["lines"][0]["stripe_account"] == ONE
    assert (told(world, ONE), told(world, OTHER)) == ([Decimal(2)], [])
    assert [row["value"] for row in world.meter_events()] == [1]


def test_an_account_that_is_not_served_is_said(run: Run, stack: str) -> None:
    result = run("report", "--stack", stack, "--account", "acct_1Third")
    assert result.code == 2
    assert "--account acct_1Third: ConnectedAccounts of the stack (CONNECTED_ACCOUNTS) does not" in result.err


def test_an_account_that_is_gone_stops_no_other(
    world: World, run: Run, stack: str, customers: Customers
) -> None:
    world.stripe.deauthorize(ONE)

    result = run("report", "--stack", stack, "--json")

    assert result.code == 1
    assert list(result.json["accounts_not_reported"]) == [ONE]
    assert told(world, OTHER) == [3]
    planned = run("plan", "--stack", stack, "--json")
    assert planned.code == 1
    assert "may not act for the connected account" in planned.json["not_readable"][ONE]


def test_plan_names_the_account(run: Run, stack: str, customers: Customers) -> None:
    result = run("plan", "--stack", stack, "--json")

    whose = {row["stripe_customer"]: row.get("stripe_account") for row in result.json["periods"]}
    assert whose == {customers["self"]: None, customers[ONE]: ONE, customers[OTHER]: OTHER}
    assert result.json["currencies"]["usd"]["will_bill"] == "0.60"
    assert "stripe_account" in run("plan", "--stack", stack, "--csv").out.splitlines()[0]
    assert f"{customers[ONE]} of {ONE}" in run("plan", "--stack", stack, "--account", ONE).out


def test_reconcile_compares_and_mends_each_in_its_own_ledger(
    world: World, run: Run, stack: str, customers: Customers
) -> None:
    run("report", "--stack", stack)
    world.travel(NOON + 5 * HOUR)
    world.use(customers[ONE], NOON + 2 * MINUTE, 10)

    before = run("reconcile", "--stack", stack, "--since", "6h", "--json")
    assert before.code == 1
    [short] = [one for one in before.json["customer_meters"] if not one["is_fine"]]
    assert (short["stripe_account"], short["stripe_customer"]) == (ONE, customers[ONE])
    assert any(f"--customer {customers[ONE]} --account {ONE} --apply" in text for text in short["advice"])

    after = run("reconcile", "--stack", stack, "--since", "6h", "--apply", "--json")
    assert sum(told(world, ONE)) == 12
    assert [one["stripe_account"] for one in after.json["mended"]] == [ONE]


def test_adopt_all_takes_over_what_was_sent_before_in_any_account(
    world: World, run: Run, stack: str, customers: Customers
) -> None:
    with world.of_account(ONE) as connected:
        world.client.v1.billing.meter_events.create(
            {
                "event_name": "tokens",
                "payload": {"stripe_customer_id": customers[ONE], "value": "2"},
                "timestamp": NOON + 2 * MINUTE,
            }
        )
    assert len(list(connected.meters.accepted())) == 1
    held = run("report", "--stack", stack, "--json")
    [problem] = held.json["problems"]
    assert f"--customer {customers[ONE]} --account {ONE}`" in problem["reason"]

    adopted = run("adopt", "--stack", stack, "--all", "--yes", "--json")

    assert [(one["stripe_account"], one["adopted"]) for one in adopted.json["meters"]] == [(ONE, True)]
    assert run("report", "--stack", stack).code == 0
    assert told(world, ONE) == [2]


def test_adopt_takes_one_subject_over_in_one_account_only(world: World, run: Run, stack: str) -> None:
    """A customer that Stripe copied to another account keeps its id, which is its subject."""
    world.stripe.change_settings(same_ids=True)
    for account in (ONE, OTHER):
        with world.of_account(account):
            customer = str(world.subscription(world.metered_price()[0]).customer)
            world.client.v1.billing.meter_events.create(
                {"event_name": "tokens", "payload": {"stripe_customer_id": customer, "value": "2"}}
            )
    world.travel(NOON + 2 * HOUR)

    run("adopt", "--stack", stack, "--all", "--yes")
    world.use(customer, NOON + MINUTE, 7)
    result = run("report", "--stack", stack, "--json")

    assert result.code == 1
    [problem] = result.json["problems"]
    assert f"the ledger does not know {customer}" in problem["reason"]
    assert (sum(told(world, ONE)), sum(told(world, OTHER))) in {(7, 2), (2, 7)}


def test_explain_follows_a_line_of_a_connected_account(
    world: World, run: Run, stack: str, customers: Customers
) -> None:
    run("report", "--stack", stack)

    lost = run("explain", customers[ONE], "--stack", stack)
    found = run("explain", customers[ONE], "--stack", stack, "--account", ONE, "--json")

    assert lost.code == 2
    assert "--account, if it is in a connected one" in lost.err
    assert found.code == 0
    assert json.dumps(found.json).count(customers[ONE]) > 0


def serve(*accounts: str) -> None:
    """Deploy the stack with these connected accounts."""
    name = "webhook"
    before = aws("lambda").get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    after = {**before, "CONNECTED_ACCOUNTS": ",".join(accounts)}
    aws("lambda").update_function_configuration(FunctionName=name, Environment={"Variables": after})


def test_connect_makes_destinations_of_connected_accounts(world: World, run: Run, stack: str) -> None:
    assert run("connect", "--stack", stack).code == 0
    own = {one.id for one in (*world.stripe.account.endpoints, *world.stripe.account.destinations)}
    serve(ONE, OTHER)

    result = run("connect", "--stack", stack)

    assert result.code == 0
    made = [*world.stripe.account.endpoints, *world.stripe.account.destinations]
    assert {(one.connect, one.url) for one in made} == {(False, WEBHOOK_URL), (True, WEBHOOK_URL)}
    assert (len(made), own < {one.id for one in made}) == (4, True)
    held = secret_of(world)
    assert {one.secrets[0].value for one in made} <= set(held["stripe_webhook_secret"])
    assert set(held["stripe_webhook_endpoints"]) == {one.id for one in made}
    again = run("connect", "--stack", stack)
    assert again.out.count("as it should be") == 4

    serve()
    fewer = run("connect", "--stack", stack)

    assert fewer.out.count("no connected account is served") == 2
    assert {one.id for one in (*world.stripe.account.endpoints, *world.stripe.account.destinations)} == own
    run("connect", "--stack", stack)
    assert set(secret_of(world)["stripe_webhook_endpoints"]) == own


def test_connect_remove_takes_them_away_too(world: World, run: Run, stack: str) -> None:
    serve(ONE)
    run("connect", "--stack", stack)

    result = run("connect", "--stack", stack, "--remove", "--yes")

    assert result.code == 0
    assert [*world.stripe.account.endpoints, *world.stripe.account.destinations] == []
    assert result.out.count("deleted") == 5
    assert "4 destinations deleted in Stripe" in result.out


def findings(result: Any, check: str) -> list[tuple[str, str]]:
    found = [one for one in result.json["findings"] if one["check"] == check]
    return [(one["level"], one["seen"]) for one in found]


def test_the_doctor_looks_at_connected_accounts(
    world: World, run: Run, stack: str, customers: Customers
) -> None:
    serve(ONE, OTHER)
    run("connect", "--stack", stack)

    well = run("doctor", "--stack", stack, "--json")

    [(level, seen)] = findings(well, "Accounts")
    assert (level, seen.endswith("on their first pages they have 2 customer meters")) == ("ok", True)
    [(level, seen)] = findings(well, "Destinations")
    assert level == "ok"
    assert "Connect webhook endpoint" in seen
    assert "event destination of connected accounts" in seen

    with world.of_account(OTHER) as connected:
        for endpoint in world.stripe.account.endpoints:
            if endpoint.connect:
                endpoint.status = "disabled"
        world.client.v1.billing.meters.deactivate(next(iter(connected.account.meters)).id)
    world.stripe.deauthorize(ONE)
    ill = run("doctor", "--stack", stack, "--json")

    assert ill.code == 1
    gone, refused = findings(ill, "Accounts")
    assert gone == ("problem", f"the key may not act for {ONE}, or not any more")
    assert refused[1].startswith(f"not reported: {customers[OTHER]} of {OTHER}: Stripe meter ")
    [(level, seen)] = findings(ill, "Destinations")
    assert level == "problem"
    assert seen.startswith("Connect webhook endpoint")


def test_the_doctor_names_a_permission_that_is_lacking_there(
    world: World, run: Run, stack: str, customers: Customers
) -> None:
    serve(ONE)
    restricted = "rk_test_connect"
    scopes = {"subscription": "read", "invoice": "read", "connected_account": "read"}
    world.stripe.change_settings(
        restricted_keys={restricted: scopes}, connect_permissions={restricted: scopes}
    )
    world.secrets.put_secret_value(
        SecretId="keys", SecretString=json.dumps({"stripe_api_key": restricted, "stripe_webhook_secret": "w"})
    )

    result = run("doctor", "--stack", stack, "--json")

    lacking = [seen for level, seen in findings(result, "Accounts") if level == "problem"]
    assert f"in connected accounts the key may not read: Events ({ONE}, {OTHER})" in lacking
    assert not [seen for seen in lacking if "Subscriptions" in seen]


def test_the_console_shows_the_account_that_is_named(run: Run, stack: str, customers: Customers) -> None:
    run("report", "--stack", stack)

    own = run("console", "--stack", stack, "--json")
    other = run("console", "--stack", stack, "--account", ONE, "--json")

    assert (customers["self"] in own.out, customers[ONE] in own.out) == (True, False)
    assert (customers["self"] in other.out, customers[ONE] in other.out) == (False, True)
