"""What a period's line is, beside what a billing threshold had billed before."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, span
from tests.layer.test_billing import Stripe, draft, line, subscribed
from usage_reporting.errors import RejectedError
from usage_reporting.final_invoices import BilledLine
from usage_reporting.invoices import with_invoice
from usage_reporting.model import SpanState
from usage_reporting.thresholds import beside, billed_before
from usage_reporting.verdict import Cause, Finding, JudgedLine, Known


def short(
    quantity: str, metered: str | None = "12", causes: dict[Cause, Decimal] | None = None
) -> JudgedLine:
    return JudgedLine(
        customer="cus_1",
        price="price_1",
        item="si_1",
        meter="m1",
        start=MONTH_START,
        end=MONTH_END,
        quantity=D(quantity),
        finding=Finding.SHORT,
        metered=None if metered is None else D(metered),
        causes=causes or {Cause.NOT_BILLED: D(7)},
    )


def test_the_rest_is_exact() -> None:
    found = beside(short("5"), D(7), Known(sent=D(12)))

    assert (found.metered, found.causes) == (D(5), {})
    assert found.verdict == "EXACT: 7 more are on invoices of a billing threshold"


def test_less_than_the_rest_is_short_by_what_lacks() -> None:
    found = beside(short("4"), D(7), Known(sent=D(11), undelivered=D(1)))

    assert found.verdict == "SHORT by 1 (1 late): 7 more are on invoices of a billing threshold"


def test_what_may_be_read_in_two_ways_is_not_judged() -> None:
    found = beside(short("6"), D(7), Known(sent=D(12)))

    assert (found.finding, found.causes) == (Finding.NOT_JUDGED, {})
    assert "Stripe does not say whether they are in it" in found.reason


def test_what_an_ending_left_unbillable_stays_beside_it() -> None:
    line = short("5", causes={Cause.NOT_BILLED: D(7), Cause.UNBILLABLE: D(3)})

    found = beside(line, D(7), Known(sent=D(12), undelivered=D(3)))

    assert (found.finding, found.causes) == (Finding.EXACT, {Cause.UNBILLABLE: D(3)})


@pytest.mark.parametrize(("metered", "before"), [("12", "0"), (None, "7")])
def test_without_a_threshold_a_line_stays_as_it_is(metered: str | None, before: str) -> None:
    line = short("5", metered)

    assert beside(line, D(before), Known()) is line


@pytest.mark.parametrize("status", ["draft", "open"])
def test_an_invoice_of_a_threshold_takes_no_more_usage(status: str) -> None:
    """That resets the anchor: the period is over, and its draft leaves out what comes now."""
    ended = span(end=NOON, state=SpanState.ENDED)
    made = {
        "billing_reason": "subscription_threshold",
        "status": status,
        "created": NOON,
        "status_transitions": {"finalized_at": NOON + 3600},
    }

    assert with_invoice(ended, made).state is SpanState.BILLED
    assert with_invoice(ended, {**made, "billing_reason": "subscription_cycle"}).state is not SpanState.BILLED


# What was billed before


OWN = BilledLine("sub_1", "si_1", "price_1", MONTH_START, MONTH_END, D(5), MONTH_END)


def of_threshold(name: str, *quantities: str, status: str = "paid", **other: Any) -> dict[str, Any]:
    lines = [
        {**line(**other), "quantity": quantity, "quantity_decimal": quantity, "id": f"il_{number}"}
        for number, quantity in enumerate(quantities)
    ]
    for one in lines:
        one["parent"]["subscription_item_details"]["subscription"] = "sub_1"
    return draft(*lines, id=name, status=status, billing_reason="subscription_threshold")


def before(*invoices: dict[str, Any]) -> Decimal:
    stripe = Stripe()
    stripe.api.lists["/v1/invoices"] = [[one] for one in invoices]
    for one in invoices:
        stripe.api.objects[f"/v1/invoices/{one['id']}"] = one
    found = stripe.run(billed_before(stripe.billing, OWN))
    assert stripe.asked("/v1/invoices") == [
        {"subscription": "sub_1", "created": {"gte": MONTH_START, "lt": MONTH_END}}
    ]
    return found


def test_what_thresholds_billed_of_the_period_adds_up() -> None:
    assert before() == 0
    assert before(of_threshold("in_1", "3", "1.5"), of_threshold("in_2", "2")) == D("6.5")


@pytest.mark.parametrize(
    "other",
    [
        of_threshold("in_1", "3", status="draft"),
        of_threshold("in_1", "3", status="void"),
        {**of_threshold("in_1", "3"), "billing_reason": "subscription_cycle"},
        of_threshold("in_1", "3", item="si_2"),
        of_threshold("in_1", "3", price="price_2"),
        of_threshold("in_1", "3", start=MONTH_START - 9, end=MONTH_START),
    ],
)
def test_other_lines_and_invoices_are_left_out(other: dict[str, Any]) -> None:
    assert before(other, of_threshold("in_2", "2")) == 2


def test_an_invoice_that_cannot_be_read_is_said() -> None:
    with pytest.raises(RejectedError, match=r"^invoice in_1 lacks or misshapes something: "):
        before(of_threshold("in_1", "a lot"))


def test_drafts_of_thresholds_take_no_usage() -> None:
    stripe = Stripe()
    stripe.api.objects["/v1/subscriptions/sub_1"] = subscribed()
    of_period = draft(line())

    assert stripe.run(stripe.billing.billed_on(of_period)) != []
    assert (
        stripe.run(stripe.billing.billed_on({**of_period, "billing_reason": "subscription_threshold"})) == []
    )
