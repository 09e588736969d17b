"""The target for legacy prices: one record a period, complete before Stripe closes its door."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, legacy, span
from usage_reporting.errors import RefusedError
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.targets.usage_record import cuts_to_keep, measured_span, readable_until, send, stamp_of
from usage_reporting.windows import DAY, HOUR, MINUTE

END = MONTH_END - 30 * MINUTE


def test_what_is_measured_lies_half_an_hour_earlier() -> None:
    odd = span(MONTH_START + 17, MONTH_END + 17)

    assert measured_span(odd) == (MONTH_START - 30 * MINUTE, MONTH_END - 30 * MINUTE)


def test_the_first_period_starts_where_it_starts() -> None:
    first = span(MONTH_START + 17, MONTH_END + 17, first=True)

    assert measured_span(first) == (MONTH_START + 17, MONTH_END - 30 * MINUTE)


@pytest.mark.parametrize("first", [MONTH_START, MONTH_START - 10 * MINUTE])
def test_no_period_reaches_back_before_a_first_start(first: int) -> None:
    begun = span(first, MONTH_END, item="si_2", first=True)

    assert measured_span(span(), others=[begun])[0] == first


def test_a_later_first_start_changes_nothing_of_a_period() -> None:
    later = span(MONTH_START + 1, MONTH_END, item="si_2", first=True)

    assert measured_span(span(), others=[later]) == (MONTH_START - 30 * MINUTE, END)


def test_a_period_shorter_than_the_door_is_empty() -> None:
    assert measured_span(span(end=MONTH_START + 10 * MINUTE, first=True)) == (MONTH_START, MONTH_START)


def test_a_renewal_is_rounded_to_the_window_and_a_last_end_to_the_minute() -> None:
    odd = MONTH_END + 17

    assert measured_span(span(end=odd), PeriodBounds.HOUR)[1] == MONTH_END - HOUR
    assert measured_span(span(end=odd, last=True), PeriodBounds.HOUR)[1] == END


def test_a_cut_that_was_told_is_kept_unless_the_period_turned_out_to_be_the_last() -> None:
    def end(kept: int, *, is_last: bool) -> int:
        return measured_span(span(last=is_last), kept={MONTH_END: kept})[1]

    assert end(MONTH_END - HOUR, is_last=False) == MONTH_END - HOUR
    assert end(MONTH_END - HOUR, is_last=True) == END
    assert end(MONTH_END - MINUTE, is_last=True) == MONTH_END - MINUTE
    assert measured_span(span(last=True)) == (MONTH_START - 30 * MINUTE, END)


def test_cuts_are_kept_once_they_have_passed() -> None:
    begun = {MONTH_START: MONTH_START - 30 * MINUTE}

    assert cuts_to_keep(span(), measured_span(span()), END - 1) == begun
    assert cuts_to_keep(span(), measured_span(span()), END) == {**begun, MONTH_END: END}


@given(st.lists(st.integers(2 * HOUR, 40 * DAY), min_size=2, max_size=5), st.integers(0, DAY))
def test_the_measured_times_follow_each_other_without_gap(lengths: list[int], offset: int) -> None:
    start, spans = MONTH_START + offset, []
    for number, length in enumerate(lengths):
        spans.append(span(start, start + length, first=number == 0))
        start += length
    measured = [measured_span(one) for one in spans]

    assert measured[0][0] == spans[0].start
    assert all(left[1] == right[0] for left, right in itertools.pairwise(measured))
    assert all(begin < end for begin, end in measured)
    assert all(one.end - end >= 30 * MINUTE for one, (_, end) in zip(spans, measured, strict=True))


@pytest.mark.parametrize(
    ("now", "until"),
    [
        (NOON + 5 * MINUTE, NOON),
        (NOON + 20 * MINUTE + 5, NOON + 19 * MINUTE),
        (MONTH_END - 30 * MINUTE - 1, MONTH_END - 32 * MINUTE),
        (MONTH_END - 30 * MINUTE, MONTH_END - 30 * MINUTE),
        (MONTH_END + DAY, MONTH_END - 30 * MINUTE),
    ],
)
def test_a_period_is_read_up_to_what_is_settled_and_at_last_to_its_end(now: int, until: int) -> None:
    assert readable_until(END, now) == until


def test_an_operator_may_read_the_young_hour() -> None:
    assert readable_until(END, NOON + 5 * MINUTE, eager=True) == NOON + 4 * MINUTE


def test_one_instant_for_ever() -> None:
    assert stamp_of(span()) == MONTH_START + 1


def test_a_record_sets_the_whole_number() -> None:
    made = send(legacy(), span(), D("10.5"), 4, rounding="half_up", now=NOON)

    assert made.value == 11
    assert (made.stamp, made.slice_start, made.intended_at) == (MONTH_START + 1, MONTH_START, NOON)
    item, start, sequence, digest = made.identifier.split(".")
    assert (item, start, sequence, len(digest)) == ("si_1", str(MONTH_START), "4", 16)
    assert digest == "83b8e586bdbf0676", "the same in every release"


def test_an_equal_record_of_another_instant_is_another_fact() -> None:
    made = [send(legacy(), span(), D(10), 4, rounding="half_up", now=now) for now in (NOON, NOON + 1)]

    assert made[0].identifier != made[1].identifier


@pytest.mark.parametrize(("rounding", "quantity"), [("half_up", 3), ("down", 2), ("up", 3)])
def test_rounding_modes(rounding: str, quantity: int) -> None:
    assert send(legacy(), span(), D("2.5"), 0, rounding=rounding, now=NOON).value == quantity


def test_another_fact_has_another_identifier() -> None:
    def named(total: str = "1", sequence: int = 0, start: int = MONTH_START) -> str:
        return send(legacy(), span(start), D(total), sequence, rounding="half_up", now=NOON).identifier

    assert named() == named("1.2")
    assert len({named(), named("2"), named(sequence=1), named(start=MONTH_START + 1)}) == 4


@pytest.mark.parametrize("total", ["-1", "NaN", "Infinity"])
def test_a_total_that_cannot_be_billed_is_refused(total: str) -> None:
    with pytest.raises(RefusedError, match="cannot be billed"):
        send(legacy(), span(), D(total), 0, rounding="down", now=NOON)
