"""`usage-reporter event`: a sample event as a function gets it."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from cli.errors import WrongUseError
from cli.ingress import Ingress
from cli.output import AsJson, print_json, print_line
from cli.signing import EVENTS, KINDS, event_bridge_event, sample_event, signed_api_gateway_event
from usage_reporting import container

PLAIN = {
    "closing": "schedule_closing.json",
    "all": "schedule_all.json",
    "reconcile": "schedule_reconcile.json",
    "page": "page.json",
}
"""The events that are no calls of Stripe, and the files that hold them."""


def event(
    type: Annotated[
        str, typer.Argument(help="renewal, renewal-acacia, deleted, closing, all, reconcile, page")
    ],
    ingress: Annotated[
        Ingress, typer.Option("--ingress", help="As API Gateway hands a call over, or EventBridge an event.")
    ] = Ingress.API,
    as_json: AsJson = False,
) -> None:
    """Print a sample event for a function, to be handed to `sam local invoke`.

    Calls of Stripe are signed at this moment with STRIPE_WEBHOOK_SECRET and hold for five minutes; their
    times are moved so that the period ended seconds ago. Schedule ticks and queue pages are not signed, nor
    is what comes over EventBridge.

    Example: `usage-reporter event renewal | sam local invoke WebhookFunction -e -`
    """
    document = _document(type, ingress)
    if as_json:
        print_line(json.dumps(document, separators=(",", ":")))
    else:
        print_json(document)


def _document(type: str, ingress: Ingress) -> Any:
    if type in KINDS and ingress is Ingress.EVENTBRIDGE:
        return event_bridge_event(sample_event(type, container.system_clock()))
    if type in KINDS:
        secret = os.environ.get("STRIPE_WEBHOOK_SECRET", "").strip()
        if not secret:
            raise WrongUseError(
                "STRIPE_WEBHOOK_SECRET is not set, so the event cannot be signed; export the signing secret "
                "that the function knows"
            )
        now = container.system_clock()
        return signed_api_gateway_event(sample_event(type, now), secret, now)
    if type not in PLAIN:
        raise WrongUseError(f"there is no event {type!r}; take one of {', '.join([*KINDS, *PLAIN])}")
    return json.loads((EVENTS / PLAIN[type]).read_bytes())
