"""Event destinations of the v2 API, and the reports of meter events that were refused after their 200."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
import stripe as stripe_package
from stripe import StripeClient

from sandbox.clock import ManualClock
from sandbox.serve import serve
from sandbox.stripe import DEFAULT_API_VERSION, StripeSandbox, StripeSettings, create_app
from sandbox.stripe.thin_events import ERROR_REPORT, NO_METER_FOUND, THIN_EVENT_TYPES
from tests.contract.stripe_openapi import object_errors
from tests.sandbox_stripe.conftest import NOW
from tests.sandbox_stripe.direct import DAY, Json, World, end_of

URL = "https://example.com/stripe/webhook"
EVENTS = "billing/meter_events"


class Receiver:
    """What was posted to destinations and endpoints: URL, signature and body."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, bytes]] = []

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        self.received.append((url, headers["Stripe-Signature"], body))
        return 200


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def stripe(clock: ManualClock, receiver: Receiver) -> StripeSandbox:
    return StripeSandbox(clock, StripeSettings(seed=1, meter_event_latency=0), deliver=receiver)


@pytest.fixture
def url(stripe: StripeSandbox) -> Iterator[str]:
    with serve(create_app(stripe, ticker=False)) as base:
        yield base


@pytest.fixture
def client(url: str) -> StripeClient:
    return StripeClient("sk_test_sandbox", base_addresses={"api": url})


def wanted(**params: Any) -> Any:
    return {
        "name": "errors",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": list(THIN_EVENT_TYPES),
        "webhook_endpoint": {"url": URL},
        "include": ["webhook_endpoint.signing_secret", "webhook_endpoint.url"],
        **params,
    }


def without_null(value: Json) -> Json:
    return {name: member for name, member in value.items() if member is not None}


def test_the_official_package_manages_destinations(client: StripeClient) -> None:
    service = client.v2.core.event_destinations
    made = service.create(wanted(metadata={"stack": "a", "old": "b"}, description="of a stack"))
    assert made.webhook_endpoint is not None
    assert str(made.webhook_endpoint.signing_secret).startswith("whsec_")
    assert made.webhook_endpoint.url == URL

    shown = service.retrieve(made.id).to_dict()
    assert shown["webhook_endpoint"] == {"signing_secret": None, "url": None}
    shown["webhook_endpoint"] = {}
    assert object_errors("v2.core.event_destination", without_null(shown)) == []

    changed = service.update(made.id, {"enabled_events": [ERROR_REPORT], "metadata": {"old": None}})
    assert changed.enabled_events == [ERROR_REPORT]
    assert changed.metadata is not None
    assert changed.metadata.to_dict() == {"stack": "a"}
    disabled = service.disable(made.id)
    assert disabled.status_details is not None
    assert disabled.status_details.disabled is not None
    assert (disabled.status, disabled.status_details.disabled.reason) == ("disabled", "user")
    assert service.enable(made.id).status == "enabled"

    others = [service.create(wanted()).id for _ in range(4)]
    listed = service.list({"limit": 2, "include": ["webhook_endpoint.url"]})
    assert len(listed.data) == 2
    found = list(listed.auto_paging_iter())
    assert [one.id for one in found] == [*reversed(others), made.id]
    assert {one.webhook_endpoint.url for one in found if one.webhook_endpoint} == {URL}

    assert service.delete(made.id).id == made.id
    with pytest.raises(stripe_package.InvalidRequestError) as gone:
        service.retrieve(made.id)
    assert (gone.value.http_status, gone.value.code) == (404, "not_found")


@pytest.mark.parametrize(
    "params",
    [
        {"enabled_events": ["invoice.created"]},
        {"event_payload": "snapshot"},
        {"type": "amazon_eventbridge"},
        {"webhook_endpoint": {"url": "no address"}},
        {"webhook_endpoint": {}},
        {"snapshot_api_version": DEFAULT_API_VERSION},
        {"include": ["webhook_endpoint.secret"]},
        {"invented": "x"},
        {"name": 1},
    ],
)
def test_a_wrong_destination_is_refused(client: StripeClient, params: Any) -> None:
    with pytest.raises(stripe_package.InvalidRequestError):
        client.v2.core.event_destinations.create(wanted(**params))


