"""What a period's line is, beside what a billing threshold had billed before."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, span
from usage_reporting.invoices import with_invoice
from usage_reporting.model import SpanState
from usage_reporting.thresholds import beside
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
