"""Events and their deliveries: shapes, signatures, retries, and what holds an invoice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import stripe as stripe_package

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox, StripeSettings, build_event, sign
from tests.sandbox_stripe.direct import ACACIA, DAY, HOUR, Json, World, end_of

URL = "https://example.com/stripe/webhook"


class Receiver:
    """A webhook endpoint that answers what it is told."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.received: list[tuple[Json, str, bytes]] = []

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        assert url == URL
        self.received.append((json.loads(body), headers["Stripe-Signature"], body))
        return self.answers.pop(0) if self.answers else 200

    @property
    def types(self) -> list[str]:
        return [event["type"] for event, _, _ in self.received]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def stripe(clock: ManualClock, receiver: Receiver) -> StripeSandbox:
    settings = StripeSettings(seed=1, meter_event_latency=0)
    return StripeSandbox(clock, settings, deliver=receiver)


def listen(world: World, *types: str, **params: Any) -> Json:
    asked = {"url": URL, "enabled_events": list(types or ("*",)), **params}
    return world.api.post("webhook_endpoints", asked)


RENEWAL = ("invoice.created", "customer.subscription.updated")


def test_a_renewal_in_both_shapes(world: World, receiver: Receiver) -> None:
    listen(world, "customer.subscription.updated")
    listen(world, "customer.subscription.updated", api_version=ACACIA)
    subscription = world.subscribe()
    old = subscription["items"]["data"][0]
    end = end_of(subscription)
    world.to(end)
    basil, acacia = (event for event, _, _ in receiver.received)
    assert basil["id"] == acacia["id"]
    assert (basil["created"], basil["request"]["id"]) == (end, None)
    assert basil["data"]["previous_attributes"] == {
        "items": {"data": [old]},
        "latest_invoice": None,
    }
    new = basil["data"]["object"]["items"]["data"][0]
    assert new["current_period_start"] == old["current_period_end"]
    assert "current_period_end" not in basil["data"]["object"]
    assert acacia["api_version"] == ACACIA
    assert acacia["data"]["previous_attributes"] == {
        "current_period_start": subscription["created"],
        "current_period_end": end,
        "latest_invoice": None,
    }
    assert acacia["data"]["object"]["current_period_start"] == end


def test_the_invoice_comes_first(world: World, receiver: Receiver) -> None:
    listen(world, *RENEWAL, "invoice.finalized")
    end = end_of(world.subscribe())
    world.finish(end)
    assert receiver.types == [*RENEWAL, "invoice.finalized"]
    assert [event["created"] for event, _, _ in receiver.received] == [end, end, end + HOUR]


def test_deliveries_are_signed(world: World, receiver: Receiver) -> None:
    secret = listen(world, "customer.created")["secret"]
    made = world.api.post("customers", {"name": "b"})
    world.stripe.run_due()
    _, signature, body = receiver.received[0]
    event = stripe_package.Webhook.construct_event(body, signature, secret, tolerance=0)
    assert event.data.object.id == made["id"]
    assert f"t={world.clock()}," in signature
    with pytest.raises(stripe_package.SignatureVerificationError):
        stripe_package.Webhook.construct_event(body, signature, "whsec_x", tolerance=0)


def test_a_secret_is_shown_once_and_rolled(world: World, receiver: Receiver) -> None:
    endpoint = listen(world, "customer.created")
    assert "secret" not in world.api.get(f"webhook_endpoints/{endpoint['id']}")
    fresh = world.stripe.webhooks.roll_secret(endpoint["id"], expires_in=HOUR)
    world.api.post("customers")
    world.stripe.run_due()
    world.clock.advance(HOUR)
    world.api.post("customers")
    world.stripe.run_due()
    both, later = (signature for _, signature, _ in receiver.received)
    assert (both.count("v1="), later.count("v1=")) == (2, 1)
    for secret in (fresh, endpoint["secret"]):
        body = receiver.received[0][2]
        stripe_package.Webhook.construct_event(body, both, secret, tolerance=0)
    body = receiver.received[1][2]
    with pytest.raises(stripe_package.SignatureVerificationError):
        stripe_package.Webhook.construct_event(body, later, endpoint["secret"], tolerance=0)


def test_retries_are_signed_anew(world: World, receiver: Receiver) -> None:
    listen(world, "customer.created")
    receiver.answers = [500, 302]
    world.api.post("customers")
    start = world.clock()
    for wait in (0, 10 * 60, 2 * HOUR, 3 * DAY):
        world.to(world.clock() + wait)
    assert len(receiver.received) == 3
    assert len({signature for _, signature, _ in receiver.received}) == 3
    assert len({body for _, _, body in receiver.received}) == 1
    assert world.stripe.webhooks.log[0].statuses == [500, 302, 200]
    assert world.clock() > start


def test_retries_end(world: World, receiver: Receiver) -> None:
    listen(world, "customer.created")
    receiver.answers = [500] * 9
    world.api.post("customers")
    world.to(world.clock() + 30 * DAY - 1)
    assert len(receiver.received) == 3
    undelivered = world.api.get("events", {"delivery_success": False})["data"]
    assert [event["type"] for event in undelivered] == ["customer.created"]


