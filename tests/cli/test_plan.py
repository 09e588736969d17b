"""`plan` says what a report would change, and bills then read as it said, to the cent."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.docs.documents import PROJECT, blocks
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.pricing import to_minor
from usage_reporting.windows import rfc3339

MONTH = NOON + 31 * DAY
TIERS = [
    {"up_to": 5, "unit_amount": 500, "flat_amount": 1000},
    {"up_to": 10, "unit_amount": 400, "flat_amount": 2000},
    {"up_to": 15, "unit_amount": 300, "flat_amount": 3000},
    {"up_to": 20, "unit_amount": 200, "flat_amount": 4000},
    {"up_to": "inf", "unit_amount": 100, "flat_amount": 5000},
]
"""How products and prices work, "Adding flat fees"."""
PRICES: dict[str, dict[str, Any]] = {
    "per unit": {},
    "decimal": {"unit_amount_decimal": "0.05"},
    "yen": {"unit_amount_decimal": "1.5", "currency": "jpy"},
    "dinar": {"unit_amount_decimal": "12.3456", "currency": "kwd"},
    "graduated": {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": TIERS},
    "volume": {"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": TIERS},
    "packages": {"unit_amount": 1000, "transform_quantity": {"divide_by": 60, "round": "up"}},
    "packages down": {"unit_amount": 1000, "transform_quantity": {"divide_by": 60, "round": "down"}},
}


def subscribed(world: World, kind: str, **params: Any) -> str:
    """A customer who subscribes to a price of a kind, now."""
    customer = world.customer()
    world.subscription(world.metered_price(kind, **PRICES[kind])[0], customer, **params)
    return customer


def period_of(found: dict[str, Any], customer: str, invoice: str = "draft") -> dict[str, Any]:
    [one] = [
        row for row in found["periods"] if (row["stripe_customer"], row["invoice"]) == (customer, invoice)
    ]
    assert isinstance(one, dict)
    return one


def swapped(world: World, subscription: Any, meter: str) -> str:
    """A price of $1 on the same meter, put in place of the subscription's."""
    product = world.client.v1.products.create({"name": "dearer"}).id
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    dearer = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 100, "product": product, "recurring": recurring}
    )
    items = [{"id": subscription["items"].data[0].id, "price": dearer.id}]
    world.client.v1.subscriptions.update(subscription.id, {"items": items})
    return str(dearer.id)


def billed(world: World, customer: str) -> Decimal:
    """What the lines of a customer's final invoices come to, in the minor unit."""
    invoices = world.client.v1.invoices.list({"customer": customer, "limit": 100}).data
    assert invoices
    assert {invoice.status for invoice in invoices} == {"open"}
    return sum((Decimal(line.amount) for one in invoices for line in one.lines.data), Decimal(0))


@pytest.mark.parametrize("kind", PRICES)
def test_the_final_invoice_is_as_planned_to_the_cent(run: Run, world: World, stack: str, kind: str) -> None:
    customer = subscribed(world, kind)
    world.use(customer, NOON + MINUTE, "4.25")
    world.travel(NOON + DAY)
    world.tick()
    world.use(customer, NOON + 2 * DAY, "120")
    world.use(customer, MONTH - 1, "7.5")
    world.travel(MONTH + 10 * MINUTE)

    planned = run("plan", "--stack", stack, "--json")
    again = run("plan", "--stack", stack, "--json")
    reported = run("report", "--stack", stack)
    world.travel(MONTH + 2 * HOUR)

    assert (planned.code, reported.code) == (0, 0), planned.err
    assert again.json == planned.json
    row = period_of(planned.json, customer)
    assert (row["units_held"], row["units_measured"], row["units_sent"]) == ("4.25", "131.75", "127.5")
    assert to_minor(Decimal(row["will_bill"]), row["currency"]) == billed(world, customer)
    assert Decimal(row["change"]) == Decimal(row["will_bill"]) - Decimal(row["bills_now"])
    assert (row["left_out"], row["outcome"], row["reason"]) == (
        str(0 * Decimal(row["change"])),
        "would send",
        "",
    )


