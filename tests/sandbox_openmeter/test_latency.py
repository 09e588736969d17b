"""How long answers take."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from sandbox.clock import ManualClock
from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings, create_app

if TYPE_CHECKING:
    from sandbox.openmeter import Query, QueryResult

QUERY = "/api/v1/meters/tokens/query"


@pytest.fixture
def openmeter(clock: ManualClock) -> OpenMeterSandbox:
    sandbox = OpenMeterSandbox(clock, OpenMeterSettings(latency=0.15))
    sandbox.create_meter("tokens", "prompt")
    return sandbox


def asked(openmeter: OpenMeterSandbox, *paths: str) -> tuple[float, list[int]]:
    """How many seconds GETs take together, and their statuses."""

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(create_app(openmeter))
        async with httpx.AsyncClient(transport=transport, base_url="http://openmeter") as client:
            return [answer.status_code for answer in await asyncio.gather(*map(client.get, paths))]

    start = time.monotonic()
    statuses = asyncio.run(ask())
    return time.monotonic() - start, statuses


@pytest.mark.parametrize(("path", "status"), [(QUERY, 200), ("/api/v1/meters/none", 404)])
def test_an_answer_takes_its_time(openmeter: OpenMeterSandbox, path: str, status: int) -> None:
    seconds, statuses = asked(openmeter, path)
    assert seconds >= 0.15
    assert statuses == [status]


def test_many_wait_at_once(openmeter: OpenMeterSandbox) -> None:
    seconds, statuses = asked(openmeter, *[QUERY] * 20)
    assert 0.15 <= seconds < 1.5
    assert statuses == [200] * 20


def test_the_work_is_part_of_that_time(openmeter: OpenMeterSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    run = openmeter.run

    def slowly(meter: str, query: Query) -> QueryResult:
        time.sleep(0.14)
        return run(meter, query)

    monkeypatch.setattr(openmeter, "run", slowly)
    seconds, _ = asked(openmeter, QUERY)
    assert 0.15 <= seconds < 0.28
