"""What came of comparing a customer meter on both sides: what differs, since when, and why; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from usage_reporting.amounts import ZERO, is_same, to_wire
from usage_reporting.ledger import Head
from usage_reporting.model import CustomerMeter, Report, Send, Span, SpanState
from usage_reporting.verdict import Cause, Finding, Known, shared_out
from usage_reporting.windows import rfc3339

_LEFT = frozenset({SpanState.BILLED, SpanState.DROPPED})


@dataclass(frozen=True, slots=True)
class Difference:
    """A time [start, end), UTC seconds, of which the two sides, or Stripe and the ledger, differ."""

    start: int
    end: int
    metered: Decimal
    held: Decimal
    """What Stripe holds, with what was sent so lately that its summary may not show it."""
    causes: Mapping[Cause, Decimal] = field(default_factory=dict)
    beyond_ledger: Decimal = ZERO
    """What Stripe holds and the ledger does not know of; negative: what the ledger says was sent and Stripe
    does not hold."""
    dropped: Decimal = ZERO
    """What Stripe holds and never bills, as the ledger counted it."""

    @property
    def units(self) -> Decimal:
        """What Stripe lacks, or never bills; negative when it holds more than OpenMeter."""
        return self.metered - self.held + self.dropped

    @property
    def is_of_ledger_alone(self) -> bool:
        """Whether both sides agree, and only the ledger is wrong."""
        return is_same(self.metered, self.held) and not self.dropped

    def __str__(self) -> str:
        causes = [f"{to_wire(units)} {cause.value}" for cause, units in self.causes.items()]
        if self.beyond_ledger:
            unknown = f"{to_wire(abs(self.beyond_ledger))} that the ledger does not know of"
            missing = f"{to_wire(abs(self.beyond_ledger))} in the ledger that Stripe does not hold"
            causes.append(unknown if self.beyond_ledger > 0 else missing)
        if self.dropped:
            causes.append(f"{to_wire(self.dropped)} that Stripe holds and never bills")
        said = f" ({', '.join(causes)})" if causes else ""
        return (
            f"{rfc3339(self.start)}: OpenMeter {to_wire(self.metered)}, Stripe {to_wire(self.held)}, "
            f"{verdict_of([self])}{said}"
        )

    def to_json(self) -> dict[str, Any]:
        """The difference; amounts are texts, so that no digit is lost."""
        return {
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "openmeter": to_wire(self.metered),
            "stripe": to_wire(self.held),
            "causes": {cause.value: to_wire(units) for cause, units in self.causes.items()},
            "beyond_ledger": to_wire(self.beyond_ledger),
            "dropped": to_wire(self.dropped),
        }


@dataclass(slots=True)
class Reconciled:
    """One customer meter, compared."""

    customer_meter: CustomerMeter
    report: Report
    """What a report would do now."""
    head: Head | None = None
    """None: the ledger does not know it."""
    compared: int = 0
    """How many hours, or spans, with anything in them were compared."""
    metered: Decimal = ZERO
    held: Decimal = ZERO
    differences: list[Difference] = field(default_factory=list)
    awaited: list[Send] = field(default_factory=list)
    """Sent so lately that Stripe's summaries may not show it; with them, what they are of is right."""
    unjudged: str = ""
    """Why it could not be compared."""

    @property
    def finding(self) -> Finding:
        """EXACT, or what is worst of it."""
        if self.unjudged:
            return Finding.NOT_JUDGED
        if any(one.units < 0 and not one.is_of_ledger_alone for one in self.differences):
            return Finding.OVER
        if any(not one.is_of_ledger_alone for one in self.differences):
            return Finding.SHORT
        return Finding.EXACT

    @property
    def is_fine(self) -> bool:
        """Whether both sides and the ledger agree, and nothing waits for a person or for an answer."""
        return self.finding is Finding.EXACT and not self.differences and not self.needs_a_look

    @property
    def needs_a_look(self) -> bool:
        """Whether a report would not deliver everything."""
        return self.report.status.is_undelivered

    @property
    def verdict(self) -> str:
        """EXACT, SHORT or OVER by how much, and what else is to be said."""
        said = "NOT JUDGED: " + self.unjudged if self.unjudged else verdict_of(self.differences)
        if self.needs_a_look:
            said += f", {self.report.status.value}"
        if self.beyond_ledger:
            said += ", the ledger differs"
        return said

    def name_late(self) -> None:
        """Call late what a report would count as such, and would not send."""
        if not self.report.late:
            return
        self.differences = [
            each
            if any(each.start <= send.stamp < each.end for send in self.report.sent)
            else replace(each, causes=_with_late(each.causes))
            for each in self.differences
        ]

    @property
    def beyond_ledger(self) -> bool:
        """Whether Stripe holds anything else than the ledger says."""
        return any(one.beyond_ledger for one in self.differences)

    @property
    def causes(self) -> dict[Cause, Decimal]:
        """The causes of all differences, in units."""
        found: dict[Cause, Decimal] = {}
        for one in self.differences:
            for cause, units in one.causes.items():
                found[cause] = found.get(cause, ZERO) + units
        return found


