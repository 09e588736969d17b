"""Keys, versions, parameters, pages, expansion and idempotency."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox, StripeSettings
from sandbox.stripe.errors import StripeError
from sandbox.stripe.form import decode
from sandbox.stripe.messages import Request
from tests.sandbox_stripe.direct import ACACIA, DAY, Direct, World, encode


@pytest.mark.parametrize(
    ("encoded", "decoded"),
    [
        ("a=1&b[c]=2", {"a": "1", "b": {"c": "2"}}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("a[0][b]=1&a[1][b]=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        ("a[][b]=1&a[][c]=2&a[][b]=3", {"a": [{"b": "1", "c": "2"}, {"b": "3"}]}),
        ("a%5Bb%5D=x+y%26", {"a": {"b": "x y&"}}),
        ("a=", {"a": ""}),
    ],
)
def test_brackets_decode(encoded: str, decoded: dict[str, Any]) -> None:
    assert decode(encoded) == decoded


@pytest.mark.parametrize("encoded", ["a[=1", "[a]=1", "a]b=1", "a=1&a=2", "a=1&a[b]=2", "a[1]=1"])
def test_broken_names_are_refused(encoded: str) -> None:
    with pytest.raises(StripeError):
        decode(encoded)


def test_keys(api: Direct) -> None:
    basic = base64.b64encode(b"sk_test_sandbox:").decode()
    assert api.get("customers", headers={"authorization": f"Basic {basic}"})["data"] == []
    wrong = api.error("GET", "customers", headers={"authorization": "Bearer sk_test_other1234"})
    assert wrong["status"] == 401
    assert "sk_test_other1234" not in wrong["message"]
    assert api.error("GET", "customers", headers={"authorization": ""})["status"] == 401


def test_restricted_keys_name_the_missing_permission(clock: ManualClock) -> None:
    keys = {"rk_test_reporter": {"subscription": "read", "billing_meter_event": "write"}}
    api = Direct(StripeSandbox(clock, StripeSettings(restricted_keys=keys)))
    headers = {"authorization": "Bearer rk_test_reporter"}
    assert api.get("subscriptions", headers=headers)["data"] == []
    refused = api.error("GET", "invoices", headers=headers)
    assert refused["status"] == 403
    assert "'rak_invoice_read'" in refused["message"]
    assert "code" not in refused
    write = api.error("POST", "subscriptions", {"customer": "cus_1"}, headers=headers)
    assert "'rak_subscription_write'" in write["message"]


def test_permissions_come_before_parameters_and_objects(clock: ManualClock) -> None:
    keys = {"rk_test_reader": {"*": "read"}}
    api = Direct(StripeSandbox(clock, StripeSettings(restricted_keys=keys)))
    headers = {"authorization": "Bearer rk_test_reader"}
    for path in ("billing/meter_events", "prices", "invoices/in_unknown"):
        assert api.error("POST", path, headers=headers)["status"] == 403
        assert api.error("POST", path)["status"] in {400, 404}


def test_versions(api: Direct) -> None:
    assert api.error("GET", "customers", version="2026-01-01.nothing")["status"] == 400
    assert api.get("customers", version="2026-10-28.endive")["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "params", "code", "param"),
    [
        ("POST", "customers", {"mail": "x"}, "parameter_unknown", "mail"),
        ("POST", "products", {}, "parameter_missing", "name"),
        ("POST", "products", {"name": ""}, "parameter_invalid_empty", "name"),
        ("GET", "customers", {"limit": 0}, "parameter_invalid_integer", "limit"),
        ("GET", "customers", {"limit": 101}, "parameter_invalid_integer", "limit"),
        ("GET", "customers", {"limit": "ten"}, "parameter_invalid_integer", "limit"),
        ("GET", "customers", {"created": {"after": 1}}, "parameter_unknown", "created[after]"),
        ("GET", "subscriptions", {"status": "alive"}, None, "status"),
        ("GET", "products", {"active": "yes"}, None, "active"),
        ("POST", "customers", {"metadata": {"k": {"l": "m"}}}, None, "metadata[k]"),
        ("POST", "customers", {"metadata": {"k" * 41: "v"}}, None, f"metadata[{'k' * 41}]"),
        ("GET", "subscription_items", {}, "parameter_missing", "subscription"),
        ("GET", "customers", {"starting_after": "cus_x"}, "resource_missing", "starting_after"),
    ],
)
def test_parameters_are_checked(
    api: Direct, method: str, path: str, params: dict[str, Any], code: str | None, param: str
) -> None:
    error = api.error(method, path, params)
    assert (error["status"], error.get("code"), error["param"]) == (400, code, param)


def test_what_does_not_exist(api: Direct) -> None:
    missing = api.error("GET", "customers/cus_x")
    assert (missing["status"], missing["code"]) == (404, "resource_missing")
    assert api.error("GET", "nothing")["status"] == 404
    assert api.error("DELETE", "invoices")["status"] == 404


def test_json_bodies_are_refused(api: Direct) -> None:
    request = Request(
        "POST",
        "/v1/customers",
        headers={"authorization": "Bearer sk_test_sandbox", "content-type": "application/json"},
        body=b'{"email": "a@example.com"}',
    )
    assert asyncio.run(api.gateway.answer(request)).status == 400


def test_pages(api: Direct, clock: ManualClock) -> None:
    ids = []
    for number in range(12):
        clock.advance(1)
        ids.append(api.post("customers", {"name": f"c{number}"})["id"])
    newest = ids[::-1]
    first = api.get("customers")
    assert [row["id"] for row in first["data"]] == newest[:10]
    assert first["has_more"] is True
    rest = api.get("customers", {"starting_after": newest[9]})
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == (newest[10:], False)
    back = api.get("customers", {"ending_before": newest[5], "limit": 2})
    assert ([row["id"] for row in back["data"]], back["has_more"]) == (newest[3:5], True)
    both = api.error("GET", "customers", {"starting_after": ids[0], "ending_before": ids[1]})
    assert both["status"] == 400


def test_expansion(world: World) -> None:
    subscription = world.subscribe()
    path = f"subscriptions/{subscription['id']}"
    shown = world.api.get(path, {"expand": ["customer", "items.data.price.product"]})
    assert shown["customer"]["email"] == "a@example.com"
    assert shown["items"]["data"][0]["price"]["product"]["name"] == "Execution Duration"
    listed = world.api.get("subscriptions", {"expand": ["data.customer", "data.latest_invoice"]})
    assert listed["data"][0]["customer"]["id"] == world.customer["id"]
    assert listed["data"][0]["latest_invoice"] is None
    for wrong in ("data.items.data.price.product", "customer", "data.status", "data.nothing"):
        assert world.api.error("GET", "subscriptions", {"expand": [wrong]})["param"] == "expand"


def test_an_idempotent_request_is_replayed(api: Direct, clock: ManualClock) -> None:
    headers = {"idempotency-key": "k1"}
    first = api.request("POST", "customers", {"name": "a"}, headers=headers)
    again = api.request("POST", "customers", {"name": "a"}, headers=headers)
    assert again.body == first.body
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    other = api.error("POST", "customers", {"name": "b"}, headers=headers)
    assert (other["status"], other["type"]) == (400, "idempotency_error")
    clock.advance(DAY)
    assert api.post("customers", {"name": "b"}, headers=headers)["name"] == "b"


def test_only_executed_requests_are_stored(world: World) -> None:
    headers = {"idempotency-key": "k1"}
    world.api.error("POST", "customers", {"nome": "a"}, headers=headers)
    assert world.api.post("customers", {"name": "a"}, headers=headers)["name"] == "a"
    world.report("1", identifier="i1")
    twice = world.event("1", identifier="i1")
    keyed = {"idempotency-key": "k2"}
    world.api.error("POST", "billing/meter_events", twice, headers=keyed)
    replay = world.api.request("POST", "billing/meter_events", twice, headers=keyed)
    assert (replay.status, replay.headers["Idempotent-Replayed"]) == (400, "true")


def test_a_refused_expansion_does_the_work_once(world: World) -> None:
    headers = {"idempotency-key": "k1"}
    asked = {"name": "b", "expand": ["metadata"]}
    for _ in range(2):
        assert world.api.error("POST", "customers", asked, headers=headers)["param"] == "expand"
    assert len(world.api.get("customers")["data"]) == 2
    deep = {"name": "b", "expand": ["a.b.c.d.e"]}
    assert world.api.error("POST", "customers", deep)["param"] == "expand"
    assert len(world.api.get("customers")["data"]) == 2


def test_an_idempotency_key_that_is_too_long(api: Direct) -> None:
    headers = {"idempotency-key": "k" * 256}
    assert api.error("POST", "customers", headers=headers)["type"] == "idempotency_error"


def test_concurrent_requests_with_one_key_conflict(stripe: StripeSandbox, world: World) -> None:
    stripe.change_settings(meter_event_latency=0.05)
    headers = {"idempotency-key": "k1"}
    answers = concurrently(world, [world.event("1")] * 2, headers)
    assert sorted(answer.status for answer in answers) == [200, 409]


def test_one_meter_event_at_a_time(stripe: StripeSandbox, world: World) -> None:
    stripe.change_settings(meter_event_latency=0.05)
    other = world.event("1")
    other["payload"] = {**other["payload"], "stripe_customer_id": "cus_other"}
    answers = concurrently(world, [world.event("1"), world.event("2"), other], {})
    assert sorted(answer.status for answer in answers) == [200, 200, 429]
    limited = next(answer for answer in answers if answer.status == 429)
    assert limited.headers["Stripe-Rate-Limited-Reason"] == "resource-specific"


def concurrently(world: World, events: list[dict[str, Any]], headers: dict[str, str]) -> list[Any]:
    async def send() -> list[Any]:
        requests = [
            Request(
                "POST",
                "/v1/billing/meter_events",
                headers={"authorization": "Bearer sk_test_sandbox", **headers},
                body=encode(event).encode(),
            )
            for event in events
        ]
        return await asyncio.gather(*map(world.api.gateway.answer, requests))

    return asyncio.run(send())


def test_rate_limits_when_enforced(stripe: StripeSandbox, api: Direct, clock: ManualClock) -> None:
    stripe.change_settings(enforce_rate_limits=True)
    for _ in range(25):
        api.get("customers")
    limited = api.request("GET", "customers")
    assert limited.status == 429
    assert limited.headers["Stripe-Rate-Limited-Reason"] == "global-rate"
    clock.advance(1)
    assert api.get("customers")["data"] == []


def test_requests_are_logged_without_secrets(stripe: StripeSandbox, api: Direct) -> None:
    api.post("customers", {"metadata": {"k": "v"}}, headers={"idempotency-key": "k1"})
    api.error("GET", "customers/cus_x", version=ACACIA)
    first, second = stripe.log.requests
    assert (first.method, first.path, first.params) == (
        "POST",
        "/v1/customers",
        {"metadata": {"k": "v"}},
    )
    assert first.headers["idempotency-key"] == "k1"
    assert "authorization" not in first.headers
    assert (second.template, second.status) == ("/v1/customers/{customer}", 404)
    assert stripe.calls == {
        ("POST", "/v1/customers"): 1,
        ("GET", "/v1/customers/{customer}"): 1,
    }
