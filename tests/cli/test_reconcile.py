"""`reconcile` finds each drift that was planted, mends what can be mended, and names the rest."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.cli.conftest import Result, Run
from tests.contract.stripe_openapi import request_errors
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.windows import day_of, rfc3339

LATER = NOON + 5 * HOUR
END = NOON + 31 * DAY
FINAL = END + HOUR + MINUTE
EVENTS = "/v1/billing/meter_events"
STAMP = NOON + HOUR - 1


@pytest.fixture
def price(world: World) -> str:
    return world.metered_price()[0]


@pytest.fixture
def customer(world: World, price: str, stack: str) -> str:
    """A customer who used 10 units in the first hour, and 3 in the second; they were reported."""
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOON + 5 * MINUTE, 10)
    world.use(customer, NOON + HOUR + MINUTE, 3)
    world.travel(NOON + 2 * HOUR + 5 * MINUTE)
    world.tick()
    world.travel(LATER)
    return customer


def foreign(world: World, customer: str, units: str, at: int) -> None:
    """Another reporter's meter event."""
    payload = {"stripe_customer_id": customer, "value": units}
    world.client.v1.billing.meter_events.create({"event_name": "tokens", "payload": payload, "timestamp": at})


def forget(world: World, customer: str, sk: str) -> None:
    """Delete entries of the ledger."""
    for item in world.ledger():
        if customer in item["pk"]["S"] and item["sk"]["S"] == sk:
            world.dynamodb.delete_item(TableName="ledger", Key={"pk": item["pk"], "sk": item["sk"]})


def discard(world: World, customer: str, units: int) -> None:
    """Stripe drops an event that it took, and never tells."""
    [row] = [
        row
        for row in world.stripe.meters.accepted()
        if (row.customer, row.value) == (customer, Decimal(units))
    ]
    event = {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": row.identifier}}
    world.client.v1.billing.meter_event_adjustments.create(event)


def reconciled(run: Run, stack: str, *options: str) -> Result:
    return run("reconcile", "--stack", stack, "--since", "2d", "--json", *options)


def only(result: Result) -> dict[str, Any]:
    [one] = result.json["customer_meters"]
    found: dict[str, Any] = one
    return found


def differing(result: Result) -> list[tuple[str, str, str, dict[str, str]]]:
    return [
        (each["from"], each["openmeter"], each["stripe"], each["causes"])
        for each in only(result)["differences"]
    ]


def test_all_exact(run: Run, world: World, stack: str, customer: str) -> None:
    writes = world.ledger()

    result = run("reconcile", "--stack", stack)

    assert result.code == 0, result.out + result.err
    assert [line.split() for line in result.out.splitlines() if line.startswith("cus_")] == [
        [customer, "m1", "2", "13", "13", "EXACT"]
    ]
    assert result.err == ""
    assert world.ledger() == writes


def test_a_look_sends_and_writes_nothing(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, NOON + 6 * MINUTE, 2)
    before, writes = world.meter_events(), world.ledger()

    result = reconciled(run, stack)

    assert result.code == 1
    assert differing(result) == [(rfc3339(NOON), "12", "10", {"not reported": "2"})]
    assert only(result)["verdict"] == "SHORT by 2"
    assert (
        f"`usage-reporter reconcile --stack {stack} --customer {customer} --apply`"
        in (only(result)["advice"][0])
    )
    assert (world.meter_events(), world.ledger()) == (before, writes)


def test_late_usage_of_an_open_period_is_mended(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, NOON + 6 * MINUTE, 2)
    world.travel(NOON + DAY)  # no tick came, or none that reads so far back

    result = reconciled(run, stack, "--apply")

    assert result.code == 0, result.out
    assert world.held(customer, NOON, NOON + HOUR) == 12
    [mended] = result.json["mended"]
    [sent] = mended["sent"]
    [event] = [event for event in world.meter_events() if event["value"] == 2]
    assert (sent["identifier"], sent["value"]) == (event["identifier"], "2")
    assert only(result)["verdict"] == "EXACT"


def test_a_summary_that_lags_is_no_difference(run: Run, world: World, stack: str, customer: str) -> None:
    world.stripe.change_settings(aggregation_delay=50 * MINUTE)
    world.use(customer, NOON + 6 * MINUTE, 2)

    result = reconciled(run, stack, "--apply")

    assert result.code == 0, result.out
    [awaited] = only(result)["awaited"]
    assert awaited["identifier"] == result.json["mended"][0]["sent"][0]["identifier"]


def test_usage_that_was_never_reported(run: Run, world: World, stack: str, price: str) -> None:
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOON + 5 * MINUTE, 10)
    world.travel(NOON + DAY)

    found = reconciled(run, stack)
    mended = reconciled(run, stack, "--apply")

    assert (found.code, only(found)["verdict"]) == (1, "SHORT by 10")
    assert mended.code == 0, mended.out
    assert world.held(customer, NOON, NOON + HOUR) == 10


