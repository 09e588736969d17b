"""A plan as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from cli.outcome import said_of, whose
from cli.output import print_line, print_table
from cli.planned import Exposure, Money, Plan, PlannedPeriod
from usage_reporting.accounts import of_account
from usage_reporting.amounts import to_wire
from usage_reporting.pricing import money, to_major
from usage_reporting.stripe_api import redacted
from usage_reporting.windows import rfc3339

_COLUMNS = (
    "customer",
    "meter",
    "period",
    "invoice",
    "Stripe holds",
    "OpenMeter has",
    "sends",
    "bills now",
    "will bill",
    "change",
    "outcome",
)
_NUMBERS = ("Stripe holds", "OpenMeter has", "sends", "bills now", "will bill", "change")
_UNKNOWN = "?"


def print_plan(plan: Plan, top: int) -> None:
    """The periods that a report changes or cannot, then why it cannot, then the totals of all periods."""
    moving = [row for row in plan.rows if row.sends or row.left or row.is_stuck]
    shown = moving[:top] if top else moving
    if shown:
        print_table(_COLUMNS, [_cells(row) for row in shown], right=_NUMBERS)
        print_line()
    if len(shown) < len(moving):
        print_line(f"... and {len(moving) - len(shown)} more that change or cannot; --top 0 shows all")
        print_line()
    problems = _problems(plan, shown)
    for line in problems:
        print_line(line)
    if problems:
        print_line()
    if not moving and not problems:
        print_line("A report would change nothing now: Stripe holds all that can be reported yet.\n")
    print_table(["summary", *_TOTALS], _summary(plan), right=list(_TOTALS))


_TOTALS: dict[str, Callable[[Exposure], Decimal]] = {
    "bills now": lambda exposure: exposure.now,
    "will bill": lambda exposure: exposure.planned,
    "up": lambda exposure: exposure.up,
    "down": lambda exposure: exposure.down,
    "moved": lambda exposure: exposure.moved,
    "left out": lambda exposure: exposure.left,
}


def _summary(plan: Plan) -> list[list[str]]:
    rows = [
        [currency.upper(), *(money(of(exposure), currency) for of in _TOTALS.values())]
        for currency, exposure in plan.exposures.items()
    ]
    empty = [""] * (len(_TOTALS) - 1)
    return rows + [[name, str(number), *empty] for name, number in _counts(plan).items()]


def _counts(plan: Plan) -> dict[str, int]:
    """How many periods there are of each kind."""
    return {
        "periods": len(plan.rows),
        "changed": sum(bool(row.sends) for row in plan.rows),
        "held, refused or unknown": sum(row.is_stuck for row in plan.rows),
        "without money": sum(row.money is None for row in plan.rows),
        "not readable in Stripe": len(plan.unreadable),
        "items without om_meter_id": plan.unmapped,
    }


def _cells(row: PlannedPeriod) -> list[str]:
    return [
        of_account(row.customer, row.account),
        row.meter or "(of a removed item)",
        f"{rfc3339(row.span.start)[:10]} to {rfc3339(row.span.end)[:10]}",
        row.kind,
        _units(row.held),
        _units(row.measured),
        _units(row.sends, signed=True),
        _amount(row.money, lambda found: found.now),
        _amount(row.money, lambda found: found.planned),
        _amount(row.money, lambda found: found.change, signed=True),
        row.outcome,
    ]


def _units(units: Decimal | None, *, signed: bool = False) -> str:
    if units is None:
        return _UNKNOWN
    return f"+{to_wire(units)}" if signed and units > 0 else to_wire(units)


def _amount(found: Money | None, of: Callable[[Money], Decimal], *, signed: bool = False) -> str:
    return _UNKNOWN if found is None else money(of(found), found.currency, signed=signed)


def _problems(plan: Plan, shown: Sequence[PlannedPeriod]) -> list[str]:
    """Each reason once, though it may concern several periods of a customer meter."""
    reasons = [
        f"{row.status.value}: stripe_customer: {row.customer}, meter: {row.meter}{said_of(row.account)}: "
        f"{redacted(row.reason)}"
        for row in shown
        if row.reason and (row.is_stuck or row.left)
    ]
    reasons += [
        f"no money: stripe_customer: {row.customer}, stripe_price: {row.span.price}{said_of(row.account)}: "
        f"{redacted(row.unpriced)}"
        for row in shown
        if row.unpriced
    ]
    reasons += [f"not readable: {id_}: {redacted(reason)}" for id_, reason in plan.unreadable.items()]
    return list(dict.fromkeys(reasons))


def as_json(plan: Plan, top: int) -> dict[str, Any]:
    """The plan as one JSON document; units, and amounts in the major unit, are texts: no digit is lost."""
    return {
        "periods": [_record(row) for row in _top(plan, top)],
        "currencies": {
            currency: {_key(name): str(to_major(of(exposure), currency)) for name, of in _TOTALS.items()}
            for currency, exposure in plan.exposures.items()
        },
        "summary": {
            name.replace(" ", "_").replace(",", ""): number for name, number in _counts(plan).items()
        },
        "not_readable": {id_: redacted(reason) for id_, reason in plan.unreadable.items()},
    }


def _key(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


def print_csv(plan: Plan, top: int) -> None:
    """A line for each period."""
    records = [_record(row) for row in _top(plan, top)]
    connected = ["stripe_account"] if any("stripe_account" in record for record in records) else []
    writer = csv.DictWriter(sys.stdout, [*_FIELDS, *connected], restval="", lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: "" if value is None else value for name, value in record.items()})


def _top(plan: Plan, top: int) -> Sequence[PlannedPeriod]:
    return plan.rows[:top] if top else plan.rows


def _record(row: PlannedPeriod) -> dict[str, str | None]:
    span = row.span
    values = (
        row.customer,
        row.meter,
        span.subscription,
        span.price,
        rfc3339(span.start),
        rfc3339(span.end),
        row.kind,
        _text(row.held),
        _text(row.measured),
        _text(row.sends),
        _text(row.left),
        row.money.currency if row.money else None,
        *(_major(row.money, of) for of in _MONEY),
        row.outcome,
        redacted("; ".join(filter(None, (row.reason, row.unpriced)))),
    )
    return {**dict(zip(_FIELDS, values, strict=True)), **whose(row.account)}


_FIELDS = (
    "stripe_customer",
    "meter",
    "stripe_subscription",
    "stripe_price",
    "from",
    "to",
    "invoice",
    "units_held",
    "units_measured",
    "units_sent",
    "units_left_out",
    "currency",
    "bills_now",
    "will_bill",
    "change",
    "left_out",
    "outcome",
    "reason",
)
_MONEY: tuple[Callable[[Money], Decimal], ...] = (
    lambda found: found.now,
    lambda found: found.planned,
    lambda found: found.change,
    lambda found: found.left,
)


def _text(units: Decimal | None) -> str | None:
    return None if units is None else to_wire(units)


def _major(found: Money | None, of: Callable[[Money], Decimal]) -> str | None:
    return None if found is None else str(to_major(of(found), found.currency))
