"""What Stripe's events say about prices that changed in a period."""

from __future__ import annotations

from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, span
from usage_reporting.model import SpanState
from usage_reporting.swaps import Swap, parts, swaps_of, within
from usage_reporting.windows import DAY

Json = dict[str, Any]


def item(price: str, item: str = "si_1", start: int = MONTH_START) -> Json:
    return {
        "id": item,
        "price": {"id": price},
        "current_period_start": start,
        "current_period_end": MONTH_END,
    }


def event(old: list[Json], new: list[Json], at: int = NOON, **previous: Any) -> Json:
    return {
        "created": at,
        "data": {
            "object": {"id": "sub_1", "items": {"data": new}},
            "previous_attributes": {"items": {"data": old}, **previous},
        },
    }


def swap(at: int, old: str = "price_1", new: str = "price_2", **other: Any) -> Swap:
    return Swap(at, "sub_1", "si_1", old, new, **other)


def test_a_price_in_place_of_another() -> None:
    assert swaps_of(event([item("price_1")], [item("price_2")])) == [swap(NOON)]


def test_an_item_that_was_removed() -> None:
    assert swaps_of(event([item("price_1")], [item("price_2", "si_2")])) == [swap(NOON, new="")]


def test_a_price_that_came_with_a_new_period() -> None:
    moved = item("price_2", start=MONTH_END)

    assert swaps_of(event([item("price_1")], [moved])) == [swap(NOON, begins=MONTH_END)]


def test_periods_on_the_subscription_itself() -> None:
    """As they stood before API 2025-03-31.basil."""
    old, new = {"id": "si_1", "price": {"id": "price_1"}}, {"id": "si_1", "price": {"id": "price_2"}}
    still = event([old], [new])
    still["data"]["object"].update(current_period_start=MONTH_START, current_period_end=MONTH_END)
    moved = event([old], [new], current_period_start=MONTH_START - DAY)
    moved["data"]["object"].update(current_period_start=MONTH_START, current_period_end=MONTH_END)

    assert swaps_of(still) == [swap(NOON)]
    assert swaps_of(moved) == [swap(NOON, begins=MONTH_START)]


@pytest.mark.parametrize(
    "other",
    [
        event([item("price_1")], [item("price_1")]),
        {"created": NOON, "data": {"object": {"id": "sub_1"}, "previous_attributes": {"metadata": {}}}},
        {"created": NOON, "data": {"object": {"id": "sub_1"}}},
    ],
)
def test_other_updates(other: Json) -> None:
    assert swaps_of(other) == []


def test_only_what_happened_to_the_item_in_the_span_counts() -> None:
    inside = [swap(NOON + DAY), swap(NOON)]
    outside = [
        swap(MONTH_START),
        swap(MONTH_END),
        swap(NOON - DAY),
        Swap(NOON, "sub_2", "si_1", "price_1", "price_2"),
        Swap(NOON, "sub_1", "si_2", "price_1", "price_2"),
        swap(NOON, begins=MONTH_START),
    ]

    assert within(span(), [*inside, *outside], NOON) == [swap(NOON), swap(NOON + DAY)]


def test_a_span_is_cut_where_its_price_changed() -> None:
    swaps = [swap(NOON), swap(NOON + DAY, "price_2", "price_1")]

    assert parts(span(), swaps) == [
        span(MONTH_START, NOON, state=SpanState.BILLED),
        span(NOON, NOON + DAY, price="price_2", state=SpanState.BILLED),
        span(NOON + DAY, MONTH_END),
    ]


def test_what_was_used_in_a_pause_is_free() -> None:
    resumed = event([], [item("price_1")], status="paused")
    del resumed["data"]["previous_attributes"]["items"]
    resumed["data"]["object"]["status"] = "active"

    [found] = swaps_of(resumed)

    assert found == swap(NOON, new="price_1", is_resumption=True)
    assert parts(span(), [found]) == [span(MONTH_START, NOON, state=SpanState.FREE), span(NOON)]


def test_classic_mode_drops_what_was_before() -> None:
    one = span(when_left=SpanState.DROPPED)

    assert parts(one, [swap(NOON)])[0].state is SpanState.DROPPED


def test_nothing_goes_on_after_a_removal_or_into_a_new_period() -> None:
    billed = [span(MONTH_START, NOON, state=SpanState.BILLED)]

    assert parts(span(), [swap(NOON, new="")]) == billed
    assert parts(span(), [swap(NOON, begins=NOON)]) == billed
    assert parts(span(), []) == []


def test_a_swap_in_the_first_second_of_a_span_is_that_which_began_it() -> None:
    began, later = swap(MONTH_START), swap(MONTH_START + 1)

    assert within(span(), [began, later], MONTH_START - DAY) == [later]
    assert within(span(), [began, later], MONTH_START + 2) == []


def test_two_swaps_in_one_second_leave_no_empty_part() -> None:
    draft = span(deadline=NOON, state=SpanState.ENDED)
    found = parts(draft, [swap(NOON), swap(NOON, "price_2", "price_3")])

    assert [(one.start, one.end, one.price) for one in found] == [
        (MONTH_START, NOON, "price_1"),
        (NOON, MONTH_END, "price_3"),
    ]
    assert [(one.deadline, one.state) for one in found] == [
        (None, SpanState.BILLED),
        (None, SpanState.CURRENT),
    ]


def test_an_item_that_kept_its_price_hides_no_other() -> None:
    both = event([item("price_1"), item("price_1", "si_2")], [item("price_1"), item("price_2", "si_2")])

    assert [one.item for one in swaps_of(both)] == ["si_2"]


def test_an_event_without_names_is_of_nothing() -> None:
    nameless: Json = {
        "created": NOON,
        "data": {"object": {}, "previous_attributes": {"items": {"data": [{"price": None}]}}},
    }

    assert swaps_of(nameless) == [Swap(NOON, "", "", "", "")]
