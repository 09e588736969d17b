"""The evidence for an invoice: each metered line from OpenMeter's hours to the billed quantity; pure.

The chain of a line: what OpenMeter has, what was sent, what Stripe's summary holds, what the invoice bills.
Where two neighbours are not equal, the difference has a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from cli.send_checks import CheckedSend, Mark
from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.model import SendState, Target
from usage_reporting.pricing import money
from usage_reporting.windows import rfc3339


class Named(StrEnum):
    """What a difference is called."""

    CHANGED = "a ledger entry was changed"
    MISSING = "a ledger entry is gone"
    OTHER_WRITER = "sent by somebody else"
    NOT_HELD = "sent, but not in Stripe's summary"
    NOT_BILLED = "held by Stripe, but not billed"
    BILLED_BEYOND = "billed, but not in Stripe's summary"
    LATE = "late"
    UNBILLABLE = "unbillable"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    HELD = "held"
    NOT_REPORTED = "not reported"
    DECREASE = "less in OpenMeter than was reported"
    UNREADABLE = "could not be read"
    # What explains a number, and is as it should be:
    NOT_YET = "not reported yet"
    LAG = "not in Stripe's summary yet"
    FREE = "free trial"
    THRESHOLD = "billing threshold"
    DIVIDED = "packages"
    CHARGED = "charged otherwise"

    @property
    def is_note(self) -> bool:
        """Whether it is as it should be."""
        return self in _NOTES


_NOTES = {Named.NOT_YET, Named.LAG, Named.FREE, Named.THRESHOLD, Named.DIVIDED, Named.CHARGED}


@dataclass(frozen=True, slots=True)
class Difference:
    """Why two numbers of the chain are not equal; or, as a note, why that is right."""

    name: Named
    text: str
    """A sentence for the operator."""
    units: Decimal = ZERO
    start: int | None = None
    """The slice that it is in, UTC seconds; None: the line as a whole."""

    def to_json(self) -> dict[str, Any]:
        """The difference with its units as text."""
        at = None if self.start is None else rfc3339(self.start)
        return {"name": self.name.value, "units": to_wire(self.units), "slice": at, "text": self.text}


@dataclass(frozen=True, slots=True)
class SliceEvidence:
    """One slice: mostly a UTC hour; where the last value counts and of usage records, the whole period.

    Amounts in units; None where that side could not be asked, or does not say. Times in UTC seconds.
    """

    start: int
    end: int
    metered: Decimal | None
    """What OpenMeter has."""
    sends: tuple[CheckedSend, ...]
    sent: Decimal | None
    """What Stripe took of the sends, and counts, as the ledger has it; None without the ledger."""
    pending: Decimal
    """What was sent without an answer, or is doubted."""
    held: Decimal | None
    """What Stripe's summary has."""
    undelivered: Decimal
    """What was counted as late or unbillable."""
    braked: Decimal = ZERO
    """What the brake holds, or held until its invoice was final."""
    is_in_line: bool = True
    """Whether the line bills it; else it is the other part of an hour that a bound cuts."""
    is_shared: bool = False
    """Whether a swapped price parts it, so that OpenMeter's usage of it belongs to two lines."""
    is_part: bool = False
    """Whether a bound cuts its hour."""

    @property
    def rejected(self) -> Decimal:
        """What Stripe refused, at once or afterwards."""
        refused = {SendState.REJECTED, SendState.DISCARDED}
        return sum((one.send.value for one in self.sends if one.send.state in refused), ZERO)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing of it on either side."""
        return not (self.metered or self.sends or self.held or self.undelivered)

    def to_json(self) -> dict[str, Any]:
        """The slice with amounts as texts."""
        return {
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "in_line": self.is_in_line,
            "shared": self.is_shared,
            "metered": _text(self.metered),
            "sent": _text(self.sent),
            "pending": to_wire(self.pending),
            "rejected": to_wire(self.rejected),
            "held": _text(self.held),
            "undelivered": to_wire(self.undelivered),
            "sends": [_send_json(one) for one in self.sends],
        }


@dataclass(slots=True)
class LineEvidence:
    """One metered line; [start, end) in UTC seconds, amounts in units."""

    subscription: str
    item: str
    price: str
    pricing: str
    """How a unit is charged, in words."""
    target: Target
    stripe_meter: str
    event_name: str
    openmeter_meter: str
    subject: str
    start: int
    end: int
    billed: Decimal
    """The quantity on the invoice."""
    amount: Decimal
    """What the line charges, in the currency's minor unit, before discounts and taxes."""
    currency: str
    is_final: bool
    subject_keys: tuple[str, ...] | None = None
    """Those of the OpenMeter customer whose key the subject is; None: it is just a subject."""
    metered: Decimal | None = None
    sent: Decimal | None = None
    """None without the ledger."""
    pending: Decimal = ZERO
    held: Decimal | None = None
    slices: list[SliceEvidence] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    reckoning: str = ""
    """How the quantity becomes the amount, in words; empty where nothing is charged."""
    verdict: str = ""
    """What the functions say of it now; empty while it is not final."""
    ends_in_billed: bool = False
    """Whether the chain ends in the billed quantity."""

    @property
    def whose(self) -> str:
        """Whose usage in OpenMeter it is, in words."""
        if self.subject_keys is None:
            return f"subject {self.subject}"
        keys = ", ".join(self.subject_keys) or "none"
        return f"customer {self.subject} (subject keys: {keys})"

    @property
    def amount_text(self) -> str:
        """What the line charges, e.g. `$12.34`."""
        return money(self.amount, self.currency)

    @property
    def is_explained(self) -> bool:
        """Whether it bills what the chain says, and nothing differs on the way."""
        return self.ends_in_billed and not self.findings

    @property
    def findings(self) -> list[Difference]:
        """The differences that are not as it should be."""
        return [one for one in self.differences if not one.name.is_note]

    @property
    def notes(self) -> list[Difference]:
        """What is as it should be, and explains a number."""
        return [one for one in self.differences if one.name.is_note]

    def to_json(self) -> dict[str, Any]:
        """All of it, amounts as texts."""
        return {
            "subscription": self.subscription,
            "subscription_item": self.item,
            "price": self.price,
            "pricing": self.pricing,
            "how": self.target.value,
            "stripe_meter": self.stripe_meter or None,
            "event_name": self.event_name or None,
            "openmeter_meter": self.openmeter_meter,
            "subject": self.subject,
            "subject_keys": None if self.subject_keys is None else list(self.subject_keys),
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "final": self.is_final,
            "metered": _text(self.metered),
            "sent": _text(self.sent),
            "pending": to_wire(self.pending),
            "held": _text(self.held),
            "billed": to_wire(self.billed),
            "amount": self.amount_text,
            "reckoning": self.reckoning or None,
            "verdict": self.verdict or None,
            "ends_in_billed_quantity": self.ends_in_billed,
            "differences": [one.to_json() for one in self.findings],
            "notes": [one.to_json() for one in self.notes],
            "slices": [one.to_json() for one in self.slices],
        }


