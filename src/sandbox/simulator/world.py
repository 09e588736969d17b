"""Plays a history: Stripe, OpenMeter, AWS and the functions in one process, on one clock."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import stripe._util as stripe_log

from sandbox.memory_table import MemoryTable
from sandbox.openmeter import OpenMeterSandbox
from sandbox.simulator.history import METERS, Act, Contract, History, Item
from sandbox.simulator.machine import VirtualClock
from sandbox.simulator.merchant import API_KEY, Merchant
from sandbox.simulator.operator import report_customer
from sandbox.simulator.processes import URL, Process, Shared
from sandbox.simulator.queue import MemoryQueue, Message
from sandbox.simulator.trouble import CrashError, Trouble
from sandbox.stripe import StripeSandbox, StripeSettings
from sandbox.stripe.gateway import Gateway
from usage_reporting import telemetry
from usage_reporting.config import Settings
from usage_reporting.credentials import Secret
from usage_reporting.errors import UsageReportingError
from usage_reporting.ledger import Item as Stored
from usage_reporting.ledger import Key
from usage_reporting.model import Report
from usage_reporting.ticks import tick, work_off
from usage_reporting.webhook import answer

MINUTE = 60
HOUR = 3600
QUARTER = 15 * MINUTE
GRACE = HOUR
"""Stripe's default between a draft and its finalization."""
RENEWAL_DELAY = 16
"""So long after a period's end a renewal was observed."""
_MID_PERIOD = 6 * HOUR
_AFTER_THE_HOUR = 2 * MINUTE


@dataclass(frozen=True, slots=True)
class Line:
    """A metered line of an invoice, as Stripe has it in the end (UTC seconds)."""

    contract: str
    item: Item
    start: int
    end: int
    quantity: Decimal
    created: int
    finalized_at: int | None


@dataclass(frozen=True, slots=True)
class Received:
    """A meter event that Stripe took: stamped at `stamp`, received at `at` (UTC seconds)."""

    customer: str
    meter: str
    stamp: int
    value: Decimal
    at: int


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Usage that the product's ledger counts as on no invoice; `start` in UTC seconds."""

    customer: str
    holder: str
    """OpenMeter's slug for a Stripe meter; contract and meter for a legacy item."""
    start: int
    units: Decimal


@dataclass(slots=True)
class Outcome:
    """What came of a history."""

    played: History
    """The history with the instants at which its contracts and acts really happened."""
    lines: list[Line]
    received: list[Received]
    undelivered: list[Undelivered]
    reports: list[tuple[int, Report]]
    struck: list[tuple[int, str]]
    closing_ticks: list[int]
    """When a closing tick ran to its end, with all its pages worked off (UTC seconds)."""
    full_ticks: list[int]
    """When a tick of all subscriptions did."""
    told_of_end: frozenset[str]
    """Contracts of which the webhook was told, and answered, that they are over."""
    dead_letters: int
    customers: dict[str, str]
    """Names by Stripe's ids."""
    errors: list[str]
    """Unexpected errors inside the product."""


