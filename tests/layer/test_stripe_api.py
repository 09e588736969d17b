"""The Stripe client: one version, no retries of its own, errors sorted by whether asking again may help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from sandbox.simulator.machine import VirtualClock, VirtualLoop
from tests.layer.answers_in_turn import Answer, AnswersInTurn
from tests.layer.builders import (
    D,
    FixedCredentials,
    Sleeps,
    instant_pacer,
    stripe_api,
    stripe_client,
    stripe_error,
    stripe_list,
)
from usage_reporting.connection_pools import ConnectionPools
from usage_reporting.errors import NotFoundError, RejectedError, StripeUnavailableError
from usage_reporting.pacer import Pacer
from usage_reporting.stripe_api import (
    API_VERSION,
    LEGACY_API_VERSION,
    PACED_TRIES,
    PATIENCE_S,
    READ_TRIES,
    StripeApi,
)
from usage_reporting.ticks import KEPT_FOR_ANSWER_S, KEPT_FOR_HAND_OVER_S

FINE = httpx.Response(200, text='{"id": "x", "value": 0.1}')


class Stripe(AnswersInTurn):
    """Stripe's API."""


def asked[T](
    server: Stripe,
    work: Callable[[StripeApi], Coroutine[Any, Any, T]],
    credentials: FixedCredentials | None = None,
    sleeps: Sleeps | None = None,
) -> T:
    return asyncio.run(work(stripe_api(server, credentials, sleeps)))


def sent(server: Stripe, credentials: FixedCredentials | None = None, **how: Any) -> Any:
    event = {"event_name": "tokens", "payload": {"value": "1.5"}, "timestamp": 1}
    return asked(server, lambda api: api.call("post", "/v1/billing/meter_events", event, **how), credentials)


def trouble_of(*answers: Answer, credentials: FixedCredentials | None = None) -> StripeUnavailableError:
    with pytest.raises(StripeUnavailableError) as trouble:
        sent(Stripe(list(answers)), credentials)
    return trouble.value


def test_a_send_is_a_form_with_version_and_idempotency_key() -> None:
    server = Stripe([FINE])

    sent(server, idempotency_key="cus_1.1.0.abc.0")

    [request] = server.requests
    assert (request.method, str(request.url)) == ("POST", "https://api.stripe.com/v1/billing/meter_events")
    assert request.headers["Stripe-Version"] == API_VERSION == "2026-05-27.dahlia"
    assert request.headers["Idempotency-Key"] == "cus_1.1.0.abc.0"
    assert request.headers["Authorization"] == "Bearer sk_test_first"
    assert parse_qs(request.content.decode()) == {
        "event_name": ["tokens"],
        "payload[value]": ["1.5"],
        "timestamp": ["1"],
    }


def test_another_version_for_usage_records() -> None:
    server = Stripe([FINE])
    sent(server, version=LEGACY_API_VERSION)

    assert server.requests[0].headers["Stripe-Version"] == "2025-02-24.acacia"


def test_numbers_of_an_answer_are_exact() -> None:
    found = sent(Stripe([httpx.Response(200, text='{"a": 0.30000000000000004, "b": 9007199254740993}')]))

    assert found == {"a": D("0.30000000000000004"), "b": 9007199254740993}


def test_another_base_address() -> None:
    server = Stripe([FINE])
    api = StripeApi(FixedCredentials(), api_base="http://stripe.test", http_client=stripe_client(server))

    asyncio.run(api.call("get", "/v1/customers/cus_1", {}))

    assert str(server.requests[0].url) == "http://stripe.test/v1/customers/cus_1"


# Which errors are which


@pytest.mark.parametrize(
    "answer",
    [
        *(stripe_error(status, "later") for status in (409, 429, 500, 502, 503, 504)),
        httpx.Response(503, text="<html>busy</html>"),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
    ],
    ids=repr,
)
def test_the_client_itself_never_tries_again(answer: Answer) -> None:
    server = Stripe([answer, FINE])

    with pytest.raises(StripeUnavailableError):
        sent(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [409, 429])
def test_busy_is_no_stored_answer(status: int) -> None:
    trouble = trouble_of(stripe_error(status, "lock_timeout"))

    assert not trouble.answered
    assert str(status) in trouble.reason
    assert "lock_timeout" in trouble.reason


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), httpx.ConnectError("refused")])
def test_no_answer_is_said_to_be_none(error: Exception) -> None:
    trouble = trouble_of(error)

    assert not trouble.answered
    assert f"no answer ({type(error).__name__})" in trouble.reason


@pytest.mark.parametrize("replayed", [True, False])
def test_a_server_error_is_a_stored_answer(replayed: bool) -> None:
    headers = {"Idempotent-Replayed": "true"} if replayed else {}
    trouble = trouble_of(stripe_error(500, "oops", **headers))

    assert (trouble.answered, trouble.replayed) == (True, replayed)


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"", b"[" * 200_000, b'{"a": 1e99999999999999999999}'],
    ids=["html", "empty", "deep", "huge"],
)
def test_a_success_that_cannot_be_read_is_no_rejection(body: bytes) -> None:
    # Stripe may have taken the event: were it taken for a no, the usage would be sent once more.
    trouble = trouble_of(httpx.Response(200, content=body))

    assert not trouble.answered


