"""The state of one Stripe account: its objects, its time and its ids."""

from __future__ import annotations

import random
import string
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sandbox.clock import Clock
from sandbox.stripe.objects import (
    ConnectedAccount,
    Customer,
    EventDestination,
    Invoice,
    Meter,
    Price,
    Product,
    Subscription,
    SubscriptionItem,
    SubscriptionSchedule,
    TestClock,
    WebhookEndpoint,
)
from sandbox.stripe.settings import StripeSettings
from sandbox.stripe.table import Table

Json = dict[str, Any]
_ALWAYS_OWN = frozenset({"acct", "ed", "ed_test", "evt", "mes", "req", "token", "we", "whsec"})
"""What `same_ids` leaves alone: no two events or endpoints, and no two secrets, are ever the same."""
_ALPHABET = string.ascii_letters + string.digits


class Account:
    """Everything that Stripe remembers of an account; `lock` guards all of it.

    `platform`: the account that may act for this one, while it may (Stripe Connect).
    """

    def __init__(self, clock: Clock, settings: StripeSettings, platform: Account | None = None) -> None:
        self.settings = settings
        self.platform = platform
        self.lock = threading.RLock()
        self.offset = 0
        self.request_id: str | None = None
        self.idempotency_key: str | None = None
        self.products: Table[Product] = Table("product")
        self.prices: Table[Price] = Table("price")
        self.meters: Table[Meter] = Table("billing meter")
        self.customers: Table[Customer] = Table("customer")
        self.test_clocks: Table[TestClock] = Table("test clock")
        self.subscriptions: Table[Subscription] = Table("subscription", by=("customer",))
        self.items: Table[SubscriptionItem] = Table("subscription_item")
        self.invoices: Table[Invoice] = Table("invoice", by=("subscription", "customer"))
        self.schedules: Table[SubscriptionSchedule] = Table("subscription schedule")
        self.endpoints: Table[WebhookEndpoint] = Table("webhook endpoint")
        self.destinations: Table[EventDestination] = Table("event destination")
        self.connected: Table[ConnectedAccount] = Table("account")
        self.made_at = clock()
        self._clock = clock
        self._instant: int | None = None
        self._on_test_clock = False
        seed = settings.seed
        self._random = random.Random(
            f"{seed} {settings.account_id}" if platform and seed is not None else seed
        )
        self._by_prefix: dict[str, random.Random] = {}

    def now(self) -> int:
        """The account's time; inside `at`, the instant that is being worked through."""
        return self._instant if self._instant is not None else self.clock()

    def clock(self) -> int:
        """The clock, moved by `offset` seconds (the demo makes the past with it)."""
        return self._clock() + self.offset

    def machine_time(self) -> int:
        """The time by which Stripe's machines go, which no test clock moves: aggregation, deliveries."""
        return self.clock() if self._on_test_clock else self.now()

    @contextmanager
    def at(self, instant: int, *, on_test_clock: bool = False) -> Iterator[None]:
        """Do something that was due at this instant as though it were that instant."""
        before = self._instant, self._on_test_clock
        self._instant, self._on_test_clock = instant, on_test_clock
        try:
            yield
        finally:
            self._instant, self._on_test_clock = before

    def test_clock_of(self, id_: str) -> TestClock | None:
        """The test clock of a customer, or of what is a customer's: a subscription, an invoice."""
        if not len(self.test_clocks):
            return None
        if isinstance(clock := self.test_clocks.find(id_), TestClock):
            return clock
        owner = self._owner(id_)
        customer = self.customers.find(owner) if owner else None
        return self.test_clocks.find(customer.test_clock) if customer else None

    def _owner(self, id_: str) -> str | None:
        if self.customers.find(id_):
            return id_
        item = self.items.find(id_)
        owned = (
            self.subscriptions.find(item.subscription if item else id_)
            or self.invoices.find(id_)
            or self.schedules.find(id_)
        )
        return owned.customer if owned else None

    def new_id(self, prefix: str, length: int = 24) -> str:
        """A new id such as `price_1aB...`."""
        return prefix + "_" + "".join(self._source(prefix).choices(_ALPHABET, k=length))

    def _source(self, prefix: str) -> random.Random:
        if not self.settings.same_ids or prefix in _ALWAYS_OWN:
            return self._random
        if prefix not in self._by_prefix:
            self._by_prefix[prefix] = random.Random(f"{self.settings.seed} {prefix}")
        return self._by_prefix[prefix]
