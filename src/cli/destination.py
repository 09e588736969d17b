"""The webhook endpoint of a stack in Stripe, and the secret that its signatures need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import stripe
from stripe.params import WebhookEndpointCreateParams, WebhookEndpointUpdateParams

from usage_reporting.credentials import PLACEHOLDER
from usage_reporting.renewals import HANDLED
from usage_reporting.stripe_api import API_VERSION, PAGE_SIZE

EVENT_TYPES = tuple(sorted(HANDLED))
"""What the webhook is told of: all that it handles, and nothing else."""

SECRETS = "stripe_webhook_secret"
ENDPOINTS = "stripe_webhook_endpoints"
"""Beside the signing secrets: which endpoint each belongs to. The functions do not read it."""

STACK = "usage_reporter_stack"
DESCRIPTION = "usage-reporter: usage of ended billing periods"

Json = dict[str, Any]


@dataclass(slots=True)
class Destination:
    """Brings a stack's webhook endpoint in Stripe to what the stack needs.

    A signing secret is shown at creation alone, and an endpoint's version cannot be changed (API
    reference, "Webhook Endpoints"): where either is not right the endpoint is made anew. The new one comes
    first and the old secrets stay for a while, so that no event is lost or refused on the way.
    """

    client: stripe.StripeClient
    url: str
    stack: str
    done: list[str] = field(default_factory=list)
    """What was done, for the operator."""
    outdated: list[str] = field(default_factory=list)
    """Endpoints of the same address to be deleted once the secret is written."""
    created: str = ""

    def prepare(self, secret: Mapping[str, Any]) -> Json:
        """Find, mend or make the endpoint; what the secret is to hold from now on."""
        secrets, owners = _secrets(secret), _owners(secret)
        listed = list(self.client.v1.webhook_endpoints.list({"limit": PAGE_SIZE}).auto_paging_iter())
        here = [endpoint for endpoint in listed if endpoint.url == self.url]
        right = next((one for one in here if _is_right(one, secrets, owners)), None)
        gone = set(owners) - {one.id for one in listed}
        if right is not None:
            self._mend(right)
        secrets = [value for value in secrets if value not in {owners[name] for name in gone}]
        owners = {name: value for name, value in owners.items() if name not in gone}
        self.outdated = [one.id for one in here if right is None or one.id != right.id]
        if right is None:
            right = self._create()
            self.created = right.id
            owners[right.id] = str(right.secret)
            secrets = [str(right.secret), *secrets]
            self.done.append(f"created webhook endpoint {right.id} at API version {API_VERSION}")
        return {**secret, SECRETS: secrets, ENDPOINTS: owners}

    def delete_outdated(self) -> None:
        """Delete the endpoints that a new one replaces."""
        for endpoint in self.outdated:
            self.client.v1.webhook_endpoints.delete(endpoint)
            self.done.append(f"deleted webhook endpoint {endpoint}: its version or its secret was not right")

    def undo(self) -> None:
        """Take back a new endpoint whose secret could not be kept."""
        if self.created:
            self.client.v1.webhook_endpoints.delete(self.created)

    def _mend(self, endpoint: stripe.WebhookEndpoint) -> None:
        events = sorted(endpoint.enabled_events) != sorted(EVENT_TYPES)
        if events or endpoint.status != "enabled":
            changes: Json = {"enabled_events": list(EVENT_TYPES), "disabled": False}
            self.client.v1.webhook_endpoints.update(endpoint.id, cast("WebhookEndpointUpdateParams", changes))
            self.done.append(f"updated webhook endpoint {endpoint.id}: its events, or it was disabled")
        else:
            self.done.append(f"found webhook endpoint {endpoint.id}, as it should be")

    def _create(self) -> stripe.WebhookEndpoint:
        params: Json = {
            "url": self.url,
            "enabled_events": list(EVENT_TYPES),
            "api_version": API_VERSION,
            "description": DESCRIPTION,
            "metadata": {STACK: self.stack},
        }
        return self.client.v1.webhook_endpoints.create(cast("WebhookEndpointCreateParams", params))


def _is_right(endpoint: stripe.WebhookEndpoint, secrets: list[str], owners: Mapping[str, str]) -> bool:
    # What was pasted into the secret by hand, or rolled there, belongs to no endpoint that we know of.
    return endpoint.api_version == API_VERSION and owners.get(endpoint.id) in secrets


def _secrets(secret: Mapping[str, Any]) -> list[str]:
    found = secret.get(SECRETS, [])
    values = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return [value for value in values if isinstance(value, str) and value not in {"", PLACEHOLDER}]


def _owners(secret: Mapping[str, Any]) -> dict[str, str]:
    found = secret.get(ENDPOINTS)
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
