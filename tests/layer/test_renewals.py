"""What an event says about ended periods: both payload shapes, and every update that ends none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layer.builders import MONTH_END, MONTH_START
from usage_reporting.errors import BadRequestError
from usage_reporting.renewals import (
    DELETED,
    HANDLED,
    UPDATED,
    EndedPeriod,
    ended_periods,
    parse,
    paused_at,
    resumed_at,
    subscription_id,
    taken_off,
)
from usage_reporting.windows import DAY

NEXT_END = MONTH_END + 30 * DAY

Json = dict[str, Any]


def item(item_id: str = "si_1", start: int | None = None, end: int | None = None, **other: Any) -> Json:
    """A subscription item; the periods only stand on it since API 2025-03-31.basil."""
    price = {
        "id": "price_1",
        "product": "prod_1",
        "metadata": {},
        "recurring": {"usage_type": "metered", "meter": "mtr_1", "interval": "month"},
    }
    periods = {} if start is None else {"current_period_start": start, "current_period_end": end}
    return {"id": item_id, "object": "subscription_item", "metadata": {}, "price": price, **periods, **other}


def listed(*items: Json) -> Json:
    return {"object": "list", "data": list(items), "has_more": False}


def event(previous: Any, *items: Json, **subscription: Any) -> Json:
    held = {"id": "sub_1", "object": "subscription", "items": listed(*items), **subscription}
    return {"type": UPDATED, "data": {"object": held, "previous_attributes": previous}}


def old(item_id: str = "si_1", **other: Any) -> Json:
    return item(item_id, MONTH_START, MONTH_END, **other)


def new(item_id: str = "si_1", **other: Any) -> Json:
    return item(item_id, MONTH_END, NEXT_END, **other)


def found(sent: Json) -> list[tuple[str | None, int, int]]:
    return [
        (period.item["id"] if period.item else None, period.start, period.end)
        for period in ended_periods(sent)
    ]


def test_a_renewal_with_the_periods_on_the_items() -> None:
    sent = event({"items": listed(old()), "latest_invoice": "in_old"}, new())

    assert ended_periods(sent) == [EndedPeriod(MONTH_START, MONTH_END, old())]


def test_a_renewal_with_the_period_on_the_subscription() -> None:
    previous = {
        "current_period_start": MONTH_START,
        "current_period_end": MONTH_END,
        "latest_invoice": "in_old",
    }
    sent = event(previous, item(), current_period_start=MONTH_END, current_period_end=NEXT_END)

    assert ended_periods(sent) == [EndedPeriod(MONTH_START, MONTH_END, None)]


def test_an_older_renewal_that_changed_items_too_names_the_old_items() -> None:
    previous = {
        "current_period_start": MONTH_START,
        "current_period_end": MONTH_END,
        "items": listed(item("si_1"), item("si_gone")),
    }
    sent = event(previous, item("si_1"), current_period_start=MONTH_END, current_period_end=NEXT_END)

    assert found(sent) == [("si_1", MONTH_START, MONTH_END), ("si_gone", MONTH_START, MONTH_END)]


SWAPPED = {"price": {**item()["price"], "id": "price_2"}}


@pytest.mark.parametrize(
    ("start", "now_on", "left"),
    [
        (MONTH_START + DAY, SWAPPED, True),
        (MONTH_START + DAY, {}, False),
        (MONTH_END, SWAPPED, False),
    ],
    ids=["swapped in mid-period", "anchor reset", "swapped at the renewal"],
)
def test_a_price_leaves_with_a_period_that_is_cut_short(start: int, now_on: Json, left: bool) -> None:
    on_items = event({"items": listed(old())}, item("si_1", start, NEXT_END, **now_on))
    periods = {"current_period_start": MONTH_START, "current_period_end": MONTH_END}
    on_subscription = event(
        {**periods, "items": listed(item())},
        item(**now_on),
        current_period_start=start,
        current_period_end=NEXT_END,
    )

    for sent in (on_items, on_subscription):
        [period] = ended_periods(sent)
        assert (period.end, period.price_left) == (start, left)


def test_mixed_intervals_only_the_items_that_renewed() -> None:
    year_end = MONTH_START + 365 * DAY
    yearly = item("si_y", MONTH_START, year_end)
    sent = event({"items": listed(old("si_m"), yearly)}, new("si_m"), yearly)

    assert found(sent) == [("si_m", MONTH_START, MONTH_END)]


@pytest.mark.parametrize("on_items", [True, False])
def test_a_reset_anchor_ends_the_period_early(on_items: bool) -> None:
    reset = MONTH_START + 9 * DAY + 5
    if on_items:
        sent = event({"items": listed(old())}, item("si_1", reset, reset + 31 * DAY))
        assert found(sent) == [("si_1", MONTH_START, reset)]
    else:
        previous = {"current_period_start": MONTH_START, "current_period_end": MONTH_END}
        sent = event(previous, item(), current_period_start=reset, current_period_end=reset + 31 * DAY)
        assert found(sent) == [(None, MONTH_START, reset)]


def test_a_period_never_ends_later_than_it_was_to() -> None:
    later = MONTH_END + 3 * DAY
    sent = event({"items": listed(old())}, item("si_1", later, later + 31 * DAY))

    assert found(sent) == [("si_1", MONTH_START, MONTH_END)]


def test_an_item_removed_at_the_renewal_ended_with_its_siblings() -> None:
    sent = event({"items": listed(old("si_1"), old("si_gone"))}, new("si_1"))

    assert found(sent) == [("si_1", MONTH_START, MONTH_END), ("si_gone", MONTH_START, MONTH_END)]


def test_a_price_swapped_at_the_renewal_is_named_by_the_old_item() -> None:
    swapped = {**item()["price"], "id": "price_2"}
    sent = event({"items": listed(old())}, new(price=swapped))

    [period] = ended_periods(sent)

    assert period.item is not None
    assert period.item["price"]["id"] == "price_1"


def test_the_end_of_a_trial_is_the_end_of_a_period() -> None:
    sent = event({"items": listed(old()), "status": "trialing"}, new(), status="active")

    assert found(sent) == [("si_1", MONTH_START, MONTH_END)]


def test_an_older_payload_without_its_end_ends_where_the_next_begins() -> None:
    sent = event({"current_period_start": MONTH_START}, item(), current_period_start=MONTH_END)

    assert found(sent) == [(None, MONTH_START, MONTH_END)]


@pytest.mark.parametrize(
    "sent",
    [
        event(None, old()),
        event({}, old()),
        event({"metadata": {"a": "1"}}, old()),
        event({"status": "past_due"}, old(), status="active"),
        event({"status": "incomplete"}, old(), status="active"),
        event({"cancel_at_period_end": False}, old(), cancel_at_period_end=True),
        event({"cancel_at": None, "canceled_at": None}, old(), cancel_at=MONTH_END),
        event({"discount": None, "discounts": []}, old(), discounts=["di_1"]),
        event({"pause_collection": None}, old(), pause_collection={"behavior": "void"}),
        event({"default_payment_method": "pm_1"}, old()),
        event({"latest_invoice": "in_old"}, old()),
        event({"items": listed(old(quantity=1))}, old(quantity=2)),
        event({"items": listed(old(price={**item()["price"], "id": "price_0"}))}, old()),
        event({"items": listed(old())}, old(), old("si_added")),
        event({"items": listed(old(), old("si_gone"))}, old()),
        event({"items": listed(item(quantity=1))}, item(quantity=2), current_period_start=MONTH_START),
        event({"current_period_end": MONTH_END}, item(), current_period_start=MONTH_START),
        event({"trial_end": MONTH_END, "items": listed(old())}, item("si_1", MONTH_START, NEXT_END)),
        event({"items": listed(old())}, item("si_1", MONTH_START - DAY, MONTH_END)),
        event({"current_period_start": MONTH_START}, item(), current_period_start=MONTH_START),
        event({"current_period_start": MONTH_END}, item(), current_period_start=MONTH_START),
        event({"current_period_start": None}, item(), current_period_start=MONTH_START),
        event({"current_period_start": True}, item(), current_period_start=MONTH_START),
        event({"current_period_start": "1"}, item(), current_period_start=MONTH_START),
        event({"items": listed(item("si_1", MONTH_END, MONTH_START))}, new()),
        event({"items": listed(item("si_1", 2**40, 2**41))}, new()),
        event({"items": listed()}, new()),
    ],
)
def test_other_updates_end_no_period(sent: Json) -> None:
    assert ended_periods(sent) == []


@pytest.mark.parametrize(
    "sent",
    [
        {"type": UPDATED},
        {"type": UPDATED, "data": None},
        {"type": UPDATED, "data": []},
        {"type": UPDATED, "data": {"object": "sub_1"}},
        event(5, new()),
        event([1], new()),
        event({"items": None}, new()),
        event({"items": {"data": {}}}, new()),
        event({"items": {"data": [5]}}, new()),
        event({"items": listed(old(id=None))}, new()),
        event({"items": listed(old(id="si_1/../x"))}, new()),
        event({"items": listed(old(id="si_1" * 100))}, new()),
        event({"items": listed(old(price="price_1"))}, new()),
        event({"items": listed(old(price={"id": "price/1"}))}, new()),
        event({"items": listed(old(price={"id": "price_1", "recurring": 5}))}, new()),
        event({"items": listed(old(price={"id": "price_1", "recurring": {"meter": "a b"}}))}, new()),
        event({"items": listed(old(price={"id": "price_1", "product": {"name": "x"}}))}, new()),
        event({"items": listed(old(price={"id": "price_1", "product": 5}))}, new()),
        event({"items": listed(old(price={"id": "price_1", "metadata": {"om_meter_id": 1}}))}, new()),
        event({"items": listed(old(metadata={"om_meter_id": ["m1"]}))}, new()),
        event({"items": listed(old(metadata="m1"))}, new()),
        event({"items": listed(old(price=None))}, new()),
        event({"items": listed(old())}, items=None),
    ],
)
def test_what_stripe_never_sends_is_a_bad_request(sent: Json) -> None:
    with pytest.raises(BadRequestError):
        ended_periods(sent)


def test_expanded_or_absent_parts_of_a_price_are_fine() -> None:
    price = {"id": "price_1", "product": {"id": "prod_1"}, "recurring": None}
    sent = event({"items": listed(old(price=price, metadata=None))}, new(price={"id": "price_1"}))

    assert found(sent) == [("si_1", MONTH_START, MONTH_END)]


def test_an_old_item_may_come_without_its_price() -> None:
    sent = event({"items": listed({k: v for k, v in old().items() if k != "price"})}, {**new()})

    assert found(sent) == [("si_1", MONTH_START, MONTH_END)]


def test_the_subscription_of_an_event() -> None:
    assert subscription_id(event({}, new())) == "sub_1"


@pytest.mark.parametrize(
    "bad", [None, 5, "", "cus_1", "sub_", "sub_1/items", "sub_1?x=1", "sub_" + "a" * 251]
)
def test_another_id_is_no_subscription(bad: object) -> None:
    with pytest.raises(BadRequestError, match="not the id of a subscription"):
        subscription_id(event({}, new(), id=bad))


def test_the_events_that_may_end_a_period() -> None:
    assert {UPDATED, DELETED} <= HANDLED
    assert parse(b'{"type": "invoice.paid"}') == {"type": "invoice.paid"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"5",
        b"[]",
        b'"x"',
        b"{}",
        b'{"type": 5}',
        b"\xff",
        b"[" * 200_000,
        b"1e999999999999999999",
    ],
)
def test_a_body_that_is_no_event_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse(body)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
periods = st.sampled_from([None, True, 0, -1, 1.5, "1", MONTH_START, MONTH_END, NEXT_END, 2**33, 2**70])
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
near_prices = anything | st.fixed_dictionaries(
    {"id": st.just("price_1") | anything},
    optional={"recurring": anything, "product": anything, "metadata": anything},
)
near_items = anything | st.fixed_dictionaries(
    {"id": st.sampled_from(["si_1", "si_2"]) | anything, "price": near_prices},
    optional={
        "metadata": anything,
        "current_period_start": periods | anything,
        "current_period_end": periods | anything,
    },
)
near_lists = anything | st.fixed_dictionaries({"data": anything | st.lists(near_items, max_size=3)})
near_subscriptions = anything | st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("sub_1") | anything,
        "items": near_lists,
        "current_period_start": periods | anything,
        "current_period_end": periods | anything,
    },
)
near_data = anything | st.fixed_dictionaries(
    {}, optional={"object": near_subscriptions, "previous_attributes": near_subscriptions}
)
near_events = anything | st.fixed_dictionaries(
    {"type": st.just(UPDATED) | anything}, optional={"data": near_data, "account": anything}
)


@settings(max_examples=400)
@given(near_events)
def test_no_json_raises_anything_but_a_bad_request(sent: Any) -> None:
    try:
        read = parse(json.dumps(sent).encode())
        subscription_id(read)
        ended = [*ended_periods(read), *taken_off(read)]
        assert paused_at(read) is None or resumed_at(read) is None
    except BadRequestError:
        return
    assert all(0 < period.start < period.end < 2**33 for period in ended)
    assert all(period.item is None or isinstance(period.item["price"]["id"], str) for period in ended)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse(body)


starts = st.integers(MONTH_START, MONTH_START + 5)


@given(starts, st.integers(1, 5), st.integers(MONTH_START, MONTH_START + 12))
def test_a_period_ended_only_if_a_later_one_began(start: int, length: int, next_start: int) -> None:
    sent = event(
        {"items": listed(item("si_1", start, start + length))}, item("si_1", next_start, next_start + DAY)
    )

    expected = [("si_1", start, min(start + length, next_start))] if next_start > start else []
    assert found(sent) == expected


AT = MONTH_START + 9 * DAY


def on_meter(item_id: str, meter: str, price: str = "price_1") -> Json:
    recurring = {"usage_type": "metered", "meter": meter, "interval": "month"}
    named = {"id": price, "product": "prod_1", "metadata": {}, "recurring": recurring}
    return old(item_id, price=named)


def gone(sent: Json) -> list[tuple[str, int, int]]:
    return [(period.item["id"], period.start, period.end) for period in taken_off(sent) if period.item]


def changed(previous: list[Json], *now: Json, at: Any = AT, **other: Any) -> Json:
    return {**event({"items": listed(*previous)}, *now, **other), "created": at}


def test_the_only_item_on_its_meter_was_taken_off() -> None:
    before = [on_meter("si_1", "mtr_1"), on_meter("si_2", "mtr_2")]
    assert gone(changed(before, before[1])) == [("si_1", MONTH_START, AT)]
    swapped = on_meter("si_1", "mtr_3", "price_3")
    assert gone(changed(before, swapped, before[1])) == [("si_1", MONTH_START, AT)]


def test_an_older_payload_has_the_period_on_the_subscription() -> None:
    before = item("si_1")
    period = {"current_period_start": MONTH_START, "current_period_end": MONTH_END}
    assert gone(changed([before], **period)) == [("si_1", MONTH_START, AT)]


@pytest.mark.parametrize(
    "sent",
    [
        changed([on_meter("si_1", "mtr_1")], on_meter("si_2", "mtr_1", "price_2")),
        changed([on_meter("si_1", "mtr_1")], on_meter("si_1", "mtr_1", "price_2")),
        changed([old(price={"id": "price_1", "recurring": {"usage_type": "licensed"}})]),
        changed([old(price={"id": "price_1"})]),
        changed([on_meter("si_1", "mtr_1")], at=MONTH_END),
        changed([on_meter("si_1", "mtr_1")], at=MONTH_START),
        changed([on_meter("si_1", "mtr_1")], at=None),
        changed([on_meter("si_1", "mtr_1")], at="soon"),
        {**event({"metadata": {}}, old()), "created": AT},
        {**event(None, old()), "created": AT},
    ],
)
def test_nothing_was_taken_off(sent: Json) -> None:
    assert taken_off(sent) == []


@pytest.mark.parametrize(
    ("before", "now", "paused", "resumed"),
    [
        ("active", "paused", AT, None),
        ("trialing", "paused", AT, None),
        ("paused", "active", None, AT),
        ("paused", "past_due", None, AT),
        ("paused", "paused", None, None),
        ("trialing", "active", None, None),
        (None, "paused", None, None),
        (None, "active", None, None),
    ],
)
def test_a_pause_begins_or_ends(
    before: str | None, now: str, paused: int | None, resumed: int | None
) -> None:
    sent = {**event({"status": before} if before else {}, old(), status=now), "created": AT}

    assert (paused_at(sent), resumed_at(sent)) == (paused, resumed)
