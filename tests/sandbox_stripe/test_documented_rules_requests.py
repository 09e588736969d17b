"""What Stripe's documentation says of webhooks, keys and lists: rules that no other test here shows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox, StripeSettings
from tests.sandbox_stripe.direct import DAY, Direct, World

HOOK = {"url": "https://example.com/", "enabled_events": ["customer.created"]}


@pytest.mark.parametrize(("livemode", "least", "most"), [(True, 60, 72), (False, 2, 12)])
def test_an_event_is_tried_for_days_in_live_mode_and_for_hours_in_a_sandbox(
    clock: ManualClock, livemode: bool, least: int, most: int
) -> None:
    """Webhooks, "Retries": up to three days with exponential back-off; three times in a sandbox."""
    tries: list[int] = []

    def deliver(_url: str, _headers: Mapping[str, str], _body: bytes) -> int:
        tries.append(clock())
        return 500

    stripe = StripeSandbox(clock, StripeSettings(seed=1, livemode=livemode), deliver=deliver)
    api = Direct(stripe)
    api.post("webhook_endpoints", HOOK)
    start = clock()
    api.post("customers")
    while (due := stripe.webhooks.next_due()) is not None:
        clock.set(max(due, clock()))
        stripe.run_due()
    waits = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert waits == sorted(waits)
    assert least <= (tries[-1] - start) / 3600 <= most
    assert livemode or len(tries) == 3


@pytest.mark.parametrize("status", [0, 302, 400, 404, 503])
def test_whatever_is_no_2xx_is_tried_again(clock: ManualClock, status: int) -> None:
    """Webhooks, "Retries": a redirect, an error and no answer all fail."""
    answers = [status, 204]
    stripe = StripeSandbox(clock, StripeSettings(seed=1), deliver=lambda *_: answers.pop(0))
    api = Direct(stripe)
    api.post("webhook_endpoints", HOOK)
    api.post("customers")
    clock.advance(DAY)
    stripe.run_due()
    assert stripe.webhooks.log[0].statuses == [status, 204]


def test_an_old_signing_secret_ends_after_24_hours_at_the_latest(world: World) -> None:
    """Webhooks, "Roll endpoint secrets"."""
    endpoint = world.api.post("webhook_endpoints", HOOK)
    with pytest.raises(ValueError, match="24 hours"):
        world.stripe.webhooks.roll_secret(endpoint["id"], expires_in=DAY + 1)


def test_an_endpoint_keeps_the_version_that_it_was_made_with(world: World, stripe: StripeSandbox) -> None:
    """API reference, "Create a webhook endpoint": `api_version` can be set at creation only."""
    received: list[bytes] = []

    def deliver(_url: str, _headers: Mapping[str, str], body: bytes) -> int:
        received.append(body)
        return 200

    stripe.deliver = deliver
    world.api.post("webhook_endpoints", {**HOOK, "api_version": "2024-06-20"})
    world.api.post("customers", version="2026-05-27.dahlia")
    stripe.run_due()
    assert json.loads(received[0])["api_version"] == "2024-06-20"


def test_a_get_takes_no_idempotency_key(api: Direct) -> None:
    """Idempotent requests: a key has no effect on a GET."""
    headers = {"idempotency-key": "k1"}
    assert api.get("customers", headers=headers)["data"] == []
    api.post("customers", {"name": "a"})
    answer = api.request("GET", "customers", headers=headers)
    assert len(answer.json()["data"]) == 1
    assert "Idempotent-Replayed" not in answer.headers


def test_a_stored_500_is_replayed_for_a_day_though_the_work_was_done(
    stripe: StripeSandbox, world: World
) -> None:
    """Idempotent requests: the first result is replayed, errors of status 500 included."""
    stripe.faults.add("error_after", path="/v1/billing/meter_events")
    event, key = world.event("1", identifier="i1"), {"idempotency-key": "k1"}
    answers = [world.api.request("POST", "billing/meter_events", event, headers=key) for _ in range(3)]
    assert [answer.status for answer in answers] == [500, 500, 500]
    assert len(stripe.meters.accepted()) == 1
    fresh = world.api.error("POST", "billing/meter_events", event, headers={"idempotency-key": "k2"})
    assert "already exists" in fresh["message"]


def test_a_rate_limited_request_is_not_stored(stripe: StripeSandbox, world: World) -> None:
    """Idempotent requests: nothing is stored before an endpoint begins its work."""
    stripe.faults.add("rate_limited", path="/v1/billing/meter_events", reason="global-rate")
    event, key = world.event("1"), {"idempotency-key": "k1"}
    limited = world.api.request("POST", "billing/meter_events", event, headers=key)
    assert (limited.status, limited.headers["Stripe-Rate-Limited-Reason"]) == (429, "global-rate")
    assert world.api.request("POST", "billing/meter_events", event, headers=key).status == 200


def test_a_lock_time_out_has_no_reason_and_is_to_be_tried_again(stripe: StripeSandbox, world: World) -> None:
    """Rate limits: a 429 without `Stripe-Rate-Limited-Reason` is an object that is locked."""
    stripe.faults.add("rate_limited", path="/v1/billing/meter_events")
    locked = world.api.request("POST", "billing/meter_events", world.event("1"))
    assert locked.json()["error"]["code"] == "lock_timeout"
    assert locked.headers["Stripe-Should-Retry"] == "true"
    assert "Stripe-Rate-Limited-Reason" not in locked.headers


def test_a_deleted_customer_says_so_and_leaves_the_lists(world: World) -> None:
    """API reference, "Retrieve a customer": a deleted one comes with `deleted`, and little else."""
    gone = world.api.post("customers", {"metadata": {"k": "v"}})["id"]
    world.api.delete(f"customers/{gone}")
    found = world.api.get(f"customers/{gone}")
    assert (found["id"], found["deleted"], "metadata" in found) == (gone, True, False)
    assert gone not in [row["id"] for row in world.api.get("customers")["data"]]


def test_a_list_goes_on_after_an_object_that_was_deleted_meanwhile(world: World) -> None:
    """API reference, "Pagination": a cursor is an id of the list."""
    older = world.customer["id"]
    world.clock.advance(1)
    cursor = world.api.post("customers")["id"]
    world.api.delete(f"customers/{cursor}")
    rest = world.api.get("customers", {"starting_after": cursor})["data"]
    assert [row["id"] for row in rest] == [older]


@pytest.mark.parametrize(
    "path", ["customers", "prices", "products", "subscriptions", "invoices", "events", "billing/meters"]
)
def test_a_list_has_ten_rows_unless_asked_for_up_to_a_hundred(api: Direct, path: str) -> None:
    """API reference, "Pagination": `limit` is 1 to 100, by default 10."""
    assert api.get(path, {"limit": 100})["has_more"] is False
    for limit in (0, 101):
        assert api.error("GET", path, {"limit": limit})["param"] == "limit"


def test_canceled_subscriptions_are_listed_only_when_asked_for(world: World) -> None:
    """API reference, "List subscriptions": `status`."""
    kept, gone = world.subscribe(), world.subscribe()
    world.api.delete(f"subscriptions/{gone['id']}")
    listed = {
        status: [row["id"] for row in world.api.get("subscriptions", {"status": status})["data"]]
        for status in ("active", "canceled", "all")
    }
    assert listed == {"active": [kept["id"]], "canceled": [gone["id"]], "all": [gone["id"], kept["id"]]}
    assert [row["id"] for row in world.api.get("subscriptions")["data"]] == [kept["id"]]
