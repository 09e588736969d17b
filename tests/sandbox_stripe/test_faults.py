"""Faults on demand."""

from __future__ import annotations

import time

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox, StripeSettings
from tests.sandbox_stripe.direct import Direct, World

EVENTS = "/v1/billing/meter_events"
PATH = "billing/meter_events"


def received(world: World) -> int:
    meter = world.stripe.account.meters.get(world.meter["id"])
    events = world.stripe.meters.events(meter, world.customer["id"], 0, 2**40)
    return len(events)


def test_an_answer_before_the_work(world: World) -> None:
    world.stripe.faults.add("status", "POST", EVENTS, status=503)
    headers = {"idempotency-key": "k1"}
    assert world.api.error("POST", PATH, world.event("1"), headers=headers)["status"] == 503
    assert received(world) == 0
    world.api.post(PATH, world.event("1"), headers=headers)
    assert received(world) == 1


def test_an_error_after_the_work_is_replayed(world: World) -> None:
    world.stripe.faults.add("error_after", "POST", EVENTS)
    headers = {"idempotency-key": "k1"}
    event = world.event("1", identifier="i1")
    assert world.api.error("POST", PATH, event, headers=headers)["type"] == "api_error"
    replay = world.api.request("POST", PATH, event, headers=headers)
    assert (replay.status, replay.headers["Idempotent-Replayed"]) == (500, "true")
    assert received(world) == 1
    other = world.api.error("POST", PATH, event, headers={"idempotency-key": "k2"})
    assert "already exists" in other["message"]


@pytest.mark.parametrize(("kind", "count"), [("drop", 1), ("drop_before", 0)])
def test_a_cut_connection(world: World, kind: str, count: int) -> None:
    world.stripe.faults.add(kind, "POST", EVENTS)
    headers = {"idempotency-key": "k1"}
    answer = world.api.request("POST", PATH, world.event("1"), headers=headers)
    assert answer.dropped
    assert received(world) == count
    assert world.stripe.log.requests[-1].status == 0
    again = world.api.request("POST", PATH, world.event("1"), headers=headers)
    assert (again.status, received(world)) == (200, 1)


@pytest.mark.parametrize("reason", ["global-rate", None])
def test_rate_limits(world: World, reason: str | None) -> None:
    world.stripe.faults.add("rate_limited", path="/v1/billing/*", reason=reason)
    answer = world.api.request("POST", PATH, world.event("1"))
    assert answer.status == 429
    assert answer.headers.get("Stripe-Rate-Limited-Reason") == reason
    assert received(world) == 0


@pytest.mark.parametrize("kind", ["delay", "delay_after"])
def test_a_delay(api: Direct, stripe: StripeSandbox, kind: str) -> None:
    stripe.faults.add(kind, path="/v1/customers", seconds=0.05)
    start = time.monotonic()
    api.get("customers")
    assert time.monotonic() - start >= 0.05


def test_faults_wait_for_their_request(api: Direct, stripe: StripeSandbox) -> None:
    stripe.faults.add("status", "GET", "/v1/customers/*", status=500, skip=1, times=2)
    stripe.faults.add("status", contains="email=b%40", status=502, times=None)
    made = api.post("customers", {"name": "a"})["id"]
    statuses = [api.request("GET", f"customers/{made}").status for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    asked = {"email": "b@example.com"}
    assert [api.request("GET", "customers", asked).status for _ in range(3)] == [502] * 3
    stripe.faults.clear()
    assert api.request("GET", "customers", asked).status == 200
    assert len(stripe.faults.struck) == 5


def test_chance(clock: ManualClock) -> None:
    stripe = StripeSandbox(clock, StripeSettings(seed=1))
    api = Direct(stripe)
    stripe.faults.add("status", status=500, probability=0.5, times=None)
    failures = [api.request("GET", "customers").status for _ in range(200)].count(500)
    assert 70 < failures < 130


def test_wrong_faults(stripe: StripeSandbox) -> None:
    with pytest.raises(ValueError, match="kind"):
        stripe.faults.add("explode")
    with pytest.raises(ValueError, match="probability"):
        stripe.faults.add("status", probability=0)
    with pytest.raises(TypeError):
        stripe.faults.add("status", colour="red")
