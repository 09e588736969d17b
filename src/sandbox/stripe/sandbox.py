"""The stand-in as a whole: what is due gets done, in the order of time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from sandbox.clock import Clock, Timer
from sandbox.stripe import lifecycle
from sandbox.stripe.account import Account
from sandbox.stripe.agenda import Agenda
from sandbox.stripe.books import Books
from sandbox.stripe.delivery import BackgroundDelivery
from sandbox.stripe.events import Events
from sandbox.stripe.faults import Faults
from sandbox.stripe.idempotency import Idempotency
from sandbox.stripe.invoices import Invoices
from sandbox.stripe.meter_ledger import MeterLedger
from sandbox.stripe.request_log import RequestLog
from sandbox.stripe.sessions import MeterEventSessions
from sandbox.stripe.settings import StripeSettings
from sandbox.stripe.test_clocks import TestClocks
from sandbox.stripe.usage_ledger import UsageLedger
from sandbox.stripe.validation import Validation
from sandbox.stripe.webhooks import Attempt, Deliver, Delivery, Webhooks


class StripeSandbox:
    """One Stripe account in memory; `deliver` replaces the posting of webhooks, `timer` what rates go by.

    `reached_at`: where webhooks to a URL are posted to, if that address is served on this machine.
    """

    def __init__(
        self,
        clock: Clock,
        settings: StripeSettings | None = None,
        *,
        deliver: Deliver | None = None,
        timer: Timer = time.monotonic,
        reached_at: Callable[[str], str] = str,
    ) -> None:
        self.account = Account(clock, settings or StripeSettings())
        self.events = Events(self.account)
        self.webhooks = Webhooks(self.account, self.events)
        self.meters = MeterLedger(self.account)
        self.sessions = MeterEventSessions(self.account)
        self.validation = Validation(self.account, self.events.emit_thin)
        usage = UsageLedger()
        invoices = Invoices(self.account, self.events, self.meters, usage)
        self.books = Books(self.account, self.events, self.meters, usage, invoices)
        self.faults = Faults(self.account.settings.seed)
        self.idempotency = Idempotency(self.account)
        self.log = RequestLog()
        self.deliver = deliver
        self.timer = timer
        self._background = BackgroundDelivery(self.account.settings.webhook_timeout, reached_at)
        self._turn = threading.RLock()
        self._agenda = Agenda(lambda id_: lifecycle.due_of(self.books, id_))
        self.test_clocks = TestClocks(self.books)
        self.events.listeners.append(lambda event: self._mark(event.object_id))

    @property
    def calls(self) -> dict[tuple[str, str], int]:
        """How often each endpoint was called, by method and path template."""
        return self.log.calls

    @property
    def settings(self) -> StripeSettings:
        """The settings in force."""
        return self.account.settings

    def change_settings(self, **changes: Any) -> None:
        """Put other settings in force; raises TypeError or ValueError for what does not exist."""
        with self.account.lock:
            self.account.settings = replace(self.account.settings, **changes)
            for row in (*self.account.subscriptions, *self.account.invoices):
                self._mark(row.id)

    def next_due(self) -> int | None:
        """The next instant at which time changes or delivers anything, in UTC unix seconds."""
        with self.account.lock:
            return _earliest(self._next_step(), self.webhooks.next_due())

    def advance(self) -> None:
        """Do all billing and validating that is due by now; webhooks stay queued for `run_due`."""
        with self.account.lock:
            now = self.account.clock()
            while (due := self._next_step()) is not None and due <= now:
                self._bill(due)

    def run_due(self) -> None:
        """Do everything due by now, in the order of time: billing, then the webhooks about it."""
        with self._turn:
            while attempts := self._next_attempts():
                for attempt in attempts:
                    self._post(attempt)

    def end_periods(self, subscription: str, at: int) -> None:
        """Let a subscription's running periods end at an instant, UTC unix seconds. Raises StripeError."""
        with self.account.lock:
            lifecycle.shorten(self.books, self.account.subscriptions.get(subscription), at)
            self._mark(subscription)

    def deliver_again(self, delivery: Delivery) -> int:
        """Post an event once more, signed anew, and answer the status (Webhooks, "Manually resend")."""
        attempt = self.webhooks.attempt(delivery)
        if attempt is None:
            return 0
        if self.deliver is not None:
            return self.deliver(attempt.url, attempt.headers, attempt.body)
        answered: Future[int] = Future()
        self._background.post(attempt, answered.set_result)
        return answered.result()

    def close(self) -> None:
        """Stop posting webhooks."""
        self._background.close()

    def _next_attempts(self) -> list[Attempt]:
        """Bill up to the next instant at which webhooks are due, and take those."""
        with self.account.lock:
            now = self.account.clock()
            while True:
                billing, posting = self._next_step(), self.webhooks.next_due()
                if billing is not None and billing <= min(now, posting or now):
                    self._bill(billing)
                elif posting is not None and posting <= now:
                    if attempts := self.webhooks.take_due(posting):
                        return attempts
                else:
                    return []

    def _post(self, attempt: Attempt) -> None:
        if self.deliver is None:
            self._background.post(attempt, lambda status: self._settle(attempt, status))
            return
        status = self.deliver(attempt.url, attempt.headers, attempt.body)
        self._settle(attempt, status, attempt.due if self.settings.answered_when_due else None)

    def _settle(self, attempt: Attempt, status: int, at: int | None = None) -> None:
        with self.account.lock:
            self.webhooks.settle(attempt, status, self.account.clock() if at is None else at)
            self._mark(attempt.delivery.event.object_id)

    def _mark(self, id_: str) -> None:
        """The object has changed, and with it perhaps when it is due: by its test clock, if it is on one."""
        (self.test_clocks.agenda_of(id_) or self._agenda).mark(id_)

    def _next_step(self) -> int | None:
        """When the account itself changes next: billing, a test clock, a report of refused meter events."""
        return _earliest(self._agenda.next(), self.test_clocks.next_due(), self.validation.next_due())

    def _bill(self, instant: int) -> None:
        """Do what became due at this instant."""
        due = self._agenda.take(instant)
        with self.account.at(instant):
            lifecycle.bill(self.books, due)
            self.validation.report_due(instant)
        self.test_clocks.run_due(instant)


def _earliest(*instants: int | None) -> int | None:
    return min((instant for instant in instants if instant is not None), default=None)