def test_a_send_that_was_rejected(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, LATER - 3 * HOUR, 4)
    world.stripe.faults.add("status", "POST", EVENTS, status=400)
    world.tick()
    world.travel(LATER + 2 * HOUR)

    found = reconciled(run, stack)
    mended = reconciled(run, stack, "--apply")

    assert found.code == 1
    assert differing(found)[0][3] == {"rejected": "4"}
    assert mended.code == 0, mended.out
    assert world.held(customer, NOON, LATER) == 17


def test_an_unknown_is_settled_by_the_protocol(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, LATER - 3 * HOUR, 4)
    world.stripe.faults.add("drop_before", "POST", EVENTS, times=5)
    world.tick()
    world.stripe.faults.clear()
    world.travel(LATER + 2 * HOUR)

    found = reconciled(run, stack)
    mended = reconciled(run, stack, "--apply")

    assert (found.code, differing(found)[0][3]) == (1, {"unknown": "4"})
    assert mended.code == 0, mended.out
    assert world.held(customer, NOON, LATER) == 17


def test_what_stripe_discarded_without_a_word(run: Run, world: World, stack: str, customer: str) -> None:
    discard(world, customer, 10)
    world.travel(NOON + 2 * DAY)

    found = reconciled(run, stack)
    first = reconciled(run, stack, "--apply")
    world.travel(NOON + 2 * DAY + 15 * MINUTE)
    second = reconciled(run, stack, "--apply")

    assert (found.code, differing(found)) == (
        1,
        [(rfc3339(NOON), "10", "0", {"sent, but not billed by Stripe": "10"})],
    )
    assert first.code == 1, "one look at a summary settles nothing"
    assert "doubted" in first.json["mended"][0]["done"][0]
    assert only(first)["status"] == "doubted"
    assert second.code == 0, second.out
    assert world.held(customer, NOON, NOON + HOUR) == 10
    assert only(second)["verdict"] == "EXACT"


@pytest.mark.parametrize("used_since", [0, 2])
def test_a_lost_entry_of_the_ledger(
    run: Run, world: World, stack: str, customer: str, used_since: int
) -> None:
    world.travel(NOON + DAY)
    forget(world, customer, day_of(NOON))
    if used_since:
        world.use(customer, NOON + 7 * MINUTE, used_since)

    found = reconciled(run, stack)
    mended = reconciled(run, stack, "--apply")
    world.tick()

    assert found.code == 1
    assert only(found)["verdict"].endswith("the ledger differs")
    assert [each["beyond_ledger"] for each in only(found)["differences"]] == ["10", "3"]
    assert mended.code == 0, mended.out
    assert mended.json["mended"][0]["done"][0] == "the ledger was rebuilt from what Stripe holds"
    assert world.held(customer, NOON, LATER) == 13 + used_since, "nothing twice"


def test_a_lost_entry_of_today_holds_what_its_summaries_may_not_show(
    run: Run, world: World, stack: str, customer: str
) -> None:
    """4 units were sent just now, which neither the ledger nor Stripe's summary tells of."""
    world.stripe.change_settings(aggregation_delay=50 * MINUTE)
    world.use(customer, LATER + MINUTE, 4)
    world.travel(LATER + 15 * MINUTE)
    run("report", "--stack", stack, "--customer", customer)
    forget(world, customer, day_of(NOON))

    first, again = reconciled(run, stack, "--apply"), reconciled(run, stack, "--apply")
    world.travel(LATER + HOUR + 2 * MINUTE)
    world.tick()
    world.travel(LATER + 2 * HOUR)

    [left] = first.json["mended"]
    assert (first.code, left["done"], again.code) == (1, ["held, so that nothing is sent twice"], 1)
    assert "when an hour is over" in left["error"]
    assert only(again)["status"] == "held"
    assert run("adopt", "--stack", stack, "--customer", customer, "--yes").code == 0
    world.tick()
    assert world.held(customer, NOON, LATER + HOUR) == 17, "nothing twice"
    assert reconciled(run, stack).code == 0


