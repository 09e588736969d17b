"""From subscriptions to customer meters: what is billed when, and what is refused with which reason."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.layer.builders import METER, MONTH_END, MONTH_START, NOON
from tests.layer.builders import customer_meter as built
from tests.layer.builders import span as built_span
from usage_reporting.customer_meters import (
    Facts,
    bounds_of,
    customer_meter,
    id_of,
    is_metered,
    merged,
    meter_id_of,
    named_meter,
    period_of,
    pk_of,
    product_of,
    span_of,
    stripe_meter,
    was_added,
    with_subject,
)
from usage_reporting.model import CustomerMeter, Span, SpanState, Target
from usage_reporting.windows import DAY, HOUR

Json = dict[str, Any]

STRIPE_METER: Json = {
    "id": "mtr_1",
    "event_name": "tokens",
    "status": "active",
    "default_aggregation": {"formula": "sum"},
    "event_time_window": None,
    "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
    "value_settings": {"event_payload_key": "value"},
}


def price(**other: Any) -> Json:
    recurring = {"usage_type": "metered", "meter": "mtr_1", **other.pop("recurring", {})}
    return {"id": "price_1", "product": "prod_1", "metadata": {}, "recurring": recurring, **other}


def item(**other: Any) -> Json:
    return {
        "id": "si_1",
        "created": MONTH_START,
        "metadata": {},
        "price": price(),
        "current_period_start": MONTH_START,
        "current_period_end": MONTH_END,
        **other,
    }


def subscription(**other: Any) -> Json:
    return {
        "id": "sub_1",
        "customer": "cus_1",
        "livemode": False,
        "created": MONTH_START,
        "start_date": MONTH_START,
        "trial_start": None,
        "trial_end": None,
        "cancel_at": None,
        "ended_at": None,
        "pause_collection": None,
        **other,
    }


def facts(meter: Json | None = None, metadata: Json | None = None) -> Facts:
    return Facts(meters={"mtr_1": meter or STRIPE_METER}, customer_metadata=metadata, asked_at=NOON)


def made(meter: Json | None = None, **other: Any) -> CustomerMeter:
    one = item(**other)
    span = span_of(subscription(), one)
    assert span is not None
    return customer_meter(subscription(), one, facts(meter), openmeter_meter="m1", spans=[span])


def test_a_metered_item() -> None:
    span = Span(MONTH_START, MONTH_END, "sub_1", "si_1", "price_1", first=True)

    assert made() == CustomerMeter(
        account="self",
        mode="test",
        customer="cus_1",
        subject="cus_1",
        openmeter_meter="m1",
        target=Target.MIRROR,
        spans=(span,),
        bounds=frozenset({MONTH_START, MONTH_END}),
        meter=METER,
        seen_at=NOON,
    )


def test_a_live_subscription_with_an_expanded_customer() -> None:
    live = subscription(livemode=True, customer={"id": "cus_9", "metadata": {}})
    found = customer_meter(live, item(), facts(), openmeter_meter="m1", spans=[])

    assert (found.mode, found.customer, found.pk) == ("live", "cus_9", "self#live#cus_9#mtr_1")


def test_an_item_tells_its_key_in_the_ledger() -> None:
    assert pk_of(subscription(), item()) == made().pk

    live = subscription(livemode=True, customer={"id": "cus_9"})
    legacy = item(price=price(recurring={"usage_type": "metered", "meter": None}))
    assert pk_of(live, legacy) == "self#live#cus_9#si_1"


def test_the_payload_keys_are_the_meters_own() -> None:
    meter = {
        **STRIPE_METER,
        "customer_mapping": {"event_payload_key": "who"},
        "value_settings": {"event_payload_key": "much"},
    }

    assert (stripe_meter(meter).customer_key, stripe_meter(meter).value_key) == ("who", "much")


@pytest.mark.parametrize(
    ("billed", "metered"),
    [
        (price(), True),
        (price(recurring={"usage_type": "licensed"}), False),
        ({"id": "price_1", "recurring": None}, False),
        ({"id": "price_1"}, False),
    ],
)
def test_licensed_items_are_not_metered(billed: Json, metered: bool) -> None:
    assert is_metered({"id": "si_1", "price": billed}) is metered


def test_the_meter_of_a_price_and_what_a_legacy_price_has() -> None:
    assert meter_id_of(price()) == "mtr_1"
    assert meter_id_of(price(recurring={"meter": None})) == ""
    assert meter_id_of({"id": "price_1", "recurring": None}) == ""


@pytest.mark.parametrize(
    ("of_item", "of_price", "name"),
    [
        ({"om_meter_id": "item"}, {"om_meter_id": "price"}, "item"),
        ({}, {"om_meter_id": "price"}, "price"),
        ({"om_meter_id": ""}, {"om_meter_id": "price"}, "price"),
        (None, {"om_meter_id": "price"}, "price"),
        ({"other": "x"}, {}, ""),
        (None, None, ""),
    ],
)
def test_the_item_names_the_openmeter_meter_before_its_price(
    of_item: Json | None, of_price: Json | None, name: str
) -> None:
    assert named_meter(item(metadata=of_item, price=price(metadata=of_price))) == name


def test_references_expanded_or_not() -> None:
    assert id_of("cus_1") == id_of({"id": "cus_1", "deleted": True}) == "cus_1"
    assert id_of(None) == id_of({}) == ""
    assert product_of(price(product={"id": "prod_2"})) == "prod_2"
    assert product_of(price()) == "prod_1"


# Periods, spans and bounds


def test_the_period_stands_on_the_item_or_on_the_subscription() -> None:
    old_shape = {key: value for key, value in item().items() if not key.startswith("current_")}

    assert period_of({}, item()) == (MONTH_START, MONTH_END)
    assert period_of({"current_period_start": 1, "current_period_end": 2}, old_shape) == (1, 2)
    assert period_of({}, old_shape) is None
    assert span_of(subscription(), old_shape) is None


def span(item_changes: Json | None = None, **changes: Any) -> Span:
    found = span_of(subscription(**changes), item(**(item_changes or {})))
    assert found is not None
    return found


def test_the_first_period_and_a_later_one() -> None:
    assert span().first
    born = MONTH_START - 31 * DAY
    assert not span({"created": born}, start_date=born, created=born).first


def test_an_item_added_in_the_period_is_billed_from_then_on() -> None:
    added = NOON + 17
    found = span({"created": added})

    assert (found.start, found.end, found.first) == (added, MONTH_END, True)
    assert added in bounds_of(subscription(), item(created=added))


def test_an_item_that_a_schedule_puts_on_at_a_renewal_bills_the_whole_period() -> None:
    renewed = span(
        {"created": MONTH_START + 16}, created=MONTH_START - 31 * DAY, start_date=MONTH_START - DAY
    )

    assert (renewed.start, renewed.first) == (MONTH_START, False)


def test_an_item_that_came_with_its_subscription_was_not_added() -> None:
    together = item(created=MONTH_START + 60)

    assert not was_added(subscription(), together)
    assert was_added(subscription(), item(created=MONTH_START + 61))
    assert span_of(subscription(), together) == span()
    assert bounds_of(subscription(), together) == {MONTH_START, MONTH_END}


def test_an_item_added_in_an_earlier_period_is_billed_from_the_start() -> None:
    born = MONTH_START - 90 * DAY
    found = span({"created": MONTH_START - DAY}, created=born, start_date=born)

    assert (found.start, found.first) == (MONTH_START, False)
    assert bounds_of(subscription(created=born, start_date=born), item(created=MONTH_START - DAY)) == {
        born,
        MONTH_START,
        MONTH_END,
    }


def test_an_item_without_creation_times_was_not_added() -> None:
    assert not was_added({}, item())
    assert not was_added(subscription(), {"id": "si_1"})


def test_a_backdated_start_is_billed_from_there() -> None:
    backdated = MONTH_START - 3 * DAY
    found = span({"current_period_start": backdated}, start_date=backdated)

    assert (found.start, found.first) == (backdated, True)
    assert backdated in bounds_of(subscription(start_date=backdated), item())


def test_a_period_that_is_a_trial_says_so() -> None:
    assert span(trial_start=MONTH_START, trial_end=MONTH_END).is_trial
    assert not span(trial_start=MONTH_START, trial_end=NOON).is_trial
    assert not span(trial_start=NOON, trial_end=MONTH_END).is_trial


def test_another_currency_than_the_prices_own_is_told() -> None:
    assert span({"price": price(currency="usd")}, currency="eur").currency == "eur"
    assert span({"price": price(currency="usd")}, currency="usd").currency == ""


def test_billing_ends_at_the_planned_or_true_end() -> None:
    assert span(cancel_at=NOON).end == NOON
    assert span(cancel_at=NOON).state is SpanState.CURRENT
    assert span(cancel_at=MONTH_END + DAY).end == MONTH_END
    assert span(ended_at=NOON).end == NOON
    assert span(ended_at=NOON).state is SpanState.CANCELED
    assert span(ended_at=NOON, cancel_at=NOON - DAY).end == NOON - DAY


def test_an_end_at_the_periods_end_is_no_cancellation_before_it() -> None:
    found = span_of(subscription(ended_at=MONTH_END), item(), SpanState.ENDED)

    assert found is not None
    assert (found.end, found.state) == (MONTH_END, SpanState.ENDED)


@pytest.mark.parametrize(
    ("on_subscription", "on_item"),
    [
        ({"ended_at": MONTH_START}, {}),
        ({"ended_at": MONTH_START - 5}, {}),
        ({"cancel_at": NOON}, {"created": NOON}),
        ({}, {"created": MONTH_END}),
    ],
)
def test_an_empty_time_is_no_span(on_subscription: Json, on_item: Json) -> None:
    assert span_of(subscription(**on_subscription), item(**on_item)) is None


def test_all_instants_at_which_billing_changes_are_bounds() -> None:
    changed = subscription(
        start_date=1,
        trial_start=2,
        trial_end=3,
        cancel_at=4,
        ended_at=5,
        pause_collection={"behavior": "void", "resumes_at": 6},
    )

    assert bounds_of(changed, item()) == {1, 2, 3, 4, 5, 6, MONTH_START, MONTH_END}
    assert bounds_of({}, {}) == frozenset()


def test_the_edges_of_spans_are_bounds() -> None:
    old = built_span(MONTH_START - 31 * DAY, MONTH_START)
    found = customer_meter(subscription(), item(), facts(), openmeter_meter="m1", spans=[old])

    assert {old.start, old.end, MONTH_END} <= found.bounds


# Refusals


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "inactive"}, r"mtr_1 \(tokens\) is not active; reactivate it"),
        (
            {"default_aggregation": {"formula": "count"}},
            r"aggregates by 'count'.*create a meter with formula 'sum' or 'last'",
        ),
        ({"default_aggregation": {"formula": "last"}, "event_time_window": "day"}, r"event_time_window"),
        ({"default_aggregation": None}, r"aggregates by None"),
        ({"event_time_window": "hour"}, r"event_time_window 'hour'.*create a meter without it"),
        ({"event_time_window": "day"}, r"event_time_window 'day'"),
    ],
)
def test_a_meter_that_cannot_be_mirrored_is_refused(change: Json, reason: str) -> None:
    refusal = made({**STRIPE_METER, **change}).refusal

    assert refusal is not None
    assert re.search(reason, refusal)


def test_a_legacy_price() -> None:
    found = made(price=price(recurring={"meter": None}))

    assert (found.target, found.meter, found.refusal) == (Target.USAGE_RECORD, None, None)
    assert found.pk == "self#test#cus_1#si_1"


@pytest.mark.parametrize(("length", "refused"), [(2 * HOUR, False), (2 * HOUR - 1, True)])
def test_a_legacy_period_under_two_hours_is_refused(length: int, refused: bool) -> None:
    found = made(price=price(recurring={"meter": None}), current_period_end=MONTH_START + length)

    assert (found.refusal is not None) is refused
    assert not refused or "under two hours" in str(found.refusal)


def test_the_subject_of_the_customers_metadata() -> None:
    one = customer_meter(
        subscription(), item(), facts(metadata={"external_key": "acme"}), openmeter_meter="m1", spans=[]
    )

    assert one.subject == ""
    assert with_subject(one, "external_key", {"external_key": "acme"}).subject == "acme"


@pytest.mark.parametrize("metadata", [{}, {"external_key": ""}, {"other": "acme"}])
def test_a_customer_without_the_subject_is_refused(metadata: Json) -> None:
    found = with_subject(replace(built(), subject=""), "external_key", metadata)

    assert found.subject == ""
    assert found.refusal is not None
    assert "cus_1" in found.refusal
    assert "'external_key'" in found.refusal
    assert "SUBJECT_METADATA_KEY" in found.refusal
    assert with_subject(replace(found, refusal="first"), "external_key", {}).refusal == "first"


# Merging


def test_two_items_on_one_meter_are_one_customer_meter() -> None:
    other = built(built_span(item="si_2", price="price_2"))

    [both] = merged([built(), other])

    assert [one.item for one in both.spans] == ["si_1", "si_2"]
    assert both.refusal is None


def test_other_customers_meters_and_modes_stay_apart() -> None:
    several = [
        built(),
        built(customer="cus_2"),
        built(meter=replace(METER, id="mtr_2")),
        built(mode="live"),
        built(meter=None, target=Target.USAGE_RECORD),
        built(built_span(item="si_2"), meter=None, target=Target.USAGE_RECORD),
    ]

    assert merged(several) == several


def test_two_openmeter_meters_on_one_stripe_meter_are_refused() -> None:
    [both] = merged([built(openmeter_meter="m2"), built(), built(openmeter_meter="m2")])

    assert both.refusal is not None
    assert "m1 and m2" in both.refusal
    assert "own Stripe meter" in both.refusal


def test_a_known_name_stands_in_for_an_unknown_one() -> None:
    for pair in ([built(openmeter_meter=""), built()], [built(), built(openmeter_meter="")]):
        [both] = merged(pair)
        assert (both.openmeter_meter, both.refusal) == ("m1", None)


# Meters that take the last value


LAST_METER: Json = {**STRIPE_METER, "default_aggregation": {"formula": "last"}}


def test_a_meter_that_takes_the_last_value() -> None:
    assert made(LAST_METER).target is Target.LAST
    assert made(LAST_METER).refusal is None


@pytest.mark.parametrize("trial_end", [NOON, None])
def test_a_trials_usage_is_in_no_total(trial_end: int | None) -> None:
    trying = subscription(trial_end=trial_end)
    whole = span_of(trying, item())
    assert whole is not None

    [found] = customer_meter(trying, item(), facts(LAST_METER), openmeter_meter="m1", spans=[whole]).spans
    [mirrored] = customer_meter(trying, item(), facts(), openmeter_meter="m1", spans=[whole]).spans

    assert (found.start, found.end) == (trial_end or MONTH_START, MONTH_END)
    assert mirrored == whole


@pytest.mark.parametrize(
    ("on_subscription", "on_item"),
    [({"billing_thresholds": {"amount_gte": 5}}, {}), ({}, {"billing_thresholds": {"usage_gte": 5}})],
)
def test_billing_thresholds_are_refused_but_where_usage_adds_up(on_subscription: Json, on_item: Json) -> None:
    found = {}
    for name, meter, recurring in (
        ("last", LAST_METER, {}),
        ("legacy", None, {"meter": None}),
        ("sum", None, {}),
    ):
        one = item(price=price(recurring=recurring), **on_item)
        made = customer_meter(
            subscription(**on_subscription), one, facts(meter), openmeter_meter="m1", spans=[built_span()]
        )
        found[name] = made.refusal or ""

    assert "billing thresholds" in found["last"]
    assert "remove them" in found["legacy"]
    assert found["sum"] == ""
