"""Event destinations: where Stripe posts, what of it arrives, and whether another stack of ours listens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from botocore.exceptions import ClientError

from cli import event_sources
from cli.checks.finding import Finding, count, duration, ok, problem, some_of, warning
from cli.checks.patient import Patient
from cli.destination import (
    ACCOUNTS,
    DESCRIPTION,
    ENDPOINTS,
    EVENT_TYPES,
    SECRETS,
    STACK,
    THIN_DESCRIPTION,
    THIN_EVENT_TYPES,
    is_connect_endpoint,
    owners_in,
)
from cli.errors import explain
from cli.event_sources import TYPES, source_of
from cli.stack import Stack
from usage_reporting.config import Mode
from usage_reporting.errors import UsageReportingError
from usage_reporting.stripe_api import API_VERSION
from usage_reporting.windows import DAY, MINUTE

Json = Mapping[str, Any]

LOOKED_BACK = 3 * DAY
"""Stripe tries a delivery again for so long (Webhooks, "Retries")."""
IN_TIME = 10 * MINUTE
"""A younger event may still be on its first way."""

SNAPSHOT, THIN = "webhook endpoint", "event destination"
CONNECT_SNAPSHOT, CONNECT_THIN = f"Connect {SNAPSHOT}", f"{THIN} of connected accounts"

OUTPUTS = frozenset({"LedgerTableName", "WorkerFunctionName", "DeadLetterQueueUrl"})
"""What tells a stack of this project's from others."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where Stripe posts events, of either kind."""

    noun: str
    id: str
    url: str
    status: str
    types: tuple[str, ...]
    wanted: tuple[str, ...]
    """The types that it should be told of."""
    stack: str = ""
    """The stack that `connect` made it for."""
    is_ours: bool = False
    """Whether this project's `connect` made it, for whichever stack."""
    version: str | None = API_VERSION
    disabled: str = ""
    """Why it is disabled, in Stripe's word."""
    account: str = ""
    """The AWS account of its event source, if it is one over EventBridge; `url` is then the source's name."""
    source_status: str = "active"
    """What Stripe knows of that source."""

    @property
    def name(self) -> str:
        """As an operator finds it."""
        return f"{self.noun} {self.id}"

    def faults(self) -> list[str]:
        """What is wrong with it, apart from its address."""
        found = []
        if self.status != "enabled":
            found.append(f"is {self.status}" + (f" ({self.disabled})" if self.disabled else ""))
        if self.source_status not in {"active", "unknown"}:
            found.append(f"has an event source that is {self.source_status} in AWS")
        missing = [one for one in self.wanted if one not in self.types and "*" not in self.types]
        if missing:
            found.append(f"is not told of {', '.join(missing)}")
        if self.version != API_VERSION:
            found.append(f"has API version {self.version or 'of the account'}, not {API_VERSION}")
        return found


async def listed(patient: Patient) -> list[Destination]:
    """All of the account. Raises NotPermittedError."""
    found = [_snapshot(one) async for page in patient.stripe.pages("/v1/webhook_endpoints") for one in page]
    query: dict[str, Any] | None = {"include": ["webhook_endpoint.url"]}
    while query is not None:
        answer = await patient.stripe.get("/v2/core/event_destinations", query)
        for one in answer.get("data", []):
            if one.get("amazon_eventbridge"):
                found.append(_over_bus(one))
            elif one.get("event_payload") == "thin" and one.get("webhook_endpoint"):
                found.append(_thin(one))
        query = next_page(answer.get("next_page_url"))
    return found


def next_page(url: str | None) -> dict[str, Any] | None:
    """The parameters of a list's next page (API reference, "Pagination in v2"); None at its end."""
    if not url:
        return None
    given = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items() if "[" not in name}
    return {**given, "include": ["webhook_endpoint.url"]}


def _snapshot(one: Json) -> Destination:
    stack = str((one.get("metadata") or {}).get(STACK, ""))
    is_connect = is_connect_endpoint(one.get("application"), one.get("metadata"))
    return Destination(
        noun=CONNECT_SNAPSHOT if is_connect else SNAPSHOT,
        id=one["id"],
        url=one["url"],
        status=one["status"],
        types=tuple(one["enabled_events"]),
        wanted=EVENT_TYPES,
        stack=stack,
        is_ours=bool(stack) or one.get("description") == DESCRIPTION,
        version=one.get("api_version"),
    )


