"""Wires the parts once per container, and runs them on its one event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from usage_reporting.billing import Billing
from usage_reporting.config import Mode, Settings
from usage_reporting.credentials import Credentials, SecretsManagerCredentials
from usage_reporting.draft_holds import DraftHolds
from usage_reporting.endings import Endings
from usage_reporting.judging import Judge
from usage_reporting.ledger import CALLS_AT_ONCE, DynamoTable, Ledger, Table
from usage_reporting.lister import Lister
from usage_reporting.openmeter import OpenMeter
from usage_reporting.pacer import Pacer
from usage_reporting.pages import Queue, SqsQueue
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.rejections import Rejections
from usage_reporting.reporter import Reporter
from usage_reporting.sender import Sender
from usage_reporting.stripe_api import StripeApi


def system_clock() -> int:
    """The time in UTC seconds; the only place that asks for it."""
    return int(time.time())


def _event_loop() -> asyncio.AbstractEventLoop:
    """A loop with a thread for each call of the ledger; asyncio's own has as few as six on two processors."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(CALLS_AT_ONCE))
    return loop


@dataclass(slots=True)
class Container:
    """The parts of one process, made on first use."""

    settings: Settings
    credentials: Credentials
    table: Table
    queue: Queue
    clock: Callable[[], int] = system_clock
    loop: asyncio.AbstractEventLoop = field(default_factory=_event_loop)
    ledger: Ledger = field(init=False)
    billing: Billing = field(init=False)
    endings: Endings = field(init=False)
    reporter: Reporter = field(init=False)
    judge: Judge = field(init=False)
    rejections: Rejections = field(init=False)
    lister: Lister = field(init=False)
    drafts: DraftHolds = field(init=False)

    def __post_init__(self) -> None:
        """Wire the parts."""
        settings = self.settings
        pacer = Pacer(settings.stripe_rate_share, settings.stripe_endpoint_share)
        api = StripeApi(self.credentials, api_base=settings.stripe_api_base, pacer=pacer)
        ledger = self.ledger = Ledger(self.table)
        self.billing = Billing(api, settings, self.clock, None if settings.mode is Mode.SHADOW else ledger)
        openmeter = OpenMeter(
            settings.openmeter_url,
            self.credentials,
            api=settings.openmeter_api,
            concurrency=settings.openmeter_concurrency,
            whole_windows=settings.period_bounds is not PeriodBounds.EXACT,
        )
        sender = Sender(api, ledger, self.clock, is_streaming=settings.stripe_meter_stream)
        self.reporter = Reporter(settings, self.billing, openmeter, ledger, sender, self.clock)
        self.judge = Judge(settings, self.billing, openmeter, ledger, self.reporter, self.clock)
        self.rejections = Rejections(api, ledger, self.clock)
        self.endings = Endings(self.billing, self.clock)
        self.lister = Lister(self.billing, self.endings, ledger, self.queue, self.clock)
        self.drafts = DraftHolds(api, self.clock)

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
