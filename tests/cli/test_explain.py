"""`explain`: every metered line ends in the billed quantity, or the difference has a name."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cli.evidence import Named
from cli.explain_page import _SAID
from sandbox.stripe.undocumented import Undocumented
from tests.cli.conftest import Run
from tests.docs.documents import PROJECT, blocks
from tests.integration.test_legacy import legacy_subscription
from tests.integration.test_tiers import GRADUATED, PACKAGES, VOLUME
from tests.integration.world import API_KEY, DAY, HOUR, MINUTE, NOON, World
from usage_reporting.period_bounds import PeriodBounds

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY
FINAL = END + HOUR + MINUTE
BOUND = END - END % HOUR


def subscribed(world: World, **params: Any) -> tuple[str, str]:
    """A subscription whose month is cut at 11:37:42 at both ends, with usage around both."""
    world.clock.set(START)
    price = params.pop("price", None) or world.metered_price()[0]
    subscription = world.subscription(price, **params)
    customer = str(subscription.customer)
    world.use(customer, START + MINUTE, "7.25")
    world.use(customer, START + 5 * DAY, 3)
    world.use(customer, END - 1, 4)
    world.use(customer, END, 8)
    return str(subscription.id), customer


def month_but_final(world: World) -> None:
    """A report while the month goes on, and the renewal."""
    world.travel(max(START + 5 * DAY + 2 * HOUR, world.clock()))
    world.tick()
    world.travel(END + 16)
    world.tick("closing")


def month(world: World) -> None:
    """The same, and its invoice final."""
    month_but_final(world)
    world.travel(FINAL)


def invoice_of(world: World, subscription: str) -> str:
    """The newest invoice."""
    return str(world.client.v1.invoices.list({"subscription": subscription}).data[0].id)


def explained(run: Run, what: str, *options: str, code: int = 0) -> list[dict[str, Any]]:
    """The lines of all invoices that are explained."""
    result = run("explain", what, "--json", *options)
    said = [
        one for invoice in result.json["invoices"] for line in invoice["lines"] for one in line["differences"]
    ]
    assert result.code == code, said
    return [line for invoice in result.json["invoices"] for line in invoice["lines"]]


def names(line: dict[str, Any]) -> list[str]:
    return [one["name"] for one in line["differences"]]


def test_several_subjects_of_one_customer(
    world: World, run: Run, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENMETER_CUSTOMERS", "true")
    world.settings["openmeter_customers"] = True
    subscription, customer = subscribed(world)
    world.openmeter.create_customer(customer, ["seat_1", "seat_2"])
    world.use("seat_2", START + 5 * DAY, 100)
    month(world)

    invoice = invoice_of(world, subscription)
    [line] = explained(run, invoice, "--stack", stack)
    assert (line["metered"], line["billed"], line["verdict"]) == ("114.25", "114.25", "EXACT")
    assert (line["subject"], line["subject_keys"]) == (customer, ["seat_1", "seat_2"])
    text = run("explain", invoice, "--stack", stack).out
    assert f"OpenMeter meter m1, customer {customer} (subject keys: seat_1, seat_2) ->" in text

    assert run("reconcile", "--stack", stack).code == 0
    world.openmeter.delete_customer(customer)
    [unreadable] = explained(run, invoice, "--stack", stack, code=1)
    assert "OpenMeter has no customer with key" in unreadable["differences"][0]["text"]


def change(world: World, at: int, value: str | None, added: str = "") -> str:
    """Change the value of the send that is stamped in an hour, delete it, or add another beside it."""
    for item in world.ledger():
        for identifier, send in item.get("sends", {}).get("M", {}).items():
            if at <= int(send["M"]["stamp"]["N"]) < at + HOUR:
                if added:
                    item["sends"]["M"][added] = {"M": {**send["M"], "value": {"N": value or "0"}}}
                elif value is None:
                    del item["sends"]["M"][identifier]
                else:
                    send["M"]["value"] = {"N": value}
                world.dynamodb.put_item(TableName="ledger", Item=item)
                return str(identifier)
    raise AssertionError("there is no such send")


def test_a_cut_month_ends_in_the_billed_quantity(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    month(world)
    before = world.ledger()

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack)

    assert (line["metered"], line["sent"], line["held"], line["billed"]) == ("14.25",) * 4
    assert (line["ends_in_billed_quantity"], line["differences"], line["verdict"]) == (True, [], "EXACT")
    assert (line["subject"], line["openmeter_meter"]) == (customer, "m1")
    assert line["reckoning"] == "14.25 units at $0.10 = $1.43"
    cut = [
        piece
        for piece in line["slices"]
        if piece["from"] < "2026-08-15T12" and piece["from"] >= "2026-08-15T11"
    ]
    assert [(one["from"], one["to"], one["metered"], one["in_line"]) for one in cut] == [
        ("2026-08-15T11:00:00Z", "2026-08-15T11:37:42Z", "4", True),
        ("2026-08-15T11:37:42Z", "2026-08-15T12:00:00Z", "8", False),
    ]
    [send] = cut[0]["sends"]
    assert (send["value"], send["stamp"], send["state"], send["identifier_fits"]) == (
        "4",
        "2026-08-15T11:37:41Z",
        "sent",
        "fits",
    )
    assert world.ledger() == before


def test_text_shows_sums_and_the_cut_hours(world: World, run: Run, stack: str) -> None:
    subscription, _ = subscribed(world)
    month(world)

    result = run("explain", invoice_of(world, subscription), "--stack", stack)

    assert result.code == 0
    assert "the chain ends in the billed quantity" in result.out
    assert "2026-08-15T11:00:00Z  11:37:42" in result.out
    assert "2026-07-20T11:00:00Z" not in result.out
    assert result.out.splitlines()[-1] == "explained: 1 of 1 lines end in the billed quantity"

    every = run("explain", invoice_of(world, subscription), "--stack", stack, "--hours")
    assert "2026-07-20T11:00:00Z" in every.out
    assert "stamped 2026-08-15T11:37:41Z" in every.out


def test_late_usage_is_named(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    month(world)
    world.use(customer, END - 2, 3)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)

    assert (line["metered"], line["billed"]) == ("17.25", "14.25")
    assert [(one["name"], one["units"], one["slice"]) for one in line["differences"]] == [
        ("late", "3", "2026-08-15T11:00:00Z")
    ]
    world.tick()
    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)
    assert names(line) == ["late"]


@pytest.mark.parametrize(
    ("tampered", "named"),
    [
        (("2.25", ""), ("a ledger entry was changed", "says 2.25, but was made for 3")),
        ((None, ""), ("a ledger entry is gone", "says 0 where Stripe holds 3")),
        (("5", "cus_1.1784547600.1.0123456789abcdef"), ("a ledger entry was changed", "does not fit")),
    ],
    ids=["changed", "deleted", "added"],
)
def test_a_tampered_ledger_is_named(
    world: World, run: Run, stack: str, tampered: tuple[str | None, str], named: tuple[str, str]
) -> None:
    (value, added), (name, says) = tampered, named
    subscription, _ = subscribed(world)
    month(world)
    hour = (START + 5 * DAY) // HOUR * HOUR
    identifier = change(world, hour, value, added)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)

    [found] = line["differences"]
    assert (found["name"], found["slice"]) == (name, "2026-07-20T11:00:00Z")
    assert says in found["text"]
    assert value is None or (added or identifier) in found["text"]
    assert not line["ends_in_billed_quantity"]


def test_a_send_that_is_gone_before_a_later_one_is_missed(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    world.travel(START + 5 * DAY + 2 * HOUR)
    world.tick()
    hour = (START + 5 * DAY) // HOUR * HOUR
    world.use(customer, hour + 60, "0.5")
    month(world)
    [line] = explained(run, invoice_of(world, subscription), "--stack", stack)
    assert line["billed"] == "14.75"
    change(world, hour, None)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)

    [found] = line["differences"]
    assert (found["name"], found["units"]) == ("a ledger entry is gone", "3")
    assert "lacks 1 of the sends that later ones were numbered after" in found["text"]
    [piece] = [piece for piece in line["slices"] if piece["from"] == found["slice"]]
    assert [one["identifier_fits"] for one in piece["sends"]] == ["untold"]


def test_another_writer_is_named(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    month_but_final(world)
    event = {"stripe_customer_id": customer, "value": "0.75"}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": event, "timestamp": START + 6 * DAY}
    )
    world.travel(FINAL)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)

    assert (line["sent"], line["held"], line["billed"]) == ("14.25", "15", "15")
    [found] = line["differences"]
    assert (found["name"], found["units"]) == ("sent by somebody else", "0.75")


def test_a_correction_downwards_is_a_decrease(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    month(world)
    world.use(customer, START + 5 * DAY, -2)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)

    assert names(line) == ["less in OpenMeter than was reported"]
    assert "report --stack billing" in line["differences"][0]["text"]


def test_a_decrease_that_the_next_report_sends_is_as_it_should_be(
    world: World, run: Run, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOW_DECREASE", "true")
    subscription, customer = subscribed(world)
    world.travel(START + DAY)
    world.tick()
    world.use(customer, START + 2 * MINUTE, -2)

    [line] = explained(run, subscription, "--stack", stack, code=0)

    [note] = line["notes"]
    assert (note["name"], note["units"]) == ("not reported yet", "2")


def test_what_the_brake_held_past_its_invoice_is_held_by_every_word(
    world: World, run: Run, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settings["brake_factor"] = Decimal(100)
    monkeypatch.setenv("BRAKE_FACTOR", "100")
    subscription, customer = subscribed(world)
    for day in range(1, 10):
        world.use(customer, START + day * DAY, 10)
        world.travel(START + day * DAY + 2 * HOUR)
        world.tick()
    world.use(customer, START + 10 * DAY, 5000)
    month(world)
    world.tick("closing")

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)

    assert line["verdict"] == "SHORT by 5000 (5000 held by the brake)"
    assert [(one["name"], one["units"]) for one in line["differences"]] == [("held", "5000")]


def test_a_trial_charges_nothing(world: World, run: Run, stack: str) -> None:
    world.clock.set(START)
    subscription = world.subscription(world.metered_price()[0], trial_period_days=7)
    world.use(str(subscription.customer), START + DAY, 3)
    world.travel(START + 7 * DAY + 16)
    world.tick("closing")
    world.travel(START + 7 * DAY + 2 * HOUR)

    [line] = explained(run, invoice_of(world, subscription.id), "--stack", stack)

    assert [one["name"] for one in line["notes"]] == ["free trial"]
    assert line["amount"] == "$0.00"
    assert line["metered"] == line["sent"] == "3"


def test_a_meter_that_takes_the_last_value(world: World, run: Run, stack: str) -> None:
    world.clock.set(START)
    world.openmeter.delete_meter("m1")
    world.openmeter.create_meter("m1", "used", aggregation="MAX")
    subscription = world.subscription(world.metered_price(formula="last")[0])
    customer = str(subscription.customer)
    for day, value in ((1, 5), (2, 9), (3, 4)):
        world.use(customer, START + day * DAY, value)
        world.travel(START + day * DAY + 2 * HOUR)
        world.tick()
    month(world)

    [line] = explained(run, invoice_of(world, subscription.id), "--stack", stack)

    assert (line["how"], line["metered"], line["sent"], line["held"], line["billed"]) == ("last", *["9"] * 4)
    [period] = line["slices"]
    assert [one["value"] for one in period["sends"]] == ["5", "9"]
    assert {one["identifier_fits"] for one in period["sends"]} == {"fits"}

    change(world, START + 2 * DAY + HOUR, "8")
    [line] = explained(run, invoice_of(world, subscription.id), "--stack", stack, code=1)
    [found] = line["differences"]
    assert found["name"] == "a ledger entry was changed"
    assert "says 8, but was made for 9" in found["text"]


def test_a_legacy_price(world: World, run: Run, stack: str) -> None:
    world.clock.set(START)
    subscription, _, customer = legacy_subscription(world)
    world.use(customer, START + DAY, "2.5")
    month(world)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack)

    assert (line["how"], line["metered"], line["sent"], line["held"], line["billed"]) == (
        "usage_record",
        "3",
        "3",
        None,
        "3",
    )
    [send] = line["slices"][0]["sends"]
    assert send["identifier_fits"] == "fits"

    change(world, START, "2")
    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)
    assert names(line)[0] == "a ledger entry was changed"
    assert "says 2, but was made for 3" in line["differences"][0]["text"]


def test_a_legacy_record_replaces_the_one_before(world: World, run: Run, stack: str) -> None:
    """The ledger keeps the newest two; only the newest counts."""
    world.clock.set(START)
    subscription, _, customer = legacy_subscription(world)
    for day in (1, 2):
        world.use(customer, START + day * DAY, "2.5")
        world.travel(START + day * DAY + 3 * HOUR)
        world.tick()
    world.travel(FINAL)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=0)

    assert (line["sent"], line["billed"], line["verdict"]) == ("5", "5", "EXACT")
    assert len(line["slices"][0]["sends"]) == 2


def test_two_subscriptions_of_a_customer_share_its_usage(world: World, run: Run, stack: str) -> None:
    price, _ = world.metered_price()
    first, customer = subscribed(world, price=price)
    world.clock.set(START + 10 * DAY)
    second = world.subscription(price, customer)
    world.use(customer, START + 11 * DAY, 2)
    month(world)
    world.travel(START + 41 * DAY + 16)
    world.tick("closing")
    world.travel(START + 42 * DAY)

    lines = explained(run, customer, "--stack", stack, "--all")

    assert {line["subscription"] for line in lines} == {first, second.id}
    assert sorted(line["billed"] for line in lines if line["final"]) == ["14", "16.25"]
    assert all(line["ends_in_billed_quantity"] for line in lines)


def swap(world: World, subscription: str) -> None:
    """Put a price of $0.20 on the same meter in place of the subscription's."""
    other = world.client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 20,
            "product_data": {"name": "other"},
            "recurring": {
                "interval": "month",
                "usage_type": "metered",
                "meter": world.client.v1.billing.meters.list().data[0].id,
            },
        }
    ).id
    shown = world.client.v1.subscriptions.retrieve(subscription)
    world.client.v1.subscriptions.update(
        subscription, {"items": [{"id": shown["items"].data[0].id, "price": other}]}
    )


