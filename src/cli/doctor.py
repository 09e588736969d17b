"""`usage-reporter doctor`: looks at both sides and the stack, and says what to mend."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from cli.checks import accounts, clocks, destinations, grace, keys, mapping, writers
from cli.checks import stack as stack_checks
from cli.checks.examination import Check, Examined, examine
from cli.checks.finding import Level
from cli.checks.patient import Side, patient
from cli.output import AsJson, Region, StackName, print_json, print_line, status
from cli.stack import Stack
from usage_reporting.stripe_api import redacted

KEY, STRIPE, OPENMETER, STACK = Side.KEY, Side.STRIPE, Side.OPENMETER, Side.STACK

CHECKS = (
    Check("Stripe key", keys.stripe_key, reaches=STRIPE),
    Check("Permissions", keys.scopes, frozenset({KEY})),
    Check("OpenMeter", keys.openmeter, reaches=OPENMETER),
    Check("Mapping", mapping.mapping, frozenset({STRIPE, OPENMETER})),
    Check("Subjects", mapping.subjects, frozenset({STRIPE, OPENMETER})),
    Check("OpenMeter events", mapping.events, frozenset({OPENMETER})),
    Check("Accounts", accounts.accounts, frozenset({KEY, STRIPE})),
    Check("Destinations", destinations.destinations, frozenset({STRIPE})),
    Check("Deliveries", destinations.deliveries, frozenset({STRIPE})),
    Check(
        "Grace",
        grace.grace,
        frozenset({STRIPE}),
        local_cloud_lacks="goes with a stand-in for Stripe, whose grace period is no setting of yours",
    ),
    Check("Clocks", clocks.clocks),
)

OF_STACK = (
    Check("Stack", stack_checks.outputs, reaches=STACK),
    Check("Functions", stack_checks.functions, frozenset({STACK})),
    Check(
        "Schedules",
        stack_checks.schedules,
        frozenset({STACK}),
        local_cloud_lacks="runs no schedules and keeps no metrics",
    ),
    Check("Queues", stack_checks.queues, frozenset({STACK})),
    Check(
        "Ledger",
        stack_checks.ledger,
        frozenset({STACK}),
        local_cloud_lacks="has no backups and expires nothing",
    ),
    Check("Ledger entries", stack_checks.entries, frozenset({STACK, STRIPE})),
    Check("Alarms", stack_checks.alarms, frozenset({STACK}), local_cloud_lacks="sets off no alarms"),
    Check("Other writers", writers.writers, frozenset({STACK, STRIPE})),
    Check("Other stacks", destinations.stacks, frozenset({STACK, STRIPE})),
)

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red", Level.SKIPPED: "bright_black"}


def doctor(
    *,
    stack: StackName = "",
    sample: Annotated[
        int,
        typer.Option("--sample", min=1, help="Compare the hours of so many customer meters, at most."),
    ] = 100,
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Check both sides and the stack, and say in words what to mend. Nothing is changed anywhere.

    Each line begins with ok, warning or problem; or with skipped, for what the local cloud of `demo --stay`
    does not have. The exit code is 0 only without a problem. With --stack it
    checks the keys and the settings that the deployed functions have, and all that they stand on in AWS;
    without, what the keys and settings of the environment can show. What a key may not read is a
    warning that says so: no permission is needed that the functions do not need.

    Example: `usage-reporter doctor --stack usage-reporter`
    """
    deployed = Stack.read(stack, region) if stack else None
    with status("examining") as say:
        found = asyncio.run(_examined(deployed, sample, say))
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    if _count(found, Level.PROBLEM):
        raise typer.Exit(1)


async def _examined(deployed: Stack | None, sample: int, say: Callable[[str], None]) -> list[Examined]:
    async with patient(os.environ, deployed, sample, say) as examined:
        return await examine(examined, [*CHECKS, *(OF_STACK if deployed else ())])


def _print(found: Sequence[Examined]) -> None:
    wide = max(len(one.name) for one in found)
    for one in found:
        for finding in one.findings:
            word = typer.style(f"{finding.level.value:<7}", fg=_COLOURS[finding.level])
            print_line(f"{word}  {one.name:<{wide}}  {redacted(finding.seen)}")
            if finding.fix:
                print_line(f"{'':9}{'':{wide}}  fix: {redacted(finding.fix)}")
    counts = ", ".join(f"{name} {number}" for name, number in _counts(found).items())
    print_line(f"doctor: {counts}")


def _count(found: Sequence[Examined], level: Level) -> int:
    return sum(finding.level is level for one in found for finding in one.findings)


def _counts(found: Sequence[Examined]) -> dict[str, int]:
    """By level; what was skipped only where there is such a thing."""
    counts = {level.value: _count(found, level) for level in Level}
    return {name: number for name, number in counts.items() if number or name != Level.SKIPPED}


def _document(found: Sequence[Examined]) -> dict[str, Any]:
    return {
        "well": not _count(found, Level.PROBLEM),
        "counts": _counts(found),
        "findings": [
            {
                "check": one.name,
                "level": finding.level.value,
                "seen": redacted(finding.seen),
                "fix": redacted(finding.fix),
            }
            for one in found
            for finding in one.findings
        ],
    }
