"""The console over a world in this process, with the sandbox's levers or as over a real stack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import boto3
import pytest

from cli.desk.desk import Desk
from cli.desk.site import create_site
from cli.stack import Stack
from cli.wiring import operator
from sandbox.playground import Playground, PlaygroundError
from sandbox.serve import serve
from tests.cli.conftest import STACK, Run, run, stack
from tests.console.browser import Visitor, started
from tests.console.chromium import HOW_TO_GET_ONE, find
from tests.integration.conftest import aws_environment, moto, servers, world, world_in_moto
from tests.integration.world import HOUR, NOON, World
from usage_reporting.credentials import SecretsManagerCredentials
from usage_reporting.errors import UsageReportingError
from usage_reporting.ledger import DynamoTable

__all__ = ["aws_environment", "moto", "run", "servers", "stack", "world", "world_in_moto"]

EVIL = "<script>alert('Ada')</script>"


def playground_of(world: World) -> Playground:
    """The levers over a world; its time passes only when a test lets it."""

    def tick(scope: str) -> str:
        try:
            world.tick(scope)
        except UsageReportingError as error:
            raise PlaygroundError(error.reason) from error
        return "The schedule and the worker ran"

    return Playground(world.stripe, world.openmeter, world.client, tick)


@dataclass(frozen=True, slots=True)
class WorldStack(Stack):
    """The world's stack, without the calls to AWS that find out what it consists of."""

    world: World

    def environment(self) -> dict[str, str]:
        """The environment of its functions."""
        return {
            "MODE": "live",
            "OPENMETER_URL": self.world.openmeter_url,
            "STRIPE_API_BASE": self.world.stripe_url,
        }

    def table(self) -> DynamoTable:
        """The ledger."""
        return DynamoTable("ledger", self.world.dynamodb)

    def credentials(self) -> SecretsManagerCredentials:
        """The keys."""
        return SecretsManagerCredentials("keys", self.world.secrets)


@asynccontextmanager
async def opened(world: World) -> AsyncIterator[Desk]:
    """A desk over the world's stack that shows what is so now, on the event loop that asks for it."""
    async with operator({}, WorldStack(STACK, {}, boto3.Session(), world)) as parts:
        yield Desk(parts, fresh_s=0.0, patience_s=60.0)


@pytest.fixture(scope="session")
def visitor() -> Iterator[Visitor]:
    """The one browser of all tests; where there is none they are skipped, and say what to do."""
    chromium = find()
    if chromium is None:
        pytest.skip(HOW_TO_GET_ONE)
    with started(chromium) as found:
        yield found


@pytest.fixture
def ada(world: World) -> str:
    """A customer with a name that wants escaping, who used 10 units that Stripe was told of."""
    price, _ = world.metered_price()
    customer = world.customer(name=EVIL)
    world.subscription(price, customer)
    world.use(customer, NOON + 60, 10)
    world.travel(NOON + 2 * HOUR)
    world.tick()
    return customer


@pytest.fixture
def console(run: Run, world: World) -> Iterator[str]:
    """The address of the console over the world's stack, without levers."""
    with serve(create_site(opened(world))) as url:
        yield url


@pytest.fixture
def sandbox_console(run: Run, world: World) -> Iterator[str]:
    """The address of the console over the world's stack, with the sandbox's levers."""
    with serve(create_site(opened(world), playground_of(world))) as url:
        yield url
