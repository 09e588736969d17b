"""What a final invoice bills by usage, read from Stripe's lines."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START
from usage_reporting.final_invoices import billed_lines, customer_of, is_final
from usage_reporting.windows import HOUR

FINAL = MONTH_END + HOUR
UNPRICED = {"price_details": {"price": "price_1"}, "unit_amount_decimal": "0"}


def line(quantity: str | None = "5", **changes: Any) -> dict[str, Any]:
    details = {"subscription": "sub_1", "subscription_item": "si_1", "proration": False}
    return {
        "amount": 50,
        "description": "5 x tokens",
        "period": {"start": MONTH_START, "end": MONTH_END},
        "parent": {"subscription_item_details": details, "invoice_item_details": None},
        "pricing": {"price_details": {"price": "price_1"}, "unit_amount_decimal": "10"},
        "quantity": 5,
        "quantity_decimal": quantity,
        **changes,
    }


def invoice(*lines: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "customer": "cus_1",
        "status": "open",
        "created": MONTH_END,
        "billing_reason": "subscription_cycle",
        "status_transitions": {"finalized_at": FINAL},
        "lines": {"data": list(lines)},
        **changes,
    }


def test_a_line_of_a_period() -> None:
    [found] = billed_lines(invoice(line("5.25")))

    assert (found.subscription, found.item, found.price) == ("sub_1", "si_1", "price_1")
    assert (found.start, found.end, found.final_at) == (MONTH_START, MONTH_END, FINAL)
    assert found.quantity == Decimal("5.25")
    assert not found.is_at_once
    assert not found.is_unpriced


def test_a_whole_quantity_does_where_there_is_no_exact_one() -> None:
    assert [found.quantity for found in billed_lines(invoice(line(None)))] == [5]


def test_tiers_of_one_price_are_one_line() -> None:
    other = line("7", pricing={"price_details": {"price": "price_2"}})
    found = billed_lines(invoice(line("10"), other, line("2.5")))

    assert [(one.price, one.quantity) for one in found] == [("price_1", Decimal("12.5")), ("price_2", 7)]


@pytest.mark.parametrize(
    "other",
    [
        line(pricing=None),
        line(parent=None),
        line(parent={"subscription_item_details": {"subscription": "sub_1", "proration": True}}),
        line(parent={"invoice_item_details": {"subscription": None}}),
        line(period={"start": MONTH_END, "end": MONTH_END}),
        line(period={"start": MONTH_END, "end": FINAL + 1}),
    ],
)
def test_what_bills_no_usage_of_an_ended_period_is_left_out(other: dict[str, Any]) -> None:
    assert billed_lines(invoice(other)) == []


def test_an_invoice_item_was_billed_at_once() -> None:
    details = {"subscription": "sub_1", "invoice_item": "ii_1", "proration": False}
    [found] = billed_lines(invoice(line(parent={"invoice_item_details": details})))

    assert (found.item, found.is_at_once) == ("", True)


@pytest.mark.parametrize(
    ("reason", "seconds", "at_once"),
    [
        ("subscription_update", 0, True),
        ("subscription_update", 60, True),
        ("subscription_update", 61, False),
        ("subscription_cycle", 0, False),
    ],
)
def test_an_invoice_that_waited_for_nothing(reason: str, seconds: int, at_once: bool) -> None:
    made = invoice(line(), billing_reason=reason, status_transitions={"finalized_at": MONTH_END + seconds})

    assert [one.is_at_once for one in billed_lines(made)] == [at_once]


def test_a_threshold_bills_in_the_course_of_a_period() -> None:
    """Stripe does not say whether such a line ends where the period does, or where the invoice was made."""
    middle = (MONTH_START + MONTH_END) // 2
    changes = {
        "billing_reason": "subscription_threshold",
        "created": middle,
        "status_transitions": {"finalized_at": middle + HOUR},
    }
    so_far = line("3", period={"start": MONTH_START, "end": middle})

    for one in (so_far, line("3")):
        [found] = billed_lines(invoice(one, **changes))
        assert (found.quantity, found.is_of_threshold) == (Decimal(3), True)
    assert [one.is_of_threshold for one in billed_lines(invoice(line()))] == [False]


def test_what_was_billed_before_is_no_usage() -> None:
    credit = line("3", amount=-30, description="Amount previously billed")

    assert [one.quantity for one in billed_lines(invoice(line("5"), credit))] == [5]


@pytest.mark.parametrize(
    ("changes", "price", "is_free"),
    [
        ({"amount": 0, "pricing": UNPRICED}, "10", True),
        ({"amount": 0, "description": "Free trial for 5 x tokens"}, "10", True),
        ({"amount": 0, "description": "Free trial for 5 x tokens"}, None, True),
        ({"amount": 0}, "10", False),
        ({"amount": 0, "pricing": UNPRICED}, "0", False),
        ({"amount": 0, "pricing": UNPRICED}, None, False),
        (
            {"amount": 0, "pricing": {"price_details": {"price": "p"}, "unit_amount_decimal": None}},
            None,
            False,
        ),
        ({}, "10", False),
    ],
)
def test_a_trials_line_charges_nothing_though_its_price_does(
    changes: dict[str, Any], price: str | None, is_free: bool
) -> None:
    [found] = billed_lines(invoice(line(**changes)))

    assert found.is_free({"unit_amount_decimal": price}) is is_free


@pytest.mark.parametrize("trial", ["Free trial for 5 x tokens", "5 x tokens (Tier 1 at $0.00)"])
@pytest.mark.parametrize("first_is_paid", [True, False])
def test_a_free_tier_beside_a_paid_one_is_no_trial(trial: str, *, first_is_paid: bool) -> None:
    free = line("5", amount=0, pricing=UNPRICED, description=trial)
    lines = [line("2"), free] if first_is_paid else [free, line("2")]

    [found] = billed_lines(invoice(*lines))

    assert found.quantity == 7
    for price in ("10", None):
        assert not found.is_free({"unit_amount_decimal": price})


@pytest.mark.parametrize(
    ("status", "final"),
    [("open", True), ("paid", True), ("uncollectible", True), ("draft", False), ("void", False)],
)
def test_a_void_invoice_bills_nothing(status: str, final: bool) -> None:
    assert is_final({"status": status}) is final


def test_the_customer_may_be_expanded() -> None:
    assert customer_of({"customer": {"id": "cus_1"}}) == customer_of({"customer": "cus_1"}) == "cus_1"
