"""`report` reports from this machine, with the stack's ledger or without."""

from __future__ import annotations

import boto3
import pytest

from tests.cli.conftest import Run
from tests.integration.world import HOUR, MINUTE, NOON, World
from usage_reporting.windows import rfc3339


@pytest.fixture
def price(world: World) -> str:
    return world.metered_price()[0]


@pytest.fixture
def customer(world: World, price: str) -> str:
    """A customer who used 10 units in the first hour."""
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOON + 5 * MINUTE, 10)
    world.travel(NOON + 2 * HOUR + 30 * MINUTE)
    return customer


def test_the_line_is_the_layers_own(run: Run, world: World, stack: str, customer: str, price: str) -> None:
    result = run("report", "--stack", stack)

    assert result.code == 0, result.err
    until = rfc3339(NOON + 2 * HOUR + 29 * MINUTE)
    assert result.out.splitlines()[0] == (
        f"stripe_customer: {customer}, stripe_price: {price}, meter: m1, total_usage: 10, "
        f"from: {rfc3339(NOON)}, to: {until}"
    )
    assert [event["value"] for event in world.meter_events(customer)] == [10]
    assert result.err == ""


def test_again_nothing_changes(run: Run, world: World, stack: str, customer: str) -> None:
    first = run("report", "--stack", stack, "--json").json
    second = run("report", "--stack", stack, "--json").json

    assert (first["summary"]["reported"], first["summary"]["unchanged"]) == (1, 0)
    assert (second["summary"]["reported"], second["summary"]["unchanged"]) == (0, 1)
    assert [line["total_usage"] for line in second["lines"]] == ["10"]
    assert len(world.meter_events(customer)) == 1


def test_it_shares_the_ledger_with_the_functions(run: Run, world: World, stack: str, customer: str) -> None:
    world.tick("all")
    world.use(customer, NOON + 6 * MINUTE, 2)

    run("report", "--stack", stack)
    world.tick("all")

    assert [event["value"] for event in world.meter_events(customer)] == [10, 2]


def test_a_dry_run_sends_and_writes_nothing(run: Run, world: World, stack: str, customer: str) -> None:
    result = run("report", "--stack", stack, "--dry-run")

    assert result.code == 0
    stamp = rfc3339(NOON + HOUR - 1)
    assert f"would send: stripe_customer: {customer}, value: 10, timestamp: {stamp}" in result.out
    assert "would report" in result.out
    assert world.meter_events() == []
    assert world.ledger() == []
    assert not any(
        request.method == "POST" for request in world.stripe.log.requests if "meter_events" in request.path
    )


def test_a_dry_run_needs_no_stack(run: Run, world: World, customer: str) -> None:
    result = run("report", "--dry-run", "--json")

    assert result.code == 0
    assert result.json["nothing_was_sent"] is True
    assert [(send["stripe_customer"], send["value"]) for send in result.json["sends"]] == [(customer, "10")]
    assert world.meter_events() == []


def test_without_a_stack_a_metered_price_is_refused(run: Run, world: World, customer: str) -> None:
    result = run("report")

    assert result.code == 1
    assert (
        f"refused: stripe_customer: {customer}, meter: m1: a metered price needs the stack's ledger"
        in result.out
    )
    assert "pass --stack NAME" in result.out
    assert world.meter_events() == []


def test_one_customer_alone_with_the_open_hour(
    run: Run, world: World, stack: str, customer: str, price: str
) -> None:
    other = world.customer()
    world.subscription(price, other)
    world.travel(NOON + 3 * HOUR + 5 * MINUTE)
    for subject in (customer, other):
        world.use(subject, NOON + 3 * HOUR + MINUTE, 4)

    result = run("report", "--stack", stack, "--customer", customer)

    assert result.code == 0
    assert other not in result.out
    assert [event["value"] for event in world.meter_events(customer)] == [10, 4]
    assert world.meter_events(other) == []


def test_a_decrease_is_held_until_it_is_accepted(run: Run, world: World, stack: str, customer: str) -> None:
    run("report", "--stack", stack)
    world.use(customer, NOON + 7 * MINUTE, -3)

    held = run("report", "--stack", stack)
    accepted = run("report", "--stack", stack, "--accept")

    assert held.code == 1
    assert (
        f"held: stripe_customer: {customer}, meter: m1: the hour {rfc3339(NOON)} has 7 in OpenMeter"
        in held.out
    )
    assert accepted.code == 0
    assert [event["value"] for event in world.meter_events(customer)] == [10, -3]