def _thin(one: Json) -> Destination:
    stack = str((one.get("metadata") or {}).get(STACK, ""))
    return Destination(
        noun=CONNECT_THIN if one.get("events_from") == [ACCOUNTS] else THIN,
        id=one["id"],
        url=one["webhook_endpoint"].get("url") or "",
        status=one["status"],
        types=tuple(one["enabled_events"]),
        wanted=THIN_EVENT_TYPES,
        stack=stack,
        is_ours=bool(stack) or one.get("description") == THIN_DESCRIPTION,
    )


def _over_bus(one: Json) -> Destination:
    """One over EventBridge, of either payload."""
    stack = str((one.get("metadata") or {}).get(STACK, ""))
    is_thin = one["event_payload"] == event_sources.THIN
    bus = one["amazon_eventbridge"]
    return Destination(
        noun="event destination",
        id=one["id"],
        url=source_of(bus["aws_event_source_arn"]),
        status=one["status"],
        types=tuple(one["enabled_events"]),
        wanted=TYPES[one["event_payload"]],
        stack=stack,
        is_ours=bool(stack),
        version=API_VERSION if is_thin else one.get("snapshot_api_version"),
        disabled=((one.get("status_details") or {}).get("disabled") or {}).get("reason", ""),
        account=bus["aws_account_id"],
        source_status=bus["aws_event_source_status"],
    )


async def destinations(patient: Patient) -> list[Finding]:
    """Whether the stack's two destinations are as `connect` makes them, and their secrets are known."""
    found = await listed(patient)
    if patient.stack is None:
        return _without_stack(found)
    if patient.stack.is_over_event_bridge:
        return await _over_event_bridge(patient, found)
    url = patient.output("WebhookUrl")
    fix = patient.command("connect")
    nouns = [SNAPSHOT, THIN]
    if patient.operator.settings.connected_accounts:
        nouns += [CONNECT_SNAPSHOT, CONNECT_THIN]
    said = [finding for noun in nouns for finding in _of_kind(found, noun, url, fix)]
    here = [one for one in found if one.url == url]
    said += _unknown_secrets(here, await asyncio.to_thread(patient.stack.read_secret), fix)
    said += _unused(found, patient.stack)
    if not said:
        what = " and ".join(one.name for one in here)
        said = [ok(f"{what}: enabled, with the right events and version; their secrets are in the stack's")]
    return said


async def _over_event_bridge(patient: Patient, found: Sequence[Destination]) -> list[Finding]:
    """The same of a stack that Stripe posts nothing to."""
    assert patient.stack is not None
    fix = patient.command("connect")
    said: list[Finding] = []
    for payload, output in event_sources.OUTPUTS.items():
        said += await _of_source(patient, found, payload, patient.stack.outputs.get(output, ""), fix)
    had = owners_in(await asyncio.to_thread(patient.stack.read_secret))
    said += [
        problem(
            f"{one.name} posts to {one.url}, which is gone: an `invoice.created` that is not answered keeps "
            "its draft open for up to 72 hours",
            f"{fix}, which deletes it",
        )
        for one in found
        if one.id in had
    ]
    if not said:
        names = " and ".join(one.name for one in found if one.url in patient.stack.outputs.values())
        said = [ok(f"{names}: enabled, with the right events and version; their event sources are active")]
    return [*said, *_nothing_holds_drafts(patient)]


def _nothing_holds_drafts(patient: Patient) -> list[Finding]:
    if patient.operator.settings.hold_drafts:
        return []
    return [
        warning(
            "over EventBridge Stripe waits for no answer: no draft is kept open while its usage cannot be "
            "delivered",
            "deploy with HoldDrafts=true, and the stack keeps it open (the key then needs to write invoices)",
        )
    ]