def _with_late(causes: Mapping[Cause, Decimal]) -> dict[Cause, Decimal]:
    found = dict(causes)
    found[Cause.LATE] = found.get(Cause.LATE, ZERO) + found.pop(Cause.NOT_REPORTED, ZERO)
    return {cause: units for cause, units in found.items() if units}


def verdict_of(differences: Iterable[Difference]) -> str:
    """EXACT, SHORT by how much, OVER by how much, or both of the latter."""
    units = [one.units for one in differences if not one.is_of_ledger_alone]
    short, over = sum((one for one in units if one > 0), ZERO), sum((one for one in units if one < 0), ZERO)
    said = [f"SHORT by {to_wire(short)}"] if short else []
    said += [f"OVER by {to_wire(-over)}"] if over else []
    return ", ".join(said) or "EXACT"


@dataclass(frozen=True, slots=True)
class Columns:
    """The amounts of one hour or span, in units, and of which spans it is."""

    start: int
    end: int
    metered: Decimal
    held: Decimal
    known: Known
    awaited: tuple[Send, ...] = ()
    """Its sends that Stripe's summary may not show yet."""
    to_come: Decimal = ZERO
    """What they add when it does."""
    spans: tuple[Span, ...] = ()
    is_ledger_kept: bool = True
    """Whether the ledger is written at all: in shadow mode it is not."""

    @property
    def told(self) -> tuple[Decimal, Decimal]:
        """The least and the most that Stripe holds if the ledger is right."""
        edges = sorted((self.known.sent, self.known.sent + self.known.unknown))
        return edges[0], edges[1]

    def with_awaited(self) -> Columns | None:
        """The columns with what the summary will show; None where it cannot be told what it shows by now."""
        if not self.awaited or is_same(self.metered, self.held):
            return self
        least, most = self.told
        later = self.held + self.to_come
        if is_same(later, self.metered) or _lies(later, least, most):
            return replace(self, held=later)
        return self if _lies(self.held, least, most) else None

    def difference(self) -> Difference | None:
        """What differs, if anything does."""
        beyond = self._beyond_ledger() if self.is_ledger_kept else ZERO
        noted = min(self.known.undelivered, ZERO)
        # Where an entry is gone, what it had told is counted as late, though Stripe bills it.
        dropped = ZERO if beyond else self._dropped()
        if not (beyond or dropped) and (
            is_same(self.metered, self.held) or is_same(self.metered, self.held + noted)
        ):
            return None
        causes = self._causes()
        if dropped:
            causes[Cause.UNBILLABLE] = causes.get(Cause.UNBILLABLE, ZERO) + dropped
        return Difference(self.start, self.end, self.metered, self.held, causes, beyond, dropped)

    def _dropped(self) -> Decimal:
        """What the ledger counted as on no invoice, though Stripe holds it: a price that left its meter in
        classic billing mode, or a subscription that was canceled without an invoice, bills it never."""
        more = self.known.undelivered - max(self.metered - self.held, ZERO)
        return ZERO if more < 0 or is_same(more, ZERO) else min(more, max(self.held, ZERO))

    def _beyond_ledger(self) -> Decimal:
        least, most = self.told
        if _lies(self.held, least, most):
            return ZERO
        return self.held - (most if self.held > most else least)

    def _causes(self) -> dict[Cause, Decimal]:
        """What the ledger knows of the difference, each cause with its units."""
        known, rest = self.known, self.metered - self.held
        if is_same(self.metered, self.held):
            return {}
        shares: list[tuple[Cause, Decimal]]
        if rest > 0:
            lost = Cause.UNBILLABLE if self._is_left else Cause.LATE
            answered = max(known.sent, self.held)
            shares = [
                (Cause.HELD, known.braked),
                (lost, known.undelivered),
                (Cause.NOT_BILLED, known.sent - self.held),
                (Cause.UNKNOWN, known.sent + known.unknown - answered),
                (Cause.REJECTED, known.rejected),
                (Cause.NOT_REPORTED, rest),
            ]
        else:
            rest = -rest
            shares = [(Cause.OTHER_WRITER, self.held - self.told[1]), (Cause.DECREASE, rest)]
        return {cause: units for cause, units in shared_out(rest, shares) if not is_same(units, ZERO)}

    @property
    def _is_left(self) -> bool:
        """Whether Stripe billed it at once, or never will."""
        return bool(self.spans) and all(span.state in _LEFT for span in self.spans)


def _lies(value: Decimal, least: Decimal, most: Decimal) -> bool:
    return least <= value <= most or is_same(value, least) or is_same(value, most)
