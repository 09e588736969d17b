"""The clocks, and the server that stand-ins run in."""

from __future__ import annotations

import time
from dataclasses import replace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sandbox.clock import ManualClock, system_clock
from sandbox.openmeter import OpenMeterSandbox
from sandbox.openmeter import create_app as openmeter_app
from sandbox.serve import serve
from sandbox.stripe import StripeSandbox
from sandbox.stripe import create_app as stripe_app


def test_a_manual_clock_moves_when_told() -> None:
    clock = ManualClock(100)
    clock.advance(5)
    assert clock() == 105
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
    clock.set(50)
    assert clock() == 50


def test_the_system_clock_shows_seconds() -> None:
    assert abs(system_clock() - time.time()) < 2


def test_serving() -> None:
    async def hello(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    with serve(Starlette(routes=[Route("/", hello)])) as url:
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(url, trust_env=False).text == "hello"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_answers_carry_the_stand_ins_own_time() -> None:
    noon, clock = "Wed, 15 Jul 2026 12:00:00 GMT", ManualClock(1_784_116_800)
    stripe, openmeter = StripeSandbox(clock), OpenMeterSandbox(clock)
    for app in (stripe_app(stripe, ticker=False), openmeter_app(openmeter)):
        with serve(app) as url:
            for path in ("/v1/customers", "/api/v1/meters", "/nothing"):
                assert httpx.get(url + path, trust_env=False).headers.get_list("date") == [noon]

    stripe.change_settings(date_skew=-90)
    openmeter.settings = replace(openmeter.settings, date_skew=90)
    for app, minutes in (
        (stripe_app(stripe, ticker=False), "11:58:30"),
        (openmeter_app(openmeter), "12:01:30"),
    ):
        with serve(app) as url:
            assert minutes in httpx.get(url, trust_env=False).headers["date"]


def test_a_server_that_cannot_start() -> None:
    async def broken(_scope: object, _receive: object, _send: object) -> None:
        raise RuntimeError("no lifespan")

    with pytest.raises(RuntimeError, match="did not start"), serve(broken):
        pass
