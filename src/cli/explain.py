"""`usage-reporter explain`: the chain of evidence of an invoice, from OpenMeter's hours to the quantity."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import NotDoneError, WrongUseError
from cli.evidence import InvoiceEvidence, summary
from cli.evidence_reader import EvidenceReader
from cli.explain_page import page
from cli.explain_text import print_invoice
from cli.output import Account, AsJson, Region, StackName, print_json, print_line, status, warn
from cli.stack import Stack
from cli.wiring import Operator, operator
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.errors import NotFoundError, NotPermittedError
from usage_reporting.ledger import KEPT_FOR
from usage_reporting.windows import BOUNDS_KEPT

Json = dict[str, Any]

_KINDS = ("in_", "cus_", "sub_")


def explain(
    what: Annotated[
        str,
        typer.Argument(metavar="ID", help="Invoice (in_...), customer (cus_...) or subscription (sub_...)."),
    ],
    *,
    stack: StackName = "",
    hours: Annotated[
        bool,
        typer.Option("--hours", help="Show every hour with usage, and every send."),
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Of a customer or subscription: the invoices of 400 days, not of 35."),
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write FILE, one page to hand to the customer.")
    ] = None,
    account: Account = "",
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Explain a number on an invoice: what OpenMeter measured, what was sent, what Stripe holds and bills.

    Everything is asked afresh; nothing is written or sent. Each metered line ends in the billed quantity, or
    the difference is named: late usage, another writer, a changed ledger entry. Of a customer or a
    subscription the running period's preview and the latest invoices are explained. Without --stack the
    ledger's part is missing. Exit code 1 when a difference is found.

    Example: `usage-reporter explain in_... --stack usage-reporter`
    """
    if not what.startswith(_KINDS):
        raise WrongUseError(
            f"{what!r} is the id of no invoice (in_...), customer (cus_...) or subscription (sub_...); "
            "an invoice's number is not its id, which `usage-reporter reconcile` shows, and the address of "
            "its page in the Dashboard"
        )
    deployed = Stack.read(stack, region) if stack else None
    with status("asking Stripe, OpenMeter and the ledger"):
        found, notes = asyncio.run(_explain(deployed, what, account, everything=everything))
    if html is not None:
        _write(html, page(found))
    if as_json:
        print_json(
            {
                "explained": all(one.is_explained for one in found),
                "notes": notes,
                "invoices": [one.to_json() for one in found],
            }
        )
    else:
        for one in found:
            print_invoice(one, every_hour=hours)
        for note in notes:
            print_line(f"note: {note}")
        print_line(summary(found))
    if html is not None:
        warn(f"wrote {html}")
    if not all(one.is_explained for one in found):
        raise typer.Exit(1)


async def explain_invoices(deployed: Stack, invoices: Sequence[str]) -> list[InvoiceEvidence]:
    """The evidence for some invoices by their ids. Raises what the parts raise."""
    async with operator(os.environ, deployed) as parts:
        reader = EvidenceReader(parts, has_ledger=True)
        return [await reader.invoice(await parts.billing.invoice(one)) for one in invoices]


async def _explain(
    deployed: Stack | None, what: str, account: str, *, everything: bool
) -> tuple[list[InvoiceEvidence], list[str]]:
    async with operator(os.environ, deployed) as parts:
        one = parts.of(account or OWN_ACCOUNT)
        reader = EvidenceReader(one, has_ledger=deployed is not None)
        return await evidence_of(reader, what, everything=everything)


async def evidence_of(
    reader: EvidenceReader, what: str, *, everything: bool = False
) -> tuple[list[InvoiceEvidence], list[str]]:
    """The evidence for an invoice, or all of a subscription or customer, by its id; and notes on it.

    Raises WrongUseError where there is none, and what the parts raise.
    """
    parts = reader.parts
    try:
        if what.startswith("in_"):
            return [await reader.invoice(await parts.billing.invoice(what))], []
        subscriptions = await _subscriptions(parts, what)
    except NotFoundError as error:
        raise WrongUseError(
            f"Stripe knows no {what}; check the id, whether the key is of its mode (live or test), and the "
            "--account, if it is in a connected one"
        ) from error
    since = parts.clock() - (KEPT_FOR if everything else BOUNDS_KEPT)
    found: list[InvoiceEvidence] = []
    notes: list[str] = []
    for subscription in subscriptions:
        try:
            preview = await reader.preview(subscription)
            found += [preview] if preview else []
        except NotPermittedError as error:
            notes.append(
                f"no preview of {subscription['id']}: {error.reason}; STRIPE_KEY may hold a key that may"
            )
        found += [one async for one in reader.invoices(subscription, since)]
    if not found and notes:
        raise NotDoneError(notes[0])
    if not found:
        days = "400" if everything else "35"
        raise WrongUseError(
            f"{what} has no period or invoice of the last {days} days with a line that is billed by usage"
        )
    return found, notes


async def _subscriptions(parts: Operator, what: str) -> list[Json]:
    """The subscription, or all of a customer, also those that are over. Raises NotFoundError."""
    if what.startswith("sub_"):
        return [await parts.billing.subscription(what)]
    await parts.billing.customer(what)
    return [one async for one in parts.billing.subscriptions_of(what)]


def _write(path: Path, document: str) -> None:
    try:
        path.write_text(document, encoding="utf-8")
    except OSError as error:
        raise NotDoneError(
            f"{path} cannot be written: {error.strerror or error}; choose another file"
        ) from error
