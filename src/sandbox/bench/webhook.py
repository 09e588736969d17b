"""How much processor time the webhook takes for an event, once it is warm; the network is left out.

The deployed handler runs in this process, with the signature checked, and with the official clients of
Stripe and AWS at work. What they would put on the wire is answered on the spot; the time of these answers
does not count. Processor time is what is added to the waiting; a busy machine changes it less than real time.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

from sandbox.bench.in_process import OPENMETER, STRIPE, InProcessStandIns
from sandbox.clock import ManualClock
from sandbox.stripe import sign
from usage_reporting import telemetry
from usage_reporting.container import Container
from usage_reporting.renewals import UPDATED

APP = Path(__file__).resolve().parents[2] / "webhook" / "app.py"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "measuring",
    "AWS_SECRET_ACCESS_KEY": "measuring",
    "AWS_DEFAULT_REGION": "us-east-1",
    "SECRET_ID": "keys",
    "LEDGER_TABLE": "ledger",
    "QUEUE_URL": "http://queue.stand-in/pages",
    "MODE": "live",
    "OPENMETER_URL": OPENMETER,
    "STRIPE_API_BASE": STRIPE,
}
HOUR = 3600
DAYS = 30
"""The length of the billing period."""
HOURS_USED = 24
"""The hours of usage in the period: its last ones."""
EVENTS = 150
QUICK_EVENTS = 30
WARM_UP = 10


class NotReportedError(Exception):
    """The webhook did something else with the event than to report it; the message is its answer."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds of processor time for one event."""

    own_ms: float
    """Our own code."""
    with_clients_ms: float
    """And Stripe's, AWS's and OpenMeter's clients, up to what goes over the wire."""


@dataclass(frozen=True, slots=True)
class WarmWebhook:
    """Milliseconds of processor time for an event, at the median and the 95th percentile."""

    p50_ms: float
    p95_ms: float
    with_clients_p50_ms: float
    with_clients_p95_ms: float
    events: int


def measure_webhook(*, quick: bool = False) -> WarmWebhook:
    """Report a renewal again and again, each time with unseen usage. Raises NotReportedError."""
    count = QUICK_EVENTS if quick else EVENTS
    with _Customer.of_a_running_function() as customer:
        taken = [customer.report() for _ in range(WARM_UP + count)][WARM_UP:]
    own = sorted(one.own_ms for one in taken)
    with_clients = sorted(one.with_clients_ms for one in taken)
    return WarmWebhook(
        _percentile(own, 50),
        _percentile(own, 95),
        _percentile(with_clients, 50),
        _percentile(with_clients, 95),
        count,
    )


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


@dataclass(slots=True)
class _Customer:
    """A customer of one subscription, which has just renewed, and the function that is told of it."""

    stand_ins: InProcessStandIns
    app: Any
    end: int
    """Of the billing period, in UTC seconds."""
    id: str = ""
    event: str = ""
    """The body of Stripe's call."""
    ledger: dict[tuple[str, str], Any] = field(default_factory=dict)
    """As the last tick before the renewal left it."""

    @classmethod
    @contextmanager
    def of_a_running_function(cls) -> Iterator[_Customer]:
        """Everything up to the renewal: what was used is in Stripe, as the hourly ticks leave it."""
        end = int(time.time()) - 60
        stand_ins = InProcessStandIns(ManualClock(end - DAYS * 24 * HOUR))
        with _quiet(), mock.patch.dict(os.environ, ENVIRONMENT), stand_ins.on_the_wire():
            made = cls(stand_ins, _app(), end)
            try:
                made._subscribe_and_use()
                yield made
            finally:
                made._close()

    def _subscribe_and_use(self) -> None:
        function: Container = self.app.container
        wired = (function.settings, function.credentials, function.table, function.queue)
        hourly = Container(*wired, clock=self.stand_ins.clock)
        hourly.run(self._subscribe(hourly))
        for hour in range(HOURS_USED):
            self._use(hour)
        self.stand_ins.clock.set(self.end - 30)
        hourly.run(self._report(hourly))
        hourly.loop.run_until_complete(hourly.loop.shutdown_default_executor())
        hourly.loop.close()
        self.ledger = dict(self.stand_ins.items)
        self.stand_ins.clock.set(self.end + 30)
        self.stand_ins.stripe.run_due()
        [renewal] = [event for event in self.stand_ins.delivered if event["type"] == UPDATED]
        self.event = json.dumps(renewal)

    async def _subscribe(self, container: Container) -> None:
        async def make(path: str, params: dict[str, Any]) -> str:
            return str((await container.billing.api.call("post", f"/v1/{path}", params))["id"])

        self.stand_ins.openmeter.create_meter("m1", "used")
        formula = {"formula": "sum"}
        meter = await make(
            "billing/meters", {"display_name": "used", "event_name": "used", "default_aggregation": formula}
        )
        recurring = {"interval": "day", "interval_count": DAYS, "usage_type": "metered", "meter": meter}
        product = await make("products", {"name": "metered"})
        price = await make(
            "prices", {"currency": "usd", "unit_amount": 1, "product": product, "recurring": recurring}
        )
        self.id = await make("customers", {"name": "Ada"})
        items = [{"price": price, "metadata": {"om_meter_id": "m1"}}]
        await make("subscriptions", {"customer": self.id, "items": items})
        await make("webhook_endpoints", {"url": "https://example.com", "enabled_events": [UPDATED]})

    async def _report(self, container: Container) -> None:
        async for listing in container.billing.subscriptions({}):
            await container.reporter.report(listing.customer_meters)

    def _use(self, hours_ago: int) -> None:
        """One more unit in one of the last hours of the period."""
        self.stand_ins.openmeter.record("used", self.id, self.end - 60 - hours_ago * HOUR, 1)

    def _close(self) -> None:
        loop = self.app.container.loop
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    def report(self) -> Taken:
        """Deliver the event once. Raises NotReportedError."""
        now = int(time.time())
        self.stand_ins.clock.set(now)
        self.stand_ins.items = dict(self.ledger)
        self._use(hours_ago=0)
        signature = sign(self.event.encode(), self.stand_ins.signing_secret, now)
        call = {"headers": {"stripe-signature": signature}, "body": self.event}
        self.stand_ins.spent.clear()
        self.stand_ins.in_clients.clear()
        started = time.process_time()
        told = self.app.handler(call, None)
        taken = time.process_time() - started
        if json.loads(told["body"])["status"] != "sent":
            raise NotReportedError(str(told))
        without = (sum(self.stand_ins.in_clients), sum(self.stand_ins.spent))
        return Taken(*(1000 * (taken - seconds) for seconds in without))


def _app() -> Any:
    """The deployed module of the function, as at a cold start."""
    spec = importlib.util.spec_from_file_location("bench_webhook_app", APP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Logs and metrics are written, and not shown."""
    sink, handler = io.StringIO(), cast("logging.StreamHandler[Any]", telemetry.logger.registered_handler)
    shown = handler.setStream(sink)
    try:
        with redirect_stdout(sink):
            yield
    finally:
        handler.setStream(cast("Any", shown))
