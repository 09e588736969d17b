"""`usage-reporter report`: reports every active subscription from this machine."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from cli.outcome import Outcome
from cli.output import Account, AsJson, Region, StackName, print_json, progress, warn
from cli.stack import Stack
from cli.wiring import Operator, operator
from usage_reporting.heads import Options
from usage_reporting.model import CustomerMeter, Report, Target
from usage_reporting.openmeter import MOST_SUBJECTS

NEEDS_STACK = (
    "a metered price needs the stack's ledger, which alone knows what Stripe was told before; pass "
    "--stack NAME, or --dry-run to see what would be sent"
)


def report(
    *,
    stack: StackName = "",
    customer: Annotated[str, typer.Option("--customer", help="Report this Stripe customer alone.")] = "",
    accept: Annotated[
        bool, typer.Option("--accept", help="Release what is held: you have looked, and OpenMeter is right.")
    ] = False,
    accept_empty: Annotated[
        bool,
        typer.Option(
            "--accept-empty",
            help="As --accept, also where OpenMeter has nothing at all of what Stripe holds.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send and write nothing; say what would be sent.")
    ] = False,
    account: Account = "",
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Report the usage of every active subscription now, all that Stripe can still bill.

    With --stack it uses the ledger, the keys and the settings of the deployed stack. Without, the keys and
    settings are those of the environment, and prices with a meter can be looked at only (--dry-run); legacy
    prices are set to the period's total so far. With --customer the open hour is read to the last full
    minute: do that right before you swap a price or cancel at once. Connected accounts that the stack serves
    are reported too; a customer of one is found with --account.

    Example: `usage-reporter report --stack usage-reporter --customer cus_...`
    """
    deployed = Stack.read(stack, region) if stack else None
    options = Options(
        full=True,
        eager=bool(customer),
        accept=accept or accept_empty,
        accept_empty=accept_empty,
        dry_run=dry_run,
    )
    outcome = asyncio.run(_report(deployed, customer, account, options))
    if outcome.shadow and not dry_run:
        warn("note: MODE is shadow, so nothing was sent")
    if as_json:
        print_json(outcome.to_json())
    else:
        outcome.print()
    if not outcome.is_delivered:
        raise typer.Exit(1)


async def _report(deployed: Stack | None, customer: str, account: str, options: Options) -> Outcome:
    async def report(parts: Operator) -> tuple[list[Report], int]:
        reports = await reports_of(parts, customer, options, has_ledger=deployed is not None)
        return reports, len(parts.billing.unmapped)

    async with operator(os.environ, deployed) as parts:
        done = await parts.over(report, account=account, customer=customer)
        reports = [report for reports, _ in done for report in reports]
        unmapped = sum(unmapped for _, unmapped in done)
        return Outcome.of(reports, parts.settings, unmapped, dry_run=options.dry_run, failed=parts.failed)


async def reports_of(parts: Operator, customer: str, options: Options, *, has_ledger: bool) -> list[Report]:
    """Report everyone, or one customer. Raises WrongUseError for one of whom there is nothing to report."""
    # Nothing can be added to the draft of a legacy price, and without a ledger it is not known what its
    # period was told.
    found = await parts.customer_meters(customer, drafts=has_ledger or options.dry_run)
    if not has_ledger:
        found = _without_ledger(found, options)
    return await report_all(parts, found, options)


def _without_ledger(found: Sequence[CustomerMeter], options: Options) -> list[CustomerMeter]:
    """Refuse what cannot be reported without a ledger."""
    current = [one for one in found if not (one.closing and one.target is Target.USAGE_RECORD)]
    if options.dry_run:
        return current
    return [
        replace(one, refusal=one.refusal or NEEDS_STACK) if one.target is not Target.USAGE_RECORD else one
        for one in current
    ]


async def report_all(parts: Operator, found: Sequence[CustomerMeter], options: Options) -> list[Report]:
    """Report customer meters a page at a time; what came of each."""
    reports: list[Report] = []
    with progress("reporting customers", len(found)) as bar:
        for page in pages_of(found):
            reports.extend(await parts.reporter.report(page, options))
            bar.advance(bar.task_ids[0], len(page))
    return reports


def pages_of(found: Sequence[CustomerMeter]) -> Iterator[list[CustomerMeter]]:
    """Customer meters by OpenMeter meter, as many at once as one query takes."""
    by_meter: dict[str, list[CustomerMeter]] = defaultdict(list)
    for one in found:
        by_meter[one.openmeter_meter].append(one)
    for several in by_meter.values():
        for first in range(0, len(several), MOST_SUBJECTS):
            yield several[first : first + MOST_SUBJECTS]