async def _of_source(
    patient: Patient, found: Sequence[Destination], payload: str, source: str, fix: str
) -> list[Finding]:
    """Whether something comes through one of the stack's event sources."""
    parameter = event_sources.PARAMETERS[payload]
    if not source:
        return [
            warning(
                f"the stack has no {parameter}: it never hears of usage that Stripe refuses afterwards",
                f"{fix} names one; deploy with it",
            )
        ]
    anew = f"{fix}, then deploy as it says"
    here = [one for one in found if one.url == source]
    if not here:
        return [problem(f"Stripe has no event destination for the source {source} of {parameter}", anew)]
    said = [
        problem(f"{one.name} ({source}) {fault}", anew if one.source_status == "deleted" else fix)
        for one in here
        for fault in one.faults()
    ]
    return [*said, *await _state_of(patient, source, anew)]


async def _state_of(patient: Patient, source: str, anew: str) -> list[Finding]:
    """What AWS says of an event source ("DescribeEventSource"); a local cloud knows none of Stripe's."""
    assert patient.stack is not None
    if patient.stack.local_cloud:
        return []
    try:
        state = (await patient.aws.call("events", "describe_event_source", Name=source)).get("State")
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "ResourceNotFoundException":
            return [problem(f"there is no event source {source} in the stack's AWS account", anew)]
        return [
            warning(
                f"the state of {source} could not be read: {explain(error)[0]}",
                "run it with AWS credentials that may do events:DescribeEventSource",
            )
        ]
    if state == "PENDING":
        return [
            problem(
                f"no active bus is associated with {source}, so that nothing comes through it",
                "deploy the stack anew; its bus has the name of the source",
            )
        ]
    return [] if state == "ACTIVE" else [problem(f"the event source {source} is {state} in AWS", anew)]


def _unused(found: Sequence[Destination], stack: Stack) -> list[Finding]:
    """Destinations over EventBridge that were made for a stack on API Gateway."""
    return [
        warning(
            f"{one.name} ({one.url}) was made for this stack, which does not listen to it",
            f"`usage-reporter connect --stack {stack.name} --ingress eventbridge` says how; or delete it in "
            "Stripe",
        )
        for one in found
        if _is_mine(one, stack)
    ]


def _without_stack(found: Sequence[Destination]) -> list[Finding]:
    ours = [one for one in found if one.is_ours]
    said = [
        problem(f"{one.name} to {one.url} {fault}", f"`usage-reporter connect --stack {one.stack or 'NAME'}`")
        for one in ours
        for fault in one.faults()
    ]
    if not ours:
        return [
            warning(
                "Stripe has no destination that `connect` made",
                "deploy a stack, then `usage-reporter connect --stack NAME`",
            )
        ]
    return said or [
        ok(f"{', '.join(f'{one.name} to {one.url}' for one in ours)}: with the right events and version")
    ]


def _of_kind(found: Sequence[Destination], noun: str, url: str, fix: str) -> list[Finding]:
    here = [one for one in found if one.noun == noun and one.url == url]
    if not here:
        astray = [one.url for one in found if one.noun == noun and one.is_ours]
        others = f"; there is one to {some_of(astray)}" if astray else ""
        return [problem(f"no {noun} posts to {url}{others}", fix)]
    return [problem(f"{one.name} {fault}", fix) for one in here for fault in one.faults()]


def _unknown_secrets(here: Sequence[Destination], secret: Json, fix: str) -> list[Finding]:
    kept = secret.get(SECRETS)
    values = [kept] if isinstance(kept, str) else kept if isinstance(kept, list) else []
    owners = secret.get(ENDPOINTS)
    known = owners if isinstance(owners, dict) else {}
    lacking = [one.name for one in here if known.get(one.id) not in values]
    if not lacking:
        return []
    seen = f"the stack's secret does not say that it holds the signing secret of {', '.join(lacking)}"
    # By hand it may hold them all the same, as of a secret that was rolled in the Dashboard.
    if len(values) >= len(here):
        return [warning(seen, f"{fix}, which makes it anew")]
    return [problem(f"{seen}, so that what Stripe posts is answered 400", fix)]


