"""Connected accounts: whether the functions' key may act for them, and whether what they bill can be read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from cli.checks.finding import Finding, count, ok, problem, some_of, warning
from cli.checks.patient import Patient
from usage_reporting.accounts import of_account
from usage_reporting.connected import Connected
from usage_reporting.errors import NoAccessError, NotPermittedError

LOOKED_AT = 20
"""Accounts, the newest; a platform may have thousands."""

READS = {
    "Subscriptions": "/v1/subscriptions",
    "Prices": "/v1/prices",
    "Products": "/v1/products",
    "Billing meters": "/v1/billing/meters",
    "Invoices": "/v1/invoices",
    "Events": "/v1/events",
}
"""What the functions read in every account, in README's words, and a list of each."""

GRANT = "give the key the same permissions for connected accounts, too (Dashboard, API keys)"


@dataclass(slots=True)
class _Seen:
    """What was seen of the accounts."""

    accounts: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    lacking: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The accounts in which the key lacks a permission, by its name."""
    refused: list[str] = field(default_factory=list)
    customer_meters: int = 0


async def accounts(patient: Patient) -> list[Finding]:
    """Whether each of some connected accounts can be billed; nothing where none is to be.

    Raises what the layer's Stripe client does.
    """
    served = patient.operator.settings.connected_accounts
    if not served:
        return []
    seen = _Seen()
    try:
        async for page in Connected(served, patient.functions).pages():
            seen.accounts = page[:LOOKED_AT]
            break
    except NotPermittedError as error:
        return [problem(f"connected accounts cannot be listed: {error.reason}", GRANT)]
    if not seen.accounts:
        return [warning("Stripe lists no connected account", "none is billed; leave ConnectedAccounts empty")]
    for account in seen.accounts:
        await _look_at(patient, account, seen)
    return _findings(seen)


async def _look_at(patient: Patient, account: str, seen: _Seen) -> None:
    patient.say(f"looking at the connected account {account}")
    api = patient.functions.for_account(account)
    may_read = True
    for name, path in READS.items():
        try:
            await api.get(path, {"limit": 1})
        except NoAccessError:
            seen.gone.append(account)
            return
        except NotPermittedError:
            seen.lacking[name].append(account)
            may_read = False
    if may_read:
        await _read(patient, account, seen)


async def _read(patient: Patient, account: str, seen: _Seen) -> None:
    """The first page of subscriptions, as the functions map it."""
    try:
        billing = patient.operator.of(account).billing
        listing = await billing.read_page(await billing.subscription_page({}))
    except NotPermittedError:
        return  # the environment's key, which reads all else, may not
    seen.customer_meters += len(listing.customer_meters)
    refused = [(one.customer, one.refusal) for one in listing.customer_meters if one.refusal]
    refused += list(billing.unreadable.items())
    seen.refused += [f"{of_account(who, account)}: {why}" for who, why in refused]


def _findings(seen: _Seen) -> list[Finding]:
    found = []
    if seen.gone:
        found.append(
            problem(
                f"the key may not act for {some_of(seen.gone)}, or not any more",
                "connect these accounts again, or take them out of ConnectedAccounts",
            )
        )
    found += [
        problem(f"in connected accounts the key may not read: {name} ({some_of(lacking)})", GRANT)
        for name, lacking in seen.lacking.items()
    ]
    found += [
        problem(f"not reported: {text}", "see the reason; the functions log it, too")
        for text in seen.refused[:LOOKED_AT]
    ]
    if found:
        return found
    looked_at = count(len(seen.accounts), "connected account")
    return [
        ok(
            f"the key may read {looked_at} that were looked at; on their first pages they have "
            f"{count(seen.customer_meters, 'customer meter')}"
        )
    ]
