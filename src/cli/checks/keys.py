"""The keys: whether Stripe and OpenMeter accept them, and what Stripe's may do."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cli.checks.finding import Finding, Level, ok, problem, some_of, warning
from cli.checks.patient import Live, Patient, Side
from cli.errors import explain
from cli.stripe_account import is_test_key
from usage_reporting.errors import (
    NotPermittedError,
    RefusedError,
    RejectedError,
    StripeUnavailableError,
    UsageReportingError,
)
from usage_reporting.model import Target
from usage_reporting.openmeter_v3 import is_konnect
from usage_reporting.stripe_api import API_VERSION, LEGACY_API_VERSION, StripeApi

PROBE = "usage_reporter_doctor"
"""Stands where an id belongs, and begins the idempotency key: no object is named so."""

_PERMISSION = re.compile(r"'(?:rak_)?([a-z_]+_(?:read|write))'")


@dataclass(frozen=True, slots=True)
class Scope:
    """A row of README's table of permissions, and a call that needs it and changes nothing.

    A call that writes lacks what Stripe requires, or names no object that there is: it cannot be done.
    """

    resource: str
    permission: str
    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    version: str = API_VERSION

    @property
    def name(self) -> str:
        """As it stands in Stripe's form."""
        return f"{self.resource}: {self.permission}"


def _reads(resource: str, path: str) -> Scope:
    return Scope(resource, "read", "get", path, {"limit": 1})


SUBSCRIPTIONS = _reads("Subscriptions", "/v1/subscriptions")
EVENTS = _reads("Events", "/v1/events")
CUSTOMERS = _reads("Customers", "/v1/customers")
READS = (
    SUBSCRIPTIONS,
    _reads("Prices", "/v1/prices"),
    _reads("Products", "/v1/products"),
    _reads("Billing meters", "/v1/billing/meters"),
    _reads("Invoices", "/v1/invoices"),
)
METER_EVENTS = Scope("Billing meter events", "write", "post", "/v1/billing/meter_events")
INVOICES = Scope("Invoices", "write", "post", f"/v1/invoices/in_{PROBE}")
USAGE_RECORDS = Scope(
    "Usage records",
    "write",
    "post",
    f"/v1/subscription_items/si_{PROBE}/usage_records",
    version=LEGACY_API_VERSION,
)
_WHEN_DOWN = "look at status.stripe.com and the network, and run it again; the key may be well"
UNNEEDED = Scope("Prices", "write", "post", "/v1/prices")
"""What nothing here needs: refused for the permission, it shows that Stripe looks at permissions first."""


async def stripe_key(patient: Patient) -> list[Finding]:
    """Whether there is a key, and Stripe accepts it."""
    where = "the stack's secret" if patient.stack else "STRIPE_KEY"
    mend = "export a key that is not revoked, and check the network"
    if patient.stack:
        mend = f"`STRIPE_KEY=rk_... {patient.command('connect')[1:]} with a key that is not revoked"
    try:
        key = (await patient.secret()).stripe_api_key
        await _is_accepted(patient.functions)
        found = _accepted(patient, key, where)
    except UsageReportingError as error:
        is_down = isinstance(error, StripeUnavailableError) and not error.turned_away
        found = problem(explain(error)[0], _WHEN_DOWN if is_down else mend)
        patient.unreached[Side.KEY] = "Stripe does not answer to the key of the functions"
        if not patient.is_other_key:
            patient.unreached[Side.STRIPE] = "Stripe cannot be asked"
    return [found, *await _own_key(patient)]


def _accepted(patient: Patient, key: str, where: str) -> Finding:
    mode = "test" if is_test_key(key) else "live"
    kind = "restricted" if key.startswith("rk_") else "secret"
    if (kind, mode) == ("secret", "live"):
        advice = f"make a restricted key (README, step 3), then {patient.command('connect')}"
        return warning(f"the key of {where} is a secret key of live mode, which may do everything", advice)
    return ok(f"Stripe accepts the key of {where}: a {kind} key of {mode} mode")


async def _own_key(patient: Patient) -> list[Finding]:
    """What is to be said of another key in STRIPE_KEY."""
    if not patient.is_other_key:
        return []
    try:
        await _is_accepted(patient.stripe)
    except UsageReportingError as error:
        patient.unreached[Side.STRIPE] = "Stripe cannot be asked"
        return [problem(f"STRIPE_KEY: {explain(error)[0]}", "unset STRIPE_KEY, or export a key that works")]
    return [
        warning(
            "STRIPE_KEY is another key than the stack's: permissions are those of the stack's key, all else "
            "of Stripe is seen with STRIPE_KEY",
            "unset STRIPE_KEY to see all as the functions do",
        )
    ]


async def _is_accepted(stripe: StripeApi) -> None:
    """Raises UsageReportingError where it is not."""
    try:
        await stripe.get(SUBSCRIPTIONS.path, SUBSCRIPTIONS.params)
    except NotPermittedError:
        return  # accepted all the same; the permissions have a line of their own