def test_a_swapped_price(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    at = START + 8 * DAY + 1234
    world.use(customer, at - 100, 5)
    world.use(customer, at + 100, 6)
    world.travel(at)
    world.tick()
    swap(world, subscription)
    world.tick()
    month(world)

    lines = explained(run, invoice_of(world, subscription), "--stack", stack, code=0)

    assert sum(Decimal(line["billed"]) for line in lines) == Decimal("25.25")
    assert [line["ends_in_billed_quantity"] for line in lines] == [True] * len(lines)


def test_a_swapped_price_before_its_invoice_is_final(world: World, run: Run, stack: str) -> None:
    """Flexible billing mode keeps the old price's part for the next invoice, which is no final one yet."""
    subscription, customer = subscribed(world, billing_mode={"type": "flexible"})
    at = START + 8 * DAY + 1234
    world.use(customer, at - 100, 5)
    world.travel(at)
    run("report", "--stack", stack, "--customer", customer)
    swap(world, subscription)
    world.travel(at + 2 * HOUR)
    world.tick()

    preview = explained(run, subscription, "--stack", stack, code=0)
    month_but_final(world)
    draft = explained(run, invoice_of(world, subscription), "--stack", stack, code=0)

    for lines in (preview, draft):
        old = next(line for line in lines if not line["subscription_item"])
        assert Decimal(old["billed"]) > 0
        assert [old[name] for name in ("metered", "sent", "held")] == [old["billed"]] * 3


def test_the_running_period_is_a_preview(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    world.travel(START + 5 * DAY + 2 * HOUR)
    world.tick()
    world.travel(START + 5 * DAY + 4 * HOUR)
    world.use(customer, START + 5 * DAY + 3 * HOUR, 1)

    result = run("explain", subscription, "--stack", stack, "--json")

    assert result.code == 0, result.out
    [invoice] = result.json["invoices"]
    [line] = invoice["lines"]
    assert (invoice["status"], line["billed"], line["metered"]) == ("preview", "10.25", "11.25")
    assert [one["name"] for one in line["notes"]] == ["not reported yet"]
    assert explained(run, customer, "--stack", stack) == invoice["lines"]


def test_a_draft_may_still_change(world: World, run: Run, stack: str) -> None:
    subscription, _ = subscribed(world)
    month_but_final(world)

    result = run("explain", invoice_of(world, subscription), "--stack", stack)

    assert result.code == 0, result.out
    assert "it is a draft: what it bills may still change until 2026-08-15T12:37:42Z" in result.out


def test_without_a_stack_the_ledger_is_missing(world: World, run: Run) -> None:
    subscription, _ = subscribed(world)
    month(world)

    result = run("explain", invoice_of(world, subscription), "--json")

    assert result.code == 0, result.out
    [invoice] = result.json["invoices"]
    [line] = invoice["lines"]
    assert (line["metered"], line["sent"], line["held"], line["billed"]) == ("14.25", None, "14.25", "14.25")
    assert {piece["sent"] for piece in line["slices"]} == {None}
    assert any("without --stack the ledger is not read" in note for note in invoice["notes"])


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("in_unknown", "Stripe knows no in_unknown"),
        ("cus_unknown", "Stripe knows no cus_unknown"),
        ("sub_unknown", "Stripe knows no sub_unknown"),
        ("price_1", "is the id of no invoice"),
    ],
)
def test_wrong_ids(run: Run, stack: str, what: str, says: str) -> None:
    result = run("explain", what, "--stack", stack)

    assert result.code == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1


