"""Test clocks: customers with a time of their own (Test clocks, "API and advanced usage")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sandbox.stripe import lifecycle
from sandbox.stripe.agenda import Agenda
from sandbox.stripe.books import Books
from sandbox.stripe.errors import StripeError, invalid
from sandbox.stripe.objects import Customer, TestClock
from sandbox.stripe.periods import boundary

MOST_CUSTOMERS = 3
MOST_SUBSCRIPTIONS = 3
"""Of one customer."""
_INTERVALS = 2
_KEPT_SECONDS = 30 * 24 * 3600
_TWO_YEARS = 2 * 365 * 24 * 3600
_EVENT = "test_helpers.test_clock"


class TestClocks:
    """The test clocks of one account, each with what time will do next to its customers' objects."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._account = books.account
        self._agendas: dict[str, Agenda] = {}

    def agenda_of(self, id_: str) -> Agenda | None:
        """The agenda of the test clock that this object is on, if it is on one."""
        clock = self._account.test_clock_of(id_)
        return self._agendas.get(clock.id) if clock else None

    def create(self, frozen_time: int, name: str | None) -> TestClock:
        """A new clock that stands still. Raises StripeError in live mode."""
        if self._account.settings.livemode:
            raise invalid("Test clocks can only be used in test mode.", "frozen_time")
        now = self._account.clock()
        clock = TestClock(self._account.new_id("clock"), now, frozen_time, now + _KEPT_SECONDS, name)
        self._account.test_clocks.add(clock)
        self._agendas[clock.id] = Agenda(lambda id_: lifecycle.due_of(self._books, id_))
        self._books.events.emit(f"{_EVENT}.created", clock)
        return clock

    def start_advancing(self, clock: TestClock, frozen_time: int) -> None:
        """Begin to move the clock to an instant. Raises StripeError for one that it cannot be moved to."""
        if frozen_time <= clock.frozen_time:
            raise invalid("The new frozen time must be after the test clock's frozen time.", "frozen_time")
        latest = self._latest(clock)
        if frozen_time > latest:
            raise invalid(
                "The new frozen time cannot be more than two intervals of the shortest subscription "
                f"in the future ({latest}).",
                "frozen_time",
            )
        clock.target = frozen_time
        clock.ready_at = self._account.clock() + self._account.settings.test_clock_advance
        self._books.events.emit(f"{_EVENT}.advancing", clock)

    def delete(self, clock: TestClock) -> None:
        """Delete the clock with its customers and all that is theirs."""
        account = self._account
        for customer in self.customers(clock):
            for subscription in list(account.subscriptions.newest(customer=customer.id)):
                for item in subscription.items:
                    account.items.remove(item.id)
                account.subscriptions.remove(subscription.id)
            for invoice in list(account.invoices.newest(customer=customer.id)):
                account.invoices.remove(invoice.id)
            customer.deleted = True
        account.test_clocks.remove(clock.id)
        del self._agendas[clock.id]
        self._books.events.emit(f"{_EVENT}.deleted", clock)

    def customers(self, clock: TestClock) -> list[Customer]:
        """The clock's customers that are not deleted."""
        rows = self._account.customers
        return [row for row in rows if row.test_clock == clock.id and not row.deleted]

    def room_for_customer(self, id_: str) -> TestClock:
        """The clock that a new customer asks for. Raises StripeError for none, and for one that is full."""
        clock = self._account.test_clocks.refer(id_, "test_clock")
        if len(self.customers(clock)) >= MOST_CUSTOMERS:
            raise invalid(f"A test clock takes at most {MOST_CUSTOMERS} customers.", "test_clock")
        return clock

    @contextmanager
    def time_of(self, ids: Iterable[str], *, changes: bool) -> Iterator[None]:
        """Go by the time of the clock that one of these objects is on, if one is.

        Raises StripeError for a change while the clock is being advanced.
        """
        clocks = (self._account.test_clock_of(id_) for id_ in ids)
        clock = next((found for found in clocks if found is not None), None)
        if clock is None:
            yield
            return
        if changes and clock.is_advancing:
            raise StripeError(400, "Cannot modify a test clock that is currently advancing.", stored=False)
        with self._account.at(clock.frozen_time, on_test_clock=True):
            yield

    def next_due(self) -> int | None:
        """When something has to be done for a clock, in real time (UTC unix seconds)."""
        return min((self._due(clock) for clock in self._account.test_clocks), default=None)

    def run_due(self, now: int) -> None:
        """Do what is due by this real time: clocks that arrive, and those whose time is over."""
        for clock in self._account.test_clocks:
            if clock.target is not None and clock.ready_at is not None and clock.ready_at <= now:
                self._arrive(clock, clock.target)
            elif clock.target is None and self._is_behind(clock):
                self._work_until(clock, clock.frozen_time)
            elif clock.deletes_after <= now:
                self.delete(clock)

    def _due(self, clock: TestClock) -> int:
        if clock.ready_at is not None:
            return clock.ready_at
        return self._account.clock() if self._is_behind(clock) else clock.deletes_after

    def _is_behind(self, clock: TestClock) -> bool:
        """Something became due without the clock being moved: a webhook was answered at last."""
        due = self._agendas[clock.id].next()
        return due is not None and due <= clock.frozen_time

    def _arrive(self, clock: TestClock, target: int) -> None:
        self._work_until(clock, target)
        clock.frozen_time = target
        clock.target = clock.ready_at = None
        self._books.events.emit(f"{_EVENT}.ready", clock)

    def _work_until(self, clock: TestClock, target: int) -> None:
        agenda = self._agendas[clock.id]
        while (due := agenda.next()) is not None and due <= target:
            clock.frozen_time = max(due, clock.frozen_time)
            with self._account.at(clock.frozen_time, on_test_clock=True):
                lifecycle.bill(self._books, agenda.take(clock.frozen_time))

    def _latest(self, clock: TestClock) -> int:
        """Two intervals of the shortest subscription from now on; two years without any."""
        ends = [
            boundary(clock.frozen_time, lifecycle.recurring_of(self._books, item), _INTERVALS)
            for customer in self.customers(clock)
            for subscription in self._account.subscriptions.newest(customer=customer.id)
            if subscription.is_live
            for item in subscription.items
        ]
        return min(ends, default=clock.frozen_time + _TWO_YEARS)