@dataclass(slots=True)
class InvoiceEvidence:
    """An invoice, draft or preview; times in UTC seconds."""

    id: str
    number: str
    status: str
    """Stripe's, or `preview`."""
    customer: str
    customer_name: str
    currency: str
    total: Decimal
    """In the currency's minor unit."""
    created: int
    asked_at: int
    lines: list[LineEvidence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What holds for all of it: that it is a draft, or void, or that the ledger could not be read."""

    @property
    def total_text(self) -> str:
        """What the invoice comes to, e.g. `$12.34`."""
        return money(self.total, self.currency)

    @property
    def is_explained(self) -> bool:
        """Whether every metered line is."""
        return all(line.is_explained for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """All of it, amounts of usage as texts."""
        return {
            "invoice": self.id,
            "number": self.number or None,
            "status": self.status,
            "customer": self.customer,
            "customer_name": self.customer_name or None,
            "currency": self.currency,
            "total": self.total_text,
            "created": rfc3339(self.created),
            "asked_at": rfc3339(self.asked_at),
            "explained": self.is_explained,
            "notes": self.notes,
            "lines": [line.to_json() for line in self.lines],
        }


def summary(invoices: Sequence[InvoiceEvidence]) -> str:
    """How many of the lines end in the billed quantity, in one line."""
    lines = [line for invoice in invoices for line in invoice.lines]
    fine = sum(1 for line in lines if line.is_explained)
    others = f", {len(lines) - fine} with a difference" if fine < len(lines) else ""
    return f"explained: {fine} of {len(lines)} lines end in the billed quantity{others}"


def of_state(sends: Iterable[CheckedSend], *states: SendState) -> Decimal:
    """The sum of the sends in some states."""
    return sum((one.send.value for one in sends if one.send.state in states), ZERO)


def changed(sends: Iterable[CheckedSend]) -> list[CheckedSend]:
    """The sends whose identifiers were made for something else."""
    return [one for one in sends if one.mark is Mark.CHANGED]


def _text(units: Decimal | None) -> str | None:
    return None if units is None else to_wire(units)


def _send_json(one: CheckedSend) -> dict[str, Any]:
    send = one.send
    return {
        "identifier": send.identifier,
        "slice": rfc3339(send.slice_start),
        "stamp": rfc3339(send.stamp),
        "value": to_wire(send.value),
        "written_at": rfc3339(send.intended_at),
        "sent_at": rfc3339(send.sent_at) if send.sent_at else None,
        "state": send.state.value,
        "code": send.code or None,
        "attempt": send.attempt,
        "streamed": send.is_streamed,
        "identifier_fits": one.mark.value,
        "value_by_identifier": _text(one.was),
    }