def test_what_another_mapping_holds_is_not_promised(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    world.travel(START + 2 * HOUR)
    world.tick()
    [item] = world.client.v1.subscriptions.retrieve(subscription)["items"].data
    world.client.v1.subscription_items.update(item.id, {"metadata": {"om_meter_id": "m2"}})
    world.use(customer, START + 2 * MINUTE, 2)

    [line] = explained(run, subscription, "--stack", stack, code=1)

    [difference] = line["differences"]
    assert (difference["name"], difference["units"]) == ("held", "2")
    assert "the OpenMeter meter is now 'm2'" in difference["text"]


def test_a_name_moves_no_cursor_and_passes_for_no_line(
    world: World, run: Run, stack: str, tmp_path: Path
) -> None:
    customer = world.customer(name="Ada\x1b[2J\r\nexplained: <b>all</b>\u202e")
    subscription, _ = subscribed(world, customer=customer)
    world.travel(START + 2 * HOUR)
    world.tick()
    page = tmp_path / "page.html"

    result = run("explain", subscription, "--stack", stack, "--html", str(page))

    assert f"of {customer} (Ada [2J explained: <b>all</b> )" in result.out
    for text in (result.out, page.read_text(encoding="utf-8")):
        assert not {"\x1b", "\r", "\u202e"} & set(text)


def test_an_invoice_without_metered_lines(world: World, run: Run, stack: str) -> None:
    price = world.client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 500,
            "product_data": {"name": "fee"},
            "recurring": {"interval": "month"},
        }
    ).id
    subscription = world.client.v1.subscriptions.create(
        {"customer": world.customer(), "items": [{"price": price}]}
    )

    result = run("explain", invoice_of(world, subscription.id), "--stack", stack)

    assert result.code == 2
    assert "has no line that is billed by usage" in result.err
    assert run("explain", subscription.id, "--stack", stack).code == 2


