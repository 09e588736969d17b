"""One world per test; the servers are started once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
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
from tests.integration.aws import InMemory
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


@dataclass(frozen=True, slots=True)
class Moto:
    """AWS by moto, which knows all services. Clients are dear to make; it intercepts them in every test."""

    dynamodb: Any
    sqs: Any
    secrets: Any

    @classmethod
    @functools.cache
    def clients(cls) -> Moto:
        """The clients of all tests."""
        return cls(boto3.client("dynamodb"), boto3.client("sqs"), boto3.client("secretsmanager"))


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region, and keys with which nobody can reach AWS."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@pytest.fixture
def moto(aws_environment: None) -> Iterator[Moto]:
    """AWS by moto, for what makes clients of its own; a world is beside it, in memory."""
    with mock_aws():
        yield Moto.clients()


@pytest.fixture
def world_in_moto(moto: Moto) -> Moto:
    """The world's table, queue and secret are moto's, too: for what asks more of them than functions do."""
    return moto


@pytest.fixture
def world(
    servers: tuple[Switch, str, Switch, str], aws_environment: None, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A world over AWS in memory, or over moto where a test or a fixture of it asks for `world_in_moto`."""
    stripe_switch, stripe_url, openmeter_switch, openmeter_url = servers
    clock = ManualClock(NOON)
    stripe = StripeSandbox(clock, StripeSettings(seed=1))
    openmeter = OpenMeterSandbox(clock)
    openmeter.create_meter("m1", "used")
    stripe_switch.app = stripe_app(stripe, ticker=False)
    openmeter_switch.app = openmeter_app(openmeter)
    in_moto = "world_in_moto" in request.fixturenames
    aws = request.getfixturevalue("world_in_moto") if in_moto else InMemory(clock)
    made = World(clock, stripe, stripe_url, openmeter, openmeter_url, aws)
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
