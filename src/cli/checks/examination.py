"""Runs the checks side by side, so that one that fails stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from botocore import exceptions as aws

from cli.checks.finding import Finding, problem, skipped, warning
from cli.checks.patient import Patient, Side
from cli.errors import explain
from usage_reporting.errors import NotPermittedError

Look = Callable[[Patient], Awaitable[list[Finding]]]

MORE_PERMISSIONS = (
    "give the key this permission (README, step 3), or run it with STRIPE_KEY of a key that has it"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at; `needs` what has to be reached for it."""

    name: str
    look: Look
    needs: frozenset[Side] = frozenset()
    reaches: Side | None = None
    """Looked at first: whether this side can be reached at all."""
    local_cloud_lacks: str = ""
    """What a local cloud and its stand-ins do not have, so that looking would blame the set-up for it."""


@dataclass(slots=True)
class Examined:
    """A check and what it found."""

    name: str
    findings: list[Finding] = field(default_factory=list)


async def examine(patient: Patient, checks: Sequence[Check]) -> list[Examined]:
    """Look at everything: first what the others depend on. In the order of the checks."""
    results = {check.name: Examined(check.name) for check in checks}
    for is_first in (True, False):
        chosen = [check for check in checks if bool(check.reaches) is is_first]
        found = await asyncio.gather(*(_looked(patient, check) for check in chosen))
        for check, findings in zip(chosen, found, strict=True):
            results[check.name].findings = findings
    return list(results.values())


async def _looked(patient: Patient, check: Check) -> list[Finding]:
    if reason := _not_to_be_looked_at(patient, check):
        return [reason]
    try:
        return await check.look(patient)
    except NotPermittedError as error:
        return [_unchecked(error, MORE_PERMISSIONS)]
    except aws.ClientError as error:
        if not _is_denied(error):
            return [problem(f"could not be checked: {explain(error)[0]}", "mend that, and run it again")]
        return [_unchecked(error, "run it with AWS credentials that may read this")]
    except Exception as error:  # noqa: BLE001 - one check that fails stops no other
        fix = f"see docs/doctor.md, {check.name}; then run it again"
        return [problem(f"could not be checked: {explain(error)[0]}", fix)]


def _not_to_be_looked_at(patient: Patient, check: Check) -> Finding | None:
    for side in sorted(check.needs & patient.unreached.keys()):
        return warning(f"not looked at: {patient.unreached[side]}", f"mend {side} first, see above")
    if check.local_cloud_lacks and patient.stack and (where := patient.stack.local_cloud):
        return skipped(f"the local cloud at {where} {check.local_cloud_lacks}")
    return None


def _unchecked(error: Exception, fix: str) -> Finding:
    return warning(f"could not be checked: {explain(error)[0]}", fix)


def _is_denied(error: aws.ClientError) -> bool:
    code = str(error.response.get("Error", {}).get("Code", ""))
    return "AccessDenied" in code or "Unauthorized" in code
