"""The evidence for an invoice as lines on a terminal: sums first, then what differs, then the hours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from cli.evidence import InvoiceEvidence, LineEvidence, SliceEvidence
from cli.output import print_line, print_table
from cli.send_checks import CheckedSend, Mark
from usage_reporting.amounts import to_wire
from usage_reporting.model import Target
from usage_reporting.windows import rfc3339

_HOURS = ["from", "to", "OpenMeter", "sent", "Stripe", ""]
_NUMBERS = ("OpenMeter", "sent", "Stripe")


def print_invoice(found: InvoiceEvidence, *, every_hour: bool) -> None:
    """One invoice; `every_hour`: also hours in which nothing differs, and each send."""
    name = f" ({found.customer_name})" if found.customer_name else ""
    print_line(f"invoice {found.id}, {found.status}, of {found.customer}{name}")
    for note in found.notes:
        print_line(f"  note: {note}")
    for line in found.lines:
        print_line()
        _print_line(line, every_hour=every_hour)
    print_line()


def _print_line(line: LineEvidence, *, every_hour: bool) -> None:
    print_line(f"{line.item or 'invoice item'} of {line.subscription}, price {line.price}: {line.pricing}")
    meter = f"Stripe meter {line.stripe_meter}" if line.stripe_meter else "usage records"
    print_line(f"  OpenMeter meter {line.openmeter_meter}, {line.whose} -> {meter}")
    print_line(f"  from {rfc3339(line.start)} to {rfc3339(line.end)}{_HOW[line.target]}")
    for name, units in (
        ("OpenMeter has", line.metered),
        ("sent to Stripe", line.sent),
        ("Stripe's summary", line.held),
        ("billed", line.billed),
    ):
        print_line(f"  {name:<18}{_units(units):>24}")
    print_line(
        f"  {'charged':<18}{line.amount_text:>24}" + (f"   {line.reckoning}" if line.reckoning else "")
    )
    if line.pending:
        print_line(f"  {'without an answer':<18}{_units(line.pending):>24}")
    print_line(f"  {_end(line)}")
    for one in line.findings:
        print_line(f"  {one.name.value.upper()}: {one.text}")
    for one in line.notes:
        print_line(f"  {one.name.value}: {one.text}")
    shown = [piece for piece in line.slices if every_hour or piece.is_part or _differs(line, piece)]
    if shown:
        print_line()
        _print_slices(shown, with_sends=every_hour or line.target is not Target.MIRROR)


_HOW = {
    Target.MIRROR: "",
    Target.LAST: "; the newest total counts",
    Target.USAGE_RECORD: "; one usage record holds the period's total",
}


def _end(line: LineEvidence) -> str:
    if line.is_explained:
        return "the chain ends in the billed quantity"
    if line.ends_in_billed:
        return "what was sent is what is billed, but there is a difference on the way"
    return "the chain does NOT end in the billed quantity"


def _differs(line: LineEvidence, piece: SliceEvidence) -> bool:
    return any(one.start == piece.start for one in line.differences)


def _print_slices(pieces: Sequence[SliceEvidence], *, with_sends: bool) -> None:
    rows = []
    for piece in pieces:
        rows.append(
            [
                rfc3339(piece.start),
                _short(piece.end),
                _units(piece.metered),
                _units(piece.sent),
                _units(piece.held),
                _remark(piece),
            ]
        )
        if with_sends:
            rows += [["", "", "", to_wire(one.send.value), "", _told(one)] for one in piece.sends]
    print_table(_HOURS, rows, right=_NUMBERS)


def _remark(piece: SliceEvidence) -> str:
    remarks = []
    if not piece.is_in_line:
        remarks.append("the other part of a cut hour: not of this line")
    if piece.is_shared:
        remarks.append("parted by a swapped price")
    if piece.undelivered:
        remarks.append(f"{to_wire(piece.undelivered)} on no invoice")
    if piece.pending:
        remarks.append(f"{to_wire(piece.pending)} without an answer")
    return ", ".join(remarks)


def _told(one: CheckedSend) -> str:
    send = one.send
    mark = "" if one.mark is Mark.FITS else f", identifier: {one.mark.value}"
    way = ", streamed" if send.is_streamed else ""
    return (
        f"{send.state.value} {rfc3339(send.told_at)}, stamped {rfc3339(send.stamp)}{way}, "
        f"{send.identifier}{mark}"
    )


def _short(instant: int) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%H:%M:%S")


def _units(value: Decimal | None) -> str:
    return "-" if value is None else to_wire(value)
