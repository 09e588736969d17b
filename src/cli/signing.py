"""Sample events as API Gateway hands them to the webhook, signed as Stripe does; or as EventBridge does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sandbox.stripe.partner_events import on_the_bus

EVENTS: Final = Path(__file__).resolve().parents[2] / "events"
"""The sample events, at the root of the repository that this package is installed from."""

KINDS: Final = {
    "renewal": "renewal_basil.json",
    "renewal-acacia": "renewal_acacia.json",
    "deleted": "subscription_deleted.json",
}
"""The kinds of sample events and the files that hold them."""

PATH: Final = "/stripe/webhook"

_INSTANTS = frozenset(
    {
        "billing_cycle_anchor",
        "cancel_at",
        "canceled_at",
        "created",
        "current_period_end",
        "current_period_start",
        "ended_at",
        "start_date",
        "updated_at",
    }
)
_USER_AGENT = "Stripe/1.0 (+https://stripe.com/docs/webhooks)"
_SOURCE = "aws.partner/stripe.com/ed_test_sample"
_DOMAIN = "example.execute-api.us-east-1.amazonaws.com"
_SOURCE_IP = "192.0.2.1"


def stripe_signature(body: bytes, secret: str, now: int) -> str:
    """The `Stripe-Signature` header of a body sent at `now` (UTC unix seconds).

    Source: Stripe documentation, "Receive Stripe events in your webhook endpoint", "Verify
    manually".
    """
    signed = f"{now}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return f"t={now},v1={digest}"


def signed_api_gateway_event(
    body: bytes, secret: str, now: int, *, base64_encoded: bool = False
) -> dict[str, Any]:
    """The event of a Lambda function behind an HTTP API for `POST /stripe/webhook`.

    `now` is the time of the delivery (UTC unix seconds). Raises UnicodeDecodeError for a body that
    is no text and is not to be encoded. Source: Amazon API Gateway documentation, "Create AWS
    Lambda proxy integrations for HTTP APIs", payload format version 2.0.
    """
    text = base64.b64encode(body).decode() if base64_encoded else body.decode()
    moment = datetime.fromtimestamp(now, UTC)
    return {
        "version": "2.0",
        "routeKey": f"POST {PATH}",
        "rawPath": PATH,
        "rawQueryString": "",
        "headers": {
            "accept": "*/*; q=0.5, application/xml",
            "cache-control": "no-cache",
            "content-length": str(len(body)),
            "content-type": "application/json; charset=utf-8",
            "host": _DOMAIN,
            "stripe-signature": stripe_signature(body, secret, now),
            "user-agent": _USER_AGENT,
            "x-forwarded-for": _SOURCE_IP,
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "example",
            "domainName": _DOMAIN,
            "domainPrefix": "example",
            "http": {
                "method": "POST",
                "path": PATH,
                "protocol": "HTTP/1.1",
                "sourceIp": _SOURCE_IP,
                "userAgent": _USER_AGENT,
            },
            "requestId": f"sample-{now}",
            "routeKey": f"POST {PATH}",
            "stage": "$default",
            "time": moment.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": now * 1000,
        },
        "body": text,
        "isBase64Encoded": base64_encoded,
    }


def event_bridge_event(body: bytes) -> dict[str, Any]:
    """The event of a rule's target for an event of Stripe. Source: `sandbox.stripe.partner_events`."""
    event = json.loads(body)
    arn = f"arn:aws:events:us-east-1::event-source/{_SOURCE}"
    entry = {"Source": _SOURCE, "DetailType": event["type"], "Detail": body.decode(), "Resources": [arn]}
    return on_the_bus({**entry, "Time": event["created"]})


def sample_event(kind: str, now: int) -> bytes:
    """The body of a sample event that Stripe would create at `now` (UTC unix seconds).

    All times move with it, so that the period ended seconds before. Raises ValueError for an
    unknown kind, FileNotFoundError without the repository's `events` folder.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of event {kind!r}: use one of {', '.join(KINDS)}")
    event = json.loads((EVENTS / KINDS[kind]).read_bytes())
    moved = _moved(event, now - event["created"])
    moved["id"] = f"{event['id']}_{now}"
    return json.dumps(moved, indent=2).encode()


def _moved(value: Any, seconds: int) -> Any:
    """A JSON value with all its instants later by seconds."""
    if isinstance(value, list):
        return [_moved(item, seconds) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: item + seconds if key in _INSTANTS and isinstance(item, int) else _moved(item, seconds)
        for key, item in value.items()
    }
