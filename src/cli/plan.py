"""`usage-reporter plan`: what a report would change, in units and in money, before it does."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated

import typer

from cli.errors import WrongUseError
from cli.output import Account, AsJson, Region, StackName, print_json, progress, warn
from cli.plan_output import as_json, print_csv, print_plan
from cli.planned import Plan, Planner
from cli.report import reports_of
from cli.stack import Stack
from cli.wiring import Operator, operator
from usage_reporting.heads import Options
from usage_reporting.pricing import money, to_minor


class Format(StrEnum):
    """How a plan is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def plan(  # noqa: PLR0913 - the options of a command
    *,
    stack: StackName = "",
    customer: Annotated[str, typer.Option("--customer", help="Plan this Stripe customer alone.")] = "",
    top: Annotated[
        int, typer.Option("--top", min=0, help="Show only so many of the biggest movers; 0 shows all.")
    ] = 0,
    fail_over: Annotated[
        str,
        typer.Option(
            "--fail-over",
            metavar="AMOUNT",
            help="End with code 1 if bills would move by more than this, up and down together, in any one "
            "currency; in its major unit, e.g. dollars.",
        ),
    ] = "",
    output: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    csv: Annotated[bool, typer.Option("--csv", help="The same as `--format csv`.")] = False,
    account: Account = "",
    region: Region = "",
    json: AsJson = False,
) -> None:
    """What a report would change now, in units and in money, for each customer and period.

    It makes the report's own dry run: nothing is sent and nothing written. Each period is priced by its own
    price, with tiers, packages and currency: what Stripe would charge for what it holds, and for what it
    would hold then. Discounts, credits and taxes are not part of it. Without --stack there is no ledger, so
    that only customers can be planned of whom Stripe holds nothing yet.

    Example: `usage-reporter plan --stack usage-reporter --top 20 --fail-over 500`
    """
    limit = _limit(fail_over)
    chosen = Format.JSON if json else Format.CSV if csv else output
    if chosen is not output and output is not Format.TABLE:
        raise WrongUseError(
            f"--format {output.value} and --{chosen.value} do not go together; take one of them"
        )
    deployed = Stack.read(stack, region) if stack else None
    found = asyncio.run(_plan(deployed, customer, account))
    if chosen is Format.JSON:
        print_json(as_json(found, top))
    elif chosen is Format.CSV:
        print_csv(found, top)
    else:
        print_plan(found, top)
    is_over = limit is not None and _is_over(found, limit)
    if is_over or not found.is_deliverable:
        raise typer.Exit(1)


async def _plan(deployed: Stack | None, customer: str, account: str) -> Plan:
    options = Options(full=True, eager=bool(customer), dry_run=True)

    async def planned(parts: Operator) -> Plan:
        reports = await reports_of(parts, customer, options, has_ledger=deployed is not None)
        with progress("pricing customers", len(reports)) as bar:
            return await Planner(parts.billing, parts.ledger).plan(
                reports, lambda: bar.advance(bar.task_ids[0])
            )

    async with operator(os.environ, deployed) as parts:
        plans = await parts.over(planned, account=account, customer=customer)
        return Plan.of_all(plans, parts.failed)


def _limit(fail_over: str) -> Decimal | None:
    if not fail_over:
        return None
    try:
        limit = Decimal(fail_over)
    except InvalidOperation:
        limit = Decimal("NaN")
    if not limit.is_finite() or limit < 0:
        raise WrongUseError(f"--fail-over is {fail_over!r}; give an amount from 0 on, such as 500 or 99.50")
    return limit


def _is_over(found: Plan, limit: Decimal) -> bool:
    """Whether a currency moves by more than the limit, or by nobody knows how much; says so."""
    is_over = False
    for currency, exposure in found.exposures.items():
        if exposure.moved > to_minor(limit, currency):
            is_over = True
            allowed = money(to_minor(limit, currency), currency)
            warn(f"bills would move by {money(exposure.moved, currency)}, more than --fail-over {allowed}")
    if found.unpriced:
        warn(f"{len(found.unpriced)} periods would move by an amount that is not known")
    return is_over or bool(found.unpriced)
