"""Whether the clocks agree: signatures and meter events are refused where they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from cli.checks.finding import Finding, duration, ok, problem, warning
from cli.checks.patient import Patient
from usage_reporting.stripe_api import TIMEOUT_S

STRIPE = "https://api.stripe.com"
SOME = 60
MUCH = 300
"""Stripe refuses meter events further in the future, and the webhook signatures that are older."""


async def clocks(patient: Patient) -> list[Finding]:
    """How far the clocks of Stripe, OpenMeter and AWS are from this machine's."""
    asked: dict[str, Awaitable[str]] = {
        "Stripe": _date_of(patient.operator.settings.stripe_api_base or STRIPE),
        "OpenMeter": _date_of(patient.operator.settings.openmeter_url),
    }
    if patient.stack is not None:
        asked["AWS"] = _date_of_aws(patient)
    dates = await asyncio.gather(*asked.values())
    return [_judged(name, date, patient.now) for name, date in zip(asked, dates, strict=True)]


def _judged(name: str, date: str, now: int) -> Finding:
    try:
        told = parsedate_to_datetime(date)
    except ValueError:
        return warning(f"{name} did not tell its time", "run it again")
    ahead = int(told.replace(tzinfo=told.tzinfo or UTC).timestamp()) - now
    if abs(ahead) <= SOME:
        return ok(f"{name}'s clock is within a minute of this machine's")
    how = f"{name}'s clock is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine's"
    fix = "set the clock of whichever is wrong (NTP); Stripe and AWS are right"
    return problem(how, fix) if abs(ahead) > MUCH else warning(how, fix)


async def _date_of(url: str) -> str:
    """The Date of any answer, whatever its status; empty where there is none."""
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            answer = await client.get(url)
    except httpx.HTTPError:
        return ""
    return str(answer.headers.get("date", ""))


async def _date_of_aws(patient: Patient) -> str:
    """The Date of an answer; empty where there is none, which says nothing of the other clocks."""
    assert patient.stack is not None
    try:
        answer = await patient.aws.call("cloudformation", "describe_stacks", StackName=patient.stack.name)
    except (BotoCoreError, ClientError):
        return ""
    return str(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