def test_a_lost_entry_from_before_the_asked_time_is_not_billed_twice(
    run: Run, world: World, stack: str, customer: str
) -> None:
    """What is mended is new; but a full report goes back to all that is billable, and so to what was lost."""
    world.travel(NOON + 10 * DAY)
    world.tick()
    forget(world, customer, day_of(NOON))
    world.use(customer, NOON + 9 * DAY, 5)

    mended = reconciled(run, stack, "--apply")

    assert mended.code == 0, mended.out
    assert mended.json["mended"][0]["done"][0] == "the ledger was rebuilt from what Stripe holds"
    assert world.held(customer, NOON, LATER) == 13, "nothing twice"
    assert world.held(customer, NOON, NOON + 10 * DAY) == 18


def test_a_foreign_part_from_before_the_asked_time_stops_the_report(
    run: Run, world: World, stack: str, customer: str
) -> None:
    foreign(world, customer, "20", NOON + MINUTE)
    forget(world, customer, day_of(NOON))
    world.travel(NOON + 10 * DAY)
    world.use(customer, NOON + 9 * DAY, 5)
    before = world.meter_events()

    result = reconciled(run, stack, "--apply")

    assert (result.code, world.meter_events()) == (1, before)
    [left] = result.json["mended"]
    assert left["error"].startswith(f"{rfc3339(NOON)}: Stripe holds what the ledger does not know of")
    assert f"--customer {customer} --since 35d`" in left["error"]


@pytest.mark.parametrize("value", ["7", "12"])
def test_a_changed_entry_of_the_ledger(run: Run, world: World, stack: str, customer: str, value: str) -> None:
    [item] = [item for item in world.ledger() if item["sk"]["S"] == day_of(NOON)]
    [send] = [each["M"] for each in item["sends"]["M"].values() if each["M"]["value"]["N"] == "10"]
    send["value"]["N"] = value
    world.dynamodb.put_item(TableName="ledger", Item=item)

    found = reconciled(run, stack)
    mended = reconciled(run, stack, "--apply")
    world.tick()

    assert found.code == 1
    assert [each["beyond_ledger"] for each in only(found)["differences"]] == [str(10 - int(value))]
    assert mended.code == 0, mended.out
    assert world.held(customer, NOON, LATER) == 13


def test_late_usage_while_the_draft_is_open(run: Run, world: World, stack: str, customer: str) -> None:
    world.travel(END + 2 * MINUTE)
    world.tick("closing")
    world.use(customer, END - 3 * HOUR, 4)

    mended = reconciled(run, stack, "--apply")
    world.travel(FINAL)
    exact = reconciled(run, stack)

    assert mended.code == 0, mended.out
    assert exact.code == 0, exact.out
    assert [(line["billed"], line["verdict"]) for line in exact.json["lines"]] == [("17", "EXACT")]


def test_another_writer_is_a_persons_to_stop(run: Run, world: World, stack: str, customer: str) -> None:
    foreign(world, customer, "5", NOON + MINUTE)
    before = world.meter_events()

    result = reconciled(run, stack, "--apply")

    assert result.code == 1
    assert differing(result) == [(rfc3339(NOON), "10", "15", {"sent by somebody else": "5"})]
    assert only(result)["verdict"] == "OVER by 5, the ledger differs"
    [advice] = only(result)["advice"]
    assert "stop it" in advice
    assert f"`usage-reporter adopt --stack {stack} --customer {customer}`" in advice
    assert (world.meter_events(), result.json["mended"]) == (before, [])


