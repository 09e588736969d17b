"""The target `last`: stamps at every edge, what Stripe holds of a span, what is sent, held and counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, customer_meter, send, span
from usage_reporting.amounts import ZERO
from usage_reporting.ledger import Entry
from usage_reporting.model import Send, SendState, Span, SpanState, Target
from usage_reporting.targets import last
from usage_reporting.windows import DAY, HOUR, MINUTE

ODD = NOON + 37 * MINUTE + 42
CUSTOMER_METER = customer_meter(target=Target.LAST)


def total(value: str | None, held: str = "0", of: Span | None = None, **other: Any) -> last.Total:
    values: dict[str, Any] = {
        "measured": NOON,
        "undelivered": ZERO,
        "sequence": 0,
        **other,
    }
    return last.Total(span=of or span(), value=None if value is None else D(value), held=D(held), **values)


def step(
    one: last.Total, *, now: int = NOON + 5 * MINUTE, latest: int = NOON + 5 * MINUTE, **allowed: bool
) -> last.Step:
    return last.plan(CUSTOMER_METER, one, last.Allowed(**allowed), now=now, latest=latest)


def sent(one: last.Step) -> Send:
    assert one.send is not None
    return one.send


# Stamps


@pytest.mark.parametrize(
    ("start", "end", "measured", "previous", "latest", "stamp"),
    [
        # Ten minutes behind what was measured.
        (ODD, ODD + DAY, ODD + HOUR, None, ODD + DAY, ODD + HOUR - 600),
        # Not in the minute that the span begins in: a summary cannot tell it from the span before.
        (ODD, ODD + DAY, ODD + MINUTE, None, ODD + DAY, ODD + 18),
        (NOON, NOON + DAY, NOON + MINUTE, None, NOON + DAY, NOON),
        # Later than the one before.
        (ODD, ODD + DAY, ODD + HOUR, ODD + HOUR, ODD + DAY, ODD + HOUR + 1),
        (ODD, ODD + DAY, ODD + HOUR, ODD + HOUR - 601, ODD + DAY, ODD + HOUR - 600),
        # Not in the future, nor later than the span was seen.
        (ODD, ODD + DAY, ODD + HOUR, None, ODD + 40 * MINUTE, ODD + 40 * MINUTE),
        (ODD, ODD + DAY, ODD + HOUR, ODD + HOUR, ODD + HOUR, None),
        (ODD, ODD + DAY, ODD + 18, None, ODD + 17, None),
        # A span that is over leaves room for 599 corrections, and no more.
        (ODD, ODD + DAY, ODD + DAY, None, ODD + 2 * DAY, ODD + DAY - 600),
        (ODD, ODD + DAY, ODD + DAY, ODD + DAY - 600, ODD + 2 * DAY, ODD + DAY - 599),
        (ODD, ODD + DAY, ODD + DAY, ODD + DAY - 2, ODD + 2 * DAY, ODD + DAY - 1),
        (ODD, ODD + DAY, ODD + DAY, ODD + DAY - 1, ODD + 2 * DAY, None),
        (ODD, ODD + DAY, ODD + DAY + HOUR, None, ODD + 2 * DAY, ODD + DAY - 600),
        # Spans shorter than the room, than a minute, than two seconds.
        (ODD, ODD + 300, ODD + 300, None, ODD + DAY, ODD + 18),
        (ODD, ODD + 18, ODD + 18, None, ODD + DAY, ODD),
        (ODD, ODD + 19, ODD + 19, None, ODD + DAY, ODD + 18),
        (ODD, ODD + 1, ODD + 1, None, ODD + DAY, ODD),
        (ODD, ODD + 1, ODD + 1, ODD, ODD + DAY, None),
    ],
)
def test_stamps_at_the_edges(
    start: int, end: int, measured: int, previous: int | None, latest: int, stamp: int | None
) -> None:
    assert last.stamp_of(span(start, end), measured, previous, latest) == stamp


def test_stamps_stay_behind_the_end_of_another_span() -> None:
    over = ODD + 2 * HOUR

    assert last.stamp_of(span(ODD, ODD + DAY), ODD + HOUR, None, ODD + DAY, floor=over) == over
    assert last.stamp_of(span(ODD, ODD + DAY), ODD + 3 * HOUR, None, ODD + DAY, floor=over) == over + 3000


@given(
    st.integers(NOON, NOON + HOUR),
    st.integers(1, 2 * DAY),
    st.lists(st.tuples(st.integers(0, 7200), st.integers(0, 300)), max_size=30),
)
def test_stamps_rise_inside_the_span_and_are_never_in_the_future(
    start: int, length: int, reports: list[tuple[int, int]]
) -> None:
    one = span(start, start + length)
    now, stamps = start, list[int]()
    for waited, age in reports:
        now += waited
        measured = last.measured_until(one.end, now)
        if measured <= start:
            continue
        stamp = last.stamp_of(one, measured, max(stamps, default=None), now - min(age, now - start))
        if stamp is None:
            continue
        assert start <= stamp <= one.end - 1
        assert stamp <= now - min(age, now - start)
        assert not stamps or stamp > stamps[-1]
        stamps.append(stamp)


@given(st.integers(NOON, NOON + HOUR), st.integers(700, 2 * DAY), st.integers(0, 3 * DAY))
def test_an_unforeseen_end_leaves_room(start: int, length: int, at: int) -> None:
    """Whatever was stamped before a span is cut off, a later total finds a second in it."""
    whole, now = span(start, start + 40 * DAY), start + at
    measured = last.measured_until(whole.end, now)
    if measured <= start or now >= whole.end:
        return
    stamp = last.stamp_of(whole, measured, None, now)
    cut = replace(whole, end=now)
    if stamp is not None and now - start > 2 * MINUTE:
        assert last.stamp_of(cut, now, stamp, now + HOUR) is not None


def test_what_is_measured() -> None:
    one = span(ODD, ODD + DAY)

    assert last.measured_until(one.end, ODD + DAY) == ODD + DAY
    assert last.measured_until(one.end, NOON + 2 * HOUR + 5 * MINUTE) == NOON + 2 * HOUR
    assert (
        last.measured_until(one.end, NOON + 2 * HOUR + 5 * MINUTE, eager=True) == NOON + 2 * HOUR + 4 * MINUTE
    )
    assert last.measured_until(one.end, NOON + 2 * HOUR + 30 * MINUTE) == NOON + 2 * HOUR + 29 * MINUTE


def test_a_span_may_have_been_read_up_to_shortly_before_it_was_told_last() -> None:
    told = entry(
        send("a", 5, NOON, intended_at=NOON + 20 * MINUTE + 5, state=SendState.SENT),
        send("b", 6, NOON, intended_at=NOON + 10 * MINUTE, state=SendState.SENT),
        send("c", 7, NOON, intended_at=NOON + 40 * MINUTE, state=SendState.REJECTED),
    )
    young = entry(send("a", 5, NOON, intended_at=NOON + 5 * MINUTE, state=SendState.SENT))

    assert last.told_until(told) == NOON + 19 * MINUTE
    assert last.told_until(young) == NOON + 4 * MINUTE
    assert last.told_until(replace(told, cuts={1: NOON, 2: NOON + 15 * MINUTE})) == NOON + 15 * MINUTE
    assert last.told_until(replace(told, cuts={1: NOON, 2: NOON + 25 * MINUTE})) == NOON + 19 * MINUTE
    assert last.told_until(entry()) == 0


def test_a_span_that_was_told_keeps_its_cuts() -> None:
    edges = {MONTH_START: MONTH_START, MONTH_END: MONTH_END}

    assert last.cuts_kept(entry(), [span()]) == {}
    assert last.cuts_kept(replace(entry(), version=1), [span()]) == edges
    assert last.cuts_kept(replace(entry(), version=1, cuts={5: 4}), [span()]) == {5: 4}


# What Stripe holds


def entry(*sends: Send) -> Entry:
    return Entry("pk", str(MONTH_START), sends={one.identifier: one for one in sends})


def test_stripe_holds_the_counted_value_with_the_newest_stamp() -> None:
    held = entry(
        send("a", 5, NOON, intended_at=NOON + 10, state=SendState.SENT),
        send("b", 7, NOON + 5, intended_at=NOON + 9, state=SendState.INTENT),
        send("c", 9, NOON + 6, intended_at=NOON + 11, state=SendState.REJECTED),
    )

    assert last.held_by(held, span()) == 7
    assert last.held_by(entry(), span()) == 0


def test_of_a_span_billed_at_once_stripe_holds_what_it_had_then() -> None:
    held = entry(
        send("a", 5, NOON - 700, intended_at=NOON - 1, state=SendState.SENT),
        send("b", 7, NOON - 600, intended_at=NOON, state=SendState.SENT),
    )

    assert last.held_by(held, span(end=NOON, state=SpanState.BILLED)) == 5
    assert last.held_by(held, span(end=NOON, state=SpanState.FINAL)) == 7


def test_what_stripe_dropped_it_does_not_hold() -> None:
    assert last.held_by(entry(send("a", 5, NOON)), span(state=SpanState.DROPPED)) == 0


# What is sent, held and counted


def test_a_total_that_differs_is_sent_and_an_equal_one_is_not() -> None:
    assert sent(step(total("5"))).value == 5
    assert sent(step(total("5"))).stamp == NOON - 600
    assert sent(step(total("5", "3"))).slice_start == MONTH_START
    assert step(total("5", "5")) == last.Step()
    assert step(total("5.0000000001", "5")) == last.Step()
    assert step(total(None)) == last.Step()
    assert step(total("0")) == last.Step()
    assert not step(total("0")).held
    assert step(total("5", "5", undelivered=D(3))) == last.Step(), "counted while no invoice took it"
    assert sent(step(total("5", floor=NOON - 60))).stamp == NOON - 60


def test_what_is_in_doubt_is_told_again() -> None:
    again = sent(step(total("5", "5", is_doubtful=True, previous=NOON - 30)))

    assert (int(again.value), again.stamp) == (5, NOON - 29)


@pytest.mark.parametrize(
    ("code", "stops"),
    [("missing_dimension_payload_keys", True), ("a_new_code", True), ("archived_meter", False), ("", False)],
)
def test_a_total_that_stripe_would_discard_again_waits_for_a_person(code: str, stops: bool) -> None:
    again = step(total("5", discarded_as=code))

    assert bool(again.stopped) is stops
    assert (again.send is None) is stops
    assert code in again.stopped or not stops
    assert sent(step(total("5", discarded_as=code), accepted=True)).value == 5
    final = span(end=NOON, state=SpanState.FINAL)
    assert step(total("5", of=final, discarded_as=code)) == last.Step(undelivered=D(5))


def test_only_the_very_total_that_was_tried_last_counts_as_discarded() -> None:
    gone = replace(send("a", 5, NOON, state=SendState.DISCARDED, intended_at=NOON), code="code")
    later = send("b", 5, NOON + 1, intended_at=NOON + 60)

    assert last.discarded_as(entry(gone), D(5)) == "code"
    assert last.discarded_as(entry(gone), D(6)) == ""
    assert last.discarded_as(entry(gone, later), D(5)) == ""
    assert last.discarded_as(entry(gone, replace(later, state=SendState.REJECTED)), D(5)) == "code"
    assert last.discarded_as(entry(), D(0)) == ""


def test_each_send_has_a_name_of_its_own() -> None:
    first = total("5", "3")
    others = [
        replace(first, sequence=1),
        replace(first, held=D(2)),
        replace(first, value=D(6)),
        replace(first, previous=NOON),
        replace(first, span=span(MONTH_START + 1)),
    ]
    names = [sent(step(one)).identifier for one in (first, *others)]

    assert len(set(names)) == 6
    assert names[0].startswith(f"cus_1.{MONTH_START}.0.")
    long = replace(CUSTOMER_METER, customer="cus_" + "x" * 200)
    assert len(last.identifier(long, first, NOON)) <= 100
    assert last.identifier(long, first, NOON).startswith("cus_" + "x" * 60 + ".")


def test_an_identifier_is_the_same_in_every_release() -> None:
    assert last.identifier(CUSTOMER_METER, total("5", "3"), NOON) == (
        f"cus_1.{MONTH_START}.0.25bca0191cb7b36c"
    )


def test_a_decrease_is_held_until_it_is_right() -> None:
    less = total("3.0", "5.0")

    assert step(less).held == (
        "the time from 2026-07-01T12:00:00Z has 3 in OpenMeter, less than the 5 that Stripe holds; check "
        "OpenMeter, then release it with `usage-reporter report --stack NAME --customer cus_1 --accept`"
    )
    for allowing in ("falling", "decreases", "accepted"):
        assert sent(step(less, **{allowing: True})).value == 3


def test_an_empty_openmeter_is_held_whatever_may_fall() -> None:
    empty = total(None, "5")

    held = step(empty, falling=True, decreases=True, accepted=True).held
    assert "has nothing in OpenMeter" in held
    assert "check OpenMeter, then release it with `" in held
    assert sent(step(empty, nothing=True)).value == 0


@pytest.mark.parametrize("state", [SpanState.FINAL, SpanState.BILLED])
def test_what_no_invoice_takes_is_counted_once(state: SpanState) -> None:
    over = span(end=NOON, state=state)

    assert step(total("8", "5", over)) == last.Step(undelivered=D(3))
    assert step(total("8", "5", over, undelivered=D(3))) == last.Step()
    assert step(total("9", "5", over, undelivered=D(3))) == last.Step(undelivered=D(1))


def test_what_was_billed_too_much_is_held_unless_it_falls_by_itself() -> None:
    over = total("3", "5", span(end=NOON, state=SpanState.FINAL))

    assert "credit the customer" in step(over, decreases=True).held
    assert step(over, accepted=True) == last.Step(undelivered=D(-2))
    assert step(over, falling=True) == last.Step(undelivered=D(-2))
    assert step(replace(over, undelivered=D(-2))) == last.Step()


def test_without_a_second_left_the_rest_is_counted_when_the_span_is_over() -> None:
    draft = span(end=NOON, state=SpanState.DRAFT)
    full = total("8", "5", draft, previous=NOON - 1)
    open_ = total("8", "5", span(end=NOON + DAY), previous=NOON + 5 * MINUTE)

    assert step(full) == last.Step(undelivered=D(3))
    assert step(replace(full, undelivered=D(3))) == last.Step()
    assert step(replace(full, value=D("8.0000000000001"), undelivered=D(3))) == last.Step(), "only noise"
    assert step(full, now=NOON) == last.Step(undelivered=D(3))
    assert step(open_) == last.Step()


def test_what_is_older_than_stripe_takes_is_counted() -> None:
    draft = total("8", "0", span(end=NOON, state=SpanState.DRAFT))
    later = NOON + 35 * DAY

    assert step(draft, now=later, latest=later) == last.Step(undelivered=D(8))
    assert sent(step(draft, now=NOON + 34 * DAY, latest=NOON + 34 * DAY)).stamp == NOON - 600
    oldest = NOON - 600 + last.OLDEST_STAMP
    assert sent(step(draft, now=oldest - 1, latest=oldest)).value == 8
    assert step(draft, now=oldest, latest=oldest) == last.Step(undelivered=D(8))


# Spans that overlap


OTHER: dict[str, Any] = {"item": "si_2", "subscription": "sub_2"}


@pytest.mark.parametrize(
    ("other", "conflict"),
    [
        (span(NOON, MONTH_END + DAY, **OTHER), True),
        (span(MONTH_START, NOON, **OTHER), True),
        (span(NOON, NOON + DAY, **OTHER), True),
        (span(**OTHER), False),
        (span(MONTH_END, MONTH_END + DAY, **OTHER), False),
        (span(MONTH_START - DAY, MONTH_START, **OTHER), False),
        (span(NOON, MONTH_END), False),
        (span(MONTH_START - DAY, NOON, state=SpanState.CANCELED, **OTHER), False),
        (span(MONTH_START - DAY, NOON, state=SpanState.BILLED, **OTHER), False),
        (span(MONTH_START - DAY, NOON, state=SpanState.FREE, **OTHER), False),
        (span(MONTH_START, NOON, state=SpanState.BILLED, **OTHER), True),
    ],
)
def test_overlapping_spans(other: Span, conflict: bool) -> None:
    assert (last.conflicts(span(), [span(), other]) == [other]) is conflict
    assert (last.conflicts(other, [span(), other]) == [span()]) is conflict


def test_both_are_named() -> None:
    assert "subscriptions sub_1 and sub_2 bill" in last.refusal(span(), [span(NOON, **OTHER)])
    assert "items si_1 and si_2 of subscription sub_1" in last.refusal(span(), [span(NOON, item="si_2")])


def test_stamps_begin_where_the_other_span_ended_early() -> None:
    ended = [
        span(MONTH_START - DAY, NOON, state=SpanState.CANCELED, **OTHER),
        span(MONTH_START - DAY, NOON - DAY, state=SpanState.BILLED, **OTHER),
        span(MONTH_START - DAY, NOON + DAY, **OTHER),
        span(MONTH_START - DAY, MONTH_START - HOUR, state=SpanState.CANCELED, **OTHER),
    ]

    assert last.floor_of(span(), ended) == NOON
    assert last.floor_of(span(), []) == 0
    assert last.floor_of(span(NOON), ended) == 0
    assert last.floor_of(span(end=NOON), ended) == NOON - DAY
