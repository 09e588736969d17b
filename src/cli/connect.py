"""`usage-reporter connect`: tells Stripe about a stack, and the stack its keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import stripe
import typer

from cli.destination import EVENT_TYPES, THIN_EVENT_TYPES, Destinations
from cli.errors import WrongUseError
from cli.event_sources import BusDestinations, EventSources, source_of
from cli.ingress import Ingress
from cli.output import AsJson, Region, is_terminal, print_json, print_line, warn
from cli.removal import remove
from cli.stack import Stack
from cli.stripe_account import is_test_key, key_of, stripe_client
from usage_reporting.accounts import ConnectedAccounts
from usage_reporting.credentials import PLACEHOLDER

STRIPE_KEY = "stripe_api_key"
OPENMETER_KEY = "openmeter_api_key"

_NOT_OF_CONNECTED = (
    "note: events of connected accounts do not come over EventBridge: the ticks find their periods and "
    "endings, but nobody tells of usage of theirs that Stripe refuses afterwards"
)
_OTHER_REPORTERS = (
    "note: any other reporter of this usage to Stripe must have stopped an hour before this stack sends "
    "(parameter Mode=live): Stripe's summaries lag"
)


def connect(
    *,
    stack: Annotated[str, typer.Option("--stack", help="Name of the deployed CloudFormation stack.")],
    is_removal: Annotated[
        bool, typer.Option("--remove", help="Delete in Stripe what connect made for this stack.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, with --remove.")] = False,
    ingress: Annotated[
        Ingress | None,
        typer.Option(
            "--ingress",
            help="How Stripe's events come in: to API Gateway, or over Amazon EventBridge. As the stack is "
            "deployed, if not given.",
        ),
    ] = None,
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Create the stack's destinations of events in Stripe, and store all keys in its secret.

    Run it after the first deployment, after an upgrade, or to write a new key: it makes anew only what is
    not right. The Stripe key is taken from STRIPE_KEY, or asked for; OPENMETER_API_KEY may be left out for
    an OpenMeter without keys. No key is ever printed.

    A stack with ConnectedAccounts gets two more of them, for the events of connected accounts.

    With --ingress eventbridge it makes event destinations on Amazon EventBridge instead, for the AWS account
    and region of the stack, and prints the deployment that associates their partner event sources with it.
    Run it once more right after that deployment: it then deletes the webhook endpoint, whose address is gone.

    With --remove it deletes the destinations again, and nothing else: those that it made for a stack of
    this name, at that stack's address. It asks first, and says what stays. The stack may be gone already.

    Example: `STRIPE_KEY=rk_live_... OPENMETER_API_KEY=om_... usage-reporter connect --stack usage-reporter`
    """
    key = key_of(os.environ) or _asked_for()
    if is_removal:
        if ingress is not None:
            raise WrongUseError("--remove removes what came in either way; leave --ingress out")
        remove(stack, region, key, yes=yes, as_json=as_json)
        return
    if yes:
        raise WrongUseError("--yes goes with --remove; without that there is nothing to ask")
    deployed = Stack.read(stack, region)
    openmeter_key = os.environ.get("OPENMETER_API_KEY", "").strip()
    with stripe_client(key, os.environ) as client:
        serves_connected = _serves_connected(deployed)
        if _is_for_event_bridge(deployed, ingress):
            sources = EventSources(client, deployed)
            connect_stack(deployed, sources, key, openmeter_key)
            if serves_connected:
                warn(_NOT_OF_CONNECTED)
            _tell_of_sources(deployed, sources, as_json=as_json)
            return
        destinations = Destinations(client, deployed.output("WebhookUrl"), stack, serves_connected)
        connect_stack(deployed, destinations, key, openmeter_key)
        unused = _unused_sources(client, deployed)
    warn(_OTHER_REPORTERS)
    for line in unused:
        warn(line)
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


def connect_stack(
    deployed: Stack, destinations: Destinations | EventSources, stripe_key: str, openmeter_key: str
) -> None:
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


def _is_for_event_bridge(deployed: Stack, ingress: Ingress | None) -> bool:
    """Raises WrongUseError where the stack has no address that Stripe could post to."""
    if ingress is Ingress.API and deployed.is_over_event_bridge:
        raise WrongUseError(
            f"stack {deployed.name!r} has no address: Stripe's events come to it over EventBridge; first "
            "deploy it with StripeEventSource and StripeThinEventSource empty"
        )
    return deployed.is_over_event_bridge if ingress is None else ingress is Ingress.EVENTBRIDGE


def deployment(deployed: Stack, overrides: Sequence[str]) -> str:
    """The command that changes these parameters of a stack and no others."""
    return (
        f"sam deploy --stack-name {deployed.name} --region {deployed.region} --resolve-s3 "
        f"--capabilities CAPABILITY_IAM --parameter-overrides {' '.join(overrides)}"
    )


def _tell_of_sources(deployed: Stack, sources: EventSources, *, as_json: bool) -> None:
    warn(_OTHER_REPORTERS)
    again = f"usage-reporter connect --stack {deployed.name} --region {deployed.region}"
    command = "" if sources.is_deployed else f"{deployment(deployed, sources.overrides)} && {again}"
    if as_json:
        print_json(
            {
                "stack": deployed.name,
                "sources": sources.names,
                "events": [*EVENT_TYPES, *THIN_EVENT_TYPES],
                "done": sources.done,
                "deploy": command or None,
            }
        )
        return
    for line in sources.done:
        print_line(line)
    for payload, name in sources.names.items():
        print_line(f"partner event source of {payload} events: {name}")
    if not command:
        print_line(
            f"{deployed.name}: Stripe's events come over EventBridge, and the stack listens to both sources"
        )
        return
    print_line()
    print_line(
        "Nothing comes through them yet, and AWS deletes them after seven days. Deploy, and connect again:"
    )
    print_line()
    print_line(command)


def _unused_sources(client: stripe.StripeClient, deployed: Stack) -> list[str]:
    """What is to be said of destinations over EventBridge that the stack does not listen to."""
    kind = BusDestinations(client)
    how = f"`usage-reporter connect --stack {deployed.name} --ingress eventbridge` says how it can"
    return [
        f"note: the stack does not listen to {kind.noun} {one.id} ({source_of(one.url)}); {how}, or delete "
        "it in Stripe"
        for one in kind.listed()
        if (one.stack, one.account) == (deployed.name, deployed.account)
    ]


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
