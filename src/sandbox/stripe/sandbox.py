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
from sandbox.stripe.delivery import ACCEPTED, BackgroundDelivery
from sandbox.stripe.events import Events
from sandbox.stripe.faults import Faults
from sandbox.stripe.idempotency import Idempotency
from sandbox.stripe.invoices import Invoices
from sandbox.stripe.meter_ledger import MeterLedger
from sandbox.stripe.objects import Application, ConnectedAccount
from sandbox.stripe.partner_events import HandOver, entry_of, no_bus
from sandbox.stripe.render import APPLICATION
from sandbox.stripe.request_log import RequestLog
from sandbox.stripe.sessions import MeterEventSessions
from sandbox.stripe.settings import StripeSettings
from sandbox.stripe.test_clocks import TestClocks
from sandbox.stripe.usage_ledger import UsageLedger
from sandbox.stripe.validation import Validation
from sandbox.stripe.webhooks import Attempt, Deliver, Delivery, Webhooks, expire


class StripeSandbox:
    """One Stripe account in memory; `deliver` replaces the posting of webhooks, `timer` what rates go by.

    `reached_at`: where webhooks to a URL are posted to, if that address is served on this machine.
    `connected`: the accounts that were ever connected to this one, by id (`connect`). Each is a stand-in of
    its own, with its own objects, faults, calls and limits; this one keeps their time and posts their
    webhooks.
    `hand_over`: puts what goes over Amazon EventBridge on its bus.
    """

    def __init__(
        self,
        clock: Clock,
        settings: StripeSettings | None = None,
        *,
        deliver: Deliver | None = None,
        timer: Timer = time.monotonic,
        reached_at: Callable[[str], str] = str,
        platform: StripeSandbox | None = None,
        hand_over: HandOver = no_bus,
    ) -> None:
        self.account: Account = Account(
            clock, settings or StripeSettings(), platform.account if platform else None
        )
        self.connected: dict[str, StripeSandbox] = {}
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
        self.hand_over = hand_over
        self.timer = timer
        self._platform = platform
        self._background: BackgroundDelivery = (
            platform._background
            if platform
            else BackgroundDelivery(self.account.settings.webhook_timeout, reached_at, self._handed_over)
        )
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

    def connect(self, account_id: str, *, name: str | None = None, **changes: Any) -> StripeSandbox:
        """Connect another account to this platform, or one again that took its permission back.

        A new one has the platform's settings but for `changes`. Raises ValueError for this very account.
        """
        if account_id == self.settings.account_id:
            raise ValueError("an account cannot be connected to itself")
        found = self.connected.get(account_id)
        if found is None:
            settings = replace(self.settings, account_id=account_id, **changes)
            found = StripeSandbox(self.account.clock, settings, timer=self.timer, platform=self)
            self.connected[account_id] = found
        found.account.platform = self.account
        if self.account.connected.find(account_id) is None:
            self.account.connected.add(ConnectedAccount(account_id, self.account.now(), name))
            found.events.emit("account.application.authorized", Application(APPLICATION, "Platform"))
        return found

    def deauthorize(self, account_id: str) -> None:
        """Let a connected account take back that this platform may act for it. Raises StripeError.

        It lives on by itself; its last event for the platform says so (Connect webhooks).
        """
        self.account.connected.get(account_id)
        account = self.connected[account_id]
        account.events.emit("account.application.deauthorized", Application(APPLICATION, "Platform"))
        self.account.connected.remove(account_id)
        account.account.platform = None

    def change_settings(self, **changes: Any) -> None:
        """Put other settings in force, in connected accounts as well.

        Raises TypeError or ValueError for what does not exist.
        """
        with self.account.lock:
            self.account.settings = replace(self.account.settings, **changes)
            for row in (*self.account.subscriptions, *self.account.invoices):
                self._mark(row.id)
        for one in self.connected.values():
            one.change_settings(**changes)

    def next_due(self) -> int | None:
        """The next instant at which time changes or delivers anything, in UTC unix seconds."""
        if not self.connected:
            return self._own_next_due()
        return _earliest(self._own_next_due(), *(one._own_next_due() for one in self.connected.values()))

    def advance(self) -> None:
        """Do all billing and validating that is due by now; webhooks stay queued for `run_due`."""
        with self.account.lock:
            now = self.account.clock()
            while (due := self._next_step()) is not None and due <= now:
                self._bill(due)

    def run_due(self) -> None:
        """Do everything due by now, in the order of time: billing, then the webhooks about it."""
        with self._turn:
            if not self.connected:
                while self._step(self.account.clock()):
                    pass
                return
            while (due := self._next_account()) is not None:
                instant, one = due
                one._step(instant)

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
        if (deliver := self._deliver) is not None:
            return self._delivered(attempt, deliver)
        answered: Future[int] = Future()
        self._background.post(attempt, answered.set_result)
        return answered.result()

    def associate(self, source: str, status: str = "active") -> None:
        """What AWS says of a partner event source, by its name, from now on. Raises ValueError."""
        with self.account.lock:
            for one in self.account.destinations:
                if one.event_source is not None and one.event_source.name == source:
                    one.event_source.status = status
                    expire(one, self.account.now())
                    return
        raise ValueError(f"there is no partner event source {source!r}")

    def close(self) -> None:
        """Stop posting webhooks."""
        self._background.close()

    @property
    def _deliver(self) -> Deliver | None:
        return self._platform.deliver if self._platform else self.deliver

    def _own_next_due(self) -> int | None:
        with self.account.lock:
            return _earliest(self._next_step(), self.webhooks.next_due())

    def _next_account(self) -> tuple[int, StripeSandbox] | None:
        """What is due first by now, and in which account: in this one, or one that is connected."""
        now = self.account.clock()
        due = [
            (at, one) for one in (self, *self.connected.values()) if (at := one._own_next_due()) is not None
        ]
        first = min(due, key=lambda pair: pair[0], default=None)
        return first if first is not None and first[0] <= now else None

    def _step(self, now: int) -> bool:
        """Bill up to the next webhooks that are due by an instant, and post those; False without any."""
        attempts = self._next_attempts(now)
        for attempt in attempts:
            self._post(attempt)
        return bool(attempts)

    def _next_attempts(self, now: int) -> list[Attempt]:
        """Bill up to the next instant at which webhooks are due, and take those."""
        with self.account.lock:
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
        if (deliver := self._deliver) is None:
            self._background.post(attempt, lambda status: self._settle(attempt, status))
            return
        status = self._delivered(attempt, deliver)
        self._settle(attempt, status, attempt.due if self.settings.answered_when_due else None)

    def _delivered(self, attempt: Attempt, deliver: Deliver) -> int:
        """The status of one attempt; a bus says no more than that it has taken an event."""
        if attempt.source is not None:
            return ACCEPTED if self._handed_over(attempt) else 0
        return deliver(attempt.url, attempt.headers, attempt.body)

    def _handed_over(self, attempt: Attempt) -> bool:
        return (self._platform or self).hand_over(entry_of(attempt))

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
