"""How Stripe's events come in: to an address of the stack's own, or over Amazon EventBridge."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Ingress(StrEnum):
    """The two ways."""

    API = "api"
    EVENTBRIDGE = "eventbridge"


Played = Annotated[
    Ingress,
    typer.Option(
        "--ingress",
        envvar="STRIPE_INGRESS",
        help="How Stripe's events come in: to API Gateway, or over Amazon EventBridge.",
    ),
]
"""For what plays a deployment on this machine."""