def test_there_are_at_most_sixteen_of_both_kinds(client: StripeClient) -> None:
    for _ in range(15):
        client.v2.core.event_destinations.create(wanted())
    client.v1.webhook_endpoints.create({"url": URL, "enabled_events": ["*"]})
    with pytest.raises(stripe_package.InvalidRequestError, match="maximum of 16"):
        client.v2.core.event_destinations.create(wanted())
    with pytest.raises(stripe_package.InvalidRequestError, match="maximum of 16"):
        client.v1.webhook_endpoints.create({"url": URL, "enabled_events": ["*"]})


def test_v2_wants_json_and_a_version_and_executes_failures_anew(url: str, stripe: StripeSandbox) -> None:
    headers = {"Authorization": "Bearer sk_test_sandbox", "Idempotency-Key": "k"}
    version = {"Stripe-Version": DEFAULT_API_VERSION}
    path = f"{url}/v2/core/event_destinations"
    with httpx.Client(trust_env=False) as http:
        assert http.post(path, json=wanted(), headers=headers).status_code == 400
        assert http.post(path, data={"name": "x"}, headers={**headers, **version}).status_code == 400
        bad, good = wanted(webhook_endpoint={"url": "ftp://x"}), wanted()
        assert http.post(path, json=bad, headers={**headers, **version}).status_code == 400
        made = http.post(path, json=good, headers={**headers, **version})
        again = http.post(path, json=good, headers={**headers, **version})
    assert made.status_code == again.status_code == 200
    assert (made.json()["id"], again.headers["Idempotent-Replayed"]) == (again.json()["id"], "true")
    assert len(stripe.account.destinations) == 1


