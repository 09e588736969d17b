"""Events over Amazon EventBridge: what Stripe gives AWS, and what AWS makes of it on the bus."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sandbox.stripe.webhooks import Attempt

Entry = dict[str, Any]
HandOver = Callable[[Entry], bool]
"""Puts an entry on the bus of its source, as PutPartnerEvents does; false: it was not taken."""

PREFIX = "aws.partner/stripe.com/"
"""How the name of each of Stripe's partner event sources begins."""
_ACCOUNT, _REGION = "123456789012", "us-east-1"


def entry_of(attempt: Attempt) -> Entry:
    """An entry of PutPartnerEvents (Amazon EventBridge API reference); `Time` in UTC seconds."""
    assert attempt.source is not None
    return {
        "Source": attempt.source.name,
        "DetailType": attempt.delivery.event.type,
        "Detail": attempt.body.decode(),
        "Resources": [attempt.source.arn],
        "Time": attempt.delivery.event.created,
    }


def on_the_bus(entry: Entry, account: str = _ACCOUNT, region: str = _REGION) -> dict[str, Any]:
    """What the targets of rules get (Amazon EventBridge, "Event structure")."""
    return {
        "version": "0",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{entry['Source']} {entry['Detail']}")),
        "detail-type": entry["DetailType"],
        "source": entry["Source"],
        "account": account,
        "time": datetime.fromtimestamp(entry["Time"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": entry["Resources"],
        "detail": json.loads(entry["Detail"]),
    }


def no_bus(_entry: Entry) -> bool:
    """Where there is no AWS that would take it."""
    return False
