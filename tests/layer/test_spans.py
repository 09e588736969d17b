"""What a subscription makes of a span: how it stands, where it ends, what becomes of it when it is left."""

from __future__ import annotations

from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON
from tests.layer.builders import customer_meter as built
from tests.layer.builders import span as built_span
from tests.layer.test_customer_meters import facts, item, price, subscription
from usage_reporting.customer_meters import customer_meter, merged, span_of, with_subject
from usage_reporting.model import SpanState
from usage_reporting.windows import DAY, HOUR

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("other", "when_left"),
    [
        ({}, SpanState.BILLED),
        ({"billing_mode": {"type": "flexible"}}, SpanState.BILLED),
        ({"billing_mode": {"type": "classic"}}, SpanState.DROPPED),
        ({"trial_end": MONTH_END, "billing_mode": {"type": "classic"}}, SpanState.FREE),
        ({"trial_end": MONTH_END - 1}, SpanState.BILLED),
        ({"trial_start": MONTH_START, "trial_end": MONTH_END}, SpanState.FREE),
        ({"trial_start": MONTH_START + 1, "trial_end": MONTH_END}, SpanState.BILLED),
    ],
)
def test_what_becomes_of_usage_whose_price_leaves(other: Json, when_left: SpanState) -> None:
    found = span_of(subscription(**other), item())

    assert found is not None
    assert found.when_left is when_left


@pytest.mark.parametrize(
    ("other", "state", "last"),
    [
        ({}, SpanState.CURRENT, False),
        ({"status": "paused"}, SpanState.FREE, False),
        ({"cancel_at": MONTH_END}, SpanState.CURRENT, True),
        ({"cancel_at": NOON}, SpanState.CURRENT, True),
        ({"ended_at": NOON}, SpanState.CANCELED, True),
        ({"ended_at": MONTH_END}, SpanState.CURRENT, True),
        ({"ended_at": NOON, "trial_end": MONTH_END}, SpanState.FREE, True),
    ],
)
def test_how_a_span_stands(other: Json, state: SpanState, last: bool) -> None:
    found = span_of(subscription(**other), item())

    assert found is not None
    assert (found.state, found.last) == (state, last)


def test_a_paused_subscription_says_nothing_of_ended_spans() -> None:
    found = span_of(subscription(status="paused"), item(), SpanState.ENDED)

    assert found is not None
    assert found.state is SpanState.ENDED


def test_an_item_added_as_the_period_began_is_billed_from_its_first_second() -> None:
    old = subscription(created=MONTH_START - DAY, start_date=MONTH_START - DAY)
    found = span_of(old, item(created=MONTH_START))

    assert found is not None
    assert (found.start, found.first) == (MONTH_START, False)


def test_one_short_period_among_longer_ones_is_refused_too() -> None:
    legacy_item = item(price=price(recurring={"meter": None}))
    spans = [built_span(), built_span(MONTH_END, MONTH_END + HOUR)]

    found = customer_meter(subscription(), legacy_item, facts(), openmeter_meter="m1", spans=spans)

    assert found.refusal == (
        "subscription item si_1 is billed by usage records in a period under two hours; use a meter"
    )


def test_the_subject_of_a_deleted_customer_is_the_ledgers() -> None:
    gone = built(is_deleted=True, subject="")

    assert with_subject(gone, "om", {}) == gone
    assert with_subject(built(), "om", {"om": 7}).subject == "7"
    assert str(with_subject(built(), "om", {}).refusal).startswith(
        "customer cus_1 has no metadata 'om', which SUBJECT_METADATA_KEY asks for"
    )


def test_what_one_of_two_names_is_the_meter_of_both() -> None:
    named, nameless = built(), built(openmeter_meter="")

    assert [one.openmeter_meter for one in merged([nameless, named])] == ["m1"]
    assert [one.openmeter_meter for one in merged([named, nameless])] == ["m1"]
    assert [one.openmeter_meter for one in merged([nameless, nameless])] == [""]
