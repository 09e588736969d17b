"""An OpenMeter stand-in per test, direct and over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette

from sandbox.clock import ManualClock
from sandbox.openmeter import OpenMeterSandbox, create_app
from sandbox.serve import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

DAY = 1_798_761_600
"""2027-01-01T00:00:00Z"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(DAY + 86_400)


@pytest.fixture
def openmeter(clock: ManualClock) -> OpenMeterSandbox:
    sandbox = OpenMeterSandbox(clock)
    sandbox.create_meter("tokens", "prompt", group_by={"model": "$.model"})
    sandbox.create_meter("calls", "prompt", aggregation="COUNT")
    return sandbox


class Switch:
    """One server for all tests, in front of the stand-in of the running test."""

    def __init__(self) -> None:
        self.app: ASGIApp = Starlette()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[Switch, str]]:
    switch = Switch()
    with serve(switch) as base:
        yield switch, base


@pytest.fixture
def url(server: tuple[Switch, str], openmeter: OpenMeterSandbox) -> str:
    switch, base = server
    switch.app = create_app(openmeter)
    return base


@pytest.fixture(scope="session")
def connection(server: tuple[Switch, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[1], timeout=5) as client:
        yield client


@pytest.fixture
def http(url: str, connection: httpx.Client) -> httpx.Client:
    return connection


def cloud_event(event_id: str = "1", **changes: Any) -> dict[str, Any]:
    """A valid CloudEvent at 2027-01-01T10:00:00Z with the value 1."""
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": "test",
        "type": "prompt",
        "subject": "cus_1",
        "time": "2027-01-01T10:00:00Z",
        "data": {"value": 1},
    }
    return {**event, **changes}
