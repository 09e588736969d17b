"""The clocks, and the server that stand-ins run in."""

from __future__ import annotations

import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sandbox.clock import ManualClock, system_clock
from sandbox.serve import serve


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


def test_a_server_that_cannot_start() -> None:
    async def broken(_scope: object, _receive: object, _send: object) -> None:
        raise RuntimeError("no lifespan")

    with pytest.raises(RuntimeError, match="did not start"), serve(broken):
        pass