@pytest.mark.parametrize("status", [400, 402])
def test_stripes_no_is_final(status: int) -> None:
    answer = httpx.Response(status, json={"error": {"message": "bad timestamp", "code": "no_good"}})

    with pytest.raises(RejectedError) as rejection:
        sent(Stripe([answer]))
    assert not isinstance(rejection.value, NotFoundError)
    assert (rejection.value.reason, rejection.value.code, rejection.value.status) == (
        "Stripe says: bad timestamp",
        "no_good",
        status,
    )


def test_an_unknown_object_is_a_rejection_of_its_own() -> None:
    with pytest.raises(NotFoundError, match="No such customer"):
        sent(Stripe([stripe_error(404, "No such customer: 'cus_1'")]))


def test_a_key_that_may_not_is_to_be_mended() -> None:
    trouble = trouble_of(stripe_error(403, "permissions missing: rak_billing_meter_write"))

    assert "rak_billing_meter_write" in trouble.reason


def test_a_long_key_in_a_message_does_not_hide_the_permission() -> None:
    # As long as Stripe's, which puts stars in the place of all but its end.
    message = (
        f"Permission denied. The provided key 'rk_live_{'*' * 99}qs8Kgd' does not have the required "
        "permissions for this endpoint on account 'acct_1PJBLEBBLEfV1234'. Enabling \"Billing Meters Read\" "
        "('billing_meter_read') permissions on this key would allow this request to continue."
    )

    trouble = trouble_of(stripe_error(403, message))

    assert "'billing_meter_read'" in trouble.reason
    assert "qs8Kgd" not in trouble.reason


# Too many calls


def too_many(reason: str) -> httpx.Response:
    return stripe_error(429, "too many", **{"Stripe-Rate-Limited-Reason": reason})


@pytest.mark.parametrize(
    "reason", ["global-rate", "endpoint-rate", "global-concurrency", "endpoint-concurrency"]
)
def test_a_call_too_many_takes_another_turn_with_the_same_key(reason: str) -> None:
    server = Stripe([too_many(reason), too_many(reason), FINE])

    assert sent(server, idempotency_key="k")["id"] == "x"
    assert [request.headers["Idempotency-Key"] for request in server.requests] == ["k"] * 3


def test_a_call_too_many_for_long_is_given_up_and_was_not_begun() -> None:
    server = Stripe([too_many("endpoint-rate")])

    with pytest.raises(StripeUnavailableError, match=r"answered 429 \(endpoint-rate\): too many") as trouble:
        sent(server)
    assert trouble.value.turned_away
    assert len(server.requests) == PACED_TRIES


def test_what_the_pace_cannot_mend_is_left_to_the_caller() -> None:
    for reason in ("resource-specific", ""):
        server = Stripe([too_many(reason), FINE])
        with pytest.raises(StripeUnavailableError) as trouble:
            sent(server)
        assert (trouble.value.turned_away, len(server.requests)) == (True, 1)


def test_what_follows_a_call_too_many_counts() -> None:
    with pytest.raises(RejectedError, match="bad"):
        sent(Stripe([too_many("global-rate"), stripe_error(400, "bad")]))
    assert trouble_of(too_many("global-rate"), httpx.ReadTimeout("slow")).turned_away is False


def test_a_call_waits_for_its_turn_no_longer_than_a_function_can() -> None:
    """In virtual time: at one call a second the ones that would begin after eight seconds are given up."""
    clock = VirtualClock(0.0)
    loop = VirtualLoop(clock)
    server = Stripe([FINE])
    api = StripeApi(
        FixedCredentials(),
        http_client=stripe_client(server),
        pacer=Pacer(0.001, monotonic=lambda: clock.exact),
    )

    async def all_at_once() -> list[Any]:
        calls = (api.call("get", "/v1/customers/cus_1", {}) for _ in range(20))
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = loop.run_until_complete(all_at_once())
    loop.close()

    given_up = [answer for answer in answers if isinstance(answer, StripeUnavailableError)]
    assert all(answer.turned_away for answer in given_up)
    assert (len(server.requests), len(given_up)) == (9, 11)
    assert clock.exact == pytest.approx(PATIENCE_S, abs=0.1)
    assert PATIENCE_S < KEPT_FOR_HAND_OVER_S - KEPT_FOR_ANSWER_S


def test_no_call_is_left_in_flight_however_it_ends() -> None:
    endings: list[Answer] = [
        FINE,
        httpx.ReadTimeout("slow"),
        stripe_error(400, "bad"),
        too_many("global-rate"),
    ]
    server, pacer = Stripe([*endings, FINE]), instant_pacer()

    async def work() -> None:
        api = StripeApi(FixedCredentials(), http_client=stripe_client(server), pacer=pacer)
        for _ in range(4):
            with suppress(RejectedError, StripeUnavailableError):
                await api.call("get", "/v1/customers/cus_1", {})

    asyncio.run(work())
    assert len(server.requests) == 5
    assert [lane.in_flight for lane in pacer._lanes.values()] == [0, 0]