def test_nothing_at_all_is_not_accepted_without_saying_so(
    run: Run, world: World, stack: str, customer: str
) -> None:
    """Between the operator's look and the command, OpenMeter may have lost everything."""
    run("report", "--stack", stack)
    world.openmeter.faults.empty(times=1000)

    accepted = run("report", "--stack", stack, "--accept")
    sent_before = [event["value"] for event in world.meter_events(customer)]
    empty = run("report", "--stack", stack, "--accept-empty")

    assert accepted.code == 1
    assert sent_before == [10]
    release = f"`usage-reporter report --stack {stack} --customer {customer} --accept-empty`"
    assert f"OpenMeter has nothing of what it had before; check it, then release it with {release}" in (
        accepted.out
    )
    assert empty.code == 0
    assert [event["value"] for event in world.meter_events(customer)] == [10, -10]


def test_usage_that_stripe_refuses_is_rejected(run: Run, world: World, stack: str, customer: str) -> None:
    world.stripe.faults.add(kind="status", path="/v1/billing/meter_events", status=400, times=1)

    result = run("report", "--stack", stack, "--json")

    assert result.code == 1
    assert result.json["summary"]["rejected"] == 1


def test_openmeter_out_of_reach_is_unknown(run: Run, world: World, stack: str, customer: str) -> None:
    world.openmeter.faults.down = True

    result = run("report", "--stack", stack, "--json")

    assert result.code == 1
    assert result.json["summary"]["unknown"] == 1
    assert "OpenMeter" in result.json["problems"][0]["reason"]


def test_a_stack_in_shadow_mode_sends_nothing(run: Run, world: World, stack: str, customer: str) -> None:
    set_environment(world, MODE="shadow")

    result = run("report", "--stack", stack)

    assert result.code == 0
    assert "MODE is shadow" in result.err
    assert "would send" in result.out
    assert world.meter_events() == []


def test_the_environment_goes_before_the_stack(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(world, MODE="shadow", OPENMETER_URL="http://127.0.0.1:9")
    monkeypatch.setenv("MODE", "live")

    run("report", "--stack", stack)

    assert len(world.meter_events()) == 1


def test_the_stacks_own_settings_and_keys_are_used(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STRIPE_KEY", "STRIPE_API_BASE", "OPENMETER_URL"):
        monkeypatch.delenv(name)

    assert run("report", "--stack", stack).code == 0
    assert len(world.meter_events()) == 1


def test_a_stack_with_placeholders_needs_a_key(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.secrets.put_secret_value(SecretId="keys", SecretString='{"stripe_api_key": "replace-me"}')
    assert run("report", "--stack", stack).code == 0

    monkeypatch.delenv("STRIPE_KEY")
    result = run("report", "--stack", stack)
    assert result.code == 2
    assert "run `usage-reporter connect`" in result.err


def test_a_customer_without_usage_to_report_is_wrong_use(run: Run, world: World, stack: str) -> None:
    unmapped = world.customer()
    world.subscription(world.metered_price("other")[0], unmapped, om_meter_id="")

    result = run("report", "--stack", stack, "--customer", "cus_nobody")
    assert result.code == 2
    assert "no usage to report of customer 'cus_nobody'; check --customer" in result.err

    result = run("report", "--stack", stack, "--customer", unmapped)
    assert result.code == 2
    assert "name no om_meter_id" in result.err


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("STRIPE_KEY", "", "STRIPE_KEY is not set"),
        ("OPENMETER_URL", "localhost", "OPENMETER_URL is 'localhost'"),
        ("ROUNDING", "nearest", "ROUNDING is 'nearest'"),
    ],
)
def test_a_bad_setting_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)

    result = run("report")

    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"error: {says}")
    assert result.err.count("\n") == 1


def test_a_key_that_may_not_do_this_is_not_shown(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "rk_test_" + "q" * 20 + "wxyz"
    world.stripe.change_settings(restricted_keys={key: {"product": "read"}})
    monkeypatch.setenv("STRIPE_KEY", key)

    result = run("report", "--dry-run")

    assert result.code == 1
    assert "may not do this" in result.err
    assert "wxyz" not in result.err
    assert "rk_test" not in result.err


def test_many_customers_need_few_calls(run: Run, world: World, stack: str, price: str) -> None:
    customers = [world.customer() for _ in range(105)]
    for customer in customers:
        world.subscription(price, customer)
        world.use(customer, NOON + MINUTE, 1)
    world.travel(NOON + 2 * HOUR)
    world.stripe.log.clear()
    world.openmeter.calls.reset()

    result = run("report", "--stack", stack, "--json")

    assert result.json["summary"]["reported"] == 105
    assert world.stripe.calls["GET", "/v1/subscriptions"] == 2
    assert len(world.openmeter.calls.queries) == 2


def set_environment(world: World, **changes: str) -> None:
    """Change settings of the deployed functions."""
    functions = boto3.client("lambda")
    before = functions.get_function_configuration(FunctionName="webhook")["Environment"]["Variables"]
    functions.update_function_configuration(
        FunctionName="webhook", Environment={"Variables": {**before, **changes}}
    )
