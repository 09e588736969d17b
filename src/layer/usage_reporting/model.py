"""The nouns that the functions, the CLI and the sandbox share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.amounts import ZERO, is_same, to_wire
from usage_reporting.windows import Slice, rfc3339


class Target(StrEnum):
    """How Stripe is made to hold the usage of a price."""

    MIRROR = "mirror"
    LAST = "last"
    USAGE_RECORD = "usage_record"


class SpanState(StrEnum):
    """What is known of the invoice that bills a span."""

    CURRENT = "current"
    """The period runs, or Stripe has not yet made its invoice."""
    ENDED = "ended"
    """The period is over; ask Stripe whether its invoice still takes usage."""
    DRAFT = "draft"
    """The period is over and its invoice is a draft that still takes usage."""
    CANCELED = "canceled"
    """Ended before its period by a cancellation: billed only if Stripe made a draft."""
    FINAL = "final"
    """Its invoice was seen final; nothing can be added."""
    BILLED = "billed"
    """Stripe billed at once what it held (a price swapped, an item removed); nothing can be added."""
    DROPPED = "dropped"
    """Stripe bills none of it, not even what it held: canceled at once, or changed in classic mode."""
    FREE = "free"
    """By Stripe's own rules it is billed neither now nor later: a pause, or a trial that was cut short."""
    BESIDE = "beside"
    """No invoice bills it: the meter that is to follow a legacy price holds its usage beside the records."""

    @property
    def takes_usage(self) -> bool:
        """Whether what is sent still counts: on an invoice, or beside a legacy price's records."""
        return self in {SpanState.CURRENT, SpanState.DRAFT, SpanState.BESIDE}


