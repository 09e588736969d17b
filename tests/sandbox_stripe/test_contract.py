"""The official `stripe` package works against the stand-in unchanged, over real HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
import stripe as stripe_package
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stripe import StripeClient

from sandbox.clock import ManualClock
from sandbox.serve import serve
from sandbox.stripe import StripeSandbox, create_app
from tests.sandbox_stripe.direct import ACACIA, DAY, HOUR


@pytest.fixture
def url(stripe: StripeSandbox) -> Iterator[str]:
    with serve(create_app(stripe)) as base:
        yield base


def client_of(url: str, **options: Any) -> StripeClient:
    bases: Any = {"api": url, "meter_events": url, "connect": url, "files": url}
    return StripeClient("sk_test_sandbox", base_addresses=bases, **options)


@pytest.fixture
def client(url: str) -> StripeClient:
    return client_of(url)


def set_up(client: StripeClient) -> tuple[str, str, str]:
    """Customer, meter and subscription."""
    meter = client.v1.billing.meters.create(
        {
            "display_name": "Execution Duration",
            "event_name": "m1",
            "default_aggregation": {"formula": "sum"},
        }
    )
    product = client.v1.products.create({"name": "Execution Duration"})
    price = client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 10,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
        }
    )
    customer = client.v1.customers.create({"email": "a@example.com"})
    item: Any = {"price": price.id, "metadata": {"om_meter_id": "m1"}}
    subscription = client.v1.subscriptions.create({"customer": customer.id, "items": [item]})
    return customer.id, meter.id, subscription.id


def send(client: StripeClient, customer: str, value: str, at: int, identifier: str) -> None:
    client.v1.billing.meter_events.create(
        {
            "event_name": "m1",
            "payload": {"stripe_customer_id": customer, "value": value},
            "timestamp": at,
            "identifier": identifier,
        }
    )


def test_a_month_with_the_typed_client(client: StripeClient, clock: ManualClock) -> None:
    customer, meter, subscription = set_up(client)
    shown = client.v1.subscriptions.retrieve(subscription, {"expand": ["customer"]})
    assert shown.billing_mode.type == "flexible"
    (item,) = client.v1.subscription_items.list({"subscription": subscription}).data
    assert item.metadata["om_meter_id"] == "m1"
    send(client, customer, "12.5", clock(), "i1")
    hour = clock() // HOUR * HOUR
    summaries = client.v1.billing.meters.event_summaries.list(
        meter,
        {
            "customer": customer,
            "start_time": hour,
            "end_time": hour + HOUR,
            "value_grouping_window": "hour",
        },
    )
    assert [row.aggregated_value for row in summaries.data] == [12.5]
    clock.set(item.current_period_end + 1)
    (draft,) = client.v1.invoices.list({"status": "draft"}).data
    line = client.v1.invoices.line_items.list(draft.id).data[0]
    assert (line.quantity_decimal, line.amount) == (Decimal("12.5"), 125)
    clock.advance(HOUR)
    assert client.v1.invoices.retrieve(draft.id).status == "paid"


def test_automatic_paging(client: StripeClient) -> None:
    made = [client.v1.customers.create({"name": str(number)}).id for number in range(25)]
    paged = client.v1.customers.list({"limit": 10}).auto_paging_iter()
    assert [customer.id for customer in paged] == made[::-1]


def test_errors_are_the_packages_own(client: StripeClient, url: str, clock: ManualClock) -> None:
    customer, _, _ = set_up(client)
    send(client, customer, "1", clock(), "i1")
    with pytest.raises(stripe_package.InvalidRequestError, match="already exists with identifier"):
        send(client, customer, "1", clock(), "i1")
    with pytest.raises(stripe_package.InvalidRequestError) as missing:
        client.v1.subscriptions.retrieve("sub_none")
    assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")
    with pytest.raises(stripe_package.AuthenticationError):
        StripeClient("sk_test_no", base_addresses={"api": url}).v1.customers.list()


def test_an_answered_500_is_replayed_by_the_packages_retries(
    url: str, stripe: StripeSandbox, clock: ManualClock
) -> None:
    client = client_of(url, max_network_retries=1)
    customer, _, _ = set_up(client)
    stripe.faults.add("error_after", "POST", "/v1/billing/meter_events")
    with pytest.raises(stripe_package.APIError):
        send(client, customer, "1", clock(), "i1")
    assert stripe.calls["POST", "/v1/billing/meter_events"] == 2


@pytest.mark.parametrize("kind", ["drop", "drop_before"])
def test_a_cut_connection_is_a_connection_error(
    client: StripeClient, stripe: StripeSandbox, clock: ManualClock, kind: str
) -> None:
    customer, _, _ = set_up(client)
    stripe.faults.add(kind, "POST", "/v1/billing/meter_events")
    with pytest.raises(stripe_package.APIConnectionError):
        send(client, customer, "1", clock(), "i1")


def test_legacy_usage_records_through_raw_requests(client: StripeClient, clock: ManualClock) -> None:
    old: Any = {"stripe_version": ACACIA}
    product = client.v1.products.create({"name": "Execution Duration"})
    recurring: Any = {"interval": "month", "usage_type": "metered"}
    price = client.v1.prices.create(
        {"currency": "usd", "product": product.id, "unit_amount": 10, "recurring": recurring}, old
    )
    customer = client.v1.customers.create({})
    made = client.v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]}, old)
    item = client.v1.subscription_items.list({"subscription": made.id}).data[0].id
    response = client.raw_request(
        "post",
        f"/v1/subscription_items/{item}/usage_records",
        quantity=5,
        timestamp=clock() + 1,
        action="set",
        stripe_version=ACACIA,
        idempotency_key="k1",
    )
    record: Any = client.deserialize(response, api_mode="V1")
    assert (record.object, record.quantity) == ("usage_record", 5)


def test_the_async_client(url: str, clock: ManualClock, stripe: StripeSandbox) -> None:
    async def list_customers() -> int:
        http = stripe_package.HTTPXClient()
        client = client_of(url, http_client=http)
        await client.v1.customers.create_async({"name": "a"})
        raw = await client.raw_request_async("get", "/v1/customers", limit=100)
        await http.close_async()  # type: ignore[no-untyped-call]
        return len(raw.data["data"])

    assert asyncio.run(list_customers()) == 1


def test_webhooks_over_http(stripe: StripeSandbox, clock: ManualClock) -> None:
    """The stand-in's own thread delivers, and the package verifies."""
    received: list[tuple[bytes, str]] = []
    arrived = threading.Event()

    async def receive(request: Request) -> Response:
        received.append((await request.body(), request.headers["stripe-signature"]))
        arrived.set()
        return Response(status_code=200)

    endpoint = Starlette(routes=[Route("/hook", receive, methods=["POST"])])
    with serve(endpoint) as hook, serve(create_app(stripe)) as url:
        client = client_of(url)
        made = client.v1.webhook_endpoints.create(
            {"url": f"{hook}/hook", "enabled_events": ["customer.subscription.updated"]}
        )
        _, _, subscription = set_up(client)
        clock.advance(31 * DAY)
        assert arrived.wait(5)
        wait_until(lambda: bool(stripe.webhooks.log[0].statuses))
    body, signature = received[0]
    assert made.secret is not None
    event = stripe_package.Webhook.construct_event(body, signature, made.secret, tolerance=0)
    assert event.data.object.id == subscription
    assert stripe.webhooks.log[0].statuses == [200]


