"""What is examined: the keys, both sides through the layer's own parts, and maybe a stack in AWS."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cli.stack import Stack
from cli.wiring import Operator, operator
from usage_reporting.connection_pools import ConnectionPools
from usage_reporting.credentials import Credentials, EnvironmentCredentials, Secret
from usage_reporting.customer_meters import is_metered, merged
from usage_reporting.errors import UsageReportingError
from usage_reporting.model import CustomerMeter
from usage_reporting.stripe_api import TIMEOUT_S, StripeApi

Json = dict[str, Any]


class Side(StrEnum):
    """What a check needs to reach."""

    KEY = "the functions' key"
    STRIPE = "Stripe"
    OPENMETER = "OpenMeter"
    STACK = "the stack"


@dataclass(frozen=True, slots=True)
class Live:
    """What Stripe shows of live subscriptions."""

    customer_meters: list[CustomerMeter]
    metered: int
    """Subscriptions with a metered item."""
    classic: list[str]
    """Those of them in classic billing mode."""


class Aws:
    """Clients of one session, each made once: a session is not to be used by two threads at a time."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._clients: dict[str, Any] = {}
        self._making = threading.Lock()

    async def call(self, service: str, operation: str, **params: Any) -> Any:
        """One call, off the event loop. Raises botocore's errors."""
        return await asyncio.to_thread(lambda: getattr(self._client(service), operation)(**params))

    async def pages(self, service: str, operation: str, member: str, **params: Any) -> list[Any]:
        """The members of all pages of a list. Raises botocore's errors."""

        def read() -> list[Any]:
            pages = self._client(service).get_paginator(operation).paginate(**params)
            return [one for page in pages for one in page.get(member, [])]

        return await asyncio.to_thread(read)

    def _client(self, service: str) -> Any:
        with self._making:
            if service not in self._clients:
                self._clients[service] = self._stack.client(service)
            return self._clients[service]


@dataclass(slots=True)
class Patient:
    """All that checks look at. `clock`: UTC seconds."""

    operator: Operator
    stack: Stack | None
    functions: StripeApi
    """Stripe by the key of the functions; without a stack by the environment's."""
    credentials: Credentials
    """Where that key comes from."""
    is_other_key: bool
    """Whether the environment has another Stripe key than the stack, which all else is read with."""
    sample: int
    """Customer meters whose hours are compared, at most."""
    say: Callable[[str], None]
    """Tells what is under way."""
    unreached: dict[Side, str] = field(default_factory=dict)
    """Sides that cannot be examined, and why."""
    _live: asyncio.Task[Live] | None = None
    _aws: Aws | None = None

    @property
    def stripe(self) -> StripeApi:
        """Stripe, by the key of the environment if it has one."""
        return self.operator.billing.api

    @property
    def aws(self) -> Aws:
        """AWS, where the stack is."""
        if self._aws is None:
            assert self.stack is not None
            self._aws = Aws(self.stack)
        return self._aws

    @property
    def now(self) -> int:
        """This machine's time."""
        return self.operator.clock()

    def output(self, name: str) -> str:
        """One output of the stack. Raises WrongUseError when it has none of that name."""
        assert self.stack is not None
        return self.stack.output(name)

    def command(self, name: str, *options: str) -> str:
        """A command of `usage-reporter` for this stack, to be copied."""
        stack = self.stack.name if self.stack else "NAME"
        return " ".join([f"`usage-reporter {name} --stack {stack}", *options]) + "`"

    async def secret(self) -> Secret:
        """The keys of the functions. Raises ConfigurationError or AskAgainError."""
        return await asyncio.to_thread(self.credentials.current)

    async def live(self) -> Live:
        """The live subscriptions, listed once for all checks."""
        if self._live is None:
            self._live = asyncio.create_task(self._listed())
        return await asyncio.shield(self._live)

    async def _listed(self) -> Live:
        found: list[CustomerMeter] = []
        classic: list[str] = []
        read = metered = 0
        cursor, has_more = "", True
        billing = self.operator.billing
        while has_more:
            page = await billing.subscription_page({}, cursor)
            found.extend((await billing.read_page(page)).customer_meters)
            for one in page.subscriptions:
                if any(is_metered(item) for item in (one.get("items") or {}).get("data", [])):
                    metered += 1
                    if (one.get("billing_mode") or {}).get("type") == "classic":
                        classic.append(str(one["id"]))
            read += len(page.subscriptions)
            self.say(f"asking Stripe who is billed for what: {read:,} subscriptions so far")
            cursor, has_more = page.cursor, page.has_more
        return Live(merged(found), metered, classic)


@asynccontextmanager
async def patient(
    environment: Mapping[str, str], stack: Stack | None, sample: int, say: Callable[[str], None]
) -> AsyncIterator[Patient]:
    """Wire what is examined. Raises ConfigurationError for a bad setting, or no key without a stack."""
    credentials = stack.credentials() if stack else EnvironmentCredentials(environment)
    http = ConnectionPools(TIMEOUT_S)
    async with operator(environment, stack) as parts:
        functions = StripeApi(credentials, api_base=parts.settings.stripe_api_base, http_client=http)
        is_other = stack is not None and await asyncio.to_thread(_is_other_key, credentials, environment)
        examined = Patient(parts, stack, functions, credentials, is_other, sample, say)
        try:
            yield examined
        finally:
            await http.close_async()


def _is_other_key(credentials: Credentials, environment: Mapping[str, str]) -> bool:
    key = environment.get("STRIPE_KEY", "").strip()
    try:
        return bool(key) and credentials.current().stripe_api_key != key
    except UsageReportingError:
        return True  # the stack has none yet; the check of the key says why
