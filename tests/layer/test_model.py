"""The nouns: what travels in messages comes back equal, and outcomes rank."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layer.builders import METER, NOON, D, customer_meter, reading, send, span
from usage_reporting.model import (
    CustomerMeter,
    Line,
    Report,
    SendState,
    Span,
    SpanState,
    Status,
    StripeMeter,
    Target,
)
from usage_reporting.windows import HOUR, Slice

instants = st.integers(0, 2**33)
texts = st.text(max_size=20)
spans = st.builds(
    Span,
    start=instants,
    end=instants,
    subscription=texts,
    item=texts,
    price=texts,
    state=st.sampled_from(SpanState),
    deadline=st.none() | instants,
    first=st.booleans(),
    is_trial=st.booleans(),
    currency=st.sampled_from(["", "eur"]),
)
customer_meters = st.builds(
    CustomerMeter,
    account=texts,
    mode=st.sampled_from(["live", "test"]),
    customer=texts,
    subject=texts,
    openmeter_meter=texts,
    target=st.sampled_from(Target),
    spans=st.lists(spans, min_size=1, max_size=4).map(tuple),
    bounds=st.frozensets(instants, max_size=8),
    meter=st.none() | st.builds(StripeMeter, id=texts, event_name=texts, customer_key=texts, value_key=texts),
    seen_at=instants,
    closing=st.booleans(),
    read_until=st.none() | instants,
    refusal=st.none() | texts,
)


@given(spans)
def test_a_span_survives_a_message(one: Span) -> None:
    assert Span.from_json(json.loads(json.dumps(one.to_json()))) == one


@given(customer_meters)
def test_a_customer_meter_survives_a_message(one: CustomerMeter) -> None:
    assert CustomerMeter.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize("name", sorted(customer_meter().to_json()))
def test_a_message_without_a_part_is_none(name: str) -> None:
    data = customer_meter().to_json()
    del data[name]
    if name == "meter":
        assert CustomerMeter.from_json(data).meter is None
        return
    with pytest.raises(KeyError, match=name):
        CustomerMeter.from_json(data)


@pytest.mark.parametrize(
    "change", [{"spans": 5}, {"bounds": ["x"]}, {"target": "x"}, {"meter": {"id": 1}}, {"seen_at": None}]
)
def test_other_data_is_a_type_or_value_error(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        CustomerMeter.from_json({**customer_meter().to_json(), **change})


def test_the_partition_key_names_account_mode_customer_and_holder() -> None:
    assert customer_meter().pk == "self#test#cus_1#mtr_1"
    assert customer_meter(meter=None, mode="live").pk == "self#live#cus_1#si_1"


def test_the_deadline_is_that_of_the_first_draft() -> None:
    one = customer_meter(span(deadline=NOON + 5), span(), span(deadline=NOON + 3))

    assert one.deadline == NOON + 3
    assert customer_meter().deadline is None


def test_a_span_is_half_open() -> None:
    one = span(10, 20)

    assert [one.holds(instant) for instant in (9, 10, 19, 20)] == [False, True, True, False]


def test_the_same_customer_meter_on_two_items() -> None:
    left = customer_meter(span(item="si_1"), span(item="si_2"), bounds=frozenset({1, 2}))
    right = customer_meter(
        span(item="si_2"), span(item="si_3"), bounds=frozenset({2, 3}), closing=True, refusal="no"
    )

    both = left.merged_with(right)

    assert [one.item for one in both.spans] == ["si_1", "si_2", "si_3"]
    assert both.bounds == {1, 2, 3}
    assert both.closing
    assert both.refusal == "no"
    assert right.merged_with(left).refusal == "no"


@pytest.mark.parametrize(
    ("state", "counts"), [(SendState.INTENT, True), (SendState.SENT, True), (SendState.REJECTED, False)]
)
def test_what_stripe_may_hold_counts(state: SendState, counts: bool) -> None:
    assert send(state=state).counts is counts


def test_a_reading_knows_what_stripe_lacks() -> None:
    one = reading(10, 4, undelivered=1, state=SpanState.FINAL)

    assert one.difference == 5
    assert one.changed
    assert not reading("5.0000000005", 4, undelivered=1, state=SpanState.FINAL).changed
    assert reading("5.00000001", 4, undelivered=1, state=SpanState.FINAL).changed


def test_what_was_counted_as_undelivered_is_lacking_while_an_invoice_takes_it_after_all() -> None:
    assert reading(10, 4, undelivered=1, state=SpanState.DRAFT).difference == 6
    assert reading(0, 0, undelivered=1).difference == 0


@pytest.mark.parametrize("state", SpanState)
def test_open_invoices_take_usage(state: SpanState) -> None:
    open_ones = {SpanState.CURRENT, SpanState.DRAFT, SpanState.BESIDE}
    assert reading(1, state=state).takes_usage == (state in open_ones)


@given(st.lists(st.sampled_from(Status), max_size=6))
def test_the_outcome_that_matters_most_stays(statuses: list[Status]) -> None:
    report = Report(customer_meter())
    for status in statuses:
        report.note(status)

    assert report.status is max([Status.UNCHANGED, *statuses], key=list(Status).index)


def test_outcomes_rank_from_harmless_to_unknown() -> None:
    ranked = "unchanged sent shadow late unbillable doubted refused held rejected handed_over unknown"

    assert [status.value for status in Status] == ranked.split()
    asked_again = [Status.DOUBTED, Status.HANDED_OVER, Status.UNKNOWN]
    assert [status for status in Status if status.ask_again] == asked_again


def test_a_lower_outcome_still_gives_its_reason_once() -> None:
    report = Report(customer_meter())
    for status, reason in ((Status.HELD, "a"), (Status.LATE, "b"), (Status.HELD, "a"), (Status.SENT, "")):
        report.note(status, reason)

    assert (report.status, report.reason) == (Status.HELD, "a; b")


def test_the_line_of_a_report() -> None:
    line = Line("cus_1", "price_1", "m1", D("10.50"), 1_686_171_600, 1_688_763_600)

    assert str(line) == (
        "stripe_customer: cus_1, stripe_price: price_1, meter: m1, total_usage: 10.5, "
        "from: 2023-06-07T21:00:00Z, to: 2023-07-07T21:00:00Z"
    )


def test_a_slice_lies_in_one_hour() -> None:
    assert Slice(NOON + 61, NOON + HOUR).hour == NOON


def test_stripes_default_keys_of_a_payload() -> None:
    assert (METER.customer_key, METER.value_key) == ("stripe_customer_id", "value")


def test_merging_keeps_what_either_shows() -> None:
    one = customer_meter(closing=True, partial=True, read_until=NOON, is_deleted=True)
    other = customer_meter(read_until=NOON + 1)

    both = one.merged_with(other)
    assert (both.closing, both.partial, both.read_until, both.is_deleted) == (True, False, NOON + 1, True)
    assert one.merged_with(one) == one
    assert other.merged_with(replace(one, refusal="no")).refusal == "no"
    assert one.merged_with(customer_meter()).read_until is None


def test_what_was_dropped_is_neither_billed_nor_lacking() -> None:
    dropped = reading(5, 8, dropped=3, undelivered=0, state=SpanState.BILLED)

    assert (dropped.accounted, dropped.is_over, dropped.uncounted) == (D(5), False, D(0))
    taking = reading(5, 8, dropped=3, undelivered=1)
    assert (taking.uncounted, reading(5, 8, dropped=3, undelivered=4).uncounted) == (D(2), D(0))
    assert reading(5, 9, dropped=3, state=SpanState.BILLED).is_over
    assert not reading(5, 5).is_over


def test_what_is_rejected_is_undelivered() -> None:
    assert [status for status in Status if status.is_undelivered] == [
        Status.DOUBTED,
        Status.REFUSED,
        Status.HELD,
        Status.REJECTED,
        Status.HANDED_OVER,
        Status.UNKNOWN,
    ]
