"""A plan's rows from the reports of a dry run: each span once, priced by what it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from cli.planned import Plan, Planner
from tests.layer.builders import (
    MONTH_END,
    MONTH_START,
    SETTINGS,
    Clock,
    D,
    MemoryTable,
    customer_meter,
    send,
    span,
)
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.billing import Billing
from usage_reporting.ledger import Ledger
from usage_reporting.model import Prospect, Report, Span, SpanState, Status, Target
from usage_reporting.stripe_api import StripeApi

PRICE = {"id": "price_1", "currency": "usd", "billing_scheme": "per_unit", "unit_amount_decimal": "10"}


class PriceApi:
    """Answers with one price."""

    account = OWN_ACCOUNT

    async def get(self, _path: str, _params: Any = None) -> dict[str, Any]:
        return PRICE


def planned(*reports: Report) -> Plan:
    billing = Billing(cast("StripeApi", PriceApi()), SETTINGS, Clock())
    planner = Planner(billing, Ledger(MemoryTable()))
    return asyncio.run(planner.plan(reports))


def report(*spans: Span, held: int = 3, metered: int = 5, units: Sequence[int] = (), **other: Any) -> Report:
    """A report that found so much of each span and would send these values."""
    made = Report(customer_meter(*spans, **other), Status.SHADOW)
    made.prospects = [Prospect(one, D(metered), D(held), one.start) for one in spans]
    made.sent = [
        replace(send(str(number)), slice_start=one.start + number, stamp=one.start + number, value=D(value))
        for one in spans
        for number, value in enumerate(units)
    ]
    return made


def test_the_ended_period_is_planned_once_though_two_reports_show_it() -> None:
    ended = span(state=SpanState.DRAFT)
    next_one = span(MONTH_END, MONTH_END + 60)
    of_draft, running = report(ended, units=[2]), report(next_one, held=0, metered=0)
    running.sent = list(of_draft.sent)  # a full report goes back to the draft as well

    found = planned(running, of_draft)

    assert [(row.span.start, row.sends) for row in found.rows] == [(MONTH_START, D(2)), (MONTH_END, D(0))]
    assert found.exposures["usd"].moved == 20


def test_a_total_takes_the_place_of_the_one_before() -> None:
    [row] = planned(report(span(), held=3, metered=7, units=[5, 7], target=Target.LAST)).rows
    assert (row.sends, row.planned, row.left) == (D(4), D(7), D(0))


@pytest.mark.parametrize("free", [{"is_trial": True}, {"state": SpanState.FREE}])
def test_what_is_free_moves_no_money(free: dict[str, Any]) -> None:
    found = planned(report(span(**free), units=[2]))
    assert found.rows[0].kind == "free"
    assert found.exposures["usd"].moved == 0


def test_money_in_another_currency_than_the_prices_is_not_known() -> None:
    found = planned(report(span(currency="eur"), units=[2]))
    [row] = found.unpriced
    assert (row.money, row.sends) == (None, D(2))
    assert row.unpriced == "it is billed in EUR, another currency than that of price price_1"


def test_what_was_not_read_is_told_with_its_reason() -> None:
    refused = Report(customer_meter(), Status.REFUSED, ["its meter counts"])
    found = planned(refused)
    [row] = found.rows
    assert (row.held, row.money, row.reason, row.is_stuck) == (None, None, "its meter counts", True)
    assert not found.is_deliverable


def test_noise_is_nothing_left_out() -> None:
    made = report(span(), held=5)
    made.prospects = [replace(made.prospects[0], metered=D("5.0000000001"))]
    assert planned(made).rows[0].left == 0
