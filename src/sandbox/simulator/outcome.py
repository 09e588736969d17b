"""What came of a history: what Stripe billed and received, and what the product says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from sandbox.simulator.history import History, Item
from sandbox.simulator.ledger_strikes import LedgerStrike
from sandbox.simulator.merchant import Merchant
from sandbox.simulator.processes import Reported
from sandbox.stripe import StripeSandbox
from usage_reporting.ledger import Item as Stored
from usage_reporting.verdict import VERDICT, Judgement


@dataclass(frozen=True, slots=True)
class Names:
    """Leads from Stripe's ids to a history's names."""

    merchant: Merchant

    @property
    def customers(self) -> dict[str, str]:
        """Names of customers."""
        return {id_: name for name, id_ in self.merchant.customers.items()}

    @property
    def contracts(self) -> dict[str, str]:
        """Names of subscriptions."""
        return {id_: name for name, id_ in self.merchant.subscriptions.items()}

    @property
    def meters(self) -> dict[str, str]:
        """What each of Stripe's meters is called."""
        return {id_: name for name, id_ in self.merchant.meters.items()}

    def of_key(self, pk: str) -> tuple[str, str]:
        """Customer and holder of one of the ledger's partition keys."""
        _, _, customer, holder = pk.split("#")
        return self.customers[customer], self.meters.get(holder) or self.merchant.holder(holder)


@dataclass(frozen=True, slots=True)
class Line:
    """A metered line of an invoice, as Stripe has it in the end (UTC seconds)."""

    contract: str
    item: Item
    start: int
    end: int
    quantity: Decimal
    created: int
    answered_at: int | None
    """When `invoice.created` was answered by 2xx or given up: a draft waits for it."""
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
    """What holds it in Stripe: a meter by OpenMeter's slug; contract and meter for a legacy item."""
    start: int
    units: Decimal


@dataclass(frozen=True, slots=True)
class Loss:
    """The ledger lost or restored at `at`, and when which customer and holder was adopted after it."""

    kind: str
    at: int
    adopted: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the product found of a final line when it looked last, `at` (UTC seconds)."""

    customer: str
    item: Item
    start: int
    end: int
    finding: str
    at: int


@dataclass(slots=True)
class Outcome:
    """What came of a history."""

    played: History
    """The history with the instants at which its contracts and acts really happened."""
    lines: list[Line]
    received: list[Received]
    undelivered: list[Undelivered]
    reports: list[Reported]
    struck: list[tuple[int, str]]
    closing_ticks: list[int]
    """When a closing tick ran to its end, with all its pages worked off (UTC seconds)."""
    full_ticks: list[int]
    """The same of ticks of every live subscription."""
    told_of_end: dict[str, int]
    """Contracts of which the webhook was told that they are over, and when it had done with it."""
    losses: list[Loss]
    dead_letters: int
    judged: list[Judged]
    names: Names
    errors: list[str]
    """Unexpected errors inside the product."""
    connected: list[Outcome] = field(default_factory=list)
    """What came of the histories of connected accounts."""
    mixed_up: list[str] = field(default_factory=list)
    """What one account has of another's."""
    replayed: list[str] = field(default_factory=list)
    """What another run of the whole history changed; nothing may."""


def lines_of(stripe: StripeSandbox, names: Names) -> Iterator[Line]:
    """Every metered line of every invoice."""
    contracts = names.contracts
    for invoice in stripe.account.invoices:
        event = stripe.events.table.find(invoice.held_by)
        for line in invoice.lines:
            item = names.merchant.items_of_price[line.price]
            if item.kind != "licensed":
                yield Line(
                    contract=contracts[line.subscription],
                    item=item,
                    start=line.period_start,
                    end=line.period_end,
                    quantity=line.quantity,
                    created=invoice.created,
                    answered_at=event.acknowledged_at if event else invoice.created,
                    finalized_at=invoice.finalized_at,
                )


def received_of(stripe: StripeSandbox, names: Names) -> list[Received]:
    """Every meter event that Stripe counts."""
    customers, meters = names.customers, names.meters
    return [
        Received(customers[event.customer], meters[event.meter], event.timestamp, event.value, event.received)
        for event in stripe.meters.accepted()
    ]


def undelivered_of(stored: Iterable[Stored], names: Names) -> dict[tuple[str, str, int], Decimal]:
    """What a ledger counts as on no invoice, by customer, holder and start."""
    return {
        (*names.of_key(item["pk"]), int(start)): units
        for item in stored
        for start, units in item.get("undelivered", {}).items()
    }


def judged_of(stored: Iterable[Stored], names: Names) -> Iterator[Judged]:
    """The verdicts that a ledger holds."""
    for item in stored:
        if item["sk"] == VERDICT:
            judgement = Judgement.from_item(item)
            for line in judgement.lines:
                customer, priced = names.customers[line.customer], names.merchant.items_of_price[line.price]
                at = judgement.judged_at
                yield Judged(customer, priced, line.start, line.end, line.finding.value, at)


def losses_of(strikes: Iterable[LedgerStrike], names: Names, is_own: Callable[[str], bool]) -> list[Loss]:
    """The losses of the ledger, by a history's names, and what was adopted of its account's keys."""
    return [
        Loss(
            strike.kind,
            strike.at,
            {names.of_key(pk): at for pk, at in strike.adopted.items() if is_own(pk)},
        )
        for strike in strikes
    ]


def told_of_end(
    stripe: StripeSandbox, contracts: Mapping[str, str], queued: Mapping[str, int] | None
) -> dict[str, int]:
    """When the webhook was done with the event that a subscription is over; `queued`: those off a queue."""
    if queued is not None:
        return {contracts[subscription]: at for subscription, at in queued.items()}
    return {
        contracts[delivery.event.object_id]: delivery.event.acknowledged_at
        for delivery in stripe.webhooks.log
        if delivery.event.type == "customer.subscription.deleted"
        and 200 in delivery.statuses
        and delivery.event.acknowledged_at is not None
    }
