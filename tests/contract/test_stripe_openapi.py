"""The checks against Stripe's spec accept what is valid and refuse what is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.stripe_openapi import object_errors, request_errors

_EVENT = {
    "event_name": "m1",
    "payload": {"stripe_customer_id": "cus_1", "value": "10"},
    "timestamp": "1780000000",
    "identifier": "i",
}


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("POST", "/v1/billing/meter_events", _EVENT),
        ("GET", "/v1/subscriptions", {"limit": "100", "expand": ["data.customer"]}),
        ("GET", "/v1/subscriptions", {"current_period_end": {"gte": "1", "lte": "2"}}),
        ("GET", "/v1/subscriptions/sub_1", {}),
        ("GET", "/v1/subscription_items", {"subscription": "sub_1", "limit": "100"}),
        ("POST", "/v1/subscriptions", {"customer": "cus_1", "items": [{"price": "price_1"}]}),
        (
            "GET",
            "/v1/billing/meters/mtr_1/event_summaries",
            {"customer": "cus_1", "start_time": "0", "end_time": "60"},
        ),
        ("POST", "/v1/invoices/in_1", {"auto_advance": "true", "automatically_finalizes_at": "9"}),
    ],
)
def test_accepts_valid_requests(method: str, path: str, params: dict[str, Any]) -> None:
    assert request_errors(method, path, params) == []


@pytest.mark.parametrize(
    ("method", "path", "params", "complaint"),
    [
        ("POST", "/v1/billing/meter_events", {**_EVENT, "timestamp": "soon"}, "integer"),
        ("POST", "/v1/billing/meter_events", {"payload": {"value": "1"}}, "event_name"),
        ("POST", "/v1/billing/meter_events", {**_EVENT, "value": "1"}, "value: unknown"),
        ("POST", "/v1/billing/meter_events", {**_EVENT, "identifier": "i" * 101}, "too long"),
        ("GET", "/v1/subscriptions", {"current_period_end": {"min": "1"}}, "current_period_end"),
        ("GET", "/v1/subscriptions", {"status": "alive"}, "alive"),
        ("GET", "/v1/subscription_items", {"limit": "100"}, "subscription"),
        ("POST", "/v1/subscriptions", {"items": [{"prize": "price_1"}]}, "items[][prize]"),
        ("POST", "/v1/subscription_items/si_1/usage_records", {}, "does not exist"),
    ],
)
def test_refuses_invalid_requests(method: str, path: str, params: dict[str, Any], complaint: str) -> None:
    assert complaint in " ".join(request_errors(method, path, params))


def test_finds_invented_missing_and_misshapen_fields() -> None:
    summary = {
        "id": 7,
        "object": "billing.meter_event_summary",
        "aggregated_value": 1.5,
        "customer": "cus_1",
        "end_time": 60,
        "livemode": None,
        "meter": "mtr_1",
    }
    assert sorted(object_errors("billing.meter_event_summary", summary)) == [
        "billing.meter_event_summary.customer: invented",
        "billing.meter_event_summary.id: 7 is no string",
        "billing.meter_event_summary.livemode: must not be null",
        "billing.meter_event_summary.start_time: missing",
    ]
