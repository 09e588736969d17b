"""What Stripe's invoices, summaries and events say of a span: its state, its usage, its price."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, span
from tests.layer.test_billing import METER_PATH, Stripe, draft, line
from tests.layer.test_customer_meters import STRIPE_METER, item, price, subscription
from usage_reporting.billing import Finalized
from usage_reporting.errors import RejectedError, StripeUnavailableError
from usage_reporting.invoices import draft_span, subscription_of
from usage_reporting.model import Span, SpanState, Target
from usage_reporting.windows import DAY, HOUR

Json = dict[str, Any]

SUMMARIES = f"{METER_PATH}/event_summaries"
ENDED = span(MONTH_START, NOON, state=SpanState.ENDED)
LATER = NOON + HOUR


def state_of(asked: Span, *invoices: Json, now: int = LATER) -> SpanState:
    stripe = Stripe()
    stripe.api.lists["/v1/invoices"] = [list(invoices)]
    found = stripe.run(stripe.billing.state_of(asked, now))
    assert replace(found, state=asked.state, deadline=None) == asked
    return found.state


def final(*lines: Json, **other: Any) -> Json:
    return draft(
        *lines,
        status="open",
        status_transitions={"finalized_at": NOON + HOUR},
        billing_reason="subscription_cycle",
        **other,
    )


# The state of an ended span


@pytest.mark.parametrize(
    ("state", "age", "expected"),
    [
        (SpanState.ENDED, 73 * HOUR, SpanState.CURRENT),
        (SpanState.ENDED, 73 * HOUR + 1, SpanState.FINAL),
        (SpanState.CANCELED, HOUR, SpanState.DROPPED),
    ],
)
def test_without_an_invoice_time_decides(state: SpanState, age: int, expected: SpanState) -> None:
    assert state_of(replace(ENDED, state=state), now=NOON + age) is expected


@pytest.mark.parametrize("state", [SpanState.CURRENT, SpanState.DRAFT, SpanState.BILLED])
def test_what_is_known_is_not_asked(state: SpanState) -> None:
    stripe = Stripe()

    assert stripe.run(stripe.billing.state_of(replace(ENDED, state=state), LATER)).state is state
    assert stripe.api.asked == []


def test_the_invoice_with_the_line_decides() -> None:
    renewal = final(line(end=NOON - 1))

    assert state_of(ENDED, draft(line())) is SpanState.DRAFT
    assert state_of(ENDED, final(line())) is SpanState.FINAL
    assert state_of(ENDED, renewal, draft(line(), created=NOON + 5)) is SpanState.DRAFT
    assert state_of(ENDED, draft(line(), created=NOON + 5), renewal) is SpanState.DRAFT


def test_else_the_first_renewal_does() -> None:
    first = final(line(end=NOON - 1))
    second = draft(line(end=NOON - 1), created=NOON + 5, billing_reason="subscription_cycle")
    other = draft(line(end=NOON - 1), billing_reason="subscription_update")

    assert state_of(ENDED, other, second, first) is SpanState.FINAL
    assert state_of(ENDED, other) is SpanState.CURRENT


def test_invoices_of_before_or_of_others_say_nothing() -> None:
    before = final(line(), created=NOON - 1)
    others = final(line(), parent={"subscription_details": {"subscription": "sub_2"}})

    assert state_of(ENDED, before, others) is SpanState.CURRENT
    assert state_of(ENDED, {"id": "in_9", "parent": before["parent"]}) is SpanState.CURRENT


def test_invoices_are_asked_for_from_the_end_on() -> None:
    stripe = Stripe()
    stripe.run(stripe.billing.state_of(ENDED, LATER))

    assert stripe.asked("/v1/invoices") == [{"subscription": "sub_1", "created": {"gte": NOON}}]


@pytest.mark.parametrize(
    ("finalized_at", "state"),
    [
        (NOON, SpanState.BILLED),
        (NOON + 59, SpanState.BILLED),
        (NOON + 60, SpanState.FINAL),
        (None, SpanState.FINAL),
    ],
)
def test_an_invoice_that_never_waited_billed_what_stripe_held(
    finalized_at: int | None, state: SpanState
) -> None:
    transitions = {"finalized_at": finalized_at}

    assert state_of(ENDED, draft(line(), status="paid", status_transitions=transitions)) is state
    assert state_of(ENDED, draft(line(), status="paid", status_transitions=None)) is SpanState.FINAL


def test_one_line_among_others_is_enough_and_a_proration_is_none() -> None:
    proration = line()
    proration["parent"]["subscription_item_details"]["proration"] = True

    assert state_of(ENDED, draft(line(item="si_2"), line())) is SpanState.DRAFT
    assert state_of(ENDED, draft(proration)) is SpanState.CURRENT


def test_the_deadline_is_that_of_the_draft() -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/invoices"] = [[draft(line(), automatically_finalizes_at=LATER)]]

    assert stripe.run(stripe.billing.state_of(ENDED, LATER)).deadline == LATER


def test_where_an_invoice_names_its_subscription() -> None:
    old: Json = {"parent": None, "subscription": {"id": "sub_1"}}

    assert subscription_of(draft()) == subscription_of(old) == "sub_1"
    assert subscription_of({}) == ""


def test_a_draft_span_of_an_item_that_came_in_during_the_period() -> None:
    def of(created: int, **invoice: Any) -> Span:
        added = item(created=created, current_period_start=MONTH_START)
        of_2 = subscription(start_date=MONTH_START - DAY, created=MONTH_START - 3 * DAY)
        return draft_span(draft(**invoice), line(start=NOON - DAY), of_2, added)

    assert of(NOON - DAY).first
    assert not of(NOON - DAY - 1).first
    assert not of(NOON).is_kept_open
    assert of(NOON, metadata={"usage_reporter_kept_open": "yes"}).is_kept_open
    over = draft_span(draft(), line(), subscription(cancel_at=NOON), item())
    assert (over.last, of(NOON).last) == (True, False)


@pytest.mark.parametrize(("late", "is_first"), [(0, True), (16, False), (60, False), (61, True)])
def test_an_item_that_a_schedule_put_on_at_a_renewal_was_not_added_whatever_period_it_is_in_now(
    late: int, is_first: bool
) -> None:
    """A schedule makes an item up to a minute late; `0`: its own time begins with it."""
    start = MONTH_START - DAY
    made = item(created=start + late, current_period_start=MONTH_START, current_period_end=MONTH_END)
    of_2 = subscription(start_date=start - DAY, created=start - DAY)

    assert draft_span(draft(), line(start=start), of_2, made).first is is_first


# Meters and summaries


def test_how_a_meter_is_fed() -> None:
    stripe = Stripe()
    stripe.api.objects["/v1/billing/meters/mtr_2"] = STRIPE_METER | {
        "default_aggregation": {"formula": "last"}
    }

    assert stripe.run(stripe.billing.stripe_meter("mtr_1")).event_name == "tokens"
    assert stripe.run(stripe.billing.target_of("mtr_1")) is Target.MIRROR
    assert stripe.run(stripe.billing.target_of("mtr_2")) is Target.LAST
    assert stripe.run(stripe.billing.target_of("")) is Target.USAGE_RECORD


def test_what_stripe_holds_is_the_sum_of_its_summaries() -> None:
    stripe = Stripe()
    pages = [["1.5", "2"], ["4"]]
    stripe.api.lists[SUMMARIES] = [[{"aggregated_value": value} for value in page] for page in pages]

    held = stripe.run(stripe.billing.usage_held("cus_1", "mtr_1", NOON + 59, NOON + 119))

    assert held == D("7.5")
    assert stripe.asked(SUMMARIES) == [{"customer": "cus_1", "start_time": NOON, "end_time": NOON + 60}]
    stripe.api.lists.clear()
    nothing = stripe.run(stripe.billing.usage_held("cus_1", "mtr_1", NOON, LATER))
    assert (nothing, type(nothing)) == (D(0), Decimal)


def test_what_stripe_holds_of_each_hour() -> None:
    stripe = Stripe()
    stripe.api.lists[SUMMARIES] = [
        [{"start_time": NOON, "aggregated_value": 1.5}],
        [{"start_time": LATER, "aggregated_value": "2"}],
    ]

    held = stripe.run(stripe.billing.hours_held("cus_1", "mtr_1", NOON, NOON + DAY))

    assert held == {NOON: D("1.5"), LATER: D(2)}
    assert all(type(value) is Decimal for value in held.values())
    assert stripe.asked(SUMMARIES) == [
        {
            "customer": "cus_1",
            "start_time": NOON,
            "end_time": NOON + DAY,
            "value_grouping_window": "hour",
        }
    ]


def test_bounds_that_were_billed() -> None:
    stripe = Stripe()
    other = line(price="price_other", start=NOON + 3, end=NOON + 4)
    credit = {"period": {"start": NOON + 5, "end": NOON + 6}}
    found = [draft(line()), draft(line(start=NOON, end=NOON + 2), other, credit)]
    stripe.api.lists["/v1/invoices"] = [found]
    for name, meter in (("price_1", "mtr_1"), ("price_other", "mtr_other")):
        recurring = {"usage_type": "metered", "meter": meter}
        stripe.api.objects[f"/v1/prices/{name}"] = price(id=name, recurring=recurring)

    edges = stripe.run(stripe.billing.bounds_billed("cus_1", "mtr_1", MONTH_START))

    assert edges == {NOON, NOON + 2}, "what another meter's prices bill does not cut this one's usage"
    assert stripe.asked("/v1/invoices") == [{"customer": "cus_1", "created": {"gte": MONTH_START}}]

    swapped = {("sub_1", NOON), ("sub_2", NOON + 2)}
    assert stripe.run(stripe.billing.bounds_billed("cus_1", "mtr_1", MONTH_START, swapped)) == {NOON + 2}


def test_final_invoices_are_listed_by_their_events() -> None:
    stripe = Stripe()

    def event(name: str, invoice: str) -> Json:
        return {"id": name, "livemode": True, "data": {"object": {"id": invoice, "object": "invoice"}}}

    stripe.api.lists["/v1/events"] = [[event("evt_1", "in_1"), event("evt_2", "in_2")], []]

    assert stripe.all(stripe.billing.finalized(NOON, "evt_0")) == [
        Finalized("live", ["in_1", "in_2"], "evt_2")
    ]
    assert stripe.asked("/v1/events") == [
        {"type": "invoice.finalized", "created": {"gte": NOON}, "starting_after": "evt_0"}
    ]
    stripe.all(stripe.billing.finalized(NOON))
    assert "starting_after" not in stripe.asked("/v1/events")[1]


def test_invoices_come_with_all_their_lines() -> None:
    stripe = Stripe()
    first = {"id": "in_1", "lines": {"data": [{**line(), "id": "il_1"}], "has_more": True}}
    stripe.api.lists["/v1/invoices"] = [[first], [{"id": "in_2", "lines": {"data": []}}]]
    stripe.api.lists["/v1/invoices/in_1/lines"] = [[{**line(), "id": "il_2"}]]

    found = stripe.all(stripe.billing.invoices({"subscription": "sub_1"}))

    assert [[one["id"] for one in invoice["lines"]["data"]] for invoice in found] == [["il_1", "il_2"], []]
    assert stripe.asked("/v1/invoices") == [{"subscription": "sub_1"}]


def test_a_preview_is_none_only_where_no_invoice_is_to_come() -> None:
    stripe, path = Stripe(), "/v1/invoices/create_preview"
    stripe.api.objects[path] = {"id": "upcoming_in_1"}
    assert stripe.run(stripe.billing.preview("sub_1")) == {"id": "upcoming_in_1"}
    assert stripe.asked(path) == [{"subscription": "sub_1"}]

    stripe.api.failing[path] = RejectedError("none to come", code="invoice_upcoming_none")
    assert stripe.run(stripe.billing.preview("sub_1")) is None

    stripe.api.failing[path] = RejectedError("another reason", code="parameter_missing")
    with pytest.raises(RejectedError, match="another reason"):
        stripe.run(stripe.billing.preview("sub_1"))


def test_all_subscriptions_of_a_customer_are_listed_also_those_that_are_over() -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/subscriptions"] = [[{"id": "sub_2"}], [{"id": "sub_1"}]]

    assert [one["id"] for one in stripe.all(stripe.billing.subscriptions_of("cus_1"))] == ["sub_2", "sub_1"]
    assert stripe.asked("/v1/subscriptions") == [{"customer": "cus_1", "status": "all"}]


# Prices that were taken off


def updated(at: int, old: list[Json] | None, new: list[Json], subscription: str = "sub_1") -> Json:
    previous = {} if old is None else {"items": {"data": old}}
    current = {"id": subscription, "items": {"data": new}}
    return {"created": at, "data": {"object": current, "previous_attributes": previous}}


OURS = item(price=price())
OTHERS = item(price=price(id="price_2"))


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        (updated(NOON, [OURS], [OTHERS]), True),
        (updated(NOON, [OURS], []), True),
        (updated(NOON, [OURS], [OURS]), False),
        (updated(NOON, [OTHERS], []), False),
        (updated(NOON, [item(id="si_2", price=price())], []), False),
        (updated(NOON, None, []), False),
        (updated(NOON, [OURS], [OTHERS], "sub_2"), False),
        ({"created": NOON}, False),
    ],
)
def test_events_say_when_an_item_left_its_price(event: Json, changed: bool) -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/events"] = [[event]]

    at = stripe.run(stripe.billing.price_changes.left_at(span(), MONTH_START, LATER))

    assert at == (NOON if changed else LATER)
    assert stripe.asked("/v1/events") == [
        {"type": "customer.subscription.updated", "created": {"gte": MONTH_START}}
    ]


def test_a_change_of_price_lies_not_in_the_future() -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/events"] = [[updated(LATER + 5, [OURS], [])]]

    assert stripe.run(stripe.billing.price_changes.left_at(span(), NOON, LATER)) == LATER


@pytest.mark.parametrize("pages", [9, 10, 99, 100])
def test_so_many_pages_of_events_are_read(pages: int, caplog: pytest.LogCaptureFixture) -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/events"] = [[]] * pages + [[updated(NOON, [OURS], [OTHERS])]]

    left_at = stripe.run(stripe.billing.price_changes.left_at(span(), MONTH_START, LATER))
    assert left_at == (NOON if pages < 100 else LATER)
    assert ("newest 10000 subscription updates" in caplog.text) is (pages == 100)

    found = stripe.run(stripe.billing.price_changes.swaps(MONTH_START, NOON))
    assert [swap.at for swap in found] == ([NOON] if pages < 10 else [])
    assert ("newest 1000 subscription updates" in caplog.text) is (pages >= 10)


@pytest.mark.parametrize("error", [RejectedError("no"), StripeUnavailableError("down")])
def test_without_events_the_change_is_now(error: Exception) -> None:
    stripe = Stripe()
    stripe.api.failing["/v1/events"] = error

    assert stripe.run(stripe.billing.price_changes.left_at(span(), MONTH_START, LATER)) == LATER
    with pytest.raises(type(error)):
        stripe.run(stripe.billing.price_changes.swaps(MONTH_START, NOON))


def test_one_reading_of_swaps_serves_all_that_were_seen_before_it() -> None:
    stripe = Stripe()
    stripe.api.lists["/v1/events"] = [[updated(NOON, [OURS], [OTHERS])]]

    def swapped(since: int, seen_at: int) -> int:
        assert [swap.at for swap in stripe.run(stripe.billing.price_changes.swaps(since, seen_at))] == [NOON]
        return len(stripe.asked("/v1/events"))

    assert swapped(NOON - 90, NOON) == 1
    assert stripe.asked("/v1/events")[0]["created"] == {"gte": NOON - HOUR}
    assert swapped(NOON - HOUR, NOON) == 1
    assert swapped(NOON - HOUR - 1, NOON) == 2
    assert swapped(NOON, NOON + 1) == 3, "seen after it was read"
    swapped(NOON - DAY - 1, NOON)
    midnight = NOON - NOON % DAY
    assert stripe.asked("/v1/events")[-1]["created"] == {"gte": midnight - DAY}
