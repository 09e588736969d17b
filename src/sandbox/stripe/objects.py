"""The objects of a Stripe account, named as in Stripe's API reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar


@dataclass
class Product:
    resource: ClassVar[str] = "product"
    id: str
    created: int
    name: str
    active: bool = True
    description: str | None = None
    default_price: str | None = None
    unit_label: str | None = None
    statement_descriptor: str | None = None
    tax_code: str | None = None
    url: str | None = None
    images: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    updated: int = 0


@dataclass(frozen=True)
class Recurring:
    interval: str
    interval_count: int
    usage_type: str
    meter: str | None = None
    aggregate_usage: str | None = None


@dataclass(frozen=True)
class Tier:
    """Up to and including `up_to` units (None: no end); amounts in the currency's minor unit."""

    up_to: int | None
    unit_amount: Decimal | None = None
    flat_amount: Decimal | None = None


@dataclass(frozen=True)
class TransformQuantity:
    """The quantity is divided and rounded before it is charged (Transform quantities)."""

    divide_by: int
    round: str


@dataclass
class Price:
    """`unit_amount`, in the currency's minor unit, is None where there are tiers."""

    resource: ClassVar[str] = "price"
    id: str
    created: int
    product: str
    currency: str
    unit_amount: Decimal | None
    recurring: Recurring | None = None
    tiers: tuple[Tier, ...] = ()
    tiers_mode: str | None = None
    transform_quantity: TransformQuantity | None = None
    active: bool = True
    lookup_key: str | None = None
    nickname: str | None = None
    tax_behavior: str = "unspecified"
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def is_metered(self) -> bool:
        return self.recurring is not None and self.recurring.usage_type == "metered"

    @property
    def meter(self) -> str | None:
        return self.recurring.meter if self.recurring else None

    @property
    def is_legacy(self) -> bool:
        """Metered by usage records rather than by a meter."""
        return self.is_metered and self.meter is None


@dataclass
class Meter:
    resource: ClassVar[str] = "billing.meter"
    id: str
    created: int
    display_name: str
    event_name: str
    formula: str
    event_time_window: str | None = None
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"
    status: str = "active"
    deactivated_at: int | None = None
    updated: int = 0


@dataclass
class TestClock:
    """A time of its own for a few customers: `frozen_time` (UTC unix seconds) until it is advanced.

    `target`: where it is being advanced to; `ready_at`: when, in real time, it will be there.
    """

    resource: ClassVar[str] = "test_helpers.test_clock"
    id: str
    created: int
    frozen_time: int
    deletes_after: int
    name: str | None = None
    target: int | None = None
    ready_at: int | None = None

    @property
    def is_advancing(self) -> bool:
        return self.target is not None


@dataclass
class Customer:
    resource: ClassVar[str] = "customer"
    id: str
    created: int
    email: str | None = None
    name: str | None = None
    description: str | None = None
    phone: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    default_payment_method: str | None = None
    test_clock: str | None = None
    deleted: bool = False


@dataclass
class SubscriptionItem:
    """`usage_from`: from when on usage is billed on the present price (UTC unix seconds)."""

    resource: ClassVar[str] = "subscription_item"
    id: str
    created: int
    subscription: str
    price: str
    period_start: int
    period_end: int
    usage_from: int
    quantity: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Subscription:
    resource: ClassVar[str] = "subscription"
    id: str
    created: int
    customer: str
    currency: str
    billing_mode: str
    billing_cycle_anchor: int
    start_date: int
    status: str = "active"
    items: list[SubscriptionItem] = field(default_factory=list)
    trial_start: int | None = None
    trial_end: int | None = None
    cancel_at: int | None = None
    cancel_at_period_end: bool = False
    canceled_at: int | None = None
    ended_at: int | None = None
    latest_invoice: str | None = None
    collection_method: str = "charge_automatically"
    days_until_due: int | None = None
    pause_behavior: str | None = None
    pause_resumes_at: int | None = None
    missing_payment_method: str = "create_invoice"
    schedule: str | None = None
    description: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    pending: list[InvoiceLine] = field(default_factory=list)

    @property
    def is_live(self) -> bool:
        return self.status != "canceled"

    @property
    def is_paused(self) -> bool:
        """No invoices, no new periods (Pause subscriptions)."""
        return self.status == "paused"

    @property
    def is_flexible(self) -> bool:
        return self.billing_mode == "flexible"