@pytest.mark.parametrize(
    ("kind", "units", "price"),
    [
        ("graduated", 12, "111.00"),
        ("volume", 12, "66.00"),
        ("packages", 150, "30.00"),
        ("decimal", 30, "0.02"),
    ],
)
def test_stripes_published_examples(
    run: Run, world: World, stack: str, kind: str, units: int, price: str
) -> None:
    customer = subscribed(world, kind)
    world.use(customer, NOON + MINUTE, units)
    world.travel(NOON + 2 * HOUR)

    row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")

    assert (row["currency"], row["will_bill"]) == ("usd", price)


def test_nothing_used_owes_the_first_flat_fee_before_and_after(run: Run, world: World, stack: str) -> None:
    customer = subscribed(world, "graduated")
    world.travel(NOON + 2 * HOUR)

    row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")

    assert (row["bills_now"], row["will_bill"], row["change"]) == ("10.00", "10.00", "0.00")


def test_the_plan_is_what_the_report_then_sends(run: Run, world: World, stack: str) -> None:
    customers = [subscribed(world, kind) for kind in ("per unit", "volume", "graduated")]
    for number, customer in enumerate(customers):
        world.use(customer, NOON + number * HOUR, 3 + number)
    world.travel(NOON + 4 * HOUR)

    planned = run("plan", "--stack", stack, "--json").json
    assert world.meter_events() == []
    assert world.ledger() == []
    sent = run("report", "--stack", stack, "--json").json

    assert {(row["stripe_customer"], row["units_sent"]) for row in planned["periods"]} == {
        (send["stripe_customer"], send["value"]) for send in sent["sends"]
    }
    assert run("plan", "--stack", stack).out.startswith("A report would change nothing now: ")
    after = run("plan", "--stack", stack, "--json").json
    assert [row["units_sent"] for row in after["periods"]] == ["0", "0", "0"]
    assert after["currencies"]["usd"]["moved"] == "0.00"
    assert {row["bills_now"] for row in after["periods"]} == {row["will_bill"] for row in planned["periods"]}


def test_what_it_is_too_early_to_stamp_is_not_left_out(run: Run, world: World, stack: str) -> None:
    world.travel(NOON + 15 * MINUTE + 17)
    customer = subscribed(world, "per unit")
    world.use(customer, NOON + 15 * MINUTE + 20, 30)
    world.travel(NOON + 17 * MINUTE + 30)

    early = run("plan", "--stack", stack).out
    assert early.startswith("A report would change nothing now: ")
    world.travel(NOON + 18 * MINUTE)

    row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")
    assert (row["units_measured"], row["units_sent"], row["units_left_out"]) == ("30", "30", "0")


def test_the_biggest_movers_come_first(run: Run, world: World, stack: str) -> None:
    small, big = subscribed(world, "per unit"), subscribed(world, "graduated")
    world.use(small, NOON + MINUTE, 30)
    world.use(big, NOON + MINUTE, 1)
    world.travel(NOON + 2 * HOUR)

    all_of_them = run("plan", "--stack", stack, "--json").json
    one = run("plan", "--stack", stack, "--json", "--top", "1").json
    table = run("plan", "--stack", stack, "--top", "1").out

    assert [row["stripe_customer"] for row in all_of_them["periods"]] == [big, small]
    assert [row["stripe_customer"] for row in one["periods"]] == [big]
    assert one["currencies"] == all_of_them["currencies"]
    assert small not in table
    assert "... and 1 more" in table


def test_csv_has_a_line_for_each_period(run: Run, world: World, stack: str) -> None:
    customer = subscribed(world, "yen")
    world.use(customer, NOON + MINUTE, "2.5")
    world.travel(NOON + 2 * HOUR)

    result = run("plan", "--stack", stack, "--csv")

    [row] = csv.DictReader(io.StringIO(result.out))
    assert (row["stripe_customer"], row["currency"], row["change"]) == (customer, "jpy", "4")
    assert (row["from"], row["units_measured"]) == (rfc3339(NOON), "2.5")
    assert run("plan", "--stack", stack, "--format", "csv").out == result.out


def test_json_and_csv_together_are_wrong_use(run: Run, world: World) -> None:
    result = run("plan", "--format", "csv", "--json")
    assert result.code == 2
    assert "do not go together" in result.err