def test_unanswered_invoice_created_holds_the_draft(world: World, receiver: Receiver) -> None:
    world.stripe.change_settings(webhook_retry_delays=(30 * 60, 2 * HOUR))
    listen(world, "invoice.created")
    subscription = world.subscribe()
    end = end_of(subscription)
    receiver.answers = [503, 503]
    world.to(end + HOUR)
    assert world.invoices()[0]["status"] == "draft"
    world.report("3", end - 1)
    world.to(end + 30 * 60 + 2 * HOUR)
    assert world.billed(subscription) == {world.price["id"]: "3"}
    finalized = world.invoices()[0]
    assert finalized["status_transitions"]["finalized_at"] == end + 30 * 60 + 2 * HOUR


def test_a_draft_is_held_for_72_hours_at_most(world: World, receiver: Receiver) -> None:
    world.stripe.change_settings(webhook_retry_delays=(10 * DAY,))
    listen(world, "invoice.created")
    end = end_of(world.subscribe())
    receiver.answers = [503]
    world.to(end + 72 * HOUR - 1)
    assert world.invoices()[0]["status"] == "draft"
    world.to(end + 72 * HOUR)
    assert world.invoices()[0]["status"] == "paid"


@pytest.mark.parametrize("how", ["send_invoice", "custom_time"])
def test_what_is_not_held(world: World, receiver: Receiver, how: str) -> None:
    listen(world, "invoice.created")
    sent: Json = {"collection_method": "send_invoice", "days_until_due": 7}
    end = end_of(world.subscribe(**(sent if how == "send_invoice" else {})))
    receiver.answers = [503] * 9
    world.to(end)
    if how == "custom_time":
        change = {"auto_advance": True, "automatically_finalizes_at": end + 2 * HOUR}
        world.api.post(f"invoices/{world.invoices()[0]['id']}", change)
    world.to(end + 2 * HOUR)
    assert world.invoices()[0]["status"] != "draft"


def test_disturbances(world: World, receiver: Receiver) -> None:
    listen(world, *RENEWAL)
    world.subscribe()
    end = end_of(world.subscribe(world.licensed_price()))
    webhooks = world.stripe.webhooks
    world.stripe.run_due()
    receiver.received.clear()
    webhooks.drop_next(type="invoice.created", customer=world.customer["id"])
    webhooks.duplicate_next(type="customer.subscription.updated")
    webhooks.delay_next(60, type="invoice.created")
    webhooks.drop_next(type="invoice.created", customer="cus_other")
    world.to(end)
    assert receiver.types == [RENEWAL[1]] * 3
    world.to(end + 60)
    assert receiver.types == [RENEWAL[1]] * 3 + [RENEWAL[0]]
    world.to(end + HOUR)
    assert [row["status"] for row in world.invoices()] == ["paid"] * len(world.invoices())


def test_one_change_can_make_two_events(world: World, receiver: Receiver) -> None:
    listen(world, "customer.updated")
    world.stripe.webhooks.twin_next(type="customer.updated")
    world.api.post(f"customers/{world.customer['id']}", {"name": "b"})
    world.stripe.run_due()
    first, second = (event for event, _, _ in receiver.received)
    assert first["id"] != second["id"]
    assert first["data"] == second["data"]


def test_endpoints(world: World, receiver: Receiver) -> None:
    path = "webhook_endpoints"
    base = {"url": URL, "enabled_events": ["*"]}
    for wrong in (
        {"url": URL},
        {**base, "url": "nowhere"},
        {**base, "enabled_events": ["customer.subscription.renewed"]},
        {**base, "api_version": "2026-01-01"},
    ):
        assert world.api.error("POST", path, wrong)["status"] == 400
    made = world.api.post(path, {**base, "api_version": ACACIA})
    one = f"{path}/{made['id']}"
    assert world.api.error("POST", one, {"api_version": ACACIA})["code"] == "parameter_unknown"
    assert world.api.post(one, {"disabled": True})["status"] == "disabled"
    world.api.post("customers")
    world.stripe.run_due()
    assert receiver.received == []
    assert world.api.delete(one) == {"id": made["id"], "object": "webhook_endpoint", "deleted": True}
    assert world.api.get(path)["data"] == []
    for _ in range(16):
        world.api.post(path, base)
    assert "maximum of 16" in world.api.error("POST", path, base)["message"]


def test_events_are_listed(world: World) -> None:
    world.subscribe()
    listed = world.api.get("events", {"type": "customer.*"})["data"]
    assert [event["type"] for event in listed] == [
        "customer.subscription.created",
        "customer.created",
    ]
    some = world.api.get("events", {"types": ["price.created", "product.created"]})["data"]
    assert [event["type"] for event in some] == ["price.created", "product.created"]
    assert world.api.get(f"events/{some[0]['id']}") == some[0]
    none = world.api.get("events", {"created": {"gt": world.clock()}})
    assert none["data"] == []
    assert world.api.error("GET", "events", {"type": "a", "types": ["b"]})["status"] == 400
    world.clock.advance(31 * DAY)
    assert world.api.get("events", {"type": "customer.created"})["data"] == []
    assert world.api.error("GET", f"events/{some[0]['id']}")["status"] == 404


def test_an_event_built_offline_verifies() -> None:
    body = build_event(
        "customer.subscription.updated",
        {"id": "sub_1", "object": "subscription"},
        created=1_780_000_000,
        previous_attributes={"status": "trialing"},
    )
    header = sign(body, "whsec_1", 1_780_000_000)
    event = stripe_package.Webhook.construct_event(body, header, "whsec_1", tolerance=0)
    assert event.to_dict()["data"]["previous_attributes"] == {"status": "trialing"}