async def openmeter(patient: Patient) -> list[Finding]:
    """Whether OpenMeter answers, in the version of its API that is set, and accepts its key."""
    settings = patient.operator.settings
    url = settings.openmeter_url
    try:
        slugs = await patient.operator.openmeter.slugs()
    except UsageReportingError as error:
        patient.unreached[Side.OPENMETER] = "OpenMeter cannot be asked"
        return [await _of_no_openmeter(patient, error)]
    answers = f"{url} answers" if settings.openmeter_api == "v1" else f"{url} answers (v3)"
    if not slugs:
        return [problem(f"{answers}, and has no meters", "create the meters in OpenMeter")]
    return [ok(f"{answers}; meters: {some_of(sorted(slugs))}")]


async def _of_no_openmeter(patient: Patient, error: UsageReportingError) -> Finding:
    """What is wrong with the address, the version of the API, or the key."""
    settings = patient.operator.settings
    url, api = settings.openmeter_url, settings.openmeter_api
    other = "v1" if api == "v3" else "v3"
    instead = f"deploy with OpenMeterApi={other} (on your machine: OPENMETER_API={other})"
    if api == "v1" and is_konnect(url):
        return problem(f"{url} is Kong Konnect, which has OpenMeter's v3 API alone, not v1", instead)
    if isinstance(error, RefusedError) and await patient.operator.openmeter.serves(other):
        return problem(f"{url} answers to OpenMeter's {other} API, not to {api}", instead)
    key = "kpat_..." if is_konnect(url) else "om_..."
    connect = f"`OPENMETER_API_KEY={key} {patient.command('connect')[1:]}"
    return problem(explain(error)[0], f"correct OpenMeterUrl ({url}), or the key: {connect}")


async def scopes(patient: Patient) -> list[Finding]:
    """Whether the functions' key may do all that they do."""
    live = await _live_or_none(patient)
    key = (await patient.secret()).stripe_api_key
    is_shown = key.startswith("sk_") or await _looks_at_permissions_first(patient)
    wanted = [(scope, True) for scope in (*READS, METER_EVENTS)]
    wanted.append((EVENTS, _has_last(live)))
    wanted.append((CUSTOMERS, bool(patient.operator.settings.subject_metadata_key)))
    if patient.operator.settings.hold_drafts:
        wanted.append((INVOICES, True))
    if live is not None and any(one.meter is None for one in live.customer_meters):
        wanted.append((USAGE_RECORDS, True))
    tried = await asyncio.gather(
        *(_tried(patient, scope, is_needed=needed, is_shown=is_shown) for scope, needed in wanted)
    )
    found = [finding for finding in tried if finding.level is not Level.OK]
    well = [finding.seen for finding in tried if finding.level is Level.OK]
    return [*([ok(f"the key may: {', '.join(well)}")] if well else []), *found]


async def _live_or_none(patient: Patient) -> Live | None:
    try:
        return await patient.live()
    except UsageReportingError:
        return None  # the permission that it lacks is tried by itself


def _has_last(live: Live | None) -> bool:
    return live is not None and any(one.target is Target.LAST for one in live.customer_meters)


async def _looks_at_permissions_first(patient: Patient) -> bool:
    """Whether Stripe refused this key for a permission before it looked at what is missing."""
    try:
        await _call(patient, UNNEEDED)
    except NotPermittedError:
        return True
    except UsageReportingError:
        return False
    return False


async def _tried(patient: Patient, scope: Scope, *, is_needed: bool, is_shown: bool) -> Finding:
    unsure = warning(
        f"{scope.name}: could not be checked, for this key may write prices, too: that it was not refused "
        "does not show that permissions are looked at first",
        "take from the key what README, step 3, does not name",
    )
    try:
        await _call(patient, scope)
    except NotPermittedError as error:
        return _missing(scope, error, is_needed=is_needed)
    except RejectedError as error:
        if scope.method == "post":  # it lacks what Stripe requires, and came as far as that
            return ok(scope.name) if is_shown else unsure
        return _uncheckable(scope, error)
    except UsageReportingError as error:
        return _uncheckable(scope, error)
    return ok(scope.name)


def _missing(scope: Scope, error: NotPermittedError, *, is_needed: bool) -> Finding:
    named = _PERMISSION.search(error.reason)
    seen = f"the key lacks {scope.name}"
    if named:
        seen += f" (Stripe calls it {named[1]})"
    fix = "add it to the key in Stripe's Dashboard, API keys (README, step 3); nothing is to be deployed"
    if is_needed:
        return problem(seen, fix)
    why = (
        "what ended unseen, and `unbillable`, are counted less exactly"
        if scope is EVENTS
        else "deleted customers are not recognised"
    )
    return warning(f"{seen}; without it {why}", fix)


def _uncheckable(scope: Scope, error: UsageReportingError) -> Finding:
    return warning(f"{scope.name}: could not be checked: {explain(error)[0]}", "run it again")


async def _call(patient: Patient, scope: Scope) -> None:
    if scope.method == "get":
        await patient.functions.get(scope.path, scope.params)
        return
    key = f"{PROBE}_{uuid.uuid4().hex}"
    await patient.functions.call(
        scope.method, scope.path, scope.params, idempotency_key=key, version=scope.version
    )
