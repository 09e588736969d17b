"""What may be asked in a second and at once, how long it takes, and what is counted of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sandbox.clock import ManualClock
from sandbox.serve import serve
from sandbox.stripe import StripeSandbox, StripeSettings, create_app
from sandbox.stripe.messages import Request, Response
from tests.sandbox_stripe.conftest import NOW
from tests.sandbox_stripe.direct import DAY, Direct, World, encode
from tests.sandbox_stripe.test_meter_stream import KEY, SESSION, STREAM, Stream, event

REASON = "Stripe-Rate-Limited-Reason"


class Timer:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def stripe(clock: ManualClock, timer: Timer) -> StripeSandbox:
    return StripeSandbox(clock, StripeSettings(seed=1, meter_event_latency=0), timer=timer)


def taken(api: Direct, path: str = "customers", most: int = 200) -> int:
    """How many calls in a row go through."""
    for number in range(most):
        if api.request("GET", path).status == 429:
            return number
    return most


def test_no_second_has_more_calls_than_the_limit_wherever_it_begins(
    stripe: StripeSandbox, api: Direct, timer: Timer
) -> None:
    """A burst at the end of one second and another at the beginning of the next are one burst."""
    stripe.change_settings(enforce_rate_limits=True)
    timer.now = 9.95
    assert taken(api) == 25
    timer.now = 10.05
    assert taken(api) == 0
    timer.now = 10.94
    assert taken(api) == 0
    timer.now = 10.96
    assert taken(api) == 25


def test_calls_make_room_one_by_one_as_they_grow_old(
    stripe: StripeSandbox, api: Direct, timer: Timer
) -> None:
    stripe.change_settings(enforce_rate_limits=True)
    for _ in range(25):
        assert api.request("GET", "customers").status == 200
        timer.now += 0.02
    assert taken(api) == 0
    timer.now += 0.51
    assert taken(api) == 1


def test_rates_do_not_go_by_the_clock_of_the_account(
    stripe: StripeSandbox, api: Direct, clock: ManualClock
) -> None:
    """The demo and the simulator move that clock by days."""
    stripe.change_settings(enforce_rate_limits=True)
    assert taken(api) == 25
    clock.advance(DAY)
    assert taken(api) == 0


def streamed(world: World, stream: Stream, most: int) -> tuple[int, str]:
    """How many requests in a row go through, and what stops the next."""
    for number in range(most):
        answer = stream.send(event(world))
        if answer.status == 429:
            return number, answer.headers[REASON]
    return most, ""


def test_a_live_stream_has_a_limit_of_its_own(stripe: StripeSandbox, world: World, timer: Timer) -> None:
    """API reference, "Meter Event Stream": 10,000 requests a second in live mode."""
    assert stripe.settings.stream_requests_per_second == 10_000
    stream = Stream(world)
    stripe.change_settings(livemode=True, enforce_rate_limits=True)
    assert streamed(world, stream, 130) == (130, "")
    stripe.change_settings(stream_requests_per_second=140)
    assert streamed(world, stream, 130) == (10, "endpoint-rate")
    assert taken(world.api) == 25


def test_a_sandboxs_stream_counts_toward_its_basic_limit(stripe: StripeSandbox, world: World) -> None:
    stream = Stream(world)
    stripe.change_settings(enforce_rate_limits=True)
    assert taken(world.api, most=20) == 20
    assert streamed(world, stream, 130) == (5, "global-rate")


def test_sessions_are_no_part_of_the_live_streams_limit(stripe: StripeSandbox, world: World) -> None:
    stream = Stream(world)
    stripe.change_settings(livemode=True, enforce_rate_limits=True)
    statuses = [stream.post(SESSION, {}, KEY).status for _ in range(26)]
    assert (statuses.count(200), statuses[-1]) == (25, 429)


def at_once(api: Direct, *requests: Request) -> list[Response]:
    async def ask() -> list[Response]:
        return await asyncio.gather(*map(api.gateway.answer, requests))

    return asyncio.run(ask())


def reading(path: str) -> Request:
    return Request("GET", f"/v1/{path}", headers={"authorization": f"Bearer {KEY}"})


@pytest.mark.parametrize(
    ("limits", "passed", "reason"),
    [
        ({}, 6, ""),
        ({"global_concurrency": 4}, 4, "global-concurrency"),
        ({"endpoint_concurrency": 2}, 4, "endpoint-concurrency"),
    ],
)
def test_calls_at_once(
    stripe: StripeSandbox, api: Direct, limits: dict[str, int], passed: int, reason: str
) -> None:
    """They are counted until they are answered."""
    stripe.change_settings(latency=0.02, **limits)
    for _ in range(2):
        answers = at_once(api, *[reading("customers")] * 3, *[reading("prices")] * 3)
        assert [answer.status for answer in answers].count(200) == passed
        assert {answer.headers[REASON] for answer in answers if answer.status == 429} == {reason} - {""}


def test_a_customer_and_meter_is_busy_until_its_event_is_answered(
    stripe: StripeSandbox, world: World
) -> None:
    stripe.change_settings(latency=0.02)

    def sending(value: str, **headers: str) -> Request:
        body = encode(world.event(value)).encode()
        headers = {"authorization": f"Bearer {KEY}", **headers}
        return Request("POST", "/v1/billing/meter_events", headers=headers, body=body)

    first, second = at_once(world.api, sending("1"), sending("2"))
    assert (first.status, second.status) == (200, 429)
    assert second.headers[REASON] == "resource-specific"
    keyed = {"idempotency-key": "k"}
    first, second = at_once(world.api, sending("1", **keyed), sending("1", **keyed))
    assert (first.status, second.status) == (200, 409)
    assert len(stripe.meters.accepted()) == 2


def test_the_stream_takes_one_customer_many_times_at_once(stripe: StripeSandbox, world: World) -> None:
    """That only one call at a time is taken is documented of the v1 API alone."""
    stripe.change_settings(latency=0.02)
    stream = Stream(world)
    request = stream.request(STREAM, {"events": [event(world)]}, stream.token)
    assert [answer.status for answer in at_once(world.api, request, request)] == [200, 200]


def seconds(ask: Any) -> float:
    start = time.monotonic()
    ask()
    return time.monotonic() - start


def test_an_answer_takes_its_time_with_the_work_inside(
    stripe: StripeSandbox, api: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    stripe.change_settings(latency=0.1)
    assert seconds(lambda: api.error("GET", "customers/none")) >= 0.1
    stripe.faults.add("drop")
    assert seconds(lambda: api.request("GET", "customers")) >= 0.1
    assert 0.1 <= seconds(lambda: at_once(api, *[reading("customers")] * 20)) < 1
    stripe.change_settings(latency=0.2)
    monkeypatch.setattr(stripe, "advance", lambda: time.sleep(0.18))
    assert 0.2 <= seconds(lambda: api.get("customers")) < 0.36


@pytest.mark.parametrize("name", ["latency", "meter_event_latency"])
def test_no_answer_comes_before_its_question(name: str) -> None:
    wrong: Any = {name: -0.1}
    with pytest.raises(ValueError, match=name):
        StripeSettings(**wrong)


@pytest.fixture
def control(stripe: StripeSandbox) -> Iterator[httpx.Client]:
    with (
        serve(create_app(stripe, ticker=False)) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client


def test_what_was_limited_is_counted_and_can_be_asked(
    stripe: StripeSandbox, control: httpx.Client, world: World
) -> None:
    made = control.post("/_sandbox/settings", json={"enforce_rate_limits": True, "log_requests": False})
    assert made.status_code == 200
    stripe.log.clear()
    headers = {"Authorization": f"Bearer {KEY}"}
    for _ in range(28):
        control.get("/v1/customers", headers=headers)
    stripe.faults.add("rate_limited")
    control.get("/v1/prices", headers=headers)
    assert control.get("/_sandbox/limited").json()["result"] == {"global-rate": 3, "lock_timeout": 1}
    assert control.get("/_sandbox/calls").json()["result"] == {"GET /v1/customers": 28, "GET /v1/prices": 1}
    assert control.get("/_sandbox/requests").json()["result"] == []
    control.delete("/_sandbox/requests")
    assert control.get("/_sandbox/limited").json()["result"] == {}


def test_a_stream_over_http_takes_its_time(
    stripe: StripeSandbox, control: httpx.Client, world: World
) -> None:
    stream = Stream(world)
    stripe.change_settings(latency=0.05)
    headers = {"Authorization": f"Bearer {stream.token}", "Stripe-Version": "2026-05-27.dahlia"}
    content = {"events": [event(world, at=NOW)]}
    assert 0.05 <= seconds(lambda: control.post(STREAM, json=content, headers=headers)) < 0.2
    assert len(stripe.meters.accepted()) == 1
