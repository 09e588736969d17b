"""The verdict on a final invoice: what each metered line bills, against what OpenMeter measured; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.ledger import KEPT_FOR, Entry, Item
from usage_reporting.model import Send, SendState
from usage_reporting.windows import HOUR, rfc3339

VERDICT = "verdict"
"""The sort key of a verdict in the ledger."""

SECOND_LOOK_AFTER = HOUR
"""What OpenMeter did not show at finalization it mostly shows by then."""
LOOKS = 2


class Finding(StrEnum):
    """What a line is; later ones outrank earlier ones."""

    FREE = "free"
    """A trial's line: nothing is charged, so that its quantity is of no matter."""
    EXACT = "exact"
    NOT_JUDGED = "not_judged"
    SHORT = "short"
    OVER = "over"

    @property
    def is_fine(self) -> bool:
        """Whether nobody is charged wrongly."""
        return self in {Finding.FREE, Finding.EXACT}


class Cause(StrEnum):
    """Why a line does not bill what OpenMeter holds, as far as the ledger knows."""

    HELD = "held by the brake"
    LATE = "late"
    """Shown by OpenMeter only after the invoice was final."""
    UNBILLABLE = "unbillable"
    """Not in Stripe when it billed that time at once."""
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    """Sent, but Stripe never said whether it took it."""
    NOT_REPORTED = "not reported"
    NOT_BILLED = "sent, but not billed by Stripe"
    OTHER_WRITER = "sent by somebody else"
    DECREASE = "less in OpenMeter than was reported"


_ALIKE = {SendState.DOUBTED: SendState.INTENT, SendState.DISCARDED: SendState.REJECTED}
"""States that are the same cause on a bill."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of a span, in units."""

    sent: Decimal = ZERO
    unknown: Decimal = ZERO
    rejected: Decimal = ZERO
    undelivered: Decimal = ZERO
    braked: Decimal = ZERO

    @classmethod
    def of(
        cls,
        entries: Iterable[Entry],
        start: int,
        end: int,
        *,
        slices: tuple[int, int] | None = None,
        until: int | None = None,
    ) -> Known:
        """The sums of what is stamped in [start, end), UTC seconds.

        `slices`: between where the slices begin whose usage it is; `until`: of what was sent by then.
        """
        first, last = slices or (start, end)
        sums = dict.fromkeys(SendState, ZERO)
        undelivered = braked = ZERO
        for entry in entries:
            for send in entry.sends.values():
                if start <= send.stamp < end and (until is None or send.intended_at <= until):
                    sums[send.state] += send.value
            undelivered += _begun_in(entry.undelivered, first, last)
            braked += _begun_in(entry.braked, first, last)
        unknown = sums[SendState.INTENT] + sums[SendState.DOUBTED]
        rejected = sums[SendState.REJECTED] + sums[SendState.DISCARDED]
        return cls(sums[SendState.SENT], unknown, rejected, undelivered, braked)

    @classmethod
    def of_total(cls, entry: Entry, *, until: int | None = None) -> Known:
        """What the newest stamp of each kind told of a span whose last value counts.

        `until`: of what was sent by then, UTC seconds.
        """
        told = [send for send in entry.sends.values() if until is None or send.intended_at <= until]
        return cls._of_newest(entry, sorted(told, key=lambda send: send.stamp))

    @classmethod
    def of_record(cls, entry: Entry) -> Known:
        """What the newest record of each kind told of a legacy period: each replaces the one before."""
        return cls._of_newest(entry, sorted(entry.sends.values(), key=lambda send: send.intended_at))

    @classmethod
    def _of_newest(cls, entry: Entry, told: Sequence[Send]) -> Known:
        newest = {_ALIKE.get(send.state, send.state): send.value for send in told}
        sent = newest.get(SendState.SENT, ZERO)
        return cls(
            sent=sent,
            unknown=newest.get(SendState.INTENT, sent) - sent,
            rejected=newest.get(SendState.REJECTED, sent) - sent,
            undelivered=sum(entry.undelivered.values(), ZERO),
            braked=sum(entry.braked.values(), ZERO),
        )


def _begun_in(units: Mapping[int, Decimal], start: int, end: int) -> Decimal:
    """The sum of what is kept for slices that begin in [start, end), UTC seconds."""
    return sum((value for begin, value in units.items() if start <= begin < end), ZERO)


