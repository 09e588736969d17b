"""The state of one Stripe account: its objects, its time and its ids."""

from __future__ import annotations

import random
import string
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sandbox.clock import Clock
from sandbox.stripe.errors import no_such
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

Json = dict[str, Any]
_ALPHABET = string.ascii_letters + string.digits


class Identified(Protocol):
    id: str
    created: int


class Table[T: Identified]:
    """Objects of one kind in the order of their creation."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self._rows: dict[str, T] = {}
        self._order: dict[str, int] = {}

    def add(self, row: T) -> T:
        self._rows[row.id] = row
        self._order[row.id] = len(self._order)
        return row

    def put_back(self, row: T) -> None:
        """Replace an object, or bring it back, in its old place."""
        self._rows[row.id] = row

    def remove(self, id_: str) -> None:
        del self._rows[id_]

    def find(self, id_: str | None) -> T | None:
        return self._rows.get(id_) if id_ is not None else None

    def get(self, id_: str, param: str = "id") -> T:
        """The object with this id; raises StripeError 404."""
        row = self._rows.get(id_)
        if row is None:
            raise no_such(self.resource, id_, param)
        return row

    def refer(self, id_: str, param: str) -> T:
        """The object that another one names; raises StripeError 400 for the parameter."""
        row = self._rows.get(id_)
        if row is None:
            raise no_such(self.resource, id_, param, status=400)
        return row

    def order(self, id_: str, param: str) -> int:
        """Place of an object, removed or not, in the order of creation."""
        if id_ not in self._order:
            raise no_such(self.resource, id_, param, status=400)
        return self._order[id_]

    def newest(self) -> Iterator[T]:
        return iter(reversed(list(self._rows.values())))

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)


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
        self.subscriptions: Table[Subscription] = Table("subscription")
        self.items: Table[SubscriptionItem] = Table("subscription_item")
        self.invoices: Table[Invoice] = Table("invoice")
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
