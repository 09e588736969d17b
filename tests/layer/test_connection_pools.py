"""The connections to Stripe: few when little is asked, never more than set, and kept for the next calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import httpx
import pytest
import stripe

from usage_reporting import ledger
from usage_reporting.connection_pools import CONNECTIONS, KEPT_FOR_S, POOLS, ConnectionPools
from usage_reporting.container import _event_loop

URL = "https://api.stripe.test/v1/x"


@dataclass
class Wire(httpx.AsyncBaseTransport):
    """Answers when it is told to."""

    error: Exception | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0
    most: int = 0
    requests: list[httpx.Request] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await self.open.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.in_flight -= 1
        return httpx.Response(201, headers={"Request-Id": "req_1"}, content=b"{}")


async def calls(pools: ConnectionPools, number: int) -> list[asyncio.Task[object]]:
    """So many calls, all under way."""
    tasks = [asyncio.ensure_future(pools.request_async("get", URL, {})) for _ in range(number)]
    for _ in range(10):
        await asyncio.sleep(0)
    return cast("list[asyncio.Task[object]]", tasks)


def on_a_wire(story: Callable[[Wire, ConnectionPools], Awaitable[None]]) -> None:
    async def work() -> None:
        wire = Wire()
        pools = ConnectionPools(1.0, transport=wire)
        await story(wire, pools)
        await pools.close_async()

    asyncio.run(work())


def test_an_answer_is_body_status_and_headers() -> None:
    async def story(wire: Wire, pools: ConnectionPools) -> None:
        wire.open.set()
        body, status, headers = await pools.request_async("post", URL, {"Idempotency-Key": "k"}, "a=b")

        assert (body, status, headers["request-id"]) == (b"{}", 201, "req_1")
        [request] = wire.requests
        assert (request.method, request.content, request.headers["Idempotency-Key"]) == ("POST", b"a=b", "k")
        assert request.extensions["timeout"] == {"connect": 1.0, "read": 1.0, "write": 1.0, "pool": 1.0}

    on_a_wire(story)


def test_pools_are_made_as_they_are_needed_and_used_again() -> None:
    async def story(wire: Wire, pools: ConnectionPools) -> None:
        for number, made in ((1, 1), (CONNECTIONS, 1), (CONNECTIONS + 1, 2), (1, 2)):
            wire.open.clear()
            tasks = await calls(pools, number)
            assert len(pools._pools) == made
            wire.open.set()
            await asyncio.gather(*tasks)
        assert [pool.busy for pool in pools._pools] == [0, 0]

    on_a_wire(story)


def test_no_call_waits_in_a_full_pool() -> None:
    async def story(wire: Wire, pools: ConnectionPools) -> None:
        tasks = await calls(pools, POOLS * CONNECTIONS + 30)
        assert [pool.busy for pool in pools._pools] == [CONNECTIONS] * POOLS
        wire.open.set()
        await asyncio.gather(*tasks)
        assert wire.most == POOLS * CONNECTIONS
        assert len(wire.requests) == POOLS * CONNECTIONS + 30

    on_a_wire(story)


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), RuntimeError("odd")])
def test_whatever_goes_wrong_is_no_answer(error: Exception) -> None:
    async def story(wire: Wire, pools: ConnectionPools) -> None:
        wire.error = error
        wire.open.set()
        with pytest.raises(stripe.APIConnectionError) as trouble:
            await pools.request_async("get", URL, {})
        assert trouble.value.__cause__ is error
        assert pools._pools[0].busy == 0

    on_a_wire(story)


def test_who_gives_up_gives_the_connection_back() -> None:
    async def story(wire: Wire, pools: ConnectionPools) -> None:
        tasks = await calls(pools, POOLS * CONNECTIONS + 1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert {pool.busy for pool in pools._pools} == {0}
        wire.open.set()
        await asyncio.gather(*await calls(pools, POOLS * CONNECTIONS))

    on_a_wire(story)


def test_connections_are_kept_for_a_while_and_share_what_they_trust() -> None:
    async def work() -> None:
        pools = ConnectionPools(1.0)
        made = [pools._with_room() for _ in range(2)]
        made[0].busy = CONNECTIONS
        made.append(pools._with_room())
        assert made[0] is made[1] is not made[2]
        for pool in (made[0], made[2]):
            inner = pool.client._transport._pool  # type: ignore[attr-defined]
            assert inner._ssl_context is pools._tls
            assert (inner._max_connections, inner._max_keepalive_connections) == (CONNECTIONS, CONNECTIONS)
            assert inner._keepalive_expiry == KEPT_FOR_S
        await pools.close_async()

    asyncio.run(work())


def test_as_many_ledger_calls_run_at_once_as_there_are_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    loop = _event_loop()
    try:
        executor = loop._default_executor  # type: ignore[attr-defined]
        assert executor._max_workers == ledger.CALLS_AT_ONCE
    finally:
        loop.close()
    client = ledger.DynamoTable("ledger")._client
    assert client.meta.config.max_pool_connections == ledger.CALLS_AT_ONCE