def test_the_page_for_the_customer(world: World, run: Run, stack: str, tmp_path: Path) -> None:
    world.clock.set(START)
    evil = "<script>alert(1)</script>"
    customer = world.customer(name=evil)
    subscription, _ = subscribed(world, customer=customer)
    month(world)
    file = tmp_path / "page.html"

    result = run("explain", invoice_of(world, subscription), "--stack", stack, "--html", str(file))
    assert (result.code, result.err) == (0, f"wrote {file}\n")

    page = file.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=|url\(|@import|\bon\w+=", page)
    assert "What was measured is what is billed, to the last unit." in page
    assert '<th scope="row">2026-08-15 11:00:00</th><td>2026-08-15 11:37:42</td>' in page
    assert 'role="img" aria-labelledby=' in page
    assert "self#test#" not in page
    assert not re.search(r"cus_\w+\.\d+\.\d+\.", page)
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        assert "<caption>" in table
        assert '<th scope="col"' in table


def test_a_page_says_what_differs_in_the_customers_words(
    world: World, run: Run, stack: str, tmp_path: Path
) -> None:
    subscription, _ = subscribed(world)
    month(world)
    identifier = change(world, (START + 5 * DAY) // HOUR * HOUR, "2.25")
    file = tmp_path / "page.html"

    assert run("explain", invoice_of(world, subscription), "--stack", stack, "--html", str(file)).code == 1

    page = file.read_text()
    assert "our record of what was sent does not match what Stripe holds" in page
    assert identifier not in page


def test_a_page_that_cannot_be_written(world: World, run: Run, stack: str, tmp_path: Path) -> None:
    subscription, _ = subscribed(world)
    month(world)

    result = run("explain", invoice_of(world, subscription), "--stack", stack, "--html", str(tmp_path))

    assert result.code == 1
    assert "cannot be written" in result.err


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (GRADUATED, ("14.25", "14.25 units by tiers = $35.05")),
        (VOLUME, ("14.25", "14.25 units by tiers = $0.07")),
        (PACKAGES, ("14.25", "14.25 units = 1 packages at $10.00 = $10.00")),
    ],
    ids=["graduated", "volume", "packages"],
)
def test_how_the_quantity_becomes_the_amount(
    world: World, run: Run, stack: str, price: dict[str, Any], expected: tuple[str, str]
) -> None:
    billed, reckoning = expected
    subscription, _ = subscribed(world, price=world.metered_price(**price)[0])
    month(world)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack)

    assert (line["billed"], line["reckoning"]) == (billed, reckoning)
    assert line["amount"] == reckoning.rpartition(" = ")[2]
    assert line["notes"] == []


