"""The evidence for invoices as one page for a customer: nothing internal, no script, nothing loaded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cli.charts import UsagePoint, usage_chart, usage_points
from cli.evidence import Difference, InvoiceEvidence, LineEvidence, Named, SliceEvidence
from usage_reporting.amounts import to_wire
from usage_reporting.model import Target
from usage_reporting.windows import DAY

_SAID = {
    Named.CHANGED: "our record of what was sent does not match what Stripe holds",
    Named.MISSING: "our record of what was sent lacks something that Stripe holds",
    Named.OTHER_WRITER: "Stripe holds more than was sent by us",
    Named.NOT_HELD: "Stripe does not show all that was sent",
    Named.NOT_BILLED: "the line bills less than was sent",
    Named.BILLED_BEYOND: "the line bills more than was sent",
    Named.LATE: "measured too late for this invoice; it is not billed",
    Named.UNBILLABLE: "used before a change of the subscription, which billed at once; it is not billed",
    Named.REJECTED: "refused by Stripe; it is not billed",
    Named.UNKNOWN: "sent, without an answer",
    Named.HELD: "held back until somebody has looked at it; it is not billed",
    Named.NOT_REPORTED: "measured, but not sent",
    Named.DECREASE: "less is measured now than was billed",
    Named.UNREADABLE: "this line could not be looked up in full",
    Named.NOT_YET: "measured, and to be sent with the next report",
    Named.LAG: "sent within the last hour; Stripe shows it a little later",
    Named.FREE: "a free trial: nothing is charged",
    Named.THRESHOLD: "a part of this period is on an earlier invoice",
    Named.DIVIDED: "the invoice shows packages instead of units",
    Named.CHARGED: "the amount was reckoned otherwise than by this price alone",
}
"""Each difference in words for those who pay; the operator's own name ledger entries and identifiers."""


def page(invoices: Sequence[InvoiceEvidence]) -> str:
    """A whole HTML document."""
    environment = Environment(
        loader=PackageLoader("cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    template = environment.get_template("explanation.html")
    names = {one.customer_name or one.customer for one in invoices}
    return template.render(
        title=f"Usage billed to {', '.join(sorted(names))}",
        invoices=invoices,
        asked_at=max(one.asked_at for one in invoices),
        name_of=_name_of,
        notes_of=_notes_of,
        conclusion=_conclusion,
        said=_said,
        moment=_moment,
        units=_units,
        points_of=_points_of,
        step_of=_step_of,
        chart=_chart,
        slices_of=_slices_of,
        slices_caption=_slices_caption,
        last_sent=_last_sent,
    )


def _name_of(found: InvoiceEvidence) -> str:
    if found.status == "preview":
        return "The running period"
    number = found.number or found.id
    return f"Invoice {number}" + (" (draft)" if found.status == "draft" else "")


def _notes_of(found: InvoiceEvidence) -> list[str]:
    known = {
        "preview": "The period goes on: more usage is still to come.",
        "draft": "This invoice is a draft: what it bills may still change.",
        "void": "This invoice is void: nothing of it is to be paid.",
    }
    return [known[found.status]] if found.status in known else []


def _conclusion(line: LineEvidence) -> str:
    if not line.is_explained:
        return "Not every number on the way is equal. Each difference is named below."
    if line.notes:
        return "The numbers agree, with the remarks below."
    return "What was measured is what is billed, to the last unit."


def _said(one: Difference) -> str:
    of = f"{to_wire(one.units)} units" if one.units else ""
    at = "" if one.start is None else f" of {_moment(one.start)}"
    where = f"{of}{at}".strip()
    return f"{where}: {_SAID[one.name]}" if where else _SAID[one.name]


def _points_of(line: LineEvidence) -> list[UsagePoint]:
    return usage_points(line) if line.target is Target.MIRROR else []


def _step_of(points: Sequence[UsagePoint]) -> str:
    return "day" if points[0].end - points[0].start >= DAY else "hour"


def _chart(line: LineEvidence, points: Sequence[UsagePoint]) -> Markup:
    name = line.event_name or line.openmeter_meter
    drawn = usage_chart(points, title=f"{name}, measured and billed by {_step_of(points)}")
    return Markup(drawn)  # noqa: S704 - ElementTree wrote it, which escapes all text


def _slices_of(line: LineEvidence) -> list[SliceEvidence]:
    return [piece for piece in line.slices if piece.is_in_line and not piece.is_empty]


def _slices_caption(line: LineEvidence) -> str:
    if line.target is Target.MIRROR:
        return (
            "Every hour with usage, and where the period begins and ends in an hour, its part to the second"
        )
    return "The whole period: its newest total counts"


def _last_sent(piece: SliceEvidence) -> str:
    told = [one.send.told_at for one in piece.sends if one.send.counts]
    return _moment(max(told)) if told else "-"


def _moment(instant: int) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _units(value: Decimal | None) -> str:
    return "-" if value is None else f"{value:,f}" if value == value.to_integral_value() else to_wire(value)
