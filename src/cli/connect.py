"""`usage-reporter connect`: tells Stripe about a stack, and the stack its keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli.destination import EVENT_TYPES, THIN_EVENT_TYPES, Destinations
from cli.errors import WrongUseError
from cli.output import AsJson, Region, is_terminal, print_json, print_line, warn
from cli.removal import remove
from cli.stack import Stack
from cli.stripe_account import is_test_key, key_of, stripe_client
from usage_reporting.accounts import ConnectedAccounts
from usage_reporting.credentials import PLACEHOLDER

STRIPE_KEY = "stripe_api_key"
OPENMETER_KEY = "openmeter_api_key"


def connect(
    *,
    stack: Annotated[str, typer.Option("--stack", help="Name of the deployed CloudFormation stack.")],
    is_removal: Annotated[
        bool, typer.Option("--remove", help="Delete in Stripe what connect made for this stack.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, with --remove.")] = False,
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Create the stack's webhook endpoint and event destination in Stripe, and store all keys in its secret.

    Run it after the first deployment, after an upgrade, or to write a new key: it makes anew only what is
    not right. The Stripe key is taken from STRIPE_KEY, or asked for; OPENMETER_API_KEY may be left out for
    an OpenMeter without keys. No key is ever printed.

    A stack with ConnectedAccounts gets two more of them, for the events of connected accounts.

    With --remove it deletes the destinations again, and nothing else: those that it made for a stack of
    this name, at that stack's address. It asks first, and says what stays. The stack may be gone already.

    Example: `STRIPE_KEY=rk_live_... OPENMETER_API_KEY=om_... usage-reporter connect --stack usage-reporter`
    """
    key = key_of(os.environ) or _asked_for()
    if is_removal:
        remove(stack, region, key, yes=yes, as_json=as_json)
        return
    if yes:
        raise WrongUseError("--yes goes with --remove; without that there is nothing to ask")
    deployed = Stack.read(stack, region)
    with stripe_client(key, os.environ) as client:
        destinations = Destinations(client, deployed.output("WebhookUrl"), stack, _serves_connected(deployed))
        connect_stack(deployed, destinations, key, os.environ.get("OPENMETER_API_KEY", "").strip())
    warn(
        "note: any other reporter of this usage to Stripe must have stopped an hour before this stack sends "
        "(parameter Mode=live): Stripe's summaries lag"
    )
    if as_json:
        print_json(
            {
                "stack": stack,
                "url": destinations.url,
                "events": [*EVENT_TYPES, *THIN_EVENT_TYPES],
                "done": destinations.done,
            }
        )
        return
    for line in destinations.done:
        print_line(line)
    print_line(f"{stack}: Stripe posts {', '.join([*EVENT_TYPES, *THIN_EVENT_TYPES])} to {destinations.url}")


def _serves_connected(deployed: Stack) -> bool:
    """Whether the stack bills connected accounts. Raises WrongUseError for what is no setting of it."""
    try:
        return bool(ConnectedAccounts.parse(deployed.environment().get("CONNECTED_ACCOUNTS", "")))
    except ValueError as error:
        raise WrongUseError(f"CONNECTED_ACCOUNTS of the stack is odd: {error}") from error


def connect_stack(deployed: Stack, destinations: Destinations, stripe_key: str, openmeter_key: str) -> None:
    """Bring destinations and secret in line, the secret before the old destinations go.

    Raises the errors of Stripe and AWS; a new destination whose secret cannot be written is deleted again.
    """
    before = deployed.read_secret()
    _warn_of_other_mode(before, stripe_key)
    wanted = destinations.prepare(before)
    wanted[STRIPE_KEY] = stripe_key
    if openmeter_key:
        wanted[OPENMETER_KEY] = openmeter_key
    elif wanted.get(OPENMETER_KEY) == PLACEHOLDER:
        del wanted[OPENMETER_KEY]
    if wanted != before:
        try:
            deployed.write_secret(wanted)
        except Exception:
            destinations.undo()
            raise
        destinations.done.append("wrote keys and signing secrets to Secrets Manager")
    destinations.delete_outdated()


def _asked_for() -> str:
    if not is_terminal():
        raise WrongUseError(
            "STRIPE_KEY is not set and there is no terminal to ask at; export the Stripe key that the stack "
            "is to use"
        )
    key: str = typer.prompt("Stripe key that the stack is to use", hide_input=True, err=True)
    return key.strip()


def _warn_of_other_mode(before: Mapping[str, Any], key: str) -> None:
    old = before.get(STRIPE_KEY)
    if isinstance(old, str) and old not in {"", PLACEHOLDER} and is_test_key(old) != is_test_key(key):
        new, former = ("test", "live") if is_test_key(key) else ("live", "test")
        warn(f"warning: the stack used a key of {former} mode before, and uses one of {new} mode now")