def test_packages_that_the_line_shows(world: World, run: Run, stack: str) -> None:
    world.stripe.change_settings(undocumented=Undocumented(lines_show_packages=True))
    subscription, _ = subscribed(world, price=world.metered_price(**PACKAGES)[0])
    month(world)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack)

    assert (line["sent"], line["billed"], line["amount"]) == ("14.25", "1", "$10.00")
    assert [one["name"] for one in line["notes"]] == ["packages"]


def test_rounded_bounds_are_shown_as_they_were_cut(
    world: World, run: Run, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERIOD_BOUNDS", "hour")
    world.settings["period_bounds"] = PeriodBounds.HOUR
    subscription, _ = subscribed(world)
    month(world)
    world.travel(END + 3 * HOUR)
    world.tick()

    lines = explained(run, subscription, "--stack", stack)

    assert [(line["final"], line["metered"], line["billed"]) for line in lines] == [
        (False, "12", "12"),
        (True, "10.25", "10.25"),
    ]
    # The window of the renewal is billed by the next period, and stamped there.
    assert [(one["from"], one["to"]) for one in lines[0]["slices"] if one["metered"] == "12"] == [
        ("2026-08-15T11:00:00Z", "2026-08-15T12:00:00Z")
    ]


def test_an_invoice_that_was_final_at_once(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world, collection_method="charge_automatically", days_until_due=None)
    at = START + 5 * DAY + 2 * HOUR
    world.travel(at)
    world.tick()
    world.use(customer, at + 60, "0.5")
    world.travel(at + 10 * MINUTE)
    world.client.v1.subscriptions.cancel(subscription, {"invoice_now": True})
    world.tick()

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)

    assert (line["sent"], line["billed"], line["ends_in_billed_quantity"]) == ("10.25", "10.25", True)
    assert [(one["name"], one["units"]) for one in line["differences"]] == [("unbillable", "0.5")]


