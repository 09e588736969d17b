"""What happens in one simulated world, written down in full: the simulator only plays it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from sandbox.stripe.undocumented import AS_ASSUMED, Undocumented

Interval = Literal["day", "week", "month"]
Mode = Literal["classic", "flexible"]

Kind = Literal["mirror", "last", "legacy", "licensed"]
Bounds = Literal["exact", "minute", "hour", "day"]
Behavior = Literal["keep_as_draft", "mark_uncollectible", "void"]
Proration = Literal["create_prorations", "none", "always_invoice"]

METERS = {
    "m1": "SUM",
    "m2": "COUNT",
    "m3": "UNIQUE_COUNT",
    "m4": "AVG",
    "m5": "MIN",
    "m6": "MAX",
    "m7": "LATEST",
}
"""The aggregations of OpenMeter's meters by slug; only the first two add up over hours."""


@dataclass(frozen=True, slots=True)
class Item:
    """A price to be put on a subscription.

    `variant` tells two prices of one meter and interval apart; `kind` is how usage gets to it. Without an
    `interval` it has the contract's.
    """

    meter: str = "m1"
    kind: Kind = "mirror"
    variant: str = "a"
    interval: Interval | None = None

    @property
    def holder(self) -> str:
        """What holds its usage in Stripe: a meter that adds up, or one that keeps the last value."""
        return f"{self.meter} last" if self.kind == "last" else self.meter


@dataclass(frozen=True, slots=True)
class Contract:
    """One subscription, made at `at` (UTC seconds)."""

    name: str
    customer: str
    at: int
    interval: Interval
    items: tuple[Item, ...]
    mode: Mode = "flexible"
    trial_days: int = 0
    pauses: bool = False
    """Whether it pauses when its trial ends, for want of a payment method."""
    is_invoiced: bool = False
    """Whether its invoices are sent by e-mail: then none is final at once, and no webhook holds one."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One usage event: it happened at `time`, and OpenMeter shows it from `seen_at` on (UTC seconds)."""

    customer: str
    meter: str
    time: int
    value: str
    seen_at: int


ActKind = Literal[
    "cancel_at_period_end",
    "cancel_at",
    "cancel_now",
    "cancel_now_and_bill",
    "swap",
    "add",
    "remove",
    "reset_anchor",
    "end_trial",
    "swap_at_renewal",
    "resume",
    "pause_collection",
    "resume_collection",
    "delete_customer",
    "name_successor",
    "migrate",
]


@dataclass(frozen=True, slots=True)
class Act:
    """What the merchant does to a subscription at `at` (UTC seconds).

    `item` is the place of the item it is about; `to` is the price that is put on, or added; `until` is the
    end that `cancel_at` sets; `behavior` is of a paused collection, `anchor` of a resumption. `reported`: an
    operator has the customer reported just before. `name_successor` puts `to` beside the item's legacy price,
    for all who have that; `migrate` lets a schedule put it on the item at the next renewal.
    """

    at: int
    contract: str
    kind: ActKind
    item: int = 0
    to: Item | None = None
    until: int = 0
    proration: Proration = "create_prorations"
    behavior: Behavior = "void"
    anchor: Literal["now", "unchanged"] = "now"
    reported: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, armed at `at` (UTC seconds).

    It strikes after `skip` more chances, `times` times; `seconds` is how long, how late, or how old a
    restored copy is; `later` is how much later an operator mends it.
    """

    kind: str
    at: int
    skip: int = 0
    times: int = 1
    seconds: int = 0
    later: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """A world: who subscribes, what is used, what is changed, and what goes wrong; [start, end)."""

    seed: str
    start: int
    end: int
    contracts: tuple[Contract, ...]
    usage: tuple[Usage, ...] = ()
    acts: tuple[Act, ...] = ()
    faults: tuple[Fault, ...] = ()
    replaces_items: bool = False
    """Whether a schedule that swaps a price makes a new subscription item: Stripe does not say."""
    page_size: int = 100
    """The most objects in a page of Stripe's lists."""
    grace: int = 3600
    """Seconds from an invoice's draft to its finalization (Configure a grace period)."""
    bounds: Bounds = "exact"
    """The setting PERIOD_BOUNDS."""
    allow_decrease: bool = False
    hold_drafts: bool = False
    meter_stream: bool = False
    """The setting STRIPE_METER_STREAM."""
    over_event_bridge: bool = False
    """Whether Stripe's events come over Amazon EventBridge, and not to API Gateway."""
    brake: bool = False
    """Whether usage that doubles is held until its deadline: BRAKE_FACTOR, with BRAKE_DEADLINE=send."""
    openmeter_api: Literal["v1", "v3"] = "v1"
    """The setting OPENMETER_API."""
    undocumented: Undocumented = AS_ASSUMED
    """How Stripe behaves where its documentation is silent."""
    connected: tuple[History, ...] = ()
    """What happens at the same time in accounts connected to this one, by the same settings; their customers
    have the same ids."""

    @property
    def happenings(self) -> Sequence[Contract | Act]:
        """All that the merchant does, in no order."""
        return [*self.contracts, *self.acts]

    @property
    def size(self) -> int:
        """How much there is to look at."""
        own = len(self.contracts) + len(self.usage) + len(self.acts) + len(self.faults)
        return own + sum(one.size for one in self.connected)


def source_of(value: Any) -> str:
    """A value of a history as Python source; what has its default is left out."""
    if is_dataclass(value) and not isinstance(value, type):
        given = [
            f"{field.name}={source_of(getattr(value, field.name))}"
            for field in fields(value)
            if getattr(value, field.name) != field.default
        ]
        return f"{type(value).__name__}({', '.join(given)})"
    if isinstance(value, tuple):
        inside = ", ".join(source_of(one) for one in value)
        return f"({inside},)" if value else "()"
    return repr(value)
