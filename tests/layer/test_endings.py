"""Which customer meters an event closes: what renewed, left, was paused, went on or is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON
from tests.layer.test_billing import Stripe, draft, line, mapped, spans, subscribed
from tests.layer.test_customer_meters import STRIPE_METER, price
from usage_reporting.endings import AHEAD, LOOKED_BACK, Endings
from usage_reporting.errors import BadRequestError, NotFoundError, RejectedError, StripeUnavailableError
from usage_reporting.model import CustomerMeter, SpanState
from usage_reporting.windows import DAY, HOUR

Json = dict[str, Any]

BEFORE = MONTH_START - 30 * DAY


def stage(**other: Any) -> Stripe:
    stripe = Stripe()
    stripe.api.objects["/v1/subscriptions/sub_1"] = subscribed(**other)
    stripe.api.objects["/v1/customers/cus_1"] = {"id": "cus_1"}
    stripe.api.objects["/v1/products/prod_1"] = {}
    stripe.api.objects["/v1/billing/meters/mtr_9"] = {**STRIPE_METER, "id": "mtr_9"}
    return stripe


def updated(previous: Json, now: Json | None = None, **other: Any) -> Json:
    return {
        "id": "evt_1",
        "type": "customer.subscription.updated",
        "created": NOON,
        "data": {"object": now or subscribed(), "previous_attributes": previous},
        **other,
    }


def deleted() -> Json:
    return {
        "id": "evt_2",
        "type": "customer.subscription.deleted",
        "created": NOON,
        "data": {"object": subscribed(ended_at=NOON)},
    }


def of(stripe: Stripe, event: Json) -> list[CustomerMeter] | None:
    return stripe.run(Endings(stripe.billing, stripe.clock).of(event))


def found(stripe: Stripe, event: Json) -> list[tuple[int, int, SpanState]]:
    meters = of(stripe, event)
    assert meters is not None
    assert all(one.closing and one.partial for one in meters)
    return spans(meters)


def old_item(**other: Any) -> Json:
    return mapped(current_period_start=BEFORE, current_period_end=MONTH_START, **other)


RENEWED = updated({"items": {"data": [old_item()]}})


def test_a_renewal_closes_the_period_before() -> None:
    assert found(stage(), RENEWED) == [(BEFORE, MONTH_START, SpanState.ENDED)]


@pytest.mark.parametrize(("early", "is_over"), [(AHEAD, True), (AHEAD + 1, False)])
def test_a_period_that_is_not_over_by_our_clock_is_left_alone(early: int, is_over: bool) -> None:
    stripe = stage()
    stripe.clock.now = MONTH_START - early

    assert (of(stripe, RENEWED) is not None) is is_over


def test_what_ends_nothing_is_not_even_asked_for() -> None:
    stripe = stage()

    assert of(stripe, updated({"metadata": {"colour": "blue"}})) is None
    assert stripe.api.asked == []


def test_a_subscription_that_is_over_is_closed_up_to_its_end() -> None:
    assert found(stage(ended_at=NOON), deleted()) == [(MONTH_START, NOON, SpanState.CANCELED)]


def removal(**other: Any) -> Json:
    gone = mapped(id="si_9", price=price(id="price_9", recurring={"meter": "mtr_9"}), **other)
    return updated({"items": {"data": [mapped(), gone]}})


def test_an_item_that_was_removed_is_closed_as_its_subscription_bills_it() -> None:
    assert found(stage(), removal()) == [(MONTH_START, NOON, SpanState.BILLED)]
    classic = stage(billing_mode={"type": "classic"})
    assert found(classic, removal()) == [(MONTH_START, NOON, SpanState.DROPPED)]


def test_an_item_that_was_removed_as_it_came_leaves_nothing() -> None:
    assert of(stage(), removal(created=NOON)) == []


# Pauses


def paused() -> Json:
    return updated({"status": "active"}, subscribed(status="paused"))


def resumed() -> Json:
    return updated({"status": "paused"}, subscribed(status="active"))


def test_what_ran_before_a_pause_was_billed_at_once() -> None:
    assert found(stage(), paused()) == [(MONTH_START, NOON, SpanState.BILLED)]


def test_what_ran_before_a_pause_takes_more_while_its_invoice_is_a_draft() -> None:
    stripe = stage()
    stripe.api.lists["/v1/invoices"] = [[draft(line())]]

    assert found(stripe, paused()) == [(MONTH_START, NOON, SpanState.DRAFT)]


def test_a_trial_that_ended_in_a_pause_was_free() -> None:
    trial = {"trial_start": MONTH_START, "trial_end": NOON + 1, "status": "paused"}

    assert found(stage(**trial), paused()) == [(MONTH_START, NOON, SpanState.FREE)]


@pytest.mark.parametrize(("early", "is_over"), [(AHEAD, True), (AHEAD + 1, False)])
def test_a_removal_that_lies_ahead_of_our_clock_is_left_alone(early: int, is_over: bool) -> None:
    stripe = stage()
    stripe.clock.now = NOON - early

    assert (of(stripe, removal()) is not None) is is_over


def test_a_pause_is_free() -> None:
    assert found(stage(), resumed()) == [(MONTH_START, NOON, SpanState.FREE)]


def test_periods_that_were_over_in_a_pause_are_free() -> None:
    event = updated({"status": "paused", "items": {"data": [old_item()]}}, subscribed(status="active"))

    assert found(stage(), event) == [
        (BEFORE, MONTH_START, SpanState.FREE),
        (MONTH_START, NOON, SpanState.FREE),
    ]


@pytest.mark.parametrize("event", [paused(), resumed()])
@pytest.mark.parametrize("at", [MONTH_START, MONTH_END])
def test_a_pause_at_the_edge_of_a_period_parts_nothing(event: Json, at: int) -> None:
    assert of(stage(), {**event, "created": at}) == []


# Lists of events


def listed(stripe: Stripe, *pages: Sequence[Json], after: str = "") -> list[tuple[str, list[CustomerMeter]]]:
    stripe.api.lists["/v1/events"] = [list(page) for page in pages]
    listings = stripe.all(Endings(stripe.billing, stripe.clock).listings(after))
    return [(one.cursor, one.customer_meters) for one in listings]


def test_what_ended_without_a_draft_is_listed() -> None:
    stripe = stage(ended_at=NOON)

    [(cursor, closed), last] = listed(stripe, [RENEWED, deleted()], [])

    assert cursor == "evt_2"
    assert spans(closed) == [(MONTH_START, NOON, SpanState.CANCELED)]
    assert last == ("", [])
    assert stripe.asked("/v1/events") == [
        {
            "types": ["customer.subscription.updated", "customer.subscription.deleted"],
            "created": {"gte": NOON - LOOKED_BACK},
        }
    ]


def test_a_listing_goes_on_after_a_cursor() -> None:
    stripe = stage()
    listed(stripe, after="evt_0")

    assert stripe.asked("/v1/events")[0]["starting_after"] == "evt_0"


@pytest.mark.parametrize("event", [paused(), resumed(), removal()])
def test_pauses_and_removals_are_listed(event: Json) -> None:
    [(_, closed)] = listed(stage(), [event])

    assert len(closed) == 1


def test_renewals_are_left_to_their_drafts() -> None:
    stripe = stage()

    assert listed(stripe, [RENEWED]) == [("evt_1", [])]
    assert stripe.asked("/v1/subscriptions/sub_1") == []


def test_what_cannot_be_read_stops_no_other() -> None:
    stripe = stage()
    stripe.api.failing["/v1/subscriptions/sub_1"] = NotFoundError("gone")
    assert listed(stripe, [deleted()]) == [("evt_2", [])]
    assert stripe.billing.unreadable == {}

    stripe.api.failing["/v1/subscriptions/sub_1"] = RejectedError("no")
    broken = {**deleted(), "id": "evt_3", "data": {}}
    assert listed(stripe, [deleted(), broken]) == [("evt_3", [])]
    assert stripe.billing.unreadable.keys() == {"evt_2", "evt_3"}
    assert stripe.billing.unreadable["evt_2"] == "no"
    with pytest.raises(BadRequestError):
        of(stripe, broken)


@pytest.mark.parametrize("error", [RejectedError("no"), StripeUnavailableError("down")])
def test_a_list_that_cannot_be_read_is_left_out_and_said(
    error: RejectedError | StripeUnavailableError, caplog: pytest.LogCaptureFixture
) -> None:
    stripe = stage()
    stripe.api.failing["/v1/events"] = error

    assert listed(stripe, []) == []


def test_one_customer_meter_is_listed_once() -> None:
    other = mapped(id="si_2")
    stripe = stage()
    stripe.api.objects["/v1/subscriptions/sub_1"] = subscribed(other)

    meters = of(stripe, updated({"items": {"data": [old_item(), old_item(id="si_2")]}}))

    assert meters is not None
    assert [[span.item for span in one.spans] for one in meters] == [["si_1", "si_2"]]
    assert meters[0].read_until == MONTH_START
    assert LOOKED_BACK == 26 * HOUR
