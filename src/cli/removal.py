"""`usage-reporter connect --remove`: deletes in Stripe what `connect` made, and says what stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import boto3
import stripe
import typer

from cli.destination import Found, Kind, owners_in
from cli.errors import WrongUseError
from cli.event_sources import all_listed, region_of
from cli.output import is_terminal, print_json, print_line, warn
from cli.stack import Stack
from cli.stripe_account import stripe_client

DOCUMENT = "docs/upgrade-and-removal.md"


@dataclass(slots=True)
class Sorted:
    """The destinations that have to do with a stack."""

    ours: list[tuple[Kind, Found]] = field(default_factory=list)
    """Made by `connect` for this stack."""
    left: list[str] = field(default_factory=list)
    """What stays, and why, for the operator."""


def remove(stack: str, region: str, key: str, *, yes: bool, as_json: bool) -> None:
    """Delete a stack's destinations; run again, it goes on where it stopped.

    Raises WrongUseError where it is not clear whose they are, and the errors of Stripe and AWS.
    """
    deployed = _deployed(stack, region)
    with stripe_client(key, os.environ) as client:
        listed = all_listed(client)
        found = sort_out(listed, stack, here_of(deployed) if deployed else None)
        if not deployed:
            check_address([one for _, one in found.ours], stack, region)
        if found.ours and not (yes or _is_wanted(found.ours, is_live=bool(deployed))):
            raise typer.Exit(1)
        done = []
        for kind, one in found.ours:
            if not _is_deleted(kind, one.id):
                found.left.append(f"nothing of {kind.noun} {one.id}: somebody else deleted it just now")
                continue
            done.append(f"deleted {kind.noun} {one.id}")
            if not as_json:
                print_line(done[-1])
    left = [*found.left, *_kept_in_aws(deployed)]
    if as_json:
        print_json({"stack": stack, "deleted": done, "left": left})
        return
    for line in left:
        print_line(f"left {line}")
    print_line(f"{stack}: {len(done)} destinations deleted in Stripe")


def _is_deleted(kind: Kind, id_: str) -> bool:
    """Delete one; false when it is gone already. Raises Stripe's other errors."""
    try:
        kind.delete(id_)
    except stripe.StripeError as error:
        if error.http_status != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True


def here_of(deployed: Stack) -> Callable[[Found], bool]:
    """What tells whether a destination is at a stack: at its address, or in its AWS account and region.

    A stack on EventBridge has no address any more; its secret says which destinations were at it.
    """
    url = deployed.outputs.get("WebhookUrl", "")
    had = owners_in(deployed.read_secret()) if deployed.is_over_event_bridge else {}

    def is_here(one: Found) -> bool:
        if one.account:
            return (one.account, region_of(one.url)) == (deployed.account, deployed.region)
        return one.id in had or (bool(url) and one.url == url)

    return is_here


def sort_out(
    listed: Sequence[tuple[Kind, Found]], stack: str, here: Callable[[Found], bool] | None
) -> Sorted:
    """Tell a stack's own destinations from others; `here`: which are at it, None when it is gone."""
    found = Sorted()
    for kind, one in listed:
        is_here = here is not None and here(one)
        if one.stack == stack and (is_here or here is None):
            found.ours.append((kind, one))
        elif one.stack == stack:
            found.left.append(f"{kind.noun} {one.id}: made for another stack of this name, at {one.url}")
        elif is_here and not one.account:
            found.left.append(
                f"{kind.noun} {one.id}: it is at the stack's address, but connect did not make it"
            )
    return found


def check_address(ours: Sequence[Found], stack: str, region: str) -> None:
    """See that destinations of a stack that is not there are not those of one that lives elsewhere.

    Raises WrongUseError when they may be.
    """
    where = region or os.environ.get("AWS_REGION") or boto3.Session().region_name or ""
    addresses = sorted({one.url for one in ours if not one.account})
    # https://ID.execute-api.REGION.amazonaws.com/...
    elsewhere = [url for url in addresses if f".execute-api.{where}." not in f"{urlsplit(url).hostname}."]
    elsewhere += [one.url for one in ours if one.account and region_of(one.url) != where]
    if elsewhere:
        raise WrongUseError(
            f"there is no stack {stack!r} in {where}, but destinations of a stack of this name are at "
            f"{', '.join(elsewhere)}; pass the --region of that address"
        )
    if len(addresses) > 1:
        raise WrongUseError(
            f"there is no stack {stack!r} in {where}, and destinations made for this name have several "
            f"addresses ({', '.join(addresses)}); delete those that are not needed in Stripe's Dashboard"
        )


def _deployed(stack: str, region: str) -> Stack | None:
    """The stack; None when it was deleted."""
    try:
        return Stack.read(stack, region)
    except WrongUseError:
        return None


def _is_wanted(ours: Sequence[tuple[Kind, Found]], *, is_live: bool) -> bool:
    for kind, one in ours:
        warn(f"{kind.noun} {one.id} at {one.url}")
    if is_live:
        warn(
            "The stack is there still: without them it finds renewals by its ticks alone, and never hears of "
            "usage that Stripe refuses afterwards."
        )
    else:
        warn(
            "These AWS credentials see no stack of this name in that region. If it is in another AWS account "
            "it is alive, and needs them."
        )
    if not is_terminal():
        raise WrongUseError("there is no terminal to ask at; look at these, then pass --yes")
    return typer.confirm("Delete them in Stripe?", err=True)


def _kept_in_aws(deployed: Stack | None) -> list[str]:
    if deployed is None:
        return [f"the table and the secret that the deleted stack kept: see {DOCUMENT}"]
    return [
        f"the secret {deployed.output('SecretArn')}: the keys, and signing secrets without use now",
        f"the ledger {deployed.output('LedgerTableName')}: what Stripe was told",
    ]
