"""The target for meters that sum: one difference a slice, nothing twice, no decrease by accident."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layer.builders import METER, NOON, D, customer_meter, reading
from usage_reporting.amounts import is_same, round_units, to_wire
from usage_reporting.model import Reading, Send, SendState, SpanState
from usage_reporting.targets.mirror import Plan, identifier, plan
from usage_reporting.windows import HOUR, Slice, cut

NOW = NOON + 3 * HOUR
BOUND = NOON + 37 * 60 + 42

FIRST, SECOND = Slice(NOON, BOUND), Slice(BOUND, NOON + HOUR)


def planned(*readings: Reading, may_fall: bool = False) -> Plan:
    return plan(customer_meter(), readings, may_fall=may_fall, now=NOW)


def values(result: Plan) -> list[tuple[int, str]]:
    return [(send.slice_start, to_wire(send.value)) for send in result.sends]


def test_the_difference_is_sent() -> None:
    result = planned(reading("10.5", 4))

    [send] = result.sends
    assert (send.slice_start, send.stamp, send.value) == (NOON, NOON + HOUR - 1, D("6.5"))
    assert (send.state, send.attempt, send.intended_at) == (SendState.INTENT, 0, NOW)
    assert not result.held
    assert not result.undelivered


@pytest.mark.parametrize("value", ["5", "5.0000000009", "4.9999999991"])
def test_what_is_equal_but_for_noise_is_not_sent(value: str) -> None:
    assert planned(reading(value, 5)) == Plan()


def test_a_difference_is_rounded_to_what_stripe_takes() -> None:
    [send] = planned(reading("123456789012345", "0.1")).sends

    assert to_wire(send.value) == "123456789012345"


def test_less_than_one_unit_more_is_no_decrease() -> None:
    assert values(planned(reading("5.25", 5))) == [(NOON, "0.25")]


def test_a_little_more_in_a_slice_that_waits_for_its_stamp_is_no_decrease_either() -> None:
    assert planned(reading("5.25", 5, stamp=None)) == Plan()


def test_a_slice_without_news_does_not_hide_the_next() -> None:
    result = planned(reading(5, 5, piece=FIRST), reading(4, 2, piece=SECOND))

    assert values(result) == [(SECOND.start, "2")]


# What Stripe dropped


@pytest.mark.parametrize(("counted", "news"), [(0, 2), (1, 1), (2, 0)])
def test_what_stripe_dropped_is_counted_once(counted: int, news: int) -> None:
    read = reading(5, 5, dropped=2, undelivered=counted)

    assert planned(read) == Plan(undelivered={read: D(news)} if news else {})


def test_usage_may_move_in_an_hour_of_which_something_was_dropped() -> None:
    moved = [reading(3, 5, piece=FIRST, dropped=2, undelivered=2), reading(2, 0, piece=SECOND)]

    assert values(planned(*moved)) == [(FIRST.start, "-2"), (SECOND.start, "2")]


def test_what_was_dropped_hides_no_decrease() -> None:
    result = planned(reading(2, 5, piece=FIRST, dropped=2), reading(2, 0, piece=SECOND))

    assert result.sends == []
    assert len(result.held) == 1


def test_amounts_in_a_reason_have_no_needless_zeros() -> None:
    [reason] = planned(reading("3.50", "5.50")).held

    assert "has 3.5 in OpenMeter, less than the 5.5 that Stripe holds" in reason


def test_no_usage_at_all_is_nothing_to_send() -> None:
    assert planned() == Plan()
    assert planned(reading(0)) == Plan()


@pytest.mark.parametrize("state", [SpanState.CURRENT, SpanState.DRAFT])
def test_a_decrease_is_held_until_it_is_released(state: SpanState) -> None:
    fallen = reading(3, 5, state=state)

    held = planned(fallen)
    assert held.sends == []
    assert (
        "the hour 2026-07-15T12:00:00Z has 3 in OpenMeter, less than the 5 that Stripe holds" in held.held[0]
    )
    assert "`usage-reporter report --stack NAME --customer cus_1 --accept`" in held.held[0]
    assert values(planned(fallen, may_fall=True)) == [(NOON, "-2")]


def test_an_hour_that_comes_back_empty_is_held() -> None:
    assert planned(reading(0, 5)).held


def test_an_hour_that_is_missing_is_held_even_where_hours_may_fall() -> None:
    """Events that take usage back leave a row of zero; nothing at all is an answer not to be believed."""
    gone = replace(reading(0, 5), is_missing=True)

    assert planned(gone, may_fall=True).held
    assert values(planned(reading(0, 5), may_fall=True)) == [(NOON, "-5")]
    assert plan(customer_meter(), [gone], may_fall=False, accepted=True, now=NOW).sends


def test_a_missing_slice_is_not_one_whose_usage_moved() -> None:
    """The rest of the hour may have risen meanwhile by as much as the answer lacks."""
    missing = replace(reading(0, 5, piece=FIRST), is_missing=True)
    risen = reading(9, 2, piece=SECOND)

    assert planned(missing, risen).held
    assert planned(missing, risen).sends == []
    assert values(planned(reading(0, 5, piece=FIRST), risen)) == [(FIRST.start, "-5"), (SECOND.start, "7")]


def test_only_what_falls_is_held_for_being_missing() -> None:
    """A slice without a row of which Stripe has nothing either is one without usage."""
    unused = replace(reading(0, 0, piece=FIRST), is_missing=True)

    assert values(planned(unused, reading(5, 2, piece=SECOND))) == [(SECOND.start, "3")]


def test_a_held_hour_does_not_stop_the_others() -> None:
    later = Slice(NOON + HOUR, NOON + 2 * HOUR)
    result = planned(reading(3, 5), reading(7, 1, piece=later))

    assert values(result) == [(later.start, "6")]
    assert len(result.held) == 1


# Usage that moves between the slices of an hour


def test_usage_may_move_within_an_hour() -> None:
    result = planned(reading(3, 5, piece=FIRST), reading(4, 2, piece=SECOND))

    assert values(result) == [(FIRST.start, "-2"), (SECOND.start, "2")]
    assert not result.held


def test_a_move_that_leaves_more_in_the_hour_is_fine() -> None:
    assert values(planned(reading(3, 5, piece=FIRST), reading(9, 2, piece=SECOND))) == [
        (FIRST.start, "-2"),
        (SECOND.start, "7"),
    ]


def test_a_move_that_leaves_less_in_the_hour_is_held() -> None:
    result = planned(reading(3, 5, piece=FIRST), reading(3, 2, piece=SECOND))

    assert result.sends == []
    assert len(result.held) == 1


def test_usage_does_not_move_between_hours() -> None:
    later = Slice(NOON + HOUR, NOON + 2 * HOUR)
    result = planned(reading(3, 5), reading(4, 2, piece=later))

    assert values(result) == [(later.start, "2")]
    assert len(result.held) == 1


@pytest.mark.parametrize("state", [SpanState.FINAL, SpanState.BILLED])
@pytest.mark.parametrize("may_fall", [True, False])
def test_usage_does_not_move_out_of_a_closed_invoice(state: SpanState, may_fall: bool) -> None:
    result = planned(reading(3, 5, piece=FIRST, state=state), reading(4, 2, piece=SECOND), may_fall=may_fall)

    assert result.sends == []
    assert result.undelivered == {}
    assert "takes no correction any more" in result.held[0]


def test_usage_does_not_move_into_a_closed_invoice_unseen() -> None:
    result = planned(reading(3, 5, piece=FIRST), reading(4, 2, piece=SECOND, state=SpanState.FINAL))

    assert result.sends == []
    assert result.held


def test_usage_does_not_move_to_where_it_cannot_be_stamped_yet() -> None:
    result = planned(reading(3, 5, piece=FIRST), reading(4, 2, piece=SECOND, stamp=None))

    assert result.sends == []
    assert result.held


def test_what_no_invoice_took_hides_no_decrease() -> None:
    # 3 units of the first slice came late and are on no invoice; the second slice fell by 2.
    closed = reading(8, 5, piece=FIRST, undelivered=3, state=SpanState.FINAL)
    result = planned(closed, reading(8, 10, piece=SECOND))

    assert result.sends == []
    assert len(result.held) == 1


# Usage that no invoice takes


@pytest.mark.parametrize("state", [SpanState.FINAL, SpanState.BILLED])
def test_usage_after_the_invoice_is_counted_not_sent(state: SpanState) -> None:
    late = reading(10, 4, undelivered=1, state=state)

    result = planned(late)

    assert result.sends == []
    assert result.undelivered == {late: 5}
    assert planned(replace(late, undelivered=D(6))) == Plan()


def test_what_was_billed_too_much_is_noted_when_an_operator_has_looked() -> None:
    over = reading(3, 5, state=SpanState.FINAL)

    result = plan(customer_meter(), [over], may_fall=False, accepted=True, now=NOW)

    assert (result.sends, result.held, result.undelivered) == ([], [], {over: D(-2)})
    assert planned(replace(over, undelivered=D(-2))) == Plan()


def test_accepting_releases_a_decrease_too() -> None:
    result = plan(customer_meter(), [reading(3, 5)], may_fall=False, accepted=True, now=NOW)

    assert values(result) == [(NOON, "-2")]


def test_what_no_invoice_took_may_shrink_again() -> None:
    corrected = reading(6, 5, undelivered=3, state=SpanState.FINAL)

    result = planned(corrected)

    assert result.undelivered == {corrected: -2}
    assert not result.held


def test_usage_that_cannot_be_stamped_yet_waits() -> None:
    assert planned(reading(5, 0, stamp=None)) == Plan()


# Identifiers


def test_an_identifier_leads_back_to_its_entry() -> None:
    [send] = planned(reading(5, 2, sequence=3)).sends

    customer, slice_start, sequence, digest = send.identifier.split(".")
    assert (customer, slice_start, sequence) == ("cus_1", str(NOON), "3")
    assert len(digest) == 16


def test_an_identifier_is_the_same_in_every_release() -> None:
    """While a new release comes, processes of both may send for one customer."""
    assert planned(reading(5, 2, sequence=3)).sends[0].identifier == "cus_1.1784116800.3.f47b08f162342933"
    long = customer_meter(customer="c" * 80)
    assert identifier(long, reading(5), NOON, D(5)).split(".")[0] == "c" * 64


def test_the_same_fact_has_the_same_identifier() -> None:
    assert planned(reading(5, 2)).sends[0].identifier == planned(reading("5.0", 2)).sends[0].identifier


@pytest.mark.parametrize(
    "other",
    [
        {"customer": "cus_2"},
        {"account": "acct_2"},
        {"mode": "live"},
        {"meter": replace(METER, id="mtr_2")},
        {"start": NOON + 1},
        {"sequence": 1},
        {"stamp": NOON + 6},
        {"mirrored": 1},
        {"value": D("1.1")},
    ],
)
def test_another_fact_has_another_identifier(other: dict[str, Any]) -> None:
    def named(
        start: int = NOON,
        sequence: int = 0,
        mirrored: int = 0,
        stamp: int = NOON + 5,
        value: Decimal = Decimal(1),
        **whose: Any,
    ) -> str:
        read = reading(0, mirrored, piece=Slice(start, NOON + HOUR), sequence=sequence)
        return identifier(customer_meter(**whose), read, stamp, value)

    assert named(**other) != named()


@given(
    st.text("abcXYZ019_", min_size=1, max_size=255),
    st.integers(0, 2**33),
    st.integers(0, 10**6),
    st.decimals(min_value=-(10**14), max_value=10**14, places=9),
)
def test_identifiers_are_short_enough_for_stripe(
    customer: str, start: int, sequence: int, value: Decimal
) -> None:
    read = reading(0, piece=Slice(start, start + 1), sequence=sequence)

    assert len(identifier(customer_meter(customer=customer), read, start, value)) <= 100


# Applied to what Stripe holds, a plan ends in equality

amounts = st.decimals(min_value=0, max_value=10**6, places=3) | st.sampled_from(
    [D(0), D("0.1"), D("0.30000000000000004"), D("1e-9"), D(99999999), D("123456.123456789")]
)
states = st.sampled_from([SpanState.CURRENT, SpanState.DRAFT, SpanState.FINAL, SpanState.BILLED])


@st.composite
def hours_of_readings(draw: st.DrawFn) -> list[Reading]:
    bounds = draw(st.sets(st.integers(NOON, NOON + 2 * HOUR), max_size=3))
    return [
        reading(
            to_wire(round_units(draw(amounts))),
            to_wire(round_units(draw(amounts | st.just(D(0))))),
            piece=piece,
            undelivered=to_wire(draw(st.just(D(0)) | st.decimals(0, 5, places=1))),
            state=draw(states),
            stamp=draw(st.sampled_from([piece.end - 1, piece.end - 1, piece.end - 1, None])),
            sequence=draw(st.integers(0, 3)),
        )
        for piece in cut(NOON, NOON + 2 * HOUR, bounds)
    ]


def applied(one: Reading, sends: list[Send]) -> Reading:
    added = sum((s.value for s in sends if one.piece.start <= s.stamp < one.piece.end), D(0))
    return replace(one, mirrored=one.mirrored + added, sequence=one.sequence + 1)


def is_held(one: Reading, result: Plan) -> bool:
    start = one.piece.hour
    return any(
        f"the hour 2026-07-15T{12 + (start - NOON) // HOUR}:00:00Z" in reason for reason in result.held
    )


@given(hours_of_readings(), st.booleans())
def test_what_was_sent_makes_both_sides_equal(readings: list[Reading], may_fall: bool) -> None:
    result = planned(*readings, may_fall=may_fall)

    for one in readings:
        after = applied(one, result.sends)
        if is_held(one, result):
            assert after.mirrored == one.mirrored
        elif not one.takes_usage:
            assert after.mirrored == one.mirrored
            counted = one.undelivered + result.undelivered.get(one, D(0))
            assert is_same(one.value, one.mirrored + counted)
        elif one.stamp is not None:
            assert is_same(after.value, after.accounted)


@given(hours_of_readings(), st.booleans())
def test_a_plan_carried_out_leaves_nothing_to_plan(readings: list[Reading], may_fall: bool) -> None:
    result = planned(*readings, may_fall=may_fall)
    after = [
        replace(applied(one, result.sends), undelivered=one.undelivered + result.undelivered.get(one, D(0)))
        for one in readings
    ]

    again = planned(*after, may_fall=may_fall)

    assert again.sends == []
    assert again.undelivered == {}
    assert len(again.held) == len(result.held)


@given(hours_of_readings(), st.booleans())
def test_sends_fit_into_stripe_and_their_slices(readings: list[Reading], may_fall: bool) -> None:
    result = planned(*readings, may_fall=may_fall)

    for send in result.sends:
        [one] = [one for one in readings if one.piece.start == send.slice_start]
        digits = to_wire(send.value).lstrip("-").replace(".", "").lstrip("0")
        assert 0 < len(digits) <= 15
        assert one.piece.start <= send.stamp < one.piece.end
        assert one.takes_usage
    assert len({send.identifier for send in result.sends}) == len(result.sends)
    assert len(result.held) <= 2


@given(hours_of_readings())
def test_without_leave_an_hour_never_holds_less_afterwards(readings: list[Reading]) -> None:
    result = planned(*readings)

    for hour in (NOON, NOON + HOUR):
        sent = sum((send.value for send in result.sends if hour <= send.stamp < hour + HOUR), D(0))
        assert sent >= D("-1e-6")


def test_what_would_be_discarded_again_is_not_sent_before_a_person_looked() -> None:
    stopped = replace(reading(5, 2), discarded_as="meter_event_invalid_value")
    later = reading(1, piece=Slice(NOON + HOUR, NOON + 2 * HOUR))

    planned = plan(customer_meter(), [stopped, later], may_fall=False, now=NOON + 3 * HOUR)

    assert [one.value for one in planned.sends] == [1]
    [reason] = planned.stopped
    assert reason.startswith("Stripe took 3 units of 2026-07-15T12:00:00Z, and discarded them afterwards as")
    assert "report --stack NAME --customer cus_1 --accept` sends them once more" in reason
    accepted = plan(customer_meter(), [stopped, later], may_fall=False, now=NOON + 3 * HOUR, accepted=True)
    assert [one.value for one in accepted.sends] == [3, 1]
    assert accepted.stopped == []


@pytest.mark.parametrize("code", ["", "archived_meter", "timestamp_in_future"])
def test_what_may_be_taken_now_is_sent_again(code: str) -> None:
    planned = plan(
        customer_meter(), [replace(reading(5), discarded_as=code)], may_fall=False, now=NOON + 3 * HOUR
    )
    assert [one.value for one in planned.sends] == [5]
    assert planned.stopped == []


def test_nothing_is_stopped_that_is_not_missing() -> None:
    same = replace(reading(5, 5), discarded_as="meter_event_invalid_value")
    planned = plan(customer_meter(), [same], may_fall=False, now=NOON + 3 * HOUR)
    assert (planned.sends, planned.stopped) == ([], [])