@pytest.mark.parametrize(("limit", "code"), [("1.00", 1), ("1.20", 0), ("0", 1)])
def test_it_fails_over_a_limit_in_any_one_currency(
    run: Run, world: World, stack: str, limit: str, code: int
) -> None:
    customer = subscribed(world, "per unit")
    world.use(customer, NOON + MINUTE, 12)
    world.travel(NOON + 2 * HOUR)

    result = run("plan", "--stack", stack, "--fail-over", limit)

    assert result.code == code
    assert ("bills would move by $1.20, more than --fail-over" in result.err) is bool(code)


@pytest.mark.parametrize("limit", ["much", "-1", "NaN"])
def test_a_limit_that_is_none_is_wrong_use(run: Run, world: World, limit: str) -> None:
    result = run("plan", "--fail-over", limit)
    assert result.code == 2
    assert f"--fail-over is '{limit}'" in result.err


def test_up_and_down_do_not_make_up_for_each_other(
    run: Run, world: World, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOW_DECREASE", "true")
    one, other = subscribed(world, "per unit"), subscribed(world, "decimal")
    world.use(one, NOON + MINUTE, 100)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(one, NOON + MINUTE, -40)
    world.use(other, NOON + MINUTE, 8000)

    result = run("plan", "--stack", stack, "--json", "--fail-over", "7.99")

    usd = result.json["currencies"]["usd"]
    assert (usd["up"], usd["down"], usd["moved"]) == ("4.00", "4.00", "8.00")
    assert (usd["bills_now"], usd["will_bill"]) == ("10.00", "10.00")
    assert result.code == 1


def test_what_is_held_is_named_and_not_part_of_the_change(run: Run, world: World, stack: str) -> None:
    customer = subscribed(world, "per unit")
    world.use(customer, NOON + MINUTE, 100)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(customer, NOON + 2 * MINUTE, -40)

    result = run("plan", "--stack", stack)

    assert result.code == 1
    assert f"held: stripe_customer: {customer}, meter: m1: the hour {rfc3339(NOON)} has 60" in result.out
    found = run("plan", "--stack", stack, "--json").json
    held = period_of(found, customer, "running")
    assert (held["outcome"], held["units_sent"], held["left_out"]) == ("held", "0", "-4.00")
    assert found["currencies"]["usd"]["moved"] == "0.00"


def test_what_the_brake_holds_is_left_out_in_money(
    run: Run, world: World, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAKE_FACTOR", "100")
    world.settings["brake_factor"] = Decimal(100)
    customer = subscribed(world, "per unit")
    for day in range(9):
        world.use(customer, NOON + day * DAY, 10)
        world.travel(NOON + day * DAY + HOUR + 2 * MINUTE)
        world.tick()
    world.use(customer, NOON + 9 * DAY, 5000)
    world.travel(NOON + 9 * DAY + HOUR + 2 * MINUTE)

    result = run("plan", "--stack", stack, "--json")

    row = period_of(result.json, customer, "running")
    assert (row["outcome"], row["change"], row["left_out"]) == ("held", "0.00", "500.00")
    assert result.code == 1


def test_usage_of_a_trial_costs_nothing(run: Run, world: World, stack: str) -> None:
    customer = subscribed(world, "per unit", trial_end=NOON + 10 * DAY)
    world.use(customer, NOON + MINUTE, 100)
    world.travel(NOON + 2 * HOUR)
    running = period_of(run("plan", "--stack", stack, "--json").json, customer, "free")
    world.travel(NOON + 10 * DAY + 10 * MINUTE)
    draft = period_of(run("plan", "--stack", stack, "--json").json, customer, "free")

    for row in (running, draft):
        assert (row["units_sent"], row["change"], row["will_bill"]) == ("100", "0.00", "0.00")


def test_two_prices_in_one_period_each_bill_their_own_part(run: Run, world: World, stack: str) -> None:
    old, meter = world.metered_price()
    customer = world.customer()
    subscription = world.subscription(old, customer, billing_mode={"type": "flexible"})
    world.use(customer, NOON + MINUTE, 10)
    world.travel(NOON + 5 * DAY)
    world.tick()
    dearer = swapped(world, subscription, meter)
    world.use(customer, NOON + 6 * DAY, 7)
    world.travel(NOON + 7 * DAY)

    row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")

    assert (row["stripe_price"], row["units_sent"], row["change"]) == (dearer, "7", "7.00")
    assert row["from"] == rfc3339(NOON + 5 * DAY)


@pytest.mark.parametrize("mode", ["flexible", "classic"])
def test_the_hour_in_which_a_price_was_swapped_is_shared(
    run: Run, world: World, stack: str, mode: str
) -> None:
    """5 units of the hour were told at the old price, and 3 go to the new one: nothing is left out."""
    old, meter = world.metered_price()
    customer = world.customer()
    subscription = world.subscription(old, customer, billing_mode={"type": mode})
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 15 * MINUTE)
    run("report", "--stack", stack, "--customer", customer)
    world.travel(NOON + 20 * MINUTE + 17)
    swapped(world, subscription, meter)
    world.use(customer, NOON + 30 * MINUTE, 3)

    for instant, held, sends in ((NOON + 40 * MINUTE, "0", "3"), (NOON + 2 * HOUR, "3", "0")):
        world.travel(instant)
        row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")
        assert (row["units_held"], row["units_measured"], row["units_sent"]) == (held, "3", sends)
        assert (row["will_bill"], row["left_out"]) == ("3.00", "0.00")
        world.tick()


def test_what_an_operator_read_further_is_not_too_much(run: Run, world: World, stack: str) -> None:
    """Before its hour is ten minutes old, a report of one customer reads more than a plan of all."""
    customer = subscribed(world, "per unit")
    world.use(customer, NOON + 2 * HOUR + MINUTE, 7)
    world.travel(NOON + 2 * HOUR + 5 * MINUTE)
    run("report", "--stack", stack, "--customer", customer)

    row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")

    assert (row["units_held"], row["units_measured"], row["left_out"]) == ("7", "7", "0.00")


def test_two_subscriptions_on_one_meter_are_both_billed(run: Run, world: World, stack: str) -> None:
    price, meter = world.metered_price()
    customer = world.customer()
    world.subscription(price, customer)
    product = world.client.v1.products.create({"name": "second"}).id
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    second = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 100, "product": product, "recurring": recurring}
    )
    world.subscription(second.id, customer)
    world.use(customer, NOON + MINUTE, 3)
    world.travel(NOON + 2 * HOUR)

    found = run("plan", "--stack", stack, "--json").json

    assert sorted(row["change"] for row in found["periods"]) == ["0.30", "3.00"]
    assert found["currencies"]["usd"]["moved"] == "3.30"


