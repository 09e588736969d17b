"""`usage-reporter adopt`: makes the ledger believe what Stripe holds, after a person has looked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import typer

from cli.adoption import Adoption, plan
from cli.errors import NotDoneError, WrongUseError
from cli.output import AsJson, Region, is_terminal, print_json, print_line, print_table, warn
from cli.stack import Stack
from cli.wiring import Operator, operator
from usage_reporting.amounts import ZERO, round_units, to_wire
from usage_reporting.config import Mode
from usage_reporting.customer_meters import merged
from usage_reporting.errors import LostRaceError
from usage_reporting.model import CustomerMeter
from usage_reporting.windows import floor_hour, rfc3339, settled_until


@dataclass(frozen=True, slots=True)
class Comparison:
    """One adoption, and what OpenMeter has beside it by UTC hour."""

    adoption: Adoption
    measured: dict[int, Decimal]

    @property
    def hours(self) -> list[tuple[int, Decimal, Decimal]]:
        """Each hour in which either side has usage: what Stripe holds, what OpenMeter has."""
        held = self.adoption.hours
        both = {
            hour: (held.get(hour, ZERO), self.measured.get(hour, ZERO)) for hour in {*held, *self.measured}
        }
        return [(hour, *both[hour]) for hour in sorted(both) if any(both[hour])]

    @property
    def title(self) -> str:
        """Whose usage on what."""
        one = self.adoption.customer_meter
        on = (
            f"Stripe meter {one.meter.id}"
            if one.meter
            else f"item {one.spans[0].item}, billed by usage records"
        )
        return f"{one.customer} on {on}, from OpenMeter meter {self.adoption.head.openmeter_meter}"


def adopt(
    stack: Annotated[str, typer.Option("--stack", help="Name of the deployed CloudFormation stack.")],
    customer: Annotated[str, typer.Option("--customer", help="The Stripe customer whose ledger is rebuilt.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Rebuild one customer's ledger from Stripe's hourly summaries.

    For usage that is held because the ledger cannot know what Stripe was told: another reporter was there
    before, the table is a restored copy, or a send stayed unknown for 23 hours. It shows what Stripe and
    OpenMeter have hour by hour, and asks. Nothing is sent; the next report sends what is then missing.

    Example: `usage-reporter adopt --stack usage-reporter --customer cus_...`
    """
    adopted = asyncio.run(_adopt(Stack.read(stack, region), customer, yes=yes, as_json=as_json))
    if not adopted:
        raise typer.Exit(1)


async def _adopt(deployed: Stack, customer: str, *, yes: bool, as_json: bool) -> bool:
    async with operator(os.environ, deployed) as parts:
        if parts.settings.mode is Mode.SHADOW:
            raise WrongUseError(
                "the stack is in shadow mode, so another reporter may be at work, and what that sends after "
                "the adoption would be billed twice; stop it, wait an hour, deploy Mode=live, and adopt then"
            )
        compared = [await _compare(parts, one) for one in merged(await parts.customer_meters(customer))]
        if not as_json:
            _print(compared)
        adopted = yes or _is_wanted(customer)
        if adopted:
            await _carry_out(parts, compared)
        if as_json:
            print_json(
                {"stripe_customer": customer, "adopted": adopted, "meters": [_document(c) for c in compared]}
            )
        elif adopted:
            print_line(f"adopted: the ledger of {customer} now holds what Stripe holds")
        return adopted


async def _compare(parts: Operator, one: CustomerMeter) -> Comparison:
    now = parts.clock()
    adoption = await plan(parts.billing, parts.ledger, one, now)
    if one.meter is None:
        return Comparison(adoption, {})
    start = min([*adoption.hours, *(floor_hour(span.start) for span in one.spans)])
    head = adoption.head
    found = await parts.openmeter.hours(
        head.openmeter_meter, [head.subject], start, settled_until(now, eager=True)
    )
    measured = {hour: round_units(value) for hour, value in found.get(head.subject, {}).items()}
    return Comparison(adoption, measured)


async def _carry_out(parts: Operator, compared: Sequence[Comparison]) -> None:
    try:
        for comparison in compared:
            await comparison.adoption.carry_out(parts.ledger, parts.clock())
    except LostRaceError as error:
        raise NotDoneError(
            "the stack wrote this customer's ledger at the same moment; nothing is lost, run adopt again"
        ) from error


def _is_wanted(customer: str) -> bool:
    if not is_terminal():
        raise WrongUseError("there is no terminal to ask at; look at the hours, then pass --yes")
    warn("Any other reporter of this usage must have stopped an hour ago: Stripe's summaries lag.")
    return typer.confirm(f"Take what Stripe holds as what was reported of {customer}?", err=True)


def _print(compared: Sequence[Comparison]) -> None:
    for comparison in compared:
        print_line(comparison.title)
        if comparison.adoption.customer_meter.meter is not None:
            rows = [
                [rfc3339(hour), to_wire(held), to_wire(measured), _signed(measured - held)]
                for hour, held, measured in comparison.hours
            ]
            numbers = ["Stripe", "OpenMeter", "difference"]
            print_table(["hour", *numbers], [*rows, _total(comparison)], right=numbers)
        print_line()


def _total(comparison: Comparison) -> list[str]:
    held = sum((held for _, held, _ in comparison.hours), ZERO)
    measured = sum((measured for *_, measured in comparison.hours), ZERO)
    return ["total", to_wire(held), to_wire(measured), _signed(measured - held)]


def _signed(units: Decimal) -> str:
    return f"+{to_wire(units)}" if units > 0 else to_wire(units)


def _document(comparison: Comparison) -> dict[str, Any]:
    one = comparison.adoption.customer_meter
    return {
        "stripe_meter": one.meter.id if one.meter else None,
        "openmeter_meter": comparison.adoption.head.openmeter_meter,
        "hours": [
            {"hour": rfc3339(hour), "stripe": to_wire(held), "openmeter": to_wire(measured)}
            for hour, held, measured in comparison.hours
        ],
    }