def test_a_void_invoice_is_explained_all_the_same(world: World, run: Run, stack: str) -> None:
    subscription, _ = subscribed(world)
    month(world)
    invoice = invoice_of(world, subscription)
    next(row for row in world.stripe.account.invoices if row.id == invoice).status = "void"

    result = run("explain", invoice, "--stack", stack)

    assert result.code == 0
    assert "note: it is void: nothing of it is to be paid" in result.out


def test_what_adopt_took_over_ends_in_the_billed_quantity(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    event = {"stripe_customer_id": customer, "value": "3"}
    world.travel(START + 5 * DAY + 2 * HOUR)
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": event, "timestamp": START + 5 * DAY}
    )
    world.travel(START + 5 * DAY + 4 * HOUR)
    assert run("adopt", "--stack", stack, "--customer", customer, "--yes").code == 0
    world.tick()
    month(world)

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack)

    assert (line["metered"], line["sent"], line["billed"]) == ("14.25",) * 3
    marks = {one["identifier_fits"] for piece in line["slices"] for one in piece["sends"]}
    assert marks == {"fits", "adopted"}


def test_a_key_that_may_not_preview(
    world: World, run: Run, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription, _ = subscribed(world)
    world.stripe.change_settings(restricted_keys={"rk_test_1": {"*": "read"}})
    monkeypatch.setenv("STRIPE_KEY", "rk_test_1")

    result = run("explain", subscription, "--stack", stack)
    assert result.code == 1
    assert f"no preview of {subscription}" in result.err

    monkeypatch.setenv("STRIPE_KEY", API_KEY)
    month(world)
    monkeypatch.setenv("STRIPE_KEY", "rk_test_1")
    result = run("explain", subscription, "--stack", stack)
    assert result.code == 0
    assert f"note: no preview of {subscription}" in result.out


def test_openmeter_out_of_reach_is_said_beside_the_line(world: World, run: Run, stack: str) -> None:
    subscription, _ = subscribed(world)
    month(world)
    world.openmeter.faults.down = True

    [line] = explained(run, invoice_of(world, subscription), "--stack", stack, code=1)

    [found] = line["differences"]
    assert found["name"] == "could not be read"
    assert "OpenMeter could not be reached" in found["text"]


def test_a_billing_threshold_bills_a_part_before(world: World, run: Run, stack: str) -> None:
    subscription, _ = subscribed(world)
    world.travel(START + 3 * HOUR)
    world.tick()
    stripe = world.stripe
    row = stripe.account.subscriptions.get(subscription)
    part = stripe.books.invoices.item_line(row, row.items[0], world.clock())
    stripe.books.invoices.draft(
        row, [replace(part, invoice_item=None)], "subscription_threshold", period_start=START
    )
    month(world)
    [cycle] = [one for one in stripe.account.invoices if one.billing_reason == "subscription_cycle"]
    [line] = cycle.lines
    line.charges = (replace(line.charges[0], quantity=Decimal(7)),)

    lines = explained(run, subscription, "--stack", stack, "--all")

    billed = {line["billed"]: line for line in lines if line["final"]}
    assert set(billed) == {"7", "7.25"}
    assert all(line["ends_in_billed_quantity"] for line in billed.values())
    assert "billing threshold" in [one["name"] for one in billed["7"]["notes"]]


def test_the_examples_in_the_document_are_what_it_prints(world: World, run: Run, stack: str) -> None:
    subscription, customer = subscribed(world)
    month(world)
    shown = blocks(PROJECT / "docs" / "explain.md", "")

    assert run("explain", invoice_of(world, subscription), "--stack", stack).out in shown

    change(world, (START + 5 * DAY) // HOUR * HOUR, "2.25")
    world.use(customer, END - 2, 3)
    assert run("explain", invoice_of(world, subscription), "--stack", stack).out in shown


def test_every_name_of_a_difference_is_in_the_document() -> None:
    document = (PROJECT / "docs" / "explain.md").read_text()
    assert [name.value for name in Named if f"`{name.value}`" not in document] == []
    assert set(_SAID) == set(Named)