def test_a_meter_of_the_last_value(run: Run, world: World, stack: str) -> None:
    price, _ = world.metered_price("peak", formula="last")
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOON + MINUTE, 4)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(customer, NOON + 3 * HOUR, 6)
    world.travel(NOON + 5 * HOUR)

    row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")

    assert (row["units_held"], row["units_measured"], row["units_sent"]) == ("4", "10", "6")
    assert (row["bills_now"], row["will_bill"]) == ("0.40", "1.00")


def test_a_legacy_price(run: Run, world: World, stack: str) -> None:
    acacia: Any = {"stripe_version": "2025-02-24.acacia"}
    product = world.client.v1.products.create({"name": "legacy"}).id
    recurring: Any = {"interval": "month", "usage_type": "metered"}
    price = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 10, "product": product, "recurring": recurring}, acacia
    )
    customer = world.customer()
    items: Any = [{"price": price.id, "metadata": {"om_meter_id": "m1"}}]
    world.client.v1.subscriptions.create({"customer": customer, "items": items}, acacia)
    world.use(customer, NOON + MINUTE, "4.6")
    world.travel(NOON + 2 * HOUR)

    row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")

    assert (row["units_measured"], row["units_sent"], row["change"]) == ("5", "5", "0.50")


@pytest.mark.parametrize("now", [NOON + 60 * DAY, NOON + 34 * DAY + 5 * HOUR])
def test_a_long_period_is_priced_from_its_beginning(run: Run, world: World, stack: str, now: int) -> None:
    yearly = {"interval": "year", "usage_type": "metered"}
    meter = world.metered_price()[1]
    price, _ = world.metered_price(
        "yearly", **{**PRICES["graduated"], "recurring": {**yearly, "meter": meter}}
    )
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOON + MINUTE, 4)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.travel(now)
    world.use(customer, now - 2 * HOUR, 8)

    row = period_of(run("plan", "--stack", stack, "--json").json, customer, "running")

    assert (row["units_held"], row["units_measured"]) == ("4", "12")
    assert (row["bills_now"], row["will_bill"]) == ("30.00", "111.00")