def test_an_unreachable_endpoint_counts_as_unanswered(stripe: StripeSandbox, clock: ManualClock) -> None:
    with serve(create_app(stripe)) as url:
        client = client_of(url)
        client.v1.webhook_endpoints.create(
            {"url": "http://127.0.0.1:9/hook", "enabled_events": ["customer.created"]}
        )
        client.v1.customers.create({})
        wait_until(lambda: bool(stripe.webhooks.log[0].statuses))
    assert stripe.webhooks.log[0].statuses == [0]


def test_an_endpoint_is_reached_where_its_address_is_served(clock: ManualClock) -> None:
    asked: list[str] = []

    def reached_at(url: str) -> str:
        asked.append(url)
        return "http://127.0.0.1:9/hook"

    stripe = StripeSandbox(clock, reached_at=reached_at)
    with serve(create_app(stripe)) as url:
        client = client_of(url)
        made = client.v1.webhook_endpoints.create(
            {"url": "https://api.example.com/hook", "enabled_events": ["customer.created"]}
        )
        client.v1.customers.create({})
        wait_until(lambda: bool(stripe.webhooks.log[0].statuses))
    assert made.url == "https://api.example.com/hook"
    assert asked == ["https://api.example.com/hook"]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_control_routes(url: str, stripe: StripeSandbox, clock: ManualClock) -> None:
    control = httpx.Client(base_url=f"{url}/_sandbox", trust_env=False)
    with control:
        fault = {"kind": "status", "path": "/v1/customers", "status": 503}
        assert control.post("/faults", json=fault).status_code == 200
        client = client_of(url)
        with pytest.raises(stripe_package.APIError):
            client.v1.customers.list()
        assert control.post("/faults", json={"kind": "explode"}).status_code == 400
        assert control.get("/calls").json() == {"result": {"GET /v1/customers": 1}}
        assert control.get("/requests").json()["result"][0]["status"] == 503
        assert len(control.get("/faults").json()["result"]) == 1
        assert control.post("/settings", json={"finalization_grace": 5}).status_code == 200
        assert stripe.settings.finalization_grace == 5
        assert control.post("/settings", json={"api_keys": []}).status_code == 400
        moved = control.post("/clock", json={"offset": -DAY}).json()["result"]["now"]
        assert client.v1.customers.create({}).created == moved == clock() - DAY
        assert control.post("/clock", json={"offset": 0}).json()["result"]["now"] == clock()
        made = client.v1.webhook_endpoints.create(
            {"url": "http://127.0.0.1:9", "enabled_events": ["customer.created"]}
        )
        rolled = control.post("/webhooks/roll", json={"endpoint_id": made.id}).json()["result"]
        assert rolled["secret"] != made.secret
        assert control.post("/webhooks/drop", json={"type": "customer.created"}).is_success
        client.v1.customers.create({})
        assert control.post("/run_due").is_success
        assert control.get("/webhooks").json()["result"] == []
