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
    Customer,
    EventDestination,
    Invoice,
    Meter,
    Price,
    Product,
    Subscription,
    SubscriptionItem,
    SubscriptionSchedule,
    WebhookEndpoint,
)
from sandbox.stripe.settings import StripeSettings
from sandbox.stripe.table import Table

Json = dict[str, Any]
_ALPHABET = string.ascii_letters + string.digits


class Account:
    """Everything that Stripe remembers of an account; `lock` guards all of it."""

    def __init__(self, clock: Clock, settings: StripeSettings) -> None:
        self.settings = settings
        self.lock = threading.RLock()
        self.offset = 0
        self.request_id: str | None = None
        self.idempotency_key: str | None = None
        self.products: Table[Product] = Table("product")
        self.prices: Table[Price] = Table("price")
        self.meters: Table[Meter] = Table("billing meter")
        self.customers: Table[Customer] = Table("customer")
        self.subscriptions: Table[Subscription] = Table("subscription", by=("customer",))
        self.items: Table[SubscriptionItem] = Table("subscription_item")
        self.invoices: Table[Invoice] = Table("invoice", by=("subscription", "customer"))
        self.schedules: Table[SubscriptionSchedule] = Table("subscription schedule")
        self.endpoints: Table[WebhookEndpoint] = Table("webhook endpoint")
        self.destinations: Table[EventDestination] = Table("event destination")
        self._clock = clock
        self._instant: int | None = None
        self._random = random.Random(settings.seed)

    def now(self) -> int:
        """The account's time; inside `at`, the instant that is being worked through."""
        return self._instant if self._instant is not None else self.clock()

    def clock(self) -> int:
        """The clock, moved by `offset` seconds (the demo makes the past with it)."""
        return self._clock() + self.offset

    @contextmanager
    def at(self, instant: int) -> Iterator[None]:
        """Do something that was due at this instant as though it were that instant."""
        before, self._instant = self._instant, instant
        try:
            yield
        finally:
            self._instant = before

    def new_id(self, prefix: str, length: int = 24) -> str:
        """A new id such as `price_1aB...`."""
        return prefix + "_" + "".join(self._random.choices(_ALPHABET, k=length))