def test_a_refused_event_counts_nowhere_and_is_reported(
    client: StripeClient, stripe: StripeSandbox, world: World, receiver: Receiver, clock: ManualClock
) -> None:
    """The report is thin, signed for its own destination, and names samples only."""
    clock.set(NOW // 10 * 10)
    made = client.v2.core.event_destinations.create(wanted())
    assert made.webhook_endpoint is not None
    client.v1.webhook_endpoints.create({"url": "https://example.com/snapshots", "enabled_events": ["*"]})
    subscription = world.subscribe()
    stripe.change_settings(error_samples=2, checked_late=frozenset({"archived_meter"}))
    world.report("1", identifier="counts")
    world.api.post(f"billing/meters/{world.meter['id']}/deactivate")
    for number in range(3):
        world.api.post(
            EVENTS, world.event("2", identifier=f"i{number}"), headers={"idempotency-key": f"k{number}"}
        )
    world.api.post(f"billing/meters/{world.meter['id']}/reactivate")
    stripe.validation.refuse_next("missing_dimension_payload_keys")
    world.report("4", identifier="other")
    clock.advance(11)
    stripe.run_due()
    assert not [body for url, _, body in receiver.received if url == URL]
    clock.advance(1)
    stripe.run_due()

    [(_, signature, body)] = [one for one in receiver.received if one[0] == URL]
    assert ERROR_REPORT not in {json.loads(body)["type"] for url, _, body in receiver.received if url != URL}
    secret = str(made.webhook_endpoint.signing_secret)
    notification: Any = client.parse_event_notification(body, signature, secret, tolerance=10**9)
    assert "data" not in json.loads(body)
    assert object_errors("v2.core.event", without_null(json.loads(body))) == []
    assert notification.type == ERROR_REPORT
    assert notification.related_object.id == world.meter["id"]
    assert notification.fetch_related_object().event_name == "m1"
    data = notification.fetch_event().data
    assert data.developer_message_summary == "There are 4 invalid events"
    assert data.reason.error_count == 4
    assert [(one.code, one.error_count) for one in data.reason.error_types] == [
        ("archived_meter", 3),
        ("missing_dimension_payload_keys", 1),
    ]
    samples = [sample.request.identifier for one in data.reason.error_types for sample in one.sample_errors]
    assert samples == ["k0", "k1", "other"]
    assert (data.validation_start, data.validation_end) == (
        "2026-05-28T20:28:40.000Z",
        "2026-05-28T20:28:50.000Z",
    )

    used = world.api.error("POST", EVENTS, world.event("2", identifier="i0"))
    assert "already exists with identifier" in used["message"]
    world.finish(end_of(subscription))
    assert world.billed(subscription) == {world.price["id"]: "1"}
    clock.advance(30 * DAY)
    with pytest.raises(stripe_package.InvalidRequestError):
        notification.fetch_event()


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("no_meter", {"event_name": "nobody's"}),
        ("meter_event_customer_not_found", {"payload": {"stripe_customer_id": "cus_no", "value": "1"}}),
        ("meter_event_no_customer_defined", {"payload": {"value": "1"}}),
        ("meter_event_invalid_value", {"payload": {"stripe_customer_id": "?", "value": "1e5"}}),
        ("meter_event_value_too_many_digits", {"payload": {"stripe_customer_id": "?", "value": "1" * 16}}),
        ("meter_event_value_not_found", {"payload": {"stripe_customer_id": "?"}}),
        ("timestamp_too_far_in_past", {"timestamp": NOW - 36 * DAY}),
        ("timestamp_in_future", {"timestamp": NOW + 301}),
    ],
)
def test_each_code_at_once_or_afterwards(
    world: World, stripe: StripeSandbox, clock: ManualClock, code: str, change: Json
) -> None:
    if "payload" in change and change["payload"].get("stripe_customer_id") == "?":
        change["payload"]["stripe_customer_id"] = world.customer["id"]
    event = {**world.event("1"), **change}
    stripe.change_settings(checked_late=frozenset())
    assert world.api.error("POST", EVENTS, event)["code"] == code

    stripe.change_settings(checked_late=frozenset({code}))
    world.api.post(EVENTS, event)
    clock.advance(30)
    stripe.run_due()
    assert stripe.meters.accepted() == []
    [reported] = stripe.events.thin
    assert reported.type == (NO_METER_FOUND if code == "no_meter" else ERROR_REPORT)
    assert reported.data["reason"]["error_types"][0]["code"] == code


def test_a_disabled_or_deleted_destination_gets_nothing(
    client: StripeClient, stripe: StripeSandbox, world: World, receiver: Receiver, clock: ManualClock
) -> None:
    service = client.v2.core.event_destinations
    service.disable(service.create(wanted()).id)
    service.delete(service.create(wanted()).id)
    service.create(wanted(enabled_events=[NO_METER_FOUND]))
    stripe.validation.refuse_next("archived_meter")
    world.report("1")
    clock.advance(30)
    stripe.run_due()
    assert [one.type for one in stripe.events.thin] == [ERROR_REPORT]
    assert receiver.received == []


def test_reading_a_thin_event_takes_the_permission_to_read_meters(
    world: World, stripe: StripeSandbox, url: str, clock: ManualClock
) -> None:
    stripe.validation.refuse_next("archived_meter")
    world.report("1")
    clock.advance(30)
    stripe.run_due()
    [event] = stripe.events.thin
    keys = {"rk_test_events": {"event": "read"}, "rk_test_meters": {"billing_meter": "read"}}
    stripe.change_settings(restricted_keys=keys)

    def fetch(key: str) -> Any:
        return StripeClient(key, base_addresses={"api": url}).v2.core.events.retrieve(event.id)

    with pytest.raises(stripe_package.PermissionError, match="rak_billing_meter_read"):
        fetch("rk_test_events")
    assert fetch("rk_test_meters").type == ERROR_REPORT
