"""One world per test; the servers are started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.clock import ManualClock
from sandbox.openmeter import OpenMeterSandbox
from sandbox.openmeter import create_app as openmeter_app
from sandbox.serve import serve
from sandbox.stripe import StripeSandbox, StripeSettings
from sandbox.stripe import create_app as stripe_app
from tests.integration.world import NOON, World
from usage_reporting import telemetry


class Switch:
    """One server for all tests, in front of the stand-in of the running test."""

    def __init__(self) -> None:
        self.app: ASGIApp = Starlette()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[Switch, str, Switch, str]]:
    stripe_switch, openmeter_switch = Switch(), Switch()
    with serve(stripe_switch) as stripe_url, serve(openmeter_switch) as openmeter_url:
        yield stripe_switch, stripe_url, openmeter_switch, openmeter_url


@pytest.fixture
def world(servers: tuple[Switch, str, Switch, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    stripe_switch, stripe_url, openmeter_switch, openmeter_url = servers
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    clock = ManualClock(NOON)
    stripe = StripeSandbox(clock, StripeSettings(seed=1))
    openmeter = OpenMeterSandbox(clock)
    openmeter.create_meter("m1", "used")
    stripe_switch.app = stripe_app(stripe, ticker=False)
    openmeter_switch.app = openmeter_app(openmeter)
    with mock_aws():
        made = World(clock, stripe, stripe_url, openmeter, openmeter_url)
        yield made
        made.close()
    assert made.spec_violations() == []
    assert stripe.meters.ties() == []


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What was counted, by metric."""
    found: dict[str, float] = {}

    def count(name: str, value: float = 1) -> None:
        found[name] = found.get(name, 0) + value

    monkeypatch.setattr(telemetry, "count", count)
    return found