@dataclass(frozen=True, slots=True)
class Span:
    """What Stripe bills on one price of one subscription item: [start, end), UTC seconds."""

    start: int
    end: int
    subscription: str
    item: str
    price: str
    state: SpanState = SpanState.CURRENT
    deadline: int | None = None
    """When a draft becomes final (`automatically_finalizes_at`), UTC seconds."""
    first: bool = False
    """Whether billing of the item began with it, so that earlier usage is on no invoice."""
    invoice: str = ""
    """The draft that bills it, where a list of drafts showed it."""
    is_kept_open: bool = False
    """Whether that draft is kept open by us."""
    when_left: SpanState = SpanState.BILLED
    """What becomes of it when its price leaves the subscription in mid-period: BILLED, DROPPED or FREE."""
    last: bool = False
    """Whether billing of the item ends with it: no renewal, but a cancellation."""
    is_trial: bool = False
    """Whether all of it is a trial, of which nothing is charged."""
    currency: str = ""
    """What it is billed in, where that is not the price's own currency (multi-currency prices)."""
    usage_since: int | None = None
    """From when on its usage counts, if that is said of it alone, UTC seconds: not after its start."""
    usage_until: int | None = None
    """Up to when its usage counts, if that is said of it alone, UTC seconds: not after its end."""

    @property
    def begins(self) -> int:
        """Its start, or before it where its usage begins, UTC seconds."""
        return self.start if self.usage_since is None else min(self.start, self.usage_since)

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it the same span when it is seen again."""
        return (self.item, self.price, self.start)

    def holds(self, instant: int) -> bool:
        """Whether `instant` lies in the span."""
        return self.start <= instant < self.end

    def to_json(self) -> dict[str, Any]:
        """The span as it stands in a queue message and in the ledger's head."""
        data: dict[str, Any] = {
            "start": self.start,
            "end": self.end,
            "subscription": self.subscription,
            "item": self.item,
            "price": self.price,
            "state": self.state.value,
        }
        if self.first:
            data["first"] = True
        if self.invoice:
            data["invoice"] = self.invoice
        if self.is_kept_open:
            data["is_kept_open"] = True
        if self.when_left is not SpanState.BILLED:
            data["when_left"] = self.when_left.value
        if self.last:
            data["last"] = True
        if self.is_trial:
            data["is_trial"] = True
        if self.currency:
            data["currency"] = self.currency
        instants = {
            "deadline": self.deadline,
            "usage_since": self.usage_since,
            "usage_until": self.usage_until,
        }
        return data | {name: instant for name, instant in instants.items() if instant is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Span:
        """Read what `to_json` wrote."""
        return cls(
            start=int(data["start"]),
            end=int(data["end"]),
            subscription=data["subscription"],
            item=data["item"],
            price=data["price"],
            state=SpanState(data["state"]),
            deadline=_instant(data.get("deadline")),
            first=bool(data.get("first", False)),
            invoice=data.get("invoice", ""),
            is_kept_open=bool(data.get("is_kept_open", False)),
            when_left=SpanState(data.get("when_left", SpanState.BILLED)),
            last=bool(data.get("last", False)),
            is_trial=bool(data.get("is_trial", False)),
            currency=data.get("currency", ""),
            usage_since=_instant(data.get("usage_since")),
            usage_until=_instant(data.get("usage_until")),
        )


def _instant(value: Any) -> int | None:
    return None if value is None else int(value)


def first_deadline(spans: Iterable[Span]) -> int | None:
    """When the first of the drafts that bill spans becomes final, UTC seconds; None where there is none."""
    return min((span.deadline for span in spans if span.deadline is not None), default=None)


@dataclass(frozen=True, slots=True)
class StripeMeter:
    """The parts of a Stripe meter that decide how it is fed."""

    id: str
    event_name: str
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"


def ledger_pk(account: str, mode: str, customer: str, holder: str) -> str:
    """The partition key of a customer meter; `holder`: the Stripe meter, legacy the subscription item."""
    return f"{account}#{mode}#{customer}#{holder}"


@dataclass(frozen=True, slots=True)
class CustomerMeter:
    """One customer's usage on one Stripe meter (legacy: on one subscription item)."""

    account: str
    mode: str
    """`live` or `test`: Stripe's, not the setting MODE."""
    customer: str
    subject: str
    """The subject in OpenMeter; empty when only the ledger knows it."""
    openmeter_meter: str
    """The slug or id of the meter in OpenMeter; empty when only the ledger knows it."""
    target: Target
    spans: tuple[Span, ...]
    bounds: frozenset[int]
    """The instants at which billing changes, UTC seconds."""
    meter: StripeMeter | None = None
    """None for a legacy price."""
    seen_at: int = 0
    """When Stripe was asked for it, UTC seconds."""
    closing: bool = False
    """Read whole ended periods, not only the last hours."""
    partial: bool = False
    """Whether only ended periods are shown, so that a missing item says nothing."""
    read_until: int | None = None
    """Read nothing at or after this instant."""
    is_deleted: bool = False
    """Whether the customer was deleted: Stripe takes no usage of it any more."""
    refusal: str | None = None
    """Why it will not be reported."""

    @property
    def pk(self) -> str:
        """The partition key of the ledger."""
        holder = self.meter.id if self.meter else self.spans[0].item
        return ledger_pk(self.account, self.mode, self.customer, holder)

    @property
    def meter_pk(self) -> str:
        """The partition key of what the ledger keeps of its Stripe meter; empty for a legacy price."""
        return f"{self.account}#{self.mode}#{self.meter.id}" if self.meter else ""

    @property
    def deadline(self) -> int | None:
        """When the first of its drafts becomes final, UTC seconds."""
        return first_deadline(self.spans)

    @property
    def is_beside(self) -> bool:
        """Whether no invoice bills it as it is shown: it stands beside the records of legacy prices."""
        return bool(self.spans) and all(span.state is SpanState.BESIDE for span in self.spans)

    def to_json(self) -> dict[str, Any]:
        """The customer meter as it stands in a queue message."""
        data: dict[str, Any] = {
            "account": self.account,
            "mode": self.mode,
            "customer": self.customer,
            "subject": self.subject,
            "openmeter_meter": self.openmeter_meter,
            "target": self.target.value,
            "spans": [span.to_json() for span in self.spans],
            "bounds": sorted(self.bounds),
            "seen_at": self.seen_at,
        }
        if self.meter is not None:
            data["meter"] = {
                "id": self.meter.id,
                "event_name": self.meter.event_name,
                "customer_key": self.meter.customer_key,
                "value_key": self.meter.value_key,
            }
        if self.closing:
            data["closing"] = True
        if self.partial:
            data["partial"] = True
        if self.read_until is not None:
            data["read_until"] = self.read_until
        if self.is_deleted:
            data["is_deleted"] = True
        if self.refusal is not None:
            data["refusal"] = self.refusal
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CustomerMeter:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        meter = data.get("meter")
        return cls(
            account=data["account"],
            mode=data["mode"],
            customer=data["customer"],
            subject=data["subject"],
            openmeter_meter=data["openmeter_meter"],
            target=Target(data["target"]),
            spans=tuple(Span.from_json(span) for span in data["spans"]),
            bounds=frozenset(int(bound) for bound in data["bounds"]),
            meter=None if meter is None else StripeMeter(**meter),
            seen_at=int(data["seen_at"]),
            closing=data.get("closing", False),
            partial=data.get("partial", False),
            read_until=data.get("read_until"),
            is_deleted=data.get("is_deleted", False),
            refusal=data.get("refusal"),
        )

    def merged_with(self, other: CustomerMeter) -> CustomerMeter:
        """The same customer meter seen on two subscriptions, or on two items of one.

        What is billed is never refused because of what stands beside a legacy price.
        """
        if self.is_beside != other.is_beside:
            beside, billed = (self, other) if self.is_beside else (other, self)
            if beside.refusal or beside.openmeter_meter != billed.openmeter_meter:
                return billed
        ends = (self.read_until, other.read_until)
        return replace(
            self,
            spans=tuple(dict.fromkeys(self.spans + other.spans)),
            bounds=self.bounds | other.bounds,
            seen_at=min(self.seen_at, other.seen_at),
            closing=self.closing or other.closing,
            partial=self.partial and other.partial,
            read_until=None if None in ends else max(end for end in ends if end is not None),
            is_deleted=self.is_deleted or other.is_deleted,
            refusal=self.refusal or other.refusal,
        )


class SendState(StrEnum):
    """What is known of one send."""

    INTENT = "intent"
    """Written before the call; whether Stripe has it is not known yet."""
    SENT = "sent"
    DOUBTED = "doubted"
    """Stripe took it, or may have; whether it counts it is being found out (`settlement`)."""
    REJECTED = "rejected"
    """Stripe said no at once; its identifier is still free."""
    DISCARDED = "discarded"
    """Stripe took it, or may have, and does not count it; its identifier is used up."""


@dataclass(frozen=True, slots=True)
class Send:
    """One meter event (legacy: usage record), as the ledger keeps it."""

    identifier: str
    slice_start: int
    stamp: int
    value: Decimal
    intended_at: int
    state: SendState = SendState.INTENT
    attempt: int = 0
    sent_at: int = 0
    """When Stripe was last known to have it, UTC seconds; 0: not known."""
    code: str = ""
    """Why Stripe discarded it, or may have, in its own code; empty: the summary does not have it."""
    is_streamed: bool = False
    """Whether it went through the meter event stream, or may have: it is repeated by the same way."""
    is_repeated: bool = False
    """Whether more than one request of the stream may have carried it."""

    @property
    def counts(self) -> bool:
        """Whether Stripe holds it, or may hold it."""
        return self.state not in {SendState.REJECTED, SendState.DISCARDED}

    @property
    def may_count_by_another(self) -> bool:
        """Whether another request than a given one may have carried it, or may yet."""
        return self.is_streamed and (self.is_repeated or self.state is SendState.INTENT)

    @property
    def key(self) -> str:
        """What names this attempt alone, and its request where it goes by itself."""
        return f"{self.identifier}.{self.attempt}"

    @property
    def told_at(self) -> int:
        """When Stripe was told of it last, UTC seconds."""
        return max(self.intended_at, self.sent_at)

    @property
    def uses_identifier(self) -> bool:
        """Whether Stripe may know its identifier."""
        return self.state is not SendState.REJECTED

    def to_item(self) -> dict[str, Any]:
        """The send as it stands in an entry of the ledger, under its identifier."""
        later = {
            "sent": self.sent_at,
            "code": self.code,
            "streamed": self.is_streamed,
            "repeated": self.is_repeated,
        }
        return {
            "slice": self.slice_start,
            "stamp": self.stamp,
            "value": self.value,
            "at": self.intended_at,
            "state": self.state.value,
            "attempt": self.attempt,
            **{name: value for name, value in later.items() if value},
        }

    @classmethod
    def from_item(cls, identifier: str, item: dict[str, Any]) -> Send:
        """Read what `to_item` wrote."""
        return cls(
            identifier=identifier,
            slice_start=int(item["slice"]),
            stamp=int(item["stamp"]),
            value=item["value"],
            intended_at=int(item["at"]),
            state=SendState(item["state"]),
            attempt=int(item["attempt"]),
            sent_at=int(item.get("sent", 0)),
            code=item.get("code", ""),
            is_streamed=item.get("streamed", False),
            is_repeated=item.get("repeated", False),
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What OpenMeter holds for one slice, beside what Stripe was told of it."""

    piece: Slice
    value: Decimal
    mirrored: Decimal
    """The sum of our sends stamped in the slice."""
    undelivered: Decimal
    """What was already counted as usage that no invoice takes."""
    sequence: int
    stamp: int | None
    """Where new usage of the slice is stamped; None: nowhere yet."""
    state: SpanState
    """Of the span that the stamp lies in."""
    dropped: Decimal = ZERO
    """The part of `mirrored` that Stripe dropped: it is on no invoice."""
    discarded_as: str = ""
    """Stripe's code, if the newest send of the slice was taken and discarded for it."""
    is_missing: bool = False
    """OpenMeter has no row of it at all: events that take usage back would leave one."""

    @property
    def difference(self) -> Decimal:
        """What Stripe lacks; negative when it holds more than OpenMeter."""
        return self.value - self.accounted

    @property
    def changed(self) -> bool:
        """Whether OpenMeter and Stripe differ by more than floating-point noise."""
        return not is_same(self.value, self.accounted)

    @property
    def accounted(self) -> Decimal:
        """What Stripe holds, and what was counted instead while no invoice takes it."""
        return self.mirrored if self.takes_usage else self.mirrored - self.dropped + self.undelivered

    @property
    def uncounted(self) -> Decimal:
        """What Stripe dropped of a slice that still takes usage, and that was not counted yet."""
        return max(self.dropped - self.undelivered, ZERO) if self.takes_usage else ZERO

    @property
    def is_over(self) -> bool:
        """Whether an invoice has more than OpenMeter does."""
        billed = self.mirrored - self.dropped
        return billed > self.value and not is_same(self.value, billed)

    @property
    def takes_usage(self) -> bool:
        """Whether an invoice still takes usage stamped there."""
        return self.state.takes_usage


class Status(StrEnum):
    """How a report of one customer meter ended; later ones outrank earlier ones."""

    UNCHANGED = "unchanged"
    SENT = "sent"
    SHADOW = "shadow"
    LATE = "late"
    UNBILLABLE = "unbillable"
    DOUBTED = "doubted"
    REFUSED = "refused"
    HELD = "held"
    REJECTED = "rejected"
    HANDED_OVER = "handed_over"
    UNKNOWN = "unknown"

    @property
    def ask_again(self) -> bool:
        """Whether the same call may end better later."""
        return self in {Status.DOUBTED, Status.UNKNOWN, Status.HANDED_OVER}

    @property
    def is_undelivered(self) -> bool:
        """Whether usage that should be in Stripe may not be there."""
        return self.ask_again or self in {Status.REFUSED, Status.HELD, Status.REJECTED}


_RANK = {status: rank for rank, status in enumerate(Status)}


@dataclass(frozen=True, slots=True)
class Line:
    """A report's line: what OpenMeter measured of one span in the time that was read."""

    customer: str
    price: str
    meter: str
    total: Decimal
    start: int
    end: int
    account: str = OWN_ACCOUNT

    def __str__(self) -> str:
        whose = "" if self.account == OWN_ACCOUNT else f", stripe_account: {self.account}"
        return (
            f"stripe_customer: {self.customer}, stripe_price: {self.price}, meter: {self.meter}, "
            f"total_usage: {to_wire(self.total)}, from: {rfc3339(self.start)}, to: {rfc3339(self.end)}"
            f"{whose}"
        )


@dataclass(frozen=True, slots=True)
class Prospect:
    """One span as a dry run found it, in units."""

    span: Span
    metered: Decimal
    """What OpenMeter has of the time that was read."""
    held: Decimal
    """What Stripe was told, and may hold, of that time."""
    since: int
    """From when on that was read, UTC seconds."""


@dataclass(slots=True)
class Report:
    """The outcome for one customer meter."""

    customer_meter: CustomerMeter
    status: Status = Status.UNCHANGED
    reasons: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    sent: list[Send] = field(default_factory=list)
    """In a dry run, what would be sent."""
    prospects: list[Prospect] = field(default_factory=list)
    """Of a dry run alone."""
    late: Decimal = ZERO
    unbillable: Decimal = ZERO
    is_braked: bool = False
    """Whether the brake holds something of it."""
    unsent_since: int | None = None
    """From when on usage is known, or has to be feared, not to be in Stripe though it should; UTC seconds."""

    def note(self, status: Status, reason: str = "") -> None:
        """Add an outcome; the status that matters most stays."""
        if _RANK[status] > _RANK[self.status]:
            self.status = status
        if reason and reason not in self.reasons:
            self.reasons.append(reason)

    def waits_since(self, instant: int) -> None:
        """Usage from `instant` on, UTC seconds, should be in Stripe and is not; the earliest counts."""
        self.unsent_since = min(self.unsent_since or instant, instant)

    @property
    def reason(self) -> str:
        """All reasons in one text."""
        return "; ".join(self.reasons)
