"""The meter event stream, as the official package uses it and as a strict server refuses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe as stripe_package
from stripe import StripeClient

from sandbox.clock import ManualClock
from sandbox.serve import serve
from sandbox.stripe import DEFAULT_API_VERSION, StripeSandbox, StripeSettings, create_app
from sandbox.stripe.messages import Request, Response
from sandbox.stripe.thin_events import ERROR_REPORT, NO_METER_FOUND
from tests.contract.stripe_openapi import object_errors, request_errors
from tests.sandbox_stripe.conftest import NOW
from tests.sandbox_stripe.direct import DAY, HOUR, Json, World, end_of

KEY = "sk_test_sandbox"
SESSION = "/v2/billing/meter_event_session"
STREAM = "/v2/billing/meter_event_stream"


@pytest.fixture
def url(stripe: StripeSandbox) -> Iterator[str]:
    with serve(create_app(stripe, ticker=False)) as base:
        yield base


def client_of(url: str, key: str = KEY, **options: Any) -> StripeClient:
    return StripeClient(key, base_addresses={"api": url, "meter_events": url}, **options)


def rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def event(world: World, value: str = "1", at: int | None = None, **rest: Any) -> Json:
    v1 = world.event(value, at)
    return {**v1, "timestamp": rfc3339(v1["timestamp"]), **rest}


class Stream:
    """Posts to the v2 API without a server, the stream with the token of a session of its own."""

    def __init__(self, world: World) -> None:
        self.gateway = world.api.gateway
        self.token = self.post(SESSION, {}, KEY).json()["authentication_token"]

    def post(self, path: str, content: Any, bearer: str, **headers: str) -> Response:
        return asyncio.run(self.gateway.answer(self.request(path, content, bearer, **headers)))

    def request(self, path: str, content: Any, bearer: str, **headers: str) -> Request:
        return Request(
            "POST",
            path,
            headers={
                "authorization": f"Bearer {bearer}",
                "stripe-version": DEFAULT_API_VERSION,
                "content-type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
            body=json.dumps(content).encode(),
        )

    def send(self, *events: Json, **headers: str) -> Response:
        return self.post(STREAM, {"events": list(events)}, self.token, **headers)


@pytest.fixture
def stream(world: World) -> Stream:
    return Stream(world)


def counted(stripe: StripeSandbox) -> list[tuple[str, int]]:
    """Value and stamp of what counts, in order of receipt."""
    return [(str(one.value), one.timestamp) for one in stripe.meters.accepted()]


def reports(stripe: StripeSandbox, clock: ManualClock) -> list[tuple[str, str, int, list[str]]]:
    """Of each report once it is due: its type, and by code how many events and the requests named."""
    clock.advance(30)
    stripe.run_due()
    return [
        (
            report.type,
            of_code["code"],
            of_code["error_count"],
            [sample["request"]["identifier"] for sample in of_code["sample_errors"]],
        )
        for report in stripe.events.thin
        for of_code in report.data["reason"]["error_types"]
    ]


def test_the_official_package_streams_into_an_invoice(
    url: str, world: World, stripe: StripeSandbox, clock: ManualClock
) -> None:
    subscription = world.subscribe()
    session = client_of(url).v2.billing.meter_event_session.create()
    assert object_errors("v2.billing.meter_event_session", session.to_dict()) == []
    assert (session.created, session.expires_at) == (
        "2026-05-28T20:28:43.000Z",
        "2026-05-28T20:43:43.000Z",
    )
    streaming = client_of(url, session.authentication_token)
    wanted: Any = {"events": [event(world, "1.5", NOW + 1), event(world, "2", identifier="i2")]}
    streaming.v2.billing.meter_event_stream.create(wanted)
    [first, second] = stripe.meters.accepted()
    assert (str(first.value), first.timestamp, second.identifier) == ("1.5", NOW + 1, "i2")

    async def send_raw() -> Any:
        http = stripe_package.HTTPXClient()
        answer = await client_of(url, http_client=http).raw_request_async(
            "post",
            STREAM,
            base="meter_events",
            api_key=session.authentication_token,
            events=[event(world, "4")],
        )
        await http.close_async()  # type: ignore[no-untyped-call]
        return answer.data

    assert asyncio.run(send_raw()) == {}
    world.report("8")
    requests = [one for one in stripe.log.requests if one.path == STREAM]
    assert [len(one.params["events"]) for one in requests] == [2, 1]
    assert [request_errors("POST", one.path, one.params) for one in requests] == [[], []]
    world.finish(end_of(subscription))
    assert world.billed(subscription) == {world.price["id"]: "15.5"}


def test_an_expired_token_is_the_packages_own_error(
    url: str, world: World, stripe: StripeSandbox, clock: ManualClock
) -> None:
    session = client_of(url).v2.billing.meter_event_session.create()
    streaming = client_of(url, session.authentication_token)
    clock.advance(15 * 60 - 1)
    wanted: Any = {"events": [event(world)]}
    streaming.v2.billing.meter_event_stream.create(wanted)
    clock.advance(1)
    with pytest.raises(stripe_package.TemporarySessionExpiredError) as expired:
        streaming.v2.billing.meter_event_stream.create(wanted)
    assert (expired.value.http_status, expired.value.code) == (401, "billing_meter_event_session_expired")
    assert len(stripe.meters.accepted()) == 1


@pytest.mark.parametrize("token", [KEY, "token_of_nobody"])
def test_other_tokens_and_api_keys_do_not_stream(url: str, world: World, token: str) -> None:
    wanted: Any = {"events": [event(world)]}
    with pytest.raises(stripe_package.AuthenticationError):
        client_of(url, token).v2.billing.meter_event_stream.create(wanted)


def test_a_token_of_another_account_does_not_stream(world: World, clock: ManualClock) -> None:
    stream = Stream(world)
    stream.token = Stream(World(StripeSandbox(clock, StripeSettings(seed=2)), clock)).token
    assert stream.send(event(world)).status == 401


def test_a_token_is_no_api_key(url: str) -> None:
    token = client_of(url).v2.billing.meter_event_session.create().authentication_token
    with pytest.raises(stripe_package.AuthenticationError):
        client_of(url, token).v1.customers.list()
    with pytest.raises(stripe_package.AuthenticationError):
        client_of(url, token).v2.billing.meter_event_session.create()


def test_a_session_takes_the_permission_to_write_meter_events(world: World, stream: Stream) -> None:
    keys = {"rk_events": {"billing_meter_event": "write"}, "rk_meters": {"billing_meter": "write"}}
    world.stripe.change_settings(restricted_keys=keys)
    assert stream.post(SESSION, {}, "rk_events").status == 200
    refused = stream.post(SESSION, {}, "rk_meters")
    assert refused.status == 403
    assert "rak_billing_meter_event_write" in refused.json()["error"]["message"]
    assert stream.post(SESSION, {"seconds": 60}, KEY).status == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": "1"},
        {"event_name": ""},
        {"event_name": None},
        {"payload": {"value": 1}},
        {"payload": ["1"]},
        {"payload": None},
        {"identifier": "i" * 101},
        {"identifier": ""},
        {"timestamp": NOW},
        {"timestamp": str(NOW)},
        {"timestamp": "2026-05-28"},
        {"timestamp": "2026-05-28T20:28:43"},
        {"timestamp": "2026-02-30T20:28:43Z"},
        {"timestamp": None},
    ],
)
def test_one_misshapen_event_refuses_the_whole_request(world: World, stream: Stream, wrong: Json) -> None:
    answer = stream.send(event(world), event(world, **wrong))
    assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert world.stripe.meters.accepted() == []
    assert world.stripe.meters.rejected == []


@pytest.mark.parametrize("missing", ["event_name", "payload"])
def test_an_event_needs_a_name_and_a_payload(world: World, stream: Stream, missing: str) -> None:
    whole = event(world)
    del whole[missing]
    assert stream.send(whole).json()["error"]["param"] == f"events[0][{missing}]"


def test_a_request_takes_one_to_a_hundred_events(world: World, stream: Stream) -> None:
    assert stream.send().status == 400
    assert stream.send(*[event(world)] * 101).status == 400
    assert world.stripe.meters.accepted() == []
    assert stream.send(*[event(world)] * 100).status == 200
    assert len(world.stripe.meters.accepted()) == 100
    wrong: list[Any] = [{}, [], {"events": {}}, {"events": [event(world)], "expand": ["x"]}]
    for content in wrong:
        assert stream.post(STREAM, content, stream.token).status == 400


@pytest.mark.parametrize("written", ["2026-05-28T20:28:43.999999999Z", "2026-05-28T22:28:43+02:00"])
def test_other_spellings_of_an_instant(world: World, stream: Stream, written: str) -> None:
    assert stream.send(event(world, timestamp=written)).status == 200
    assert counted(world.stripe) == [("1", NOW)]


def test_the_timestamp_is_now_when_there_is_none(world: World, stream: Stream) -> None:
    unstamped = event(world)
    del unstamped["timestamp"]
    assert stream.send(unstamped).status == 200
    assert counted(world.stripe) == [("1", NOW)]


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("no_meter", {"event_name": "nobody's"}),
        ("archived_meter", {"event_name": "archived"}),
        ("meter_event_customer_not_found", {"payload": {"stripe_customer_id": "cus_no", "value": "1"}}),
        ("meter_event_no_customer_defined", {"payload": {"value": "1"}}),
        ("meter_event_no_customer_defined", {"payload": {}}),
        ("meter_event_invalid_value", {"payload": {"stripe_customer_id": "?", "value": "1e5"}}),
        ("meter_event_value_too_many_digits", {"payload": {"stripe_customer_id": "?", "value": "1" * 16}}),
        ("meter_event_value_not_found", {"payload": {"stripe_customer_id": "?"}}),
        ("timestamp_too_far_in_past", {"timestamp": rfc3339(NOW - 35 * DAY - 1)}),
        ("timestamp_in_future", {"timestamp": rfc3339(NOW + 301)}),
    ],
)
def test_what_an_event_says_is_found_wrong_afterwards(
    world: World, stream: Stream, stripe: StripeSandbox, clock: ManualClock, code: str, change: Json
) -> None:
    """Its request is answered 200, and the events beside it count."""
    archived = world.new_meter("archived")
    world.api.post(f"billing/meters/{archived['id']}/deactivate")
    if change.get("payload", {}).get("stripe_customer_id") == "?":
        change = {"payload": {**change["payload"], "stripe_customer_id": world.customer["id"]}}
    events = [event(world, "1"), event(world, **change), event(world, "2")]
    assert stream.send(*events, idempotency_key="k").status == 200
    assert counted(stripe) == [("1", NOW), ("2", NOW)]
    type_ = NO_METER_FOUND if code == "no_meter" else ERROR_REPORT
    assert reports(stripe, clock) == [(type_, code, 1, ["k"])]


def test_a_report_does_not_tell_which_events_of_a_request_it_means(
    world: World, stream: Stream, stripe: StripeSandbox, clock: ManualClock
) -> None:
    clock.set(NOW // 10 * 10)
    late = rfc3339(NOW - 40 * DAY)
    events = [event(world, timestamp=late, identifier=f"i{number}") for number in range(5)]
    stream.send(*events[:2], idempotency_key="k1")
    unnamed = stream.send(*events[2:])
    named = ["k1", "k1", unnamed.headers["Request-Id"]]
    assert reports(stripe, clock) == [(ERROR_REPORT, "timestamp_too_far_in_past", 5, named)]


def test_an_identifier_counts_once_in_a_day_whichever_way_it_comes(
    world: World, stream: Stream, stripe: StripeSandbox, clock: ManualClock
) -> None:
    twice = [event(world, "1", identifier="a"), event(world, "2", identifier="a")]
    assert stream.send(*twice).status == 200
    world.report("4", identifier="b")
    assert stream.send(event(world, "8", identifier="b"), event(world, "16", identifier="c")).status == 200
    v1 = world.api.error("POST", "billing/meter_events", world.event("32", identifier="c"))
    assert "already exists with identifier c" in v1["message"]
    assert [value for value, _ in counted(stripe)] == ["1", "4", "16"]
    assert reports(stripe, clock) == []
    clock.advance(DAY)
    assert Stream(world).send(event(world, "64", identifier="a")).status == 200
    assert [value for value, _ in counted(stripe)] == ["1", "4", "16", "64"]


def test_an_identifier_is_used_up_by_an_event_found_wrong(
    world: World, stream: Stream, stripe: StripeSandbox
) -> None:
    stripe.validation.refuse_next("archived_meter", customer=world.customer["id"])
    stream.send(event(world, identifier="a"))
    stream.send(event(world, identifier="a"))
    assert counted(stripe) == []
    assert len(stripe.meters.rejected) == 1


def test_a_key_replays_the_answer_and_executes_what_failed_anew(world: World, stream: Stream) -> None:
    first = stream.send(event(world), idempotency_key="k")
    again = stream.send(event(world), idempotency_key="k")
    assert (first.json(), again.headers["Idempotent-Replayed"]) == ({}, "true")
    assert len(world.stripe.meters.accepted()) == 1
    other = stream.send(event(world, "2"), idempotency_key="k")
    assert (other.status, other.json()["error"]["type"]) == (400, "idempotency_error")
    assert stream.send(idempotency_key="k2").status == 400
    assert stream.send(event(world), idempotency_key="k2").status == 200


@pytest.mark.parametrize(
    ("fault", "status", "taken"),
    [
        ({"kind": "status", "status": 503}, 503, 0),
        ({"kind": "rate_limited", "reason": "global-rate"}, 429, 0),
        ({"kind": "drop_before"}, 0, 0),
        ({"kind": "drop"}, 0, 2),
        ({"kind": "error_after"}, 500, 2),
        ({"kind": "delay", "seconds": 0.001}, 200, 2),
    ],
)
def test_faults_strike_the_stream(
    world: World, stream: Stream, stripe: StripeSandbox, fault: Json, status: int, taken: int
) -> None:
    stripe.faults.add(method="POST", path=STREAM, **fault)
    events = [event(world, identifier="a"), event(world, identifier="b")]
    stream.send(*events)
    assert (stripe.log.requests[-1].status, len(stripe.meters.accepted())) == (status, taken)
    assert stream.send(*events).status == 200
    assert len(stripe.meters.accepted()) == 2


def test_summaries_show_what_was_streamed(world: World, stream: Stream) -> None:
    hour = NOW // HOUR * HOUR
    stream.send(event(world, "1", hour - 1), event(world, "2", hour), event(world, "-0.5", hour))
    asked = {"customer": world.customer["id"], "start_time": hour - HOUR, "end_time": hour + HOUR}
    path = f"billing/meters/{world.meter['id']}/event_summaries"
    rows = world.api.get(path, {**asked, "value_grouping_window": "hour"})["data"]
    assert [row["aggregated_value"] for row in rows] == [1.5, 1]
