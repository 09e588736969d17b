"""Names every difference in the chain of a line, from OpenMeter to the bill; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from cli.evidence import Difference, LineEvidence, Named, SliceEvidence, changed
from usage_reporting.amounts import ZERO, is_same, to_wire
from usage_reporting.pricing import Pricing
from usage_reporting.settlement import SUMMARIES_LAG
from usage_reporting.verdict import Finding, compared, shared_out
from usage_reporting.windows import OLDEST_SLICE, rfc3339


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else is known of a line; times in UTC seconds."""

    now: int
    has_ledger: bool
    is_final: bool
    is_at_once: bool = False
    """Whether Stripe billed what it held, and waited for nothing."""
    read_until: int = 0
    """Up to when reports read usage by now."""
    would_send: frozenset[int] = frozenset()
    """The slices of which the next report sends something."""
    held_back: str = ""
    """Why nothing of it is sent, where a report says so."""
    missing: Mapping[int, int] = field(default_factory=dict)
    """How many sends are gone from the ledger, by slice."""
    is_free: bool = False
    """Whether it is a trial's."""
    beside: str = ""
    """What the verdict says of the invoices of a billing threshold."""
    divides: Pricing | None = None
    """The price, where it charges packages."""


def of_slice(piece: SliceEvidence, line: Circumstances) -> Iterator[Difference]:
    """The differences of one slice, each with its sentence."""
    if not piece.is_in_line:
        return
    ledger = _ledger_against_stripe(piece, line)
    if ledger is not None:
        yield ledger
    if piece.metered is None or piece.is_shared:
        return
    told = piece.held if piece.sent is None else piece.sent + piece.pending
    if ledger is not None and ledger.name in {Named.CHANGED, Named.MISSING}:
        told = piece.held
    if told is not None:
        yield from _openmeter_against(piece, told, line)


def of_line(found: LineEvidence, line: Circumstances) -> tuple[bool, list[Difference]]:
    """Whether the chain ends in the billed quantity, and the differences at its end."""
    if line.is_free:
        return True, [
            Difference(Named.FREE, "a trial's line charges nothing, so that its quantity is of no matter")
        ]
    for units in _ends(found, line):
        if compared(units, found.billed) is Finding.EXACT:
            return True, []
        if line.divides is not None and line.divides.packages(max(units, ZERO)) == found.billed:
            text = f"the line shows packages of {line.divides.divide_by} units"
            return True, [Difference(Named.DIVIDED, text)]
    if line.beside:
        return True, [Difference(Named.THRESHOLD, line.beside)]
    return _bill_against_stripe(found, line)


def _ends(found: LineEvidence, line: Circumstances) -> list[Decimal]:
    """What the bill may be equal to: what was sent, also with what had no answer; else what Stripe holds."""
    if not line.has_ledger:
        return [] if found.held is None else [found.held]
    return [] if found.sent is None else [found.sent, found.sent + found.pending]


def _bill_against_stripe(found: LineEvidence, line: Circumstances) -> tuple[bool, list[Difference]]:
    """Why the line bills something else than was sent."""
    told = found.sent if line.has_ledger else found.held
    if told is None:
        return False, []
    more = found.billed - told
    if not line.is_final and more < 0 and _is_recent(found.slices, line.now):
        text = f"{to_wire(-more)} units were sent in the last hour; the invoice so far lags"
        return True, [Difference(Named.LAG, text, -more)]
    if found.held is not None and is_same(found.held, found.billed):
        return False, []  # the bill is what Stripe holds; the slices say why the ledger has something else
    held = "there is none of usage records" if found.held is None else to_wire(found.held)
    says = "was sent" if line.has_ledger else "that holds"
    text = (
        f"the line bills {to_wire(found.billed)}, {to_wire(abs(more))} {'more' if more > 0 else 'less'} than "
        f"{says}; Stripe's summary: {held}"
    )
    return False, [Difference(Named.BILLED_BEYOND if more > 0 else Named.NOT_BILLED, text, abs(more))]


def _ledger_against_stripe(piece: SliceEvidence, line: Circumstances) -> Difference | None:
    """Why the ledger says something else than Stripe's summary, or is not what was written."""
    if piece.sent is None:
        return None
    odd, gone = changed(piece.sends), line.missing.get(piece.start, 0)
    if not odd and not gone:
        return _sums(piece, piece.sent, line.now)
    where = "" if piece.held is None else f" where Stripe holds {to_wire(piece.held)}"
    says = f"{_says(piece, piece.sent)}{where}"
    more = ZERO if piece.held is None else piece.held - piece.sent
    if odd:
        what = "; ".join(_changed(one.send.identifier, one.send.value, one.was) for one in odd)
        return Difference(Named.CHANGED, f"{says}: {what}", more, piece.start)
    what = f"and lacks {gone} of the sends that later ones were numbered after"
    return Difference(Named.MISSING, f"{says}, {what}", more, piece.start)


