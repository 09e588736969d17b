"""`usage-reporter adopt`: makes the ledger believe what Stripe holds, after a person has looked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

import typer

from cli.errors import NotDoneError, WrongUseError, explain
from cli.output import (
    Account,
    AsJson,
    Region,
    is_terminal,
    print_json,
    print_line,
    print_table,
    progress,
    warn,
)
from cli.stack import Stack
from cli.survey import Comparison, Survey, name_of, survey
from cli.wiring import Operator, operator
from usage_reporting.accounts import of_account
from usage_reporting.amounts import to_wire
from usage_reporting.config import Mode
from usage_reporting.customer_meters import merged
from usage_reporting.errors import LostRaceError, UsageReportingError
from usage_reporting.windows import rfc3339

NUMBERS = ("Stripe", "OpenMeter", "difference")


def adopt(
    *,
    stack: Annotated[str, typer.Option("--stack", help="Name of the deployed CloudFormation stack.")],
    customer: Annotated[
        str, typer.Option("--customer", help="The Stripe customer whose ledger is rebuilt.")
    ] = "",
    everyone: Annotated[
        bool,
        typer.Option("--all", help="All customers who are held because the ledger does not know them."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    account: Account = "",
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Rebuild the ledger of one customer, or of all who need it, from Stripe's hourly summaries.

    For usage that is held because the ledger cannot know what Stripe was told: another reporter was there
    before, the table was lost or is a restored copy, or its summary does not tell what it counts. It shows
    what Stripe and OpenMeter have hour by hour, and asks. Nothing is sent; the next report sends what is then
    missing. With --all, customers whom the ledger knows are left as they are; stopped half-way, run it again.

    Example: `usage-reporter adopt --stack usage-reporter --customer cus_...`
    """
    if bool(customer) == everyone:
        raise WrongUseError("say whose ledger is rebuilt: --customer cus_... for one, or --all")
    done = asyncio.run(_adopt(Stack.read(stack, region), customer, account, yes=yes, as_json=as_json))
    if not done:
        raise typer.Exit(1)


async def _adopt(deployed: Stack, customer: str, account: str, *, yes: bool, as_json: bool) -> bool:
    """Whether all that should be adopted was."""
    async with operator(os.environ, deployed) as parts:
        if parts.settings.mode is Mode.SHADOW:
            raise WrongUseError(
                "the stack is in shadow mode, so another reporter may be at work, and what that sends after "
                "the adoption would be billed twice; stop it, wait an hour, deploy Mode=live, and adopt then"
            )

        async def look(parts: Operator) -> Survey:
            return await _looked_at(parts, customer)

        looked = Survey.of_all(await parts.over(look, account=account, customer=customer))
        looked.problems += [(name, NotDoneError(reason)) for name, reason in parts.failed.items()]
        if not as_json:
            _print(looked, is_one=bool(customer))
        adopted = bool(looked.compared) and (yes or _is_wanted(customer, looked.compared))
        done = await _carry_out(parts, looked, is_one=bool(customer)) if adopted else []
        if as_json:
            print_json(_document(looked, done, customer))
        else:
            _print_end(looked, done, customer)
        return (adopted or not looked.compared) and not looked.problems


async def _looked_at(parts: Operator, customer: str) -> Survey:
    """What is to be adopted in one account."""
    found = merged(await parts.customer_meters(customer, endings=True))
    looked = await survey(parts, found, only_held=not customer)
    if customer and looked.problems:
        raise looked.problems[0][1]
    if not customer:
        unreadable = parts.billing.unreadable.items()
        whose = parts.billing.account
        looked.problems += [(of_account(name, whose), NotDoneError(reason)) for name, reason in unreadable]
    return looked


async def _carry_out(parts: Operator, looked: Survey, *, is_one: bool) -> list[Comparison]:
    """Write one ledger after the other; those that were written."""
    done = []
    with progress("adopting", len(looked.compared)) as bar:
        for comparison in looked.compared:
            try:
                await comparison.adoption.carry_out(parts.ledger, parts.clock())
                done.append(comparison)
            except LostRaceError as error:
                why = NotDoneError(
                    "the stack wrote this customer's ledger at the same moment; nothing is lost, run adopt "
                    "again"
                )
                if is_one:
                    raise why from error
                looked.problems.append((name_of(comparison.adoption.customer_meter), why))
            except UsageReportingError as error:
                if is_one:
                    raise
                looked.problems.append((name_of(comparison.adoption.customer_meter), error))
            bar.advance(bar.task_ids[0])
    return done


def _is_wanted(customer: str, compared: Sequence[Comparison]) -> bool:
    if not is_terminal():
        raise WrongUseError("there is no terminal to ask at; look at the hours, then pass --yes")
    warn("Any other reporter of this usage must have stopped an hour ago: Stripe's summaries lag.")
    whose = customer or f"{len({one.whom for one in compared})} customers"
    return typer.confirm(f"Take what Stripe holds as what was reported of {whose}?", err=True)


def _print(looked: Survey, *, is_one: bool) -> None:
    if not is_one and looked.compared:
        print_table(["customer", "meter", "hours", *NUMBERS], [_row(one) for one in looked.compared], NUMBERS)
        print_line()
    for comparison in looked.compared:
        if is_one or comparison.differs:
            _print_hours(comparison)


def _row(comparison: Comparison) -> list[str]:
    one = comparison.adoption.customer_meter
    held, measured = comparison.totals
    amounts = [to_wire(held), to_wire(measured), _signed(measured - held)] if one.meter else ["", "", ""]
    meter = comparison.adoption.head.openmeter_meter
    return [comparison.whom, meter, str(len(comparison.hours)), *amounts]


def _print_hours(comparison: Comparison) -> None:
    print_line(comparison.title)
    if comparison.adoption.customer_meter.meter is not None:
        rows = [
            [rfc3339(hour), to_wire(held), to_wire(measured), _signed(measured - held)]
            for hour, held, measured in comparison.hours
        ]
        held, measured = comparison.totals
        total = ["total", to_wire(held), to_wire(measured), _signed(measured - held)]
        print_table(["hour", *NUMBERS], [*rows, total], right=NUMBERS)
    print_line()


def _print_end(looked: Survey, done: Sequence[Comparison], customer: str) -> None:
    if customer:
        if done:
            print_line(f"adopted: the ledger of {customer} now holds what Stripe holds")
        return
    for name, error in looked.problems:
        print_line(f"not adopted: {name}: {explain(error)[0]}")
    print_line(
        f"adopted: {len(done)}, not adopted: {len(looked.problems)}, left as they are: "
        f"{looked.known} that the ledger knows, {looked.unused} of which Stripe holds nothing, "
        f"{looked.refused} that are refused"
    )


def _signed(units: Decimal) -> str:
    return f"+{to_wire(units)}" if units > 0 else to_wire(units)


def _document(looked: Survey, done: Sequence[Comparison], customer: str) -> dict[str, Any]:
    if customer:
        return {
            "stripe_customer": customer,
            "adopted": bool(done),
            "meters": [one.to_json() for one in looked.compared],
        }
    written = {id(one) for one in done}
    return {
        "adopted": len(done),
        "left": {"known": looked.known, "unused": looked.unused, "refused": looked.refused},
        "meters": [{**one.to_json(), "adopted": id(one) in written} for one in looked.compared],
        "problems": [{"what": name, "reason": explain(error)[0]} for name, error in looked.problems],
    }
