"""What stands beside a legacy price: where it is cut, what it must never disturb, and who hears of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, customer_meter, legacy, span
from tests.layer.test_billing import METER_PATH, Stripe, mapped
from tests.layer.test_customer_meters import STRIPE_METER, price, subscription
from tests.layer.test_heads import World as Heads
from usage_reporting import telemetry
from usage_reporting.customer_meters import merged
from usage_reporting.early_ends import cut_where_it_ended
from usage_reporting.errors import NotPermittedError
from usage_reporting.heads import Options
from usage_reporting.hours import Case
from usage_reporting.ledger import Head
from usage_reporting.model import CustomerMeter, Report, Span, SpanState, Status, Target
from usage_reporting.period_bounds import PeriodBounds, cuts_of
from usage_reporting.successors import beside, successor_of
from usage_reporting.swaps import Swap
from usage_reporting.totals import without_covered
from usage_reporting.windows import DAY, HOUR, MINUTE, day_of

HALF_HOUR = 30 * MINUTE
CUT = MONTH_START - HALF_HOUR
LAST = {**STRIPE_METER, "default_aggregation": {"formula": "last"}}
BESIDE = SpanState.BESIDE


def of_legacy(start: int = MONTH_START, end: int = MONTH_END, **other: Any) -> Span:
    """A legacy price's period as its successor's meter holds it."""
    edges = {"usage_since": start - HALF_HOUR, "usage_until": end - HALF_HOUR}
    return span(start, end, **{"state": BESIDE, "price": "price_old", "item": "si_old", **edges, **other})


# From Stripe


def legacy_item(**metadata: str) -> dict[str, Any]:
    recurring = {"usage_type": "metered", "meter": None, "interval": "month"}
    return mapped(price=price(id="price_old", recurring=recurring, metadata=metadata))


def shown(stripe: Stripe, **metadata: str) -> list[CustomerMeter]:
    whole = subscription(items={"data": [legacy_item(**metadata)]}, start_date=MONTH_START - 60 * DAY)
    return stripe.run(stripe.billing.customer_meters(whole))


def with_price(**recurring: Any) -> Stripe:
    stripe = Stripe()
    stripe.api.objects["/v1/prices/price_new"] = price(id="price_new", recurring=recurring)
    return stripe


def test_a_legacy_price_with_a_successor_is_two_customer_meters() -> None:
    record, mirror = shown(with_price(meter="mtr_1"), om_successor_price="price_new")

    assert (record.target, mirror.target) == (Target.USAGE_RECORD, Target.MIRROR)
    assert (record.is_beside, mirror.is_beside) == (False, True)
    assert mirror.pk == customer_meter().pk
    [one] = mirror.spans
    assert (one.usage_since, one.usage_until) == (CUT, MONTH_END - HALF_HOUR)
    assert (one.price, one.state) == ("price_old", BESIDE)
    assert CustomerMeter.from_json(mirror.to_json()) == mirror


def test_a_meter_that_takes_the_last_value_is_told_totals() -> None:
    stripe = with_price(meter="mtr_1")
    stripe.api.objects[METER_PATH] = LAST

    assert shown(stripe, om_successor_price="price_new")[1].target is Target.LAST


@pytest.mark.parametrize(
    ("stripe", "why"),
    [(with_price(meter=None), "no meter itself"), (Stripe(), "which Stripe does not show")],
)
def test_a_successor_that_holds_nothing_is_refused_beside_a_record_that_goes_on(
    stripe: Stripe, why: str
) -> None:
    record, mirror = shown(stripe, om_successor_price="price_new")

    assert record.refusal is None
    assert why in str(mirror.refusal)
    assert mirror.is_beside


def test_a_key_that_may_not_read_meters_stops_no_record() -> None:
    stripe = with_price(meter="mtr_1")
    stripe.api.failing[METER_PATH] = NotPermittedError("the key may not")

    record, mirror = shown(stripe, om_successor_price="price_new")

    assert (record.refusal, mirror.refusal is None) == (None, False)


def test_drafts_and_ends_are_of_the_record_alone() -> None:
    stripe = with_price(meter="mtr_1")
    stripe.api.objects["/v1/customers/cus_1"] = {"id": "cus_1"}
    over = subscription(
        items={"data": [legacy_item(om_successor_price="price_new")]}, ended_at=NOON, status="canceled"
    )

    [record] = stripe.run(stripe.billing.last_periods(over))

    assert record.target is Target.USAGE_RECORD


def test_a_price_with_a_meter_has_no_successor() -> None:
    named = {"om_successor_price": "price_new"}

    assert successor_of(price(metadata=named)) == ""
    assert successor_of(price(metadata=named, recurring={"meter": None})) == "price_new"
    assert successor_of(price(recurring={"meter": None})) == ""


# Cuts


def test_a_first_start_is_its_own_cut() -> None:
    [first] = beside(legacy(span(first=True)), STRIPE_METER, PeriodBounds.EXACT).spans

    assert (first.usage_since, first.usage_until) == (MONTH_START, MONTH_END - HALF_HOUR)


def cuts(*spans: Span, **other: Any) -> dict[int, int]:
    bounds = {edge for one in spans for edge in (one.start, one.end)}
    return cuts_of(bounds, spans, PeriodBounds.EXACT, **other)


NEXT = span(MONTH_END, MONTH_END + 30 * DAY)


@pytest.mark.parametrize("since", [None, MONTH_END - HALF_HOUR, MONTH_END - HOUR])
def test_the_first_period_begins_where_the_last_record_ended(since: int | None) -> None:
    """Whatever its metadata says: what the record billed is not billed again, and nothing is left out."""
    found = cuts(of_legacy(), replace(NEXT, usage_since=since))

    assert found == {MONTH_START: CUT, MONTH_END: MONTH_END - HALF_HOUR, NEXT.end: NEXT.end}


def test_without_a_mirror_before_the_metadata_is_the_cut_of_the_first_period_alone() -> None:
    since = MONTH_END - HALF_HOUR
    first, again = replace(NEXT, usage_since=since), span(NEXT.start + DAY, NEXT.end + DAY, usage_since=since)

    assert cuts(first)[NEXT.start] == since
    assert cuts(replace(first, end=again.start), again)[again.start] == again.start


def test_where_a_billed_period_ends_usage_is_cut_as_ever() -> None:
    billed = span(item="si_other")

    assert cuts(billed, of_legacy())[MONTH_END] == MONTH_END
    assert cuts(billed, replace(NEXT, usage_since=MONTH_END - HOUR))[MONTH_END] == MONTH_END


def test_a_cut_by_which_usage_was_sent_is_kept() -> None:
    assert cuts(of_legacy(), NEXT, kept={MONTH_END: MONTH_END - HOUR})[MONTH_END] == MONTH_END - HOUR


def test_no_cut_lies_after_its_bound() -> None:
    """Of a legacy period that a price cut short, the ledger may know no earlier end of usage."""
    short = replace(of_legacy(), end=NOON)

    assert cuts(short) == {MONTH_START: CUT, NOON: NOON}


def test_what_was_stamped_before_the_bound_was_known_stays_there() -> None:
    stamp = MONTH_END - 10 * MINUTE

    assert cuts(of_legacy(), NEXT, stamps=[stamp])[MONTH_END] == MONTH_END - 9 * MINUTE


# In the ledger, and in a report


def seen(*spans: Span) -> Head:
    return Head.at_first_sight(customer_meter(*spans), "1", NOON).sees(customer_meter(*spans), NOON)


def test_the_head_keeps_both_and_a_draft_finds_where_its_usage_began() -> None:
    first = replace(NEXT, usage_since=MONTH_END - HALF_HOUR)
    head = Head.from_item(seen(of_legacy(), first).to_item(NOON))

    assert head.spans == (of_legacy(), first)
    assert head.clip(replace(NEXT, state=SpanState.DRAFT)).usage_since == MONTH_END - HALF_HOUR
    assert head.clip(replace(NEXT, usage_since=5)).usage_since == 5


def case(*spans: Span, now: int) -> Case:
    one = customer_meter(*spans, seen_at=now)
    return Case(Report(one), Head.at_first_sight(one, "1", now).sees(one, now), now, Options())


def test_what_is_billed_decides_where_both_are() -> None:
    final = span(state=SpanState.FINAL)
    both = case(of_legacy(), final, now=MONTH_END + DAY)

    assert both.state_at(NOON) is SpanState.FINAL
    assert case(of_legacy(), now=MONTH_END + DAY).state_at(NOON) is BESIDE


def test_the_cut_is_kept_on_both_days_that_it_is_between() -> None:
    midnight = MONTH_START - MONTH_START % DAY
    one = case(of_legacy(midnight, MONTH_END), now=midnight + HOUR)

    kept = {midnight: midnight - HALF_HOUR}
    assert one.cuts_to_keep(day_of(midnight)) == kept
    assert one.cuts_to_keep(day_of(midnight - 1)) == kept
    assert one.cuts_to_keep(day_of(midnight + DAY)) == {}
    assert one.start == midnight - HOUR


def test_totals_beside_a_record_give_way_to_billed_ones() -> None:
    """One value counts for all periods that hold its stamp."""
    billed = span(MONTH_END - DAY, MONTH_END + DAY)

    assert without_covered([of_legacy(), billed]) == [billed]
    assert without_covered([of_legacy(), NEXT]) == [of_legacy(), NEXT]


def test_a_refused_or_foreign_mirror_never_stops_what_is_billed() -> None:
    billed = customer_meter()
    for mirror in (
        customer_meter(of_legacy(), refusal="not so"),
        customer_meter(of_legacy(), openmeter_meter="m2"),
    ):
        for pair in ([billed, mirror], [mirror, billed]):
            [one] = merged(pair)
            assert (one.refusal, one.openmeter_meter, one.spans) == (None, "m1", billed.spans)
    [both] = merged([billed, customer_meter(of_legacy())])
    assert set(both.spans) == {*billed.spans, of_legacy()}
    assert not both.is_beside


def checked(world: Heads, now: int, *spans: Span) -> Head:
    """The head after a look, when it knew only what stood beside a legacy price of the same item."""
    world.clock.now = now
    known = seen(of_legacy(item="si_1"))
    one = customer_meter(*spans, seen_at=now)
    return asyncio.run(world.heads.checked(one, known, Options(dry_run=True)))


def test_a_switch_at_a_renewal_asks_for_no_events() -> None:
    world = Heads()

    head = checked(world, MONTH_END + HOUR, NEXT)

    assert world.billing.asked == []
    assert NEXT.key in {one.key for one in head.spans}


def test_a_switch_by_hand_in_mid_period_is_told_apart_by_events() -> None:
    world = Heads()
    world.billing.changes = [Swap(NOON, "sub_1", "si_1", "price_old", "price_1")]

    head = checked(world, NOON + HOUR, span())

    assert {(one.price, one.start, one.end, one.state) for one in head.spans} == {
        ("price_old", MONTH_START, NOON, SpanState.BILLED),
        ("price_1", NOON, MONTH_END, SpanState.CURRENT),
    }


class Gone:
    """Stripe's word on a subscription that was canceled at noon."""

    async def subscription(self, _id: str) -> dict[str, Any]:
        return {"ended_at": NOON}


def test_a_legacy_price_that_ended_early_is_cut_there_and_stays_beside() -> None:
    found = asyncio.run(cut_where_it_ended(Gone(), of_legacy()))  # type: ignore[arg-type]

    assert (found.end, found.state, found.usage_until) == (NOON, BESIDE, NOON)


# Who hears of it


@pytest.mark.parametrize("status", [Status.HELD, Status.REFUSED, Status.UNKNOWN, Status.SENT])
def test_nobody_is_woken_by_what_no_invoice_bills(
    status: Status, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(telemetry, "count", lambda name, _value=1: counted.append(name))
    monkeypatch.setattr(telemetry, "_measure", lambda name, *_: counted.append(name))
    report = Report(customer_meter(of_legacy()), unsent_since=1, late=D(3), is_braked=True)
    report.note(status, "look at it" if status is not Status.SENT else "")

    telemetry.record([report], NOON)

    assert counted == ([] if status is Status.SENT else ["BesideUndelivered"])
    assert ("beside its legacy price: look at it" in caplog.text) is (status is not Status.SENT)