@dataclass(frozen=True, slots=True)
class JudgedLine:
    """One line of an invoice and what is to be said of it; [start, end) in UTC seconds."""

    customer: str
    price: str
    item: str
    """Empty where Stripe billed at once for a price that was swapped or removed."""
    meter: str
    """In OpenMeter."""
    start: int
    end: int
    quantity: Decimal
    finding: Finding
    metered: Decimal | None = None
    causes: Mapping[Cause, Decimal] = field(default_factory=dict)
    reason: str = ""
    """Why it was not judged."""

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it the same line when the invoice is judged again."""
        return (self.price, self.item, self.start)

    @property
    def verdict(self) -> str:
        """EXACT, SHORT or OVER by how much, and why."""
        text = self.finding.value.replace("_", " ").upper()
        if self.finding in {Finding.SHORT, Finding.OVER} and self.metered is not None:
            text += f" by {to_wire(abs(self.metered - self.quantity))}"
        causes = ", ".join(f"{to_wire(units)} {cause.value}" for cause, units in self.causes.items())
        return text + (f" ({causes})" if causes else "") + (f": {self.reason}" if self.reason else "")

    def __str__(self) -> str:
        metered = "unknown" if self.metered is None else to_wire(self.metered)
        return (
            f"stripe_customer: {self.customer}, stripe_price: {self.price}, meter: {self.meter}, "
            f"metered: {metered}, billed: {to_wire(self.quantity)}, "
            f"from: {rfc3339(self.start)}, to: {rfc3339(self.end)}, verdict: {self.verdict}"
        )

    def to_json(self) -> Item:
        """The line as it stands in the ledger."""
        data: Item = {
            "customer": self.customer,
            "price": self.price,
            "item": self.item,
            "meter": self.meter,
            "start": self.start,
            "end": self.end,
            "quantity": self.quantity,
            "verdict": self.finding.value,
            "causes": {cause.value: units for cause, units in self.causes.items()},
            "reason": self.reason,
        }
        return data if self.metered is None else {**data, "metered": self.metered}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JudgedLine:
        """Read what `to_json` wrote."""
        return cls(
            customer=data["customer"],
            price=data["price"],
            item=data["item"],
            meter=data["meter"],
            start=int(data["start"]),
            end=int(data["end"]),
            quantity=data["quantity"],
            finding=Finding(data["verdict"]),
            metered=data.get("metered"),
            causes={Cause(name): units for name, units in data["causes"].items()},
            reason=data["reason"],
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one invoice, as the ledger keeps it; without lines: nothing on it is ours."""

    pk: str
    lines: tuple[JudgedLine, ...] = ()
    judged_at: int = 0
    looks: int = 0
    version: int = 0

    @property
    def worst(self) -> Finding | None:
        """The finding that matters most."""
        return max((line.finding for line in self.lines), key=list(Finding).index, default=None)

    def is_settled(self, now: int) -> bool:
        """Whether there is nothing to look at again, or not yet; `now` in UTC seconds.

        What is exact stays so: usage that OpenMeter shows later is counted as `late`. Anything else
        is looked at a second time, an hour later.
        """
        if not self.looks:
            return False
        is_fine = self.worst is None or self.worst.is_fine
        return is_fine or self.looks >= LOOKS or now - self.judged_at < SECOND_LOOK_AFTER

    def news(self, before: Judgement) -> list[JudgedLine]:
        """The lines whose finding is another than at the look before."""
        known = {line.key: line.finding for line in before.lines}
        return [line for line in self.lines if known.get(line.key) != line.finding]

    def to_item(self) -> Item:
        """The verdict as it is stored, one version on."""
        return {
            "pk": self.pk,
            "sk": VERDICT,
            "lines": [line.to_json() for line in self.lines],
            "judged_at": self.judged_at,
            "looks": self.looks,
            "version": self.version + 1,
            "expires_at": self.judged_at + KEPT_FOR,
        }

    @classmethod
    def from_item(cls, item: Item) -> Judgement:
        """Read what `to_item` wrote."""
        return cls(
            pk=item["pk"],
            lines=tuple(JudgedLine.from_json(line) for line in item["lines"]),
            judged_at=int(item["judged_at"]),
            looks=int(item["looks"]),
            version=int(item["version"]),
        )


def pk_of(account: str, mode: str, invoice: str) -> str:
    """The partition key of an invoice's verdict."""
    return f"{account}#{mode}#{invoice}"


def compared(metered: Decimal, quantity: Decimal) -> Finding:
    """Compare what was measured with what is billed; Stripe bills a total below zero as zero."""
    owed = max(metered, ZERO)
    if abs(owed - quantity) <= max(Decimal("1e-6"), Decimal("1e-12") * owed):
        return Finding.EXACT
    return Finding.SHORT if quantity < owed else Finding.OVER


def causes_of(metered: Decimal, quantity: Decimal, known: Known) -> dict[Cause, Decimal]:
    """What the ledger knows of a difference, each cause with its units."""
    found: dict[Cause, Decimal] = {}
    finding = compared(metered, quantity)
    if finding is Finding.OVER:
        theirs = max(quantity - known.sent - known.unknown, ZERO)
        fallen = quantity - metered - theirs
        found = {Cause.OTHER_WRITER: theirs, Cause.DECREASE: fallen}
    elif finding is Finding.SHORT:
        rest = metered - quantity
        shares = (
            # What was held until its invoice was final is counted as late, too.
            (Cause.HELD, known.braked),
            (Cause.LATE, known.undelivered),
            (Cause.NOT_BILLED, known.sent - quantity),
            (Cause.UNKNOWN, known.unknown),
            (Cause.REJECTED, known.rejected),
            (Cause.NOT_REPORTED, rest),
        )
        found = dict(shared_out(rest, shares))
    return {cause: units for cause, units in found.items() if units > Decimal("1e-6")}


def shared_out[T](rest: Decimal, shares: Iterable[tuple[T, Decimal]]) -> Iterator[tuple[T, Decimal]]:
    """Each share as far as the rest goes, in their order, in units; one below zero is nothing."""
    for what, units in shares:
        part = min(max(units, ZERO), rest)
        rest -= part
        yield what, part
