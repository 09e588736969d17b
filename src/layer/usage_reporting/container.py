"""Wires the parts once per container, and runs them on its one event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.billing import Billing
from usage_reporting.config import Mode, Settings
from usage_reporting.credentials import Credentials, SecretsManagerCredentials
from usage_reporting.draft_holds import DraftHolds
from usage_reporting.endings import Endings
from usage_reporting.judging import Judge
from usage_reporting.ledger import CALLS_AT_ONCE, DynamoTable, Ledger, Table
from usage_reporting.lister import Lister
from usage_reporting.openmeter import OpenMeter
from usage_reporting.pacer import LIVE_CONNECTED, Pacer
from usage_reporting.pages import Queue, SqsQueue
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.rejections import Rejections
from usage_reporting.reporter import Reporter
from usage_reporting.sender import Sender
from usage_reporting.stripe_api import StripeApi

MOST_ACCOUNTS = 32
"""Connected accounts whose parts are kept, those that were used last; a platform may have thousands."""


def system_clock() -> int:
    """The time in UTC seconds; the only place that asks for it."""
    return int(time.time())


def _event_loop() -> asyncio.AbstractEventLoop:
    """A loop with a thread for each call of the ledger; asyncio's own has as few as six on two processors."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(CALLS_AT_ONCE))
    return loop


@dataclass(slots=True)
class Parts:
    """What works for one account of Stripe's."""

    settings: Settings
    billing: Billing = field(init=False)
    endings: Endings = field(init=False)
    reporter: Reporter = field(init=False)
    judge: Judge = field(init=False)
    rejections: Rejections = field(init=False)
    lister: Lister = field(init=False)
    drafts: DraftHolds = field(init=False)

    def wire(
        self, api: StripeApi, openmeter: OpenMeter, ledger: Ledger, queue: Queue, clock: Callable[[], int]
    ) -> None:
        """Make the parts that speak for the API's account.

        Meter events of connected accounts are not streamed: whether a session may be opened for one Stripe
        does not say.
        """
        settings = self.settings
        self.billing = Billing(api, settings, clock, None if settings.mode is Mode.SHADOW else ledger)
        is_streaming = settings.stripe_meter_stream and api.account == OWN_ACCOUNT
        sender = Sender(api, ledger, clock, is_streaming=is_streaming)
        self.reporter = Reporter(settings, self.billing, openmeter, ledger, sender, clock)
        self.judge = Judge(settings, self.billing, openmeter, ledger, self.reporter, clock)
        self.rejections = Rejections(api, ledger, clock)
        self.endings = Endings(self.billing, clock)
        self.lister = Lister(self.billing, self.endings, ledger, queue, clock)
        self.drafts = DraftHolds(api, clock)


@dataclass(slots=True)
class Container(Parts):
    """The parts of one process: those of the key's own account, and on first use those of connected ones."""

    credentials: Credentials
    table: Table
    queue: Queue
    clock: Callable[[], int] = system_clock
    loop: asyncio.AbstractEventLoop = field(default_factory=_event_loop)
    ledger: Ledger = field(init=False)
    _connected: OrderedDict[str, Parts] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        """Wire the parts of the key's own account."""
        settings = self.settings
        pacer = Pacer(settings.stripe_rate_share, settings.stripe_endpoint_share)
        api = StripeApi(self.credentials, api_base=settings.stripe_api_base, pacer=pacer)
        self.ledger = Ledger(self.table)
        openmeter = OpenMeter(
            settings.openmeter_url,
            self.credentials,
            api=settings.openmeter_api,
            concurrency=settings.openmeter_concurrency,
            whole_windows=settings.period_bounds is not PeriodBounds.EXACT,
        )
        if settings.openmeter_customers:
            openmeter.ask_by_customer(self.clock)
        self.wire(api, openmeter, self.ledger, self.queue, self.clock)

    def of(self, account: str) -> Parts:
        """The parts that work for an account, `self` or the id of a connected one."""
        if account == OWN_ACCOUNT:
            return self
        if (parts := self._connected.get(account)) is None:
            parts = self._connected[account] = self.made_for(account)
            if len(self._connected) > MOST_ACCOUNTS:
                self._connected.popitem(last=False)
        self._connected.move_to_end(account)
        return parts

    def made_for(self, account: str) -> Parts:
        """New parts for a connected account: the same key, connections and OpenMeter, a pace of its own."""
        settings, parts = self.settings, Parts(self.settings)
        pacer = Pacer(settings.stripe_rate_share, settings.stripe_endpoint_share, live=LIVE_CONNECTED)
        api = self.billing.api.for_account(account, pacer)
        parts.wire(api, self.reporter.openmeter, self.ledger, self.queue, self.clock)
        return parts

    @classmethod
    def from_environment(cls) -> Container:
        """The container of a function. Raises ConfigurationError that names the bad variable."""
        settings = Settings.from_environment(os.environ)
        return cls(
            settings=settings,
            credentials=SecretsManagerCredentials(settings.secret_id),
            table=DynamoTable(settings.ledger_table),
            queue=SqsQueue(settings.queue_url),
        )

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Run work to its end on the container's loop: connections live on it between invocations."""
        return self.loop.run_until_complete(work)