def test_a_price_that_cannot_be_read_stops_no_other(run: Run, world: World, stack: str) -> None:
    good, bad = subscribed(world, "per unit"), subscribed(world, "volume")
    for customer in (good, bad):
        world.use(customer, NOON + MINUTE, 10)
    world.travel(NOON + 2 * HOUR)
    of_bad = next(row for row in world.client.v1.subscriptions.list({"customer": bad}).data)
    price = of_bad["items"].data[0].price.id
    world.stripe.faults.add(kind="status", path=f"/v1/prices/{price}", status=400, times=5)

    result = run("plan", "--stack", stack, "--fail-over", "100")

    assert result.code == 1
    assert "1 periods would move by an amount that is not known" in result.err
    assert f"no money: stripe_customer: {bad}, stripe_price: {price}:" in result.out
    assert "$1.00" in result.out


def test_openmeter_out_of_reach_is_unknown(run: Run, world: World, stack: str) -> None:
    subscribed(world, "per unit")
    world.travel(NOON + 2 * HOUR)
    world.openmeter.faults.down = True

    result = run("plan", "--stack", stack, "--json")

    assert result.code == 1
    [row] = result.json["periods"]
    assert (row["outcome"], row["units_held"], row["change"]) == ("unknown", None, None)
    assert "OpenMeter" in row["reason"]


def test_without_a_stack_what_stripe_holds_already_cannot_be_planned(run: Run, world: World) -> None:
    new, old = subscribed(world, "per unit"), subscribed(world, "volume")
    world.use(old, NOON + MINUTE, 1)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    world.use(new, NOON + MINUTE, 5)

    result = run("plan", "--json")

    assert result.code == 1
    by_customer = {row["stripe_customer"]: row for row in result.json["periods"]}
    assert by_customer[new]["change"] == "0.50"
    assert "the ledger does not know" in by_customer[old]["reason"]


def test_one_customer_alone(run: Run, world: World, stack: str) -> None:
    one, other = subscribed(world, "per unit"), subscribed(world, "decimal")
    world.travel(NOON + 2 * HOUR)
    assert other not in run("plan", "--stack", stack, "--json", "--customer", one).out
    result = run("plan", "--stack", stack, "--customer", "cus_nobody")
    assert result.code == 2
    assert "check --customer" in result.err


def test_many_customers_cost_one_call_a_price(run: Run, world: World, stack: str) -> None:
    price, _ = world.metered_price("graduated", **PRICES["graduated"])
    for _ in range(30):
        world.subscription(price, world.customer())
    world.travel(NOON + 2 * HOUR)
    world.stripe.log.clear()

    assert run("plan", "--stack", stack, "--json").json["summary"]["periods"] == 30

    assert world.stripe.calls["GET", "/v1/prices/{price}"] == 1


def test_the_example_in_the_documents(run: Run, world: World, stack: str) -> None:
    """Four kinds of price in one plan, one of them held, as docs/plan.md shows it."""
    per_unit, volume, packages, yen = (
        subscribed(world, kind) for kind in ("per unit", "volume", "packages", "yen")
    )
    for customer, units in ((per_unit, 100), (volume, 9), (packages, 110), (yen, 1000)):
        world.use(customer, NOON + MINUTE, units)
    world.travel(NOON + DAY)
    world.tick()
    world.use(per_unit, NOON + MINUTE, -40)
    world.use(volume, NOON + 2 * DAY, 3)
    world.use(packages, NOON + 2 * DAY, 20)
    world.use(yen, NOON + 2 * DAY, "800.5")
    world.travel(MONTH + 10 * MINUTE)

    result = run("plan", "--stack", stack)

    example = blocks(PROJECT / "docs" / "plan.md", "text")
    assert result.out in example, result.out
