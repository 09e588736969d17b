"""What a migration asks Stripe for keeps all that a price or a subscription has, and refuses the rest."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cli.errors import WrongUseError
from cli.migrate import Stage, check
from cli.migration.comparing import pricing_of
from cli.migration.found import LegacyPrice, refusal_of
from cli.migration.phases import UnreadablePhaseError, put_on, two_phases
from cli.migration.proposal import formula_of, meter_for, meter_params, price_params, price_refusal
from tests.contract.stripe_openapi import request_errors

START, END = 1_784_118_000, 1_786_796_400
TIERS = [
    {"up_to": 10, "unit_amount": 50, "unit_amount_decimal": "50", "flat_amount_decimal": None},
    {"up_to": None, "unit_amount": None, "unit_amount_decimal": "0.5", "flat_amount_decimal": "300"},
]
PRICE: dict[str, Any] = {
    "id": "price_old",
    "active": True,
    "billing_scheme": "per_unit",
    "currency": "usd",
    "currency_options": {
        "usd": {"tax_behavior": "exclusive", "unit_amount_decimal": "12.5", "unit_amount": None},
        "eur": {"tax_behavior": "inclusive", "unit_amount_decimal": "11", "unit_amount": 11},
    },
    "lookup_key": "standard",
    "metadata": {"plan": "gold", "om_successor_price": "price_gone", "om_mirrored_since": "5"},
    "nickname": "Gold",
    "product": "prod_1",
    "recurring": {
        "aggregate_usage": "max",
        "interval": "month",
        "interval_count": 3,
        "meter": None,
        "trial_period_days": None,
        "usage_type": "metered",
    },
    "tax_behavior": "exclusive",
    "tiers_mode": None,
    "transform_quantity": {"divide_by": 100, "round": "up"},
    "unit_amount_decimal": "12.5",
}


def on_the_wire(value: Any) -> Any:
    """Parameters as Stripe reads them: each value is a text."""
    if isinstance(value, dict):
        return {name: on_the_wire(one) for name, one in value.items()}
    if isinstance(value, list):
        return [on_the_wire(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def asked(price: dict[str, Any]) -> dict[str, Any]:
    """What its successor is made of; Stripe's spec has nothing against it."""
    params = price_params(LegacyPrice(price, openmeter_meter="m1"), "mtr_1")
    assert request_errors("POST", "/v1/prices", on_the_wire(params)) == []
    return params


def test_a_price_is_copied_with_all_but_its_meter_and_its_lookup_key() -> None:
    params = asked(PRICE)

    assert params["recurring"] == {
        "interval": "month",
        "interval_count": 3,
        "usage_type": "metered",
        "meter": "mtr_1",
    }
    assert params["metadata"] == {"plan": "gold", "om_meter_id": "m1", "om_predecessor_price": "price_old"}
    assert params["currency_options"] == {"eur": {"unit_amount_decimal": "11", "tax_behavior": "inclusive"}}
    assert params["transform_quantity"] == {"divide_by": 100, "round": "up"}
    assert (params["nickname"], params["tax_behavior"]) == ("Gold", "exclusive")
    assert "lookup_key" not in params


def test_tiers_are_copied_in_each_currency() -> None:
    options = {"usd": {"tiers": TIERS}, "eur": {"tiers": TIERS, "tax_behavior": "exclusive"}}
    tiered = {"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": TIERS, "transform_quantity": None}
    params = asked({**PRICE, **tiered, "unit_amount_decimal": None, "currency_options": options})

    copied = [
        {"up_to": 10, "unit_amount_decimal": "50"},
        {"up_to": "inf", "unit_amount_decimal": "0.5", "flat_amount_decimal": "300"},
    ]
    assert (params["tiers"], params["tiers_mode"]) == (copied, "volume")
    assert params["currency_options"] == {"eur": {"tiers": copied, "tax_behavior": "exclusive"}}
    unread = {**PRICE, **tiered, "currency_options": {"eur": {}}}
    assert "EUR" in price_refusal(unread, {"m1"})


