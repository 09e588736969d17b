"""What the stand-in answers fits Stripe's published schemas: nothing invented, nothing missing."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox
from sandbox.stripe.api import ROUTES
from tests.contract.stripe_openapi import object_errors, request_errors, spec
from tests.sandbox_stripe.direct import DAY, World, end_of


@pytest.fixture
def lived(stripe: StripeSandbox, clock: ManualClock) -> World:
    """A world in which most things have happened."""
    world = World(stripe, clock)
    world.api.post("webhook_endpoints", {"url": "https://example.com", "enabled_events": ["*"]})
    subscription = world.subscribe(
        world.price, world.licensed_price(), metadata={"k": "v"}, cancel_at=clock() + 100 * DAY
    )
    world.subscribe(trial_end=clock() + DAY)
    world.report("1.25")
    clock.advance(DAY)
    row = {"id": subscription["items"]["data"][0]["id"], "price": world.new_price("20")["id"]}
    pause = {"behavior": "void", "resumes_at": clock() + DAY}
    world.api.post(f"subscriptions/{subscription['id']}", {"items": [row], "pause_collection": pause})
    clock.set(end_of(subscription))
    stripe.advance()
    return world


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("products", "product"),
        ("prices", "price"),
        ("billing/meters", "billing.meter"),
        ("customers", "customer"),
        ("subscriptions", "subscription"),
        ("invoices", "invoice"),
        ("events", "event"),
        ("webhook_endpoints", "webhook_endpoint"),
    ],
)
def test_lists(lived: World, path: str, schema: str) -> None:
    rows = lived.api.get(path, {"limit": 100})["data"]
    assert rows
    for row in rows:
        assert object_errors(schema, row) == []
        assert schema == "event" or lived.api.get(f"{path}/{row['id']}") == row


def test_parts(lived: World) -> None:
    for invoice in lived.invoices():
        for line in lived.lines(invoice):
            assert object_errors("line_item", line) == []
    for subscription in lived.api.get("subscriptions")["data"]:
        asked = {"subscription": subscription["id"]}
        for item in lived.api.get("subscription_items", asked)["data"]:
            assert object_errors("subscription_item", item) == []
        preview = lived.api.post("invoices/create_preview", asked)
        assert object_errors("invoice", preview) == []
    assert object_errors("account", lived.api.get("account")) == []
    assert object_errors("billing.meter_event", lived.report("1")) == []


def test_summaries_and_deletions(lived: World) -> None:
    path = f"billing/meters/{lived.meter['id']}/event_summaries"
    end = lived.clock() // 60 * 60
    asked = {"customer": lived.customer["id"], "start_time": end - 60 * DAY, "end_time": end}
    (summary,) = lived.api.get(path, asked)["data"]
    assert object_errors("billing.meter_event_summary", summary) == []
    gone = lived.api.delete(f"customers/{lived.customer['id']}")
    assert object_errors("deleted_customer", gone) == []
    expanded = lived.api.get("subscriptions", {"status": "all", "expand": ["data.customer"]})
    assert object_errors("subscription", expanded["data"][0]) == []


def test_what_the_stand_in_takes_is_in_the_spec(lived: World, stripe: StripeSandbox) -> None:
    for request in stripe.log.requests:
        if request.status == 200:
            assert request_errors(request.method, request.path, request.params) == []


def test_every_parameter_exists() -> None:
    for route in ROUTES:
        if route.legacy:
            continue
        operation: Any = spec()["paths"][route.template][route.method.lower()]
        content = operation.get("requestBody", {}).get("content", {})
        body = content.get("application/x-www-form-urlencoded", content.get("application/json", {}))
        known = set(body.get("schema", {}).get("properties", {}))
        known |= {row["name"] for row in operation.get("parameters", []) if row["in"] == "query"}
        assert set(route.params.kinds) <= known, f"{route.method} {route.template}"