def test_a_second_writer_of_unreported_usage_is_not_repeated(
    run: Run, world: World, stack: str, customer: str
) -> None:
    """A report would send the 6 that the other one sent already; so the ledger is rebuilt first."""
    world.use(customer, NOON + 2 * HOUR + MINUTE, 6)
    foreign(world, customer, "6", NOON + 2 * HOUR + 2 * MINUTE)
    world.travel(LATER + 2 * HOUR)

    result = reconciled(run, stack, "--apply")
    world.tick()

    assert result.code == 0, result.out
    assert world.held(customer, NOON, LATER) == 19


def test_a_foreign_part_that_is_too_much_stops_the_report(
    run: Run, world: World, stack: str, customer: str
) -> None:
    world.use(customer, NOON + 2 * HOUR + MINUTE, 6)
    foreign(world, customer, "8", NOON + 2 * HOUR + 2 * MINUTE)

    result = reconciled(run, stack, "--apply")

    assert result.code == 1
    assert world.held(customer, NOON, LATER) == 21, "6 more would have made it worse"


def test_a_decrease_is_a_persons_to_accept(run: Run, world: World, stack: str, customer: str) -> None:
    world.use(customer, NOON + 6 * MINUTE, -4)

    result = reconciled(run, stack, "--apply")

    assert result.code == 1
    assert differing(result) == [(rfc3339(NOON), "6", "10", {"less in OpenMeter than was reported": "4"})]
    advice = " ".join(only(result)["advice"])
    assert f"`usage-reporter report --stack {stack} --customer {customer} --accept`" in advice
    assert world.held(customer, NOON, LATER) == 13
    run("report", "--stack", stack, "--customer", customer, "--accept")
    assert reconciled(run, stack).code == 0