def test_a_subscription_in_another_currency_is_priced_in_that() -> None:
    euro, dollar = pricing_of(PRICE, "eur"), pricing_of(PRICE, "usd")
    assert (euro.currency, str(euro.amount(Decimal(250)))) == ("eur", "33")
    assert (dollar.currency, str(dollar.amount(Decimal(250)))) == ("usd", "38")


@pytest.mark.parametrize(
    ("how", "named", "said"),
    [
        ("sum", {"m1"}, ""),
        ("max", {"m1"}, ""),
        ("last_during_period", {"m1"}, ""),
        ("last_ever", {"m1"}, "last_ever"),
        ("sum", set(), "om_meter_id"),
        ("sum", {"m1", "m2"}, "m1, m2"),
    ],
)
def test_which_prices_can_be_followed(how: str, named: set[str], said: str) -> None:
    found = price_refusal({**PRICE, "recurring": {**PRICE["recurring"], "aggregate_usage": how}}, named)
    assert bool(found) is bool(said)
    assert said in found


def test_a_meter_is_found_by_its_name_or_made_under_another() -> None:
    def meter(name: str, formula: str, window: str | None = None) -> dict[str, Any]:
        return {
            "event_name": name,
            "default_aggregation": {"formula": formula},
            "event_time_window": window,
        }

    fitting, other = meter("m1", "sum"), meter("m1", "count")
    assert meter_for("m1", "sum", []) == "m1"
    assert meter_for("m1", "sum", [fitting]) is fitting
    assert meter_for("m1", "last", [fitting]) == "m1_openmeter"
    assert meter_for("m1", "sum", [meter("m1", "sum", "hour")]) == "m1_openmeter"
    assert meter_for("m1", "sum", [other, meter("m1_openmeter", "count")]) == ""
    assert [formula_of(one) for one in ("SUM", "COUNT", "MAX", "UNIQUE_COUNT")] == [
        "sum",
        "sum",
        "last",
        "last",
    ]
    assert request_errors("POST", "/v1/billing/meters", meter_params("m1", "m1", "last")) == []


SCHEDULE: dict[str, Any] = {
    "id": "sub_sched_1",
    "phases": [
        {
            "add_invoice_items": [],
            "application_fee_percent": None,
            "automatic_tax": {"enabled": True, "disabled_reason": None, "liability": {"type": "self"}},
            "billing_cycle_anchor": None,
            "billing_thresholds": None,
            "collection_method": "send_invoice",
            "currency": "usd",
            "default_payment_method": {"id": "pm_1"},
            "default_tax_rates": [{"id": "txr_1", "object": "tax_rate"}],
            "description": "Gold",
            "discounts": [{"coupon": None, "discount": "di_1", "promotion_code": None}],
            "end_date": END,
            "invoice_settings": {"account_tax_ids": None, "days_until_due": 30, "issuer": {"type": "self"}},
            "items": [
                {
                    "billing_thresholds": None,
                    "discounts": [{"coupon": {"id": "co_1"}, "discount": None, "promotion_code": None}],
                    "metadata": {"om_meter_id": "m1"},
                    "price": "price_old",
                    "tax_rates": [{"id": "txr_2"}],
                },
                {"discounts": [], "metadata": {}, "price": {"id": "price_seat"}, "quantity": 3},
            ],
            "metadata": {"contract": "7"},
            "on_behalf_of": None,
            "proration_behavior": "create_prorations",
            "start_date": START,
            "transfer_data": {"amount_percent": None, "destination": "acct_1"},
            "trial_end": None,
        }
    ],
}


