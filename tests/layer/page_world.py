"""One page of customer meters, and all that a pipeline reports it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, cast

from tests.layer.builders import Clock, D, MemoryTable
from tests.layer.builders import customer_meter as made
from tests.layer.protocol import FakeStripe, SteppedLedger, no_sleep
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Settings
from usage_reporting.errors import LostRaceError, NotFoundError
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Head, Item
from usage_reporting.mirroring import Mirroring
from usage_reporting.model import CustomerMeter, Report, Span, SpanState, Target
from usage_reporting.openmeter import OpenMeter
from usage_reporting.sender import Sender
from usage_reporting.swaps import Swap
from usage_reporting.totalling import Totalling


class RacedTable(MemoryTable):
    """Somebody else is faster for some of the writes of one kind of item."""

    lost: dict[str, int]
    on_loss: Callable[[], None] = staticmethod(lambda: None)

    def put(self, item: Item, read_version: int) -> None:
        kind = "head" if item["sk"] == "head" else "entry"
        if self.lost.get(kind):
            self.lost[kind] -= 1
            self.on_loss()
            raise LostRaceError("somebody else wrote it")
        super().put(item, read_version)


@dataclass
class FakeBilling:
    """What Stripe says of ended spans, price swaps and subscriptions."""

    state: SpanState = SpanState.DRAFT
    changes: list[Swap] = field(default_factory=list)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked_from: list[int] = field(default_factory=list)

    @property
    def price_changes(self) -> FakeBilling:
        return self

    async def state_of(self, asked: Span, now: int) -> Span:
        is_open = asked.state in {SpanState.ENDED, SpanState.CANCELED}
        return replace(asked, state=self.state) if is_open else asked

    async def swaps(self, start: int, end: int) -> list[Swap]:
        self.asked_from.append(start)
        return [swap for swap in self.changes if start <= swap.at <= end]

    async def subscription(self, subscription: str) -> dict[str, Any]:
        if subscription not in self.subscriptions:
            raise NotFoundError("no such subscription")
        return self.subscriptions[subscription]

    async def usage_held(self, customer: str, meter: str, start: int, end: int) -> Decimal:
        return D(0)


class PageWorld[FakeOpenMeter]:
    """The page, and stand-ins for Stripe, OpenMeter and the ledger."""

    target = Target.MIRROR
    pipeline: type[Mirroring | Totalling] = Mirroring

    def __init__(self, spans: Sequence[Span], openmeter: FakeOpenMeter, settings: Settings, now: int) -> None:
        self.clock = Clock(now)
        self.stripe = FakeStripe(self.clock)
        self.openmeter = openmeter
        self.billing = FakeBilling()
        self.table = RacedTable()
        self.table.lost = {}
        self.ledger = SteppedLedger(self.table)
        self.settings = settings
        self.shown: tuple[Span, ...] = tuple(spans)
        self.other: dict[str, Any] = {}

    def customer_meter(self, customer: str = "cus_1") -> CustomerMeter:
        values = {"customer": customer, "subject": customer, "seen_at": self.clock(), **self.other}
        return made(*self.shown, target=self.target, **values)

    def reported(
        self, customers: Sequence[str], budget: Budget | None, options: dict[str, bool]
    ) -> list[Report]:
        billing = cast("Billing", self.billing)
        pipeline = self.pipeline(
            self.settings,
            billing,
            cast("OpenMeter", self.openmeter),
            self.ledger,
            Heads(billing, self.ledger, self.clock),
            Sender(self.stripe.api, self.ledger, self.clock, no_sleep),
            self.clock,
        )
        reports = [Report(self.customer_meter(customer)) for customer in customers or ("cus_1",)]
        asyncio.run(pipeline.report(reports, Options(**options), budget or Budget()))
        return reports

    @property
    def head(self) -> Head:
        return Head.from_item(self.table.items[(self.customer_meter().pk, "head")])

    @property
    def told(self) -> list[tuple[int, Decimal]]:
        return self.stripe.events