def test_a_decrease_that_needs_no_word_is_mended(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOW_DECREASE", "true")
    world.use(customer, NOON + 6 * MINUTE, -4)

    found = reconciled(run, stack)
    mended = reconciled(run, stack, "--apply")

    [advice] = only(found)["advice"]
    assert advice.startswith("to mend it")
    assert mended.code == 0, mended.out
    assert world.held(customer, NOON, LATER) == 9


def test_what_the_brake_would_hold_is_not_offered_to_be_mended(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAKE_FACTOR", "100")
    world.settings["brake_factor"] = Decimal(100)
    for day in range(1, 9):
        world.travel(NOON + day * DAY)
        world.tick()
    world.use(customer, NOON + 7 * DAY, 5000)

    found = reconciled(run, stack)
    applied = reconciled(run, stack, "--apply")

    [advice] = only(found)["advice"]
    assert "it is held" in advice
    assert applied.json["mended"] == []


def test_late_after_finalization_words_an_invoice_item(
    run: Run, world: World, stack: str, customer: str
) -> None:
    world.travel(END + 2 * MINUTE)
    world.tick("closing")
    world.travel(FINAL)
    world.tick("closing")
    world.use(customer, END - 3 * HOUR, 4)
    world.travel(FINAL + 3 * HOUR)

    look = reconciled(run, stack)
    result = reconciled(run, stack, "--apply")

    assert (look.code, result.code) == (1, 1)
    assert look.json["lines"] == result.json["lines"]
    assert differing(look) == differing(result) == [(rfc3339(END - 3 * HOUR), "4", "0", {"late": "4"})]
    assert result.json["summary"]["mended"] == 0
    assert all("--apply" not in text for text in only(look)["advice"])
    [line] = result.json["lines"]
    assert (line["verdict"], line["finding"], line["causes"]) == (
        "SHORT by 4 (4 late)",
        "short",
        {"late": "4"},
    )
    [made] = line["to_be_made"]
    assert (made["what"], made["amount"], made["currency"], made["units"]) == (
        "invoice item",
        "40",
        "usd",
        "4",
    )
    call = made["api"]
    assert request_errors("POST", call["path"], _as_form(call["params"])) == []
    assert call["params"]["period"] == {"start": NOON, "end": END}
    assert "4 units not billed before" in made["description"]
    assert made["dashboard"] == f"https://dashboard.stripe.com/test/customers/{customer}"
    assert ("POST", "/v1/invoiceitems") not in world.stripe.calls
    text = run("reconcile", "--stack", stack, "--since", "2d").out
    assert f"to be made by you: invoice item, {customer}, $0.40 (4 units)" in text
    assert f"stripe post /v1/invoiceitems -d customer={customer} -d amount=40 -d currency=usd" in text


def test_money_in_another_currency_than_the_prices_is_left_to_a_person(
    run: Run, world: World, stack: str, customer: str
) -> None:
    """A price may have amounts in several currencies; only its own are read."""
    foreign(world, customer, "5", NOON + MINUTE)
    world.travel(END + 2 * MINUTE)
    world.tick("closing")
    world.travel(FINAL)
    invoice = _invoice(world, customer)
    world.stripe.account.invoices.get(invoice.id).currency = "eur"

    [line] = reconciled(run, stack).json["lines"]
    explained = run("explain", invoice.id, "--stack", stack, "--json").json["invoices"][0]["lines"][0]

    [made] = line["to_be_made"]
    assert (made["amount"], made["currency"], made["api"]["params"]) == ("0", "eur", {})
    assert "it is billed in EUR, another currency than that of price" in made["remarks"][0]
    assert explained["reckoning"] is None
    assert [note["name"] for note in explained["notes"]] == ["charged otherwise"]


@pytest.mark.parametrize("is_paid", [False, True])
def test_an_over_billed_invoice_words_a_credit_note(
    run: Run, world: World, stack: str, customer: str, is_paid: bool
) -> None:
    foreign(world, customer, "5", NOON + MINUTE)
    world.travel(END + 2 * MINUTE)
    world.tick("closing")
    world.travel(FINAL)
    invoice = _invoice(world, customer)
    if is_paid:
        row = world.stripe.account.invoices.get(invoice.id)
        row.status, row.paid_at = "paid", world.clock()

    result = reconciled(run, stack, "--apply")

    assert result.code == 1
    [line] = result.json["lines"]
    assert (line["verdict"], line["finding"]) == ("OVER by 5 (5 sent by somebody else)", "over")
    [made] = line["to_be_made"]
    assert (made["what"], made["amount"], made["units"]) == ("credit note", "50", "5")
    params = made["api"]["params"]
    assert request_errors("POST", made["api"]["path"], _as_form(params)) == []
    assert params["invoice"] == invoice.id
    assert params["lines"] == [
        {"type": "invoice_line_item", "invoice_line_item": invoice.lines.data[0].id, "amount": 50}
    ]
    assert params.get("credit_amount") == (50 if is_paid else None)
    assert bool(made["remarks"]) == is_paid
    assert made["dashboard"] == f"https://dashboard.stripe.com/test/invoices/{invoice.id}"


def test_the_difference_is_priced_by_tiers(run: Run, world: World, stack: str) -> None:
    """13 units are 10 at $1 and 3 at $0.50; 4 more are at $0.50; 7 are all in the first tier."""
    price, _ = world.metered_price(
        "calls",
        unit_amount=None,
        billing_scheme="tiered",
        tiers_mode="graduated",
        tiers=[{"up_to": 10, "unit_amount": 100}, {"up_to": "inf", "unit_amount": 50}],
    )
    short, over = world.customer(), world.customer()
    for customer in (short, over):
        world.subscription(price, customer)
        world.use(customer, NOON + 5 * MINUTE, 13)
    world.travel(END + 2 * MINUTE)
    world.tick("closing")
    world.travel(FINAL)
    world.use(short, END - DAY, 4)
    world.use(over, END - DAY, -6)

    lines = {line["stripe_customer"]: line for line in reconciled(run, stack).json["lines"]}

    [item], [note] = lines[short]["to_be_made"], lines[over]["to_be_made"]
    assert (item["what"], item["amount"]) == ("invoice item", "200")
    assert (note["what"], note["amount"]) == ("credit note", "450")
    credited = note["api"]["params"]["lines"]
    assert [each["amount"] for each in credited] == [150, 300], "the higher tier first, then the rest"


@pytest.mark.parametrize(
    ("since", "problem"),
    [
        ("yesterday", "is no time"),
        ("0d", "is no time"),
        ("40d", "is more than 35 days ago"),
        ("2020-01-01", "is more than 35 days ago"),
        ("2027-01-01", "is in the future"),
        ("9999-12-31T23:59:59-23:00", "is in the future"),
        ("0001-01-01T00:00+23:00", "is more than 35 days ago"),
        ("2026-07-15T12:00", "leaves nothing to compare"),
        ("1h", "leaves nothing to compare"),
    ],
)
def test_a_wrong_since(run: Run, stack: str, since: str, problem: str) -> None:
    result = run("reconcile", "--stack", stack, "--since", since)

    assert result.code == 2
    assert problem in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    "since", ["24h", "2026-07-15", "2026-07-15T11:00", "2026-07-15T13:00+02:00", "2026-07-15T11:00:00Z"]
)
def test_a_since(run: Run, stack: str, customer: str, since: str) -> None:
    assert run("reconcile", "--stack", stack, "--since", since).code == 0


def test_an_item_that_lost_its_meters_name_is_not_all_exact(
    run: Run, world: World, stack: str, customer: str
) -> None:
    [item] = world.client.v1.subscriptions.list({"customer": customer}).data[0]["items"].data
    world.client.v1.subscription_items.update(item.id, {"metadata": {"om_meter_id": ""}})

    result = reconciled(run, stack)

    assert result.code == 1
    [left] = result.json["not_compared"]
    assert left["what"] == item.id
    assert "names no OpenMeter meter, though usage of this customer was sent" in left["reason"]


def test_a_customer_of_whom_there_is_nothing(run: Run, world: World, stack: str) -> None:
    result = run("reconcile", "--stack", stack, "--customer", world.customer())

    assert (result.code, result.out) == (2, "")
    assert "check --customer" in result.err


def test_one_customer_alone(run: Run, world: World, stack: str, customer: str, price: str) -> None:
    other = world.customer()
    world.subscription(price, other)
    world.use(other, LATER + MINUTE, 2)
    world.travel(LATER + 4 * HOUR)

    alone = reconciled(run, stack, "--customer", customer)
    everyone = reconciled(run, stack)

    assert (alone.code, everyone.code) == (0, 1)
    assert [one["stripe_customer"] for one in alone.json["customer_meters"]] == [customer]
    assert everyone.json["summary"]["short"] == 1


def test_a_canceled_customers_invoice_is_judged(run: Run, world: World, stack: str, customer: str) -> None:
    [subscription] = world.client.v1.subscriptions.list({"customer": customer}).data
    world.client.v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    world.travel(LATER + 30 * HOUR)
    world.tick()

    result = reconciled(run, stack, "--customer", customer)

    assert result.json["customer_meters"] == []
    assert [(line["billed"], line["finding"]) for line in result.json["lines"]] == [("13", "exact")]


def test_in_shadow_both_sides_are_compared_and_nothing_is_mended(
    run: Run, world: World, stack: str, price: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before going live, beside the reporter that is to be replaced."""
    monkeypatch.setenv("MODE", "shadow")
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOON + 5 * MINUTE, 10)
    world.travel(LATER)
    foreign(world, customer, "9", NOON + 6 * MINUTE)
    world.travel(LATER + MINUTE)

    found = reconciled(run, stack)
    refused = reconciled(run, stack, "--apply")

    assert (found.code, only(found)["verdict"].partition(",")[0]) == (1, "SHORT by 1")
    assert "MODE is shadow" in found.err
    assert all("--apply" not in text for text in only(found)["advice"])
    assert (refused.code, refused.out) == (2, "")
    assert "nothing to mend" in refused.err
    assert world.ledger() == []


def test_an_openmeter_that_is_out_of_reach(
    run: Run, world: World, stack: str, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENMETER_URL", "http://127.0.0.1:9")

    result = reconciled(run, stack, "--apply")

    assert result.code == 1
    assert only(result)["finding"] == "not_judged"
    assert "could not be reached" in only(result)["verdict"]


def _invoice(world: World, customer: str) -> Any:
    [invoice] = [
        one for one in world.client.v1.invoices.list({"customer": customer}).data if one.status == "open"
    ]
    return invoice


def _as_form(value: Any) -> Any:
    """Parameters as they are on the wire: texts."""
    if isinstance(value, dict):
        return {name: _as_form(each) for name, each in value.items()}
    return [_as_form(each) for each in value] if isinstance(value, list) else str(value)