def test_the_second_phase_is_the_first_but_for_the_price() -> None:
    [shown] = SCHEDULE["phases"]
    new = put_on(shown["items"][0], "price_new", {"om_meter_id": "m1", "om_usage_since": "1786794600"})
    first, second = two_phases(SCHEDULE, END, {"price_old": new})

    kept = {
        "automatic_tax": {"enabled": True, "liability": {"type": "self"}},
        "collection_method": "send_invoice",
        "currency": "usd",
        "default_payment_method": "pm_1",
        "default_tax_rates": ["txr_1"],
        "description": "Gold",
        "discounts": [{"discount": "di_1"}],
        "invoice_settings": {"days_until_due": 30, "issuer": {"type": "self"}},
        "metadata": {"contract": "7"},
        "proration_behavior": "none",
        "transfer_data": {"destination": "acct_1"},
    }
    seat = {"price": "price_seat", "quantity": 3}
    old = {
        "price": "price_old",
        "metadata": {"om_meter_id": "m1"},
        "tax_rates": ["txr_2"],
        "discounts": [{"coupon": "co_1"}],
    }
    switched = {
        **old,
        "price": "price_new",
        "metadata": {"om_meter_id": "m1", "om_usage_since": "1786794600"},
    }
    assert first == {**kept, "items": [old, seat], "start_date": START, "end_date": END}
    assert second == {**kept, "items": [switched, seat], "iterations": 1}
    # Stripe's spec is of a version that has `duration` for `iterations`, and the subscription's currency.
    of_acacia = {"iterations", "currency"}
    known = [{name: value for name, value in one.items() if name not in of_acacia} for one in (first, second)]
    path = "/v1/subscription_schedules/sub_sched_1"
    assert request_errors("POST", path, on_the_wire({"phases": known})) == []


@pytest.mark.parametrize(
    "change",
    [
        {"phases": SCHEDULE["phases"] * 2},
        {"phases": [{**SCHEDULE["phases"][0], "add_invoice_items": [{"price": "price_1"}]}]},
        {"phases": [{**SCHEDULE["phases"][0], "items": SCHEDULE["phases"][0]["items"][1:]}]},
        {"phases": [{**SCHEDULE["phases"][0], "discounts": [{"coupon": None}]}]},
    ],
)
def test_a_schedule_that_would_change_something_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnreadablePhaseError):
        two_phases({**SCHEDULE, **change}, END, {"price_old": {"price": "price_new"}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"status": "past_due"}, ""),
        ({"schedule": "sub_sched_1", "metadata": {"om_switch_at": str(END)}}, ""),
        ({"schedule": "sub_sched_1"}, "sub_sched_1"),
        ({"schedule": "sub_sched_1", "metadata": {"om_switch_at": str(START)}}, "sub_sched_1"),
        ({"status": "trialing"}, "trial"),
        ({"status": "paused"}, "paused"),
        ({"status": "unpaid"}, "unpaid"),
        ({"cancel_at": END}, "ends"),
        ({"cancel_at_period_end": True}, "ends"),
        ({"pause_collection": {"behavior": "void"}}, "collection paused"),
        ({"billing_thresholds": {"amount_gte": 5}}, "thresholds"),
        ({"pending_update": {"expires_at": END}}, "waits for a payment"),
    ],
)
def test_which_subscriptions_can_be_switched(change: dict[str, Any], said: str) -> None:
    item = {"current_period_start": START, "current_period_end": END}
    subscription = {"status": "active", "schedule": None, "metadata": {}, **change}
    found = refusal_of(subscription, [item])
    assert bool(found) is bool(said)
    assert said in found
    assert "different times" in refusal_of(
        {"status": "active"}, [item, {**item, "current_period_end": END + 5}]
    )
    assert "thresholds" in refusal_of(
        {"status": "active"}, [{**item, "billing_thresholds": {"usage_gte": 5}}]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"stage": Stage.PREPARE, "stack": ""},
        {"stage": Stage.PREPARE, "customer": "cus_1"},
        {"stage": Stage.FINISH, "customer": "cus_1"},
        {"stage": Stage.FINISH, "undo": True},
        {"stage": Stage.COMPARE, "apply": True},
        {"stage": Stage.PREPARE, "limit": 3},
        {"stage": Stage.SWITCH, "undo": True, "force": "seen"},
        {"stage": Stage.SWITCH, "force": " "},
    ],
)
def test_what_does_not_go_together_is_wrong_use(wrong: dict[str, Any]) -> None:
    right = {"stack": "billing", "customer": "", "limit": 0, "force": "", "undo": False, "apply": False}
    with pytest.raises(WrongUseError):
        check(**{**right, **wrong})
