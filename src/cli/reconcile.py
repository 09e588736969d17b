"""`usage-reporter reconcile`: whether Stripe holds, and final invoices bill, what OpenMeter measured."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli.comparison import Comparison, Line, compare, compare_meters
from cli.errors import WrongUseError
from cli.making_good import MakingGood
from cli.mending import Mended, advised, mend
from cli.outcome import whose
from cli.output import Account, AsJson, Region, print_json, print_line, print_table, warn
from cli.stack import Stack
from cli.wiring import Operator, operator
from usage_reporting.accounts import of_account
from usage_reporting.amounts import to_wire
from usage_reporting.config import Mode
from usage_reporting.model import Send
from usage_reporting.reconciled import Reconciled
from usage_reporting.reconciliation import judged_until
from usage_reporting.stripe_api import redacted
from usage_reporting.verdict import Finding
from usage_reporting.windows import BOUNDS_KEPT, DAY, HOUR, rfc3339

MANY = 40
"""From so many customer meters on, those that are exact are only counted."""
HOURS_SHOWN = 24
"""Differing hours of a customer meter that are printed; --json has all."""

_UNITS = {"h": HOUR, "d": DAY}


def reconcile(
    *,
    stack: Annotated[str, typer.Option("--stack", help="Name of the deployed CloudFormation stack.")],
    since: Annotated[
        str,
        typer.Option(
            "--since", help="A date or time (2026-11-01, 2026-11-01T12:00Z), or 7d, 24h; at most 35 days ago."
        ),
    ] = "35d",
    customer: Annotated[str, typer.Option("--customer", help="This Stripe customer alone.")] = "",
    apply: Annotated[
        bool, typer.Option("--apply", help="Mend what can be mended, by a report; then look again.")
    ] = False,
    account: Account = "",
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Compare what Stripe holds, and what its final invoices bill, with what OpenMeter measured.

    Every customer's hours on both sides (totals, where the last value counts), beside what the ledger says
    was sent: EXACT, SHORT or OVER, by how much, since when, and why. The last one to two hours are left out,
    for Stripe's summaries lag. Every line of the invoices that became final since then is judged afresh, and
    for what is wrong on one the credit note or invoice item is worded; a person makes it. Nothing is written
    or sent, unless --apply: then what invoices still take is reported, in the way of `report`. Exit code 0:
    all is exact; 1: something is not.

    Example: `usage-reporter reconcile --stack usage-reporter --since 7d`
    """
    chosen = _Chosen(customer, account, since, apply=apply)
    if not asyncio.run(_reconcile(Stack.read(stack, region), chosen, as_json=as_json)):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Whom and what the operator named."""

    customer: str
    account: str
    since: str
    apply: bool


async def _reconcile(deployed: Stack, chosen: _Chosen, *, as_json: bool) -> bool:
    """Whether all is exact in the end."""
    async with operator(os.environ, deployed) as parts:
        is_shadow = parts.settings.mode is Mode.SHADOW
        if is_shadow and chosen.apply:
            raise WrongUseError(
                "the stack is in shadow mode, so nothing is sent and there is nothing to mend; leave --apply "
                "away, or deploy Mode=live first"
            )
        start = instant_of(chosen.since, parts.clock())

        async def look(parts: Operator) -> tuple[Comparison, list[Mended]]:
            return await _compared(parts, chosen.customer, start, apply=chosen.apply)

        looks = await parts.over(look, account=chosen.account, customer=chosen.customer)
        after = Comparison.of_all([found for found, _ in looks], parts.failed)
        done = [mended for _, several in looks for mended in several]
        if as_json:
            print_json(_document(after, done, parts.clock()))
        else:
            _print(after, done, parts.clock())
        if is_shadow:
            warn("note: MODE is shadow, so nothing is sent, and the ledger knows of nothing")
        return after.is_exact


async def _compared(
    parts: Operator, customer: str, start: int, *, apply: bool
) -> tuple[Comparison, list[Mended]]:
    """What differs in an account, in the end, and what was mended there."""
    before = await compare(parts, customer, start)
    if not apply:
        return before, []
    done = await mend(parts, before.meters)
    changed = [one.customer_meter for one in done]
    return before.with_meters(await compare_meters(parts, changed, start)), done


def instant_of(text: str, now: int) -> int:
    """The instant that --since names, UTC seconds. Raises WrongUseError."""
    instant = _ago(text, now) or _written(text)
    if instant is None:
        raise WrongUseError(
            f"--since {text!r} is no time; write a date (2026-11-01), a time (2026-11-01T12:00Z), or how "
            "long ago (7d, 24h)"
        )
    if instant > now:
        raise WrongUseError(f"--since {text} is in the future; the time is UTC")
    if instant < now - BOUNDS_KEPT - DAY:
        raise WrongUseError(
            f"--since {text} is more than 35 days ago: Stripe takes no usage that is so old, and "
            "the ledger has no bounds of periods from then; take 35d or less"
        )
    if instant >= judged_until(now):
        raise WrongUseError(
            f"--since {text} leaves nothing to compare: Stripe's summaries lag, so that hours from "
            f"{rfc3339(judged_until(now))} on cannot be judged yet; take an earlier time, such as 6h"
        )
    return instant


def _ago(text: str, now: int) -> int | None:
    found = re.fullmatch(r"([0-9]{1,4})([hd])", text.strip())
    return now - int(found[1]) * _UNITS[found[2]] if found and int(found[1]) else None


def _written(text: str) -> int | None:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _print(found: Comparison, done: Sequence[Mended], now: int) -> None:
    shown = found.meters if len(found.meters) < MANY else [one for one in found.meters if not one.is_fine]
    if shown:
        columns = ["customer", "meter", "compared", "OpenMeter", "Stripe", "verdict"]
        print_table(columns, [_row(one) for one in shown], right=["compared", "OpenMeter", "Stripe"])
        print_line()
    for one in found.meters:
        _print_details(one, can_mend=found.can_mend)
    if found.lines:
        columns = ["invoice", "customer", "meter", "from", "to", "metered", "billed", "verdict"]
        print_table(columns, [_line_row(line) for line in found.lines], right=["metered", "billed"])
        print_line()
    for line in found.lines:
        for each in line.made_good:
            _print_making_good(each)
    for what, why in found.problems:
        print_line(f"not compared: {what}: {why}")
    for mended in done:
        _print_mended(mended)
    rows = [[name, str(value)] for name, value in summary(found, done).items()]
    print_table(["summary", ""], rows, right=[""])
    print_line(f"Hours from {rfc3339(judged_until(now))} on are not judged: Stripe's summaries lag.")


def _row(one: Reconciled) -> list[str]:
    meter = one.head.openmeter_meter if one.head else one.customer_meter.openmeter_meter
    amounts = ["", ""] if one.unjudged else [to_wire(one.metered), to_wire(one.held)]
    return [_customer_of(one), meter, str(one.compared), *amounts, redacted(one.verdict)]


def _customer_of(one: Reconciled) -> str:
    return of_account(one.customer_meter.customer, one.customer_meter.account)


def _line_row(line: Line) -> list[str]:
    one = line.judged
    metered = "" if one.metered is None else to_wire(one.metered)
    edges = [rfc3339(one.start), rfc3339(one.end)]
    said = redacted(one.verdict)
    customer = of_account(one.customer, line.account)
    return [line.invoice, customer, one.meter, *edges, metered, to_wire(one.quantity), said]


def _print_details(one: Reconciled, *, can_mend: bool) -> None:
    lines = [f"  {each}" for each in one.differences[:HOURS_SHOWN]]
    if len(one.differences) > HOURS_SHOWN:
        lines.append(f"  and {len(one.differences) - HOURS_SHOWN} more: see --json")
    lines += [f"  awaited: {_sent(send)}" for send in one.awaited]
    if not one.is_fine:
        lines += [f"  {text}" for text in advised(one, can_mend=can_mend)]
    if lines:
        print_line(f"{_customer_of(one)}, {_row(one)[1]}:")
        for line in lines:
            print_line(line)
        print_line()


def _sent(send: Send) -> str:
    at = f"sent at {rfc3339(send.told_at)}; Stripe's summary may not show it yet"
    return f"{to_wire(send.value)} stamped {rfc3339(send.stamp)}, identifier {send.identifier}, {at}"


def _print_making_good(one: MakingGood) -> None:
    print_line(f"to be made by you: {one.what}, {one.customer}, {one.money} ({to_wire(one.units)} units)")
    print_line(f"  {one.description}")
    if one.params and one.amount:
        print_line(f"  {one.command}")
        print_line(f"  or by hand: {one.page}")
    for remark in one.remarks:
        print_line(f"  note: {remark}")
    print_line()


def _print_mended(mended: Mended) -> None:
    customer = of_account(mended.customer_meter.customer, mended.customer_meter.account)
    meter = mended.customer_meter.openmeter_meter
    for act in mended.acts:
        print_line(f"done: {customer}, {meter}: {act}")
    for send in mended.sent:
        print_line(
            f"done: {customer}, {meter}: sent {to_wire(send.value)} stamped {rfc3339(send.stamp)}, "
            f"identifier {send.identifier}"
        )
    if mended.error:
        print_line(f"left: {customer}, {meter}: {mended.error}")


def summary(found: Comparison, done: Sequence[Mended]) -> dict[str, int]:
    """How many were found to be what."""
    counted = {"customer meters": len(found.meters)}
    for finding in (Finding.EXACT, Finding.SHORT, Finding.OVER, Finding.NOT_JUDGED):
        name = finding.value.replace("_", " ")
        counted[name] = sum(one.finding is finding for one in found.meters)
    counted["held, refused or in doubt"] = sum(one.needs_a_look for one in found.meters)
    counted["ledger differs"] = sum(one.beyond_ledger for one in found.meters)
    counted["final invoices' lines"] = len(found.lines)
    counted["lines that are not exact"] = sum(not line.is_fine for line in found.lines)
    counted["not compared"] = len(found.problems)
    touched = {one.customer_meter.pk for one in done}
    counted["mended"] = sum(one.is_fine and one.customer_meter.pk in touched for one in found.meters)
    counted["items without om_meter_id"] = found.unmapped
    return counted


def _document(found: Comparison, done: Sequence[Mended], now: int) -> dict[str, Any]:
    return {
        "since": rfc3339(found.since),
        "judged_until": rfc3339(judged_until(now)),
        "is_exact": found.is_exact,
        "customer_meters": [_meter_json(one, can_mend=found.can_mend) for one in found.meters],
        "lines": [line.to_json() for line in found.lines],
        "not_compared": [{"what": what, "reason": why} for what, why in found.problems],
        "mended": [one.to_json() for one in done],
        "summary": {
            name.replace("'", "").replace(",", "").replace(" ", "_"): value
            for name, value in summary(found, done).items()
        },
    }


def _meter_json(one: Reconciled, *, can_mend: bool) -> dict[str, Any]:
    meter = one.customer_meter.meter
    return {
        **whose(one.customer_meter.account),
        "stripe_customer": one.customer_meter.customer,
        "stripe_meter": meter.id if meter else None,
        "meter": _row(one)[1],
        "verdict": redacted(one.verdict),
        "finding": one.finding.value,
        "is_fine": one.is_fine,
        "compared": one.compared,
        "openmeter": to_wire(one.metered),
        "stripe": to_wire(one.held),
        "status": one.report.status.value,
        "differences": [each.to_json() for each in one.differences],
        "awaited": [
            {"identifier": send.identifier, "value": to_wire(send.value), "timestamp": rfc3339(send.stamp)}
            for send in one.awaited
        ],
        "advice": [] if one.is_fine else list(advised(one, can_mend=can_mend)),
    }