class World:
    """One history being played."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.clock = VirtualClock(history.start)
        settings = StripeSettings(
            seed=1, api_keys={API_KEY, "sk_test_next"}, renewal_delay=RENEWAL_DELAY, meter_event_latency=0.0
        )
        self.stripe = StripeSandbox(self.clock, settings, deliver=self._deliver)
        gateway = Gateway(self.stripe)
        self.openmeter = OpenMeterSandbox(self.clock)
        for slug, aggregation in METERS.items():
            self.openmeter.create_meter(slug, f"used_{slug}", aggregation=aggregation)
        self.merchant = Merchant(gateway, self.clock)
        self.trouble = Trouble(history.faults, self.clock)
        self.endpoint, webhook_secret = self.merchant.listen()
        self.table = _Table()
        self.queue = MemoryQueue(self.clock)
        self.shared = Shared(
            clock=self.clock,
            stripe=self.stripe,
            gateway=gateway,
            openmeter=self.openmeter,
            table=self.table,
            queue=self.queue,
            trouble=self.trouble,
            settings=Settings(openmeter_url=URL, stripe_api_base=URL),
            secret=Secret(API_KEY, (webhook_secret,)),
            page_size=history.page_size,
            interleave=self._interleave,
        )
        self._processes: dict[str, Process] = {}
        self._nested = False
        self._at_work: Message | None = None
        self._next_tick = history.start + QUARTER
        coming: list[Contract | Act] = [*history.contracts, *history.acts]
        self._acts = sorted(coming, key=lambda what: what.at)
        self._done: list[Contract | Act] = []
        self._ticked: dict[str, list[int]] = {"closing": [], "all": []}

    def play(self) -> Outcome:
        """Let everything happen, and see what came of it."""
        with _quietly(self.history.seed):
            self._load_usage()
            while (instant := self._next()) is not None and instant <= self.history.end:
                self.clock.reach(instant)
                self._step()
            self.clock.reach(self.history.end)
            for process in list(self._processes.values()):
                process.close()
            self.merchant.close()
        return self._outcome()

    # Time

    def _next(self) -> int | None:
        due = [self.stripe.next_due(), self.queue.next_due(), self._next_tick]
        if self._acts:
            due.append(self._acts[0].at)
        return min((instant for instant in due if instant is not None), default=None)

    def _step(self) -> None:
        self._disturb_webhooks()
        self.stripe.run_due()
        while self._acts and self._acts[0].at <= self.clock():
            self._do(self._acts.pop(0))
            self.stripe.run_due()
        self._roll_secrets()
        if self._next_tick <= self.clock():
            self._tick(self._next_tick)
        self._work()

    def _do(self, what: Contract | Act) -> None:
        """Let something happen, and note when it really did: a function at work may have taken time."""
        if isinstance(what, Contract):
            self._done.append(replace(what, at=self.clock()))
            self.merchant.subscribe(what)
            return
        if what.reported:
            work = report_customer(self.merchant.customer_of[what.contract])
            self._run("operator", lambda process: process.container.run(work(process)))
        subscription = self.stripe.account.subscriptions.get(self.merchant.subscriptions[what.contract])
        now = self.clock()
        if any(item.period_end <= now for item in subscription.items):  # it is about to be renewed
            self._acts = sorted([replace(what, at=now + RENEWAL_DELAY), *self._acts], key=lambda one: one.at)
        else:
            self._done.append(replace(what, at=now))
            self.merchant.act(what)

    def _disturb_webhooks(self) -> None:
        webhooks = self.stripe.webhooks
        if self.trouble.take("webhook_lost"):
            webhooks.drop_next()
        if self.trouble.take("webhook_duplicated"):
            webhooks.duplicate_next()
        if self.trouble.take("webhook_twin"):
            webhooks.twin_next()
        if late := self.trouble.take("webhook_late"):
            webhooks.delay_next(late.seconds)

    def _roll_secrets(self) -> None:
        shared = self.shared
        if self.trouble.take("webhook_secret_rolled"):
            fresh = self.stripe.webhooks.roll_secret(self.endpoint, 0)
            shared.secret = Secret(shared.secret.stripe_api_key, (fresh,))
        if self.trouble.take("api_key_rolled"):
            fresh = "sk_test_next" if self.merchant.api_key == API_KEY else API_KEY
            self.stripe.change_settings(api_keys={fresh})
            self.merchant.api_key = fresh
            shared.secret = Secret(fresh, shared.secret.stripe_webhook_secrets)

    def _load_usage(self) -> None:
        start = self.history.start
        for number, use in enumerate(self.history.usage):
            event = {
                "specversion": "1.0",
                "id": f"use-{number}",
                "source": "simulator",
                "type": f"used_{use.meter}",
                "subject": self.merchant.customer(use.customer),
                "time": datetime.fromtimestamp(use.time, UTC).isoformat(),
                "data": {"value": use.value},
            }
            self.openmeter.ingest([event], lag=use.seen_at - start)

    # The functions

    def _tick(self, due: int) -> None:
        now = self.clock()
        scope = "all" if due % HOUR == _AFTER_THE_HOUR else "closing"
        self._next_tick = self._tick_after(now)
        if self.trouble.take("tick_skipped"):
            return
        strikes = len(self.trouble.struck)
        for _ in range(2 if self.trouble.take("tick_doubled") else 1):
            self._run("schedule", lambda process: tick(process.container, {"scope": scope}, None))
        self._work()
        if len(self.trouble.struck) == strikes:
            self._ticked[scope].append(now)

    def _tick_after(self, now: int) -> int:
        """The next tick that matters: around a period's end each one, otherwise every six hours."""
        quarter = now - now % QUARTER + QUARTER
        middle = (now - _AFTER_THE_HOUR) // _MID_PERIOD * _MID_PERIOD + _MID_PERIOD + _AFTER_THE_HOUR
        ends = [
            end
            for subscription in self.stripe.account.subscriptions
            if subscription.is_live
            for end in [*(item.period_end for item in subscription.items), subscription.cancel_at]
            if end is not None
        ]
        if any(invoice.status == "draft" for invoice in self.stripe.account.invoices):
            return min(quarter, middle)
        soonest = min(ends, default=None)
        if soonest is None:
            return middle
        near = soonest - HOUR - 5 * MINUTE  # so that the hourly tick before the end is among them
        if quarter >= near:
            return min(quarter, middle)
        first = near - near % QUARTER + QUARTER
        return min(first, middle)

    def _work(self) -> None:
        while (message := self.queue.receive()) is not None:
            self._work_off("worker", message)

    def _work_off(self, name: str, message: Message) -> None:
        record = {"messageId": str(message.number), "body": message.body}
        before, self._at_work = self._at_work, message
        result = self._run(name, lambda process: work_off(process.container, {"Records": [record]}, None))
        self._at_work = before
        if result is not None and not result["batchItemFailures"]:
            self.queue.delete(message)

    def _interleave(self, _process: Process) -> None:
        """Run the same message in another worker, from beginning to end, before this one goes on."""
        message = self._at_work
        if message is None or self._nested:
            return
        self._nested = True
        record = {"messageId": str(message.number), "body": message.body}
        other = threading.Thread(
            target=lambda: self._run(
                "other worker", lambda made: work_off(made.container, {"Records": [record]}, None)
            )
        )
        other.start()
        other.join()
        self._nested = False

    def _deliver(self, _url: str, headers: Mapping[str, str], body: bytes) -> int:
        event = {"headers": dict(headers), "body": body.decode(), "isBase64Encoded": False}
        result = self._run("webhook", lambda process: answer(process.container, event))
        return 0 if result is None else int(result.code)

    def _run(self, name: str, work: Any) -> Any:
        """One invocation of a function; None when its process ended or it raised."""
        process = self._processes.get(name)
        skew = self.trouble.take("clock_skew")
        if process is None or skew is not None:
            if process is not None:
                process.close()
            process = self._processes[name] = Process(self.shared, name, skew.seconds if skew else 0)
        try:
            return work(process)
        except CrashError:
            process.close()
            del self._processes[name]
            return None
        except UsageReportingError:
            return None
        finally:
            telemetry.metrics.clear_metrics()

    # What came of it

    def _outcome(self) -> Outcome:
        merchant = self.merchant
        customers = {id_: name for name, id_ in merchant.customers.items()}
        slugs = {id_: slug for slug, id_ in merchant.meters.items()}
        return Outcome(
            played=self._played(),
            lines=list(self._lines()),
            received=[
                Received(customers[e.customer], slugs[e.meter], e.timestamp, e.value, e.received)
                for e in self.stripe.meters.accepted()
            ],
            undelivered=list(self._undelivered(customers, slugs)),
            reports=self.shared.reports,
            struck=self.trouble.struck,
            closing_ticks=self._ticked["closing"],
            full_ticks=self._ticked["all"],
            told_of_end=frozenset(self._told_of_end()),
            dead_letters=len(self.queue.dead),
            customers=customers,
            errors=[
                reason
                for _, report in self.shared.reports
                for reason in report.reasons
                if reason.startswith("unexpected")
            ],
        )

    def _played(self) -> History:
        contracts = {one.name: one for one in self._done if isinstance(one, Contract)}
        return replace(
            self.history,
            contracts=tuple(contracts.get(one.name, one) for one in self.history.contracts),
            acts=tuple(one for one in self._done if isinstance(one, Act)),
        )

    def _told_of_end(self) -> Iterator[str]:
        names = {id_: name for name, id_ in self.merchant.subscriptions.items()}
        for delivery in self.stripe.webhooks.log:
            if delivery.event.type == "customer.subscription.deleted" and 200 in delivery.statuses:
                yield names[delivery.event.object_id]

    def _lines(self) -> Iterator[Line]:
        contracts = {id_: name for name, id_ in self.merchant.subscriptions.items()}
        for invoice in self.stripe.account.invoices:
            for line in invoice.lines:
                item = self.merchant.items_of_price[line.price]
                if item.kind != "licensed":
                    yield Line(
                        contract=contracts[line.subscription],
                        item=item,
                        start=line.period_start,
                        end=line.period_end,
                        quantity=line.quantity,
                        created=invoice.created,
                        finalized_at=invoice.finalized_at,
                    )

    def _undelivered(self, customers: dict[str, str], slugs: dict[str, str]) -> Iterator[Undelivered]:
        for stored in self.table.items():
            for start, units in stored.get("undelivered", {}).items():
                _, _, customer, holder = stored["pk"].split("#")
                named = slugs.get(holder) or self.merchant.holder(holder)
                yield Undelivered(customers[customer], named, int(start), units)


class _Table(MemoryTable):
    """The ledger's table; all of it can be seen in the end."""

    def get(self, keys: Sequence[Key]) -> list[Stored]:
        """Read items, not copied: the ledger only makes its own objects of them."""
        return [self._items[key] for key in keys if key in self._items]

    def items(self) -> list[Stored]:
        """Everything it holds."""
        return list(self._items.values())


@contextmanager
def _quietly(seed: str) -> Iterator[None]:
    """The layer's jitter repeatable, its log silent."""
    log = logging.getLogger(telemetry.SERVICE)
    state, disabled, stripe_line = random.getstate(), log.disabled, stripe_log.logfmt
    random.seed(seed)
    log.disabled = True
    stripe_log.logfmt = lambda _props: ""  # Stripe's client writes its lines even where nobody reads them
    try:
        yield
    finally:
        random.setstate(state)
        log.disabled, stripe_log.logfmt = disabled, stripe_line