@dataclass(frozen=True)
class Charge:
    """One line item of what a price charges for a quantity; amounts in the currency's minor unit.

    `unit_amount`: None where a tier's flat fee is charged.
    """

    quantity: Decimal
    unit_amount: Decimal | None
    amount: int
    description: str


@dataclass
class InvoiceLine:
    """What an item is billed for a period: a line item for each of its charges.

    `open`: the quantity is still counted anew when the invoice is finalized. `usage_from`: where its usage
    begins, if not where its period does (UTC unix seconds).
    """

    resource: ClassVar[str] = "line_item"
    id: str
    subscription: str
    subscription_item: str
    price: str
    period_start: int
    period_end: int
    quantity: Decimal
    charges: tuple[Charge, ...] = ()
    open: bool = False
    free: bool = False
    invoice_item: str | None = None
    usage_from: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def amount(self) -> int:
        """In the currency's minor unit."""
        return sum(charge.amount for charge in self.charges)


@dataclass
class Invoice:
    """`held_by`: the event whose delivery finalization waits for, if it waits for any."""

    resource: ClassVar[str] = "invoice"
    id: str
    created: int
    customer: str
    subscription: str
    currency: str
    billing_reason: str
    collection_method: str
    period_start: int
    period_end: int
    lines: list[InvoiceLine]
    status: str = "draft"
    auto_advance: bool = True
    finalizes_at: int | None = None
    custom_schedule: bool = False
    held_by: str | None = None
    pause_behavior: str | None = None
    number: str | None = None
    description: str | None = None
    due_date: int | None = None
    days_until_due: int | None = None
    finalized_at: int | None = None
    paid_at: int | None = None
    voided_at: int | None = None
    marked_uncollectible_at: int | None = None
    webhooks_delivered_at: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """In the currency's smallest unit."""
        return sum(line.amount for line in self.lines)


@dataclass
class Phase:
    """What a schedule puts on its subscription in [start, end), UTC unix seconds."""

    start: int
    end: int
    items: list[dict[str, Any]]
    proration_behavior: str = "create_prorations"


@dataclass
class SubscriptionSchedule:
    """`current`: the number of the phase that runs."""

    resource: ClassVar[str] = "subscription_schedule"
    id: str
    created: int
    customer: str
    subscription: str
    phases: list[Phase]
    end_behavior: str = "release"
    status: str = "active"
    current: int = 0
    released_at: int | None = None
    completed_at: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class WebhookSecret:
    value: str
    expires_at: int | None = None


@dataclass
class ConnectedAccount:
    """An account that a platform acts for; `created`: when it was connected (UTC unix seconds)."""

    resource: ClassVar[str] = "account"
    id: str
    created: int
    name: str | None = None
    charges_enabled: bool = True
    details_submitted: bool = True


@dataclass(frozen=True)
class Application:
    """The platform, as the events about its being allowed to act for an account show it."""

    resource: ClassVar[str] = "application"
    id: str
    name: str


@dataclass
class EventSource:
    """The partner event source in an AWS account that Stripe makes for a destination.

    `status` is what AWS says of it: `pending` until a bus is associated, `active`, `deleted`.
    """

    name: str
    account: str
    region: str
    status: str = "pending"

    @property
    def arn(self) -> str:
        """As it stands in each event's `resources`."""
        return f"arn:aws:events:{self.region}::event-source/{self.name}"


@dataclass
class EventDestination:
    """A v2 destination: of thin events, which have no API version, or of snapshots.

    It has a `url` and secrets, or the `event_source` of Amazon EventBridge. `connect`: it is told of what
    happens in connected accounts, and of nothing else.
    """

    resource: ClassVar[str] = "v2.core.event_destination"
    id: str
    created: int
    updated: int
    name: str
    enabled_events: list[str]
    url: str = ""
    secrets: list[WebhookSecret] = field(default_factory=list)
    event_payload: str = "thin"
    api_version: str | None = None
    event_source: EventSource | None = None
    connect: bool = False
    description: str = ""
    status: str = "enabled"
    disabled_reason: str = "user"
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class WebhookEndpoint:
    """`connect`: it is told of what happens in connected accounts, and of nothing else."""

    resource: ClassVar[str] = "webhook_endpoint"
    id: str
    created: int
    url: str
    enabled_events: list[str]
    secrets: list[WebhookSecret]
    connect: bool = False
    api_version: str | None = None
    description: str | None = None
    status: str = "enabled"
    metadata: dict[str, str] = field(default_factory=dict)