async def deliveries(patient: Patient) -> list[Finding]:
    """Whether what Stripe posted of late arrived."""
    query = {
        "delivery_success": "false",
        "types": list(EVENT_TYPES),
        "created": {"gte": patient.now - LOOKED_BACK, "lte": patient.now - IN_TIME},
    }
    page, has_more = await patient.stripe.page("/v1/events", query)
    if not page:
        return [ok(f"all events of the last {duration(LOOKED_BACK)} that concern us were delivered")]
    oldest = min(int(one["created"]) for one in page)
    how_many = f"more than {len(page)} events" if has_more else count(len(page), "event")
    seen = (
        f"not delivered in the last {duration(LOOKED_BACK)}: {how_many}, the oldest "
        f"{duration(patient.now - oldest)} ago"
    )
    stack = patient.stack.name if patient.stack else "NAME"
    fix = (
        f"`sam logs --stack-name {stack} --name WebhookFunction` says why; then resend them in Stripe's "
        "Workbench, Webhooks (the ticks have reported their usage meanwhile)"
    )
    try:
        others = [one for one in await listed(patient) if _may_be_the_one(one, patient)]
    except UsageReportingError:  # whose they are is then not known; the other check says why
        others = []
    if others:
        named = some_of([f"{one.name} to {one.url}" for one in others])
        return [warning(f"{seen}; they may be those of {named}", f"look in Stripe's Workbench whose: {fix}")]
    return [problem(seen, fix)]


def _may_be_the_one(one: Destination, patient: Patient) -> bool:
    """Whether another listener than the stack gets the same events."""
    own = _addresses(patient.stack.outputs) if patient.stack else set()
    listens = "*" in one.types or bool({*one.types} & {*EVENT_TYPES})
    return one.noun in {SNAPSHOT, THIN} and one.url not in own and listens


async def stacks(patient: Patient) -> list[Finding]:
    """Whether another stack of this project serves the same Stripe account, or writes the same ledger."""
    assert patient.stack is not None
    here = _addresses(patient.stack.outputs)
    had: Mapping[str, str] = {}
    if patient.stack.is_over_event_bridge:
        had = owners_in(await asyncio.to_thread(patient.stack.read_secret))
    abroad = {
        one.url: one
        for one in await listed(patient)
        if one.url not in here and one.id not in had and not _is_mine(one, patient.stack)
    }
    found: list[Finding] = []
    for other in await patient.aws.pages("cloudformation", "describe_stacks", "Stacks"):
        outputs = {one["OutputKey"]: one["OutputValue"] for one in other.get("Outputs", [])}
        name = str(other["StackName"])
        if name == patient.stack.name or not outputs.keys() >= OUTPUTS:
            continue
        if outputs["LedgerTableName"] == patient.output("LedgerTableName"):
            found.append(_second(name, "writes the same ledger", "its ledger is this stack's"))
        elif theirs := _addresses(outputs) & abroad.keys():
            for address in theirs:
                del abroad[address]
            found.append(await _beside(patient, name, outputs["WorkerFunctionName"]))
    found += [
        _second(one.stack or one.url, f"listens to this Stripe account ({one.name} to {one.url})", "")
        for one in abroad.values()
        if one.is_ours
    ]
    return found or [ok("no other stack of this project serves this Stripe account")]


def _addresses(outputs: Mapping[str, str]) -> set[str]:
    """Where Stripe's events come in to a stack: its address, or the names of its event sources."""
    names = ("WebhookUrl", *event_sources.OUTPUTS.values())
    return {outputs[name] for name in names if name in outputs}


def _is_mine(one: Destination, stack: Stack) -> bool:
    """Whether it was made for this stack, though it does not listen to it (yet)."""
    return bool(one.account) and (one.stack, one.account) == (stack.name, stack.account)


def _second(name: str, what: str, why: str) -> Finding:
    reason = why or "if both are live, each sends all usage"
    return problem(
        f"another stack, {name}, {what}: {reason}",
        f"delete {name}, or deploy it with Mode=shadow; if it is gone, delete its destination in Stripe",
    )


async def _beside(patient: Patient, name: str, function: str) -> Finding:
    answer = await patient.aws.call("lambda", "get_function_configuration", FunctionName=function)
    mode = answer.get("Environment", {}).get("Variables", {}).get("MODE", "")
    if mode == Mode.SHADOW:
        return warning(
            f"another stack, {name}, listens to this Stripe account in shadow mode", "keep it in shadow"
        )
    return _second(name, "listens to this Stripe account and is live", "")