# Keys

UNAUTHORIZED = httpx.Response(
    401, json={"error": {"message": "Invalid API Key provided: sk_live_veryprivate"}}
)


def test_a_key_that_stopped_working_is_read_again_and_the_call_repeated() -> None:
    server = Stripe([UNAUTHORIZED, FINE])
    credentials = FixedCredentials(keys=["sk_old", "sk_new"])

    sent(server, credentials, idempotency_key="k")

    keys = [request.headers["Authorization"] for request in server.requests]
    assert keys == ["Bearer sk_old", "Bearer sk_new"]
    assert [request.headers["Idempotency-Key"] for request in server.requests] == ["k", "k"]
    assert credentials.rereads == 1


def test_a_second_no_to_the_key_is_given_up_without_showing_it() -> None:
    trouble = trouble_of(UNAUTHORIZED, credentials=FixedCredentials(keys=["sk_old", "sk_live_veryprivate"]))

    assert trouble.reason == "Stripe does not accept the API key; run `usage-reporter connect`"


def test_a_key_that_was_just_read_is_not_tried_again() -> None:
    server = Stripe([UNAUTHORIZED])

    with pytest.raises(StripeUnavailableError, match="does not accept the API key"):
        sent(server)
    assert len(server.requests) == 1


def test_what_happens_after_the_key_was_read_again_counts() -> None:
    with pytest.raises(RejectedError, match="bad"):
        sent(Stripe([UNAUTHORIZED, stripe_error(400, "bad")]), FixedCredentials(keys=["sk_old", "sk_new"]))


# Reading


def test_reads_are_tried_again() -> None:
    server, sleeps = Stripe([stripe_error(429, "slow down"), httpx.ReadTimeout("slow"), FINE]), Sleeps()

    assert asked(server, lambda api: api.get("/v1/customers/cus_1"), sleeps=sleeps)["id"] == "x"
    assert len(sleeps.seconds) == 2
    assert sleeps.seconds[0] < sleeps.seconds[1] * 1.01


def test_reads_are_given_up_at_last() -> None:
    server, sleeps = Stripe([stripe_error(500, "oops")]), Sleeps()

    with pytest.raises(StripeUnavailableError, match="oops"):
        asked(server, lambda api: api.get("/v1/customers/cus_1"), sleeps=sleeps)
    assert len(server.requests) == READ_TRIES
    assert len(sleeps.seconds) == READ_TRIES - 1


def test_a_refused_read_is_not_tried_again() -> None:
    server = Stripe([stripe_error(404, "none")])

    with pytest.raises(NotFoundError):
        asked(server, lambda api: api.get("/v1/customers/cus_1"))
    assert len(server.requests) == 1


def pages(server: Stripe, params: dict[str, Any] | None = None) -> list[list[str]]:
    async def read(api: StripeApi) -> list[list[str]]:
        return [[one["id"] for one in page] async for page in api.pages("/v1/invoices", params)]

    return asked(server, read)


def test_a_long_page_of_a_proxy_is_cut_off() -> None:
    assert len(trouble_of(httpx.Response(502, text="<html>" * 1000)).reason) < 500


@pytest.mark.parametrize("status", [400, 403, 429, 500])
def test_no_message_shows_a_key(status: int) -> None:
    server = Stripe([stripe_error(status, "The key rk_live_veryprivate and whsec_veryprivate may not")])

    with pytest.raises((RejectedError, StripeUnavailableError)) as trouble:
        sent(server)
    assert "veryprivate" not in trouble.value.reason


def test_a_list_is_read_until_there_is_no_more() -> None:
    server = Stripe(
        [
            stripe_list([{"id": "a"}, {"id": "b"}], has_more=True),
            stripe_error(500, "oops"),
            stripe_list([{"id": "c"}], has_more=True),
            stripe_list([{"id": "d"}]),
        ]
    )

    assert pages(server, {"created": {"gte": 5}, "expand": ["data.customer"]}) == [["a", "b"], ["c"], ["d"]]
    queries = [parse_qs(request.url.query.decode()) for request in server.requests]
    assert [query.get("starting_after") for query in queries] == [None, ["b"], ["b"], ["c"]]
    assert {(query["limit"][0], query["created[gte]"][0], query["expand[0]"][0]) for query in queries} == {
        ("100", "5", "data.customer")
    }


def test_a_list_goes_on_after_a_cursor_and_may_be_empty() -> None:
    server = Stripe([stripe_list()])

    assert pages(server, {"starting_after": "z"}) == [[]]
    assert parse_qs(server.requests[0].url.query.decode())["starting_after"] == ["z"]
    assert pages(Stripe([stripe_list(has_more=True)])) == [[]]


def test_the_layers_own_client_is_one_for_the_event_loop() -> None:
    api = StripeApi(FixedCredentials())

    assert isinstance(api._http_client, ConnectionPools)
    asyncio.run(api._http_client.close_async())