def _sums(piece: SliceEvidence, sent: Decimal, now: int) -> Difference | None:
    """Why an entry that is what was written says something else than Stripe's summary."""
    if piece.held is None or (piece.pending and is_same(piece.held, sent + piece.pending)):
        return None
    more = piece.held - sent
    says = f"{_says(piece, sent)} where Stripe holds {to_wire(piece.held)}"
    if is_same(piece.held, sent):
        text = f"{says}, and {to_wire(piece.pending)} more that had no answer"
        return Difference(Named.UNKNOWN, text, piece.pending, piece.start) if piece.pending else None
    if more < 0:
        is_recent = _is_recent([piece], now)
        why = "its summaries may lag by an hour" if is_recent else "it took them, and does not show them"
        return Difference(Named.LAG if is_recent else Named.NOT_HELD, f"{says}: {why}", -more, piece.start)
    if piece.metered is not None and is_same(piece.metered, piece.held):
        why = "OpenMeter has as much: a ledger entry is gone or changed, or another reporter sent it"
        return Difference(Named.MISSING, f"{says}: {why}", more, piece.start)
    why = f"somebody else sent {to_wire(more)}, or a ledger entry was changed"
    return Difference(Named.OTHER_WRITER, f"{says}: {why}", more, piece.start)


def _says(piece: SliceEvidence, sent: Decimal) -> str:
    return f"the ledger's entry of {_name(piece)} says {to_wire(sent)}"


def _changed(identifier: str, value: Decimal, was: Decimal | None) -> str:
    if was is not None:
        return f"send {identifier} says {to_wire(value)}, but was made for {to_wire(was)}"
    return f"send {identifier} does not fit its identifier: it was changed, or not written by usage-reporter"


def _openmeter_against(piece: SliceEvidence, told: Decimal, line: Circumstances) -> Iterator[Difference]:
    """Why Stripe was told something else than OpenMeter has."""
    assert piece.metered is not None
    rest = piece.metered - told
    if is_same(piece.metered, told):
        return
    if rest < 0 and piece.start in line.would_send:
        text = f"{to_wire(-rest)} units less of {_name(piece)}: the next report lowers it"
        yield Difference(Named.NOT_YET, text, -rest, piece.start)
        return
    if rest < 0:
        why = f": {line.held_back}" if line.held_back else ""
        yield Difference(
            Named.DECREASE,
            f"OpenMeter has {to_wire(piece.metered)} of {_name(piece)}, less than the {to_wire(told)} that "
            f"was reported{why}",
            -rest,
            piece.start,
        )
        return
    reported = (
        # What was held until its invoice was final is counted as late, too.
        ((Named.HELD, line.held_back or "the brake held it"), piece.braked),
        ((Named.UNBILLABLE if line.is_at_once else Named.LATE, _COUNTED), piece.undelivered),
        ((Named.REJECTED, "Stripe refused it"), piece.rejected),
        (_not_told(piece, line), rest),
    )
    for (name, text), units in shared_out(rest, reported):
        if not is_same(units, ZERO):
            yield Difference(name, f"{to_wire(units)} units of {_name(piece)}: {text}", units, piece.start)


_COUNTED = "OpenMeter showed it when no invoice took it any more; it is counted in the ledger"


def _not_told(piece: SliceEvidence, line: Circumstances) -> tuple[Named, str]:
    if line.held_back:
        return Named.HELD, line.held_back
    if line.is_final:
        return _not_told_by_then(line)
    if piece.start <= line.now - OLDEST_SLICE:
        return Named.UNBILLABLE, "OpenMeter showed it when Stripe took no usage so old any more (34 days)"
    if piece.end > line.read_until or piece.start in line.would_send or not line.has_ledger:
        return Named.NOT_YET, "the next report sends it"
    return Named.NOT_REPORTED, "it was not reported, and no report says why"


def _not_told_by_then(line: Circumstances) -> tuple[Named, str]:
    if line.is_at_once:
        return Named.UNBILLABLE, "it was not in Stripe yet when Stripe billed that time at once"
    if not line.has_ledger:
        return Named.NOT_REPORTED, "it is not in Stripe; the ledger, which was not asked, may say why"
    return Named.LATE, "OpenMeter shows it, but it was not reported before the invoice was final"


def _is_recent(pieces: list[SliceEvidence], now: int) -> bool:
    """Whether something was sent so lately that Stripe's summaries may not show it."""
    told = [one.send.told_at for piece in pieces for one in piece.sends if one.send.counts]
    return now - max(told, default=0) < SUMMARIES_LAG


def _name(piece: SliceEvidence) -> str:
    return f"{rfc3339(piece.start)} to {rfc3339(piece.end)}"
