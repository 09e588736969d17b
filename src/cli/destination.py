"""Where Stripe posts a stack's events, and the secrets that their signatures need.

Two destinations with one address: a webhook endpoint for the events of billing periods, and an event
destination of the v2 API for thin events, which is the only kind that tells of refused meter events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import stripe
from stripe.params import WebhookEndpointCreateParams, WebhookEndpointUpdateParams
from stripe.params.v2.core import EventDestinationCreateParams

from cli.errors import NotDoneError
from usage_reporting.credentials import PLACEHOLDER
from usage_reporting.error_reports import THIN_EVENTS
from usage_reporting.renewals import HANDLED
from usage_reporting.stripe_api import API_VERSION, PAGE_SIZE

EVENT_TYPES = tuple(sorted(HANDLED))
"""What the webhook endpoint is told of: all that the webhook handles, and nothing else."""

THIN_EVENT_TYPES = tuple(sorted(THIN_EVENTS))
"""What the event destination is told of."""

SECRETS = "stripe_webhook_secret"
ENDPOINTS = "stripe_webhook_endpoints"
"""Beside the signing secrets: which destination each belongs to. The functions do not read it."""

STACK = "usage_reporter_stack"
EVENTS_FROM = "usage_reporter_events_from"
"""In the metadata of a webhook endpoint: whose events it is told of; it may not say so by itself."""
ACCOUNTS = "@accounts"
"""Of connected accounts, in Stripe's word for event destinations ("Create an Event Destination")."""
DESCRIPTION = "usage-reporter: usage of ended billing periods"
THIN_NAME = "usage-reporter"
THIN_DESCRIPTION = "usage-reporter: meter events that Stripe refused after it had accepted them"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A destination that exists."""

    id: str
    url: str
    can_stay: bool
    """Whether nothing about it is wrong that cannot be changed."""
    is_as_wanted: bool
    """Whether it is enabled for just the event types that it should have."""
    stack: str = ""
    """The stack that `connect` made it for; empty: somebody else made it."""
    is_connect: bool = False
    """Whether it is told of connected accounts, and of those alone."""
    account: str = ""
    """The AWS account of its event source, if it is one over EventBridge; `url` is then the source's ARN."""


class Kind(Protocol):
    """One of the two kinds of destinations, as Stripe's API has it."""

    @property
    def noun(self) -> str:
        """What Stripe calls it."""

    @property
    def is_connect(self) -> bool:
        """Whether it is told of connected accounts, and of those alone."""

    def listed(self) -> Iterator[Found]:
        """All of the account, at whatever address, and whomever they are told of."""

    def mend(self, id: str) -> None:
        """Enable it for the event types that it should have."""

    def create(self, url: str, stack: str) -> tuple[str, str]:
        """Make one; its id and its signing secret, which is shown this once."""

    def delete(self, id: str) -> None:
        """Delete one."""


@dataclass(frozen=True, slots=True)
class SnapshotEndpoints:
    """Webhook endpoints of the v1 API. Their version cannot be changed ("Update a webhook endpoint")."""

    client: stripe.StripeClient
    is_connect: bool = False

    @property
    def noun(self) -> str:
        """What Stripe calls it."""
        return "Connect webhook endpoint" if self.is_connect else "webhook endpoint"

    def listed(self) -> Iterator[Found]:
        """All of the account."""
        for one in self.client.v1.webhook_endpoints.list({"limit": PAGE_SIZE}).auto_paging_iter():
            is_as_wanted = one.status == "enabled" and sorted(one.enabled_events) == list(EVENT_TYPES)
            is_right = one.api_version == API_VERSION
            is_connect = is_connect_endpoint(one.application, one.metadata)
            yield Found(one.id, one.url, is_right, is_as_wanted, made_for(one.metadata), is_connect)

    def mend(self, id: str) -> None:
        """Enable it for the events of billing periods."""
        changes: Json = {"enabled_events": list(EVENT_TYPES), "disabled": False}
        self.client.v1.webhook_endpoints.update(id, cast("WebhookEndpointUpdateParams", changes))

    def create(self, url: str, stack: str) -> tuple[str, str]:
        """Make one at the version that is pinned."""
        params: Json = {
            "url": url,
            "enabled_events": list(EVENT_TYPES),
            "api_version": API_VERSION,
            "description": DESCRIPTION,
            "metadata": {STACK: stack},
        }
        if self.is_connect:
            params |= {"connect": True, "metadata": {STACK: stack, EVENTS_FROM: ACCOUNTS}}
        made = self.client.v1.webhook_endpoints.create(cast("WebhookEndpointCreateParams", params))
        return made.id, made.secret or ""

    def delete(self, id: str) -> None:
        """Delete one."""
        self.client.v1.webhook_endpoints.delete(id)


@dataclass(frozen=True, slots=True)
class ThinDestinations:
    """Event destinations of the v2 API; thin events have no version (API reference, "Event Destinations")."""

    client: stripe.StripeClient
    is_connect: bool = False

    @property
    def noun(self) -> str:
        """What Stripe calls it."""
        return "event destination of connected accounts" if self.is_connect else "event destination"

    def listed(self) -> Iterator[Found]:
        """All of the account that get thin events at an address."""
        pages = self.client.v2.core.event_destinations.list({"include": ["webhook_endpoint.url"]})
        for one in pages.auto_paging_iter():
            if (one.event_payload, one.type) == ("thin", "webhook_endpoint") and one.webhook_endpoint:
                is_connect = list(one.events_from or []) == [ACCOUNTS]
                is_as_wanted = one.status == "enabled" and sorted(one.enabled_events) == list(
                    THIN_EVENT_TYPES
                )
                url = one.webhook_endpoint.url or ""
                yield Found(one.id, url, True, is_as_wanted, made_for(one.metadata), is_connect)

    def mend(self, id: str) -> None:
        """Enable it for the reports of refused meter events."""
        self.client.v2.core.event_destinations.update(id, {"enabled_events": list(THIN_EVENT_TYPES)})
        self.client.v2.core.event_destinations.enable(id)

    def create(self, url: str, stack: str) -> tuple[str, str]:
        """Make one, and ask for its secret."""
        params: Json = {
            "name": THIN_NAME,
            "description": THIN_DESCRIPTION,
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": list(THIN_EVENT_TYPES),
            "webhook_endpoint": {"url": url},
            "metadata": {STACK: stack},
            "include": ["webhook_endpoint.signing_secret"],
        }
        if self.is_connect:
            params |= {"name": f"{THIN_NAME} (connected accounts)", "events_from": [ACCOUNTS]}
        made = self.client.v2.core.event_destinations.create(cast("EventDestinationCreateParams", params))
        shown = made.webhook_endpoint
        return made.id, (shown.signing_secret if shown else "") or ""

    def delete(self, id: str) -> None:
        """Delete one."""
        self.client.v2.core.event_destinations.delete(id)


def made_for(metadata: Any) -> str:
    """The stack in the metadata of a destination, or an empty text."""
    return str(metadata[STACK]) if metadata and STACK in metadata else ""


def is_connect_endpoint(application: Any, metadata: Any) -> bool:
    """Whether a webhook endpoint is told of connected accounts: Stripe shows their application then."""
    return bool(application) or bool(metadata and EVENTS_FROM in metadata)


def listed_by_kind(client: stripe.StripeClient) -> list[tuple[Kind, list[Found]]]:
    """All of both kinds, each kind for the key's own account and for those connected to it."""
    found: list[tuple[Kind, list[Found]]] = []
    for kind in (SnapshotEndpoints, ThinDestinations):
        everything = list(kind(client).listed())
        for is_connect in (False, True):
            wanted = [one for one in everything if one.is_connect is is_connect]
            found.append((kind(client, is_connect=is_connect), wanted))
    return found


@dataclass(slots=True)
class Destinations:
    """Brings a stack's destinations in Stripe to what the stack needs: two, and two of connected accounts.

    A signing secret is shown at creation alone: where it is not known, or something is wrong that cannot be
    changed, a destination is made anew. The new one comes first and the old secrets stay for a while, so
    that no event is lost or refused on the way.
    """

    client: stripe.StripeClient
    url: str
    stack: str
    serves_connected: bool = False
    """Whether the stack bills connected accounts, too."""
    done: list[str] = field(default_factory=list)
    """What was done, for the operator."""
    _outdated: list[tuple[Kind, str, str]] = field(default_factory=list)
    """Of the same address; to be deleted once the secret is written, and why."""
    _created: list[tuple[Kind, str]] = field(default_factory=list)

    def prepare(self, secret: Mapping[str, Any]) -> Json:
        """Find, mend or make both; what the secret is to hold from now on.

        Raises Stripe's errors; what was made before is then taken back.
        """
        secrets, owners = secrets_in(secret), owners_in(secret)
        listed = listed_by_kind(self.client)
        gone = set(owners) - {one.id for _, found in listed for one in found}
        known = {name: value for name, value in owners.items() if value in secrets}
        secrets = [value for value in secrets if value not in {owners[name] for name in gone}]
        owners = {name: value for name, value in owners.items() if name not in gone}
        try:
            for kind, found in listed:
                here = [one for one in found if one.url == self.url]
                if kind.is_connect and not self.serves_connected:
                    no_use = [(kind, one.id, "no connected account is served") for one in here if one.stack]
                    self._outdated += no_use
                    continue
                made = self._bring_in_line(kind, here, known)
                owners |= made
                secrets = [*made.values(), *secrets]
        except Exception:
            self.undo()
            raise
        return {**secret, SECRETS: secrets, ENDPOINTS: owners}

    def delete_outdated(self) -> None:
        """Delete the destinations that a new one replaces."""
        for kind, id_, why in self._outdated:
            kind.delete(id_)
            self.done.append(f"deleted {kind.noun} {id_}: {why}")

    def undo(self) -> None:
        """Take back new destinations whose secret could not be kept."""
        for kind, id_ in self._created:
            kind.delete(id_)

    def _bring_in_line(self, kind: Kind, here: list[Found], known: Mapping[str, str]) -> dict[str, str]:
        """The id and the secret of a new destination; empty when there is a right one."""
        # What was pasted into the secret by hand, or rolled there, belongs to none that we know of.
        right = next((one for one in here if one.can_stay and one.id in known), None)
        why = "its version or its secret was not right"
        self._outdated += [(kind, one.id, why) for one in here if one != right]
        if right is None:
            id_, signing_secret = kind.create(self.url, self.stack)
            self._created.append((kind, id_))
            if not signing_secret:
                raise NotDoneError(f"Stripe did not show the signing secret of the new {kind.noun}")
            self.done.append(f"created {kind.noun} {id_}")
            return {id_: signing_secret}
        if right.is_as_wanted:
            self.done.append(f"found {kind.noun} {right.id}, as it should be")
        else:
            kind.mend(right.id)
            self.done.append(f"updated {kind.noun} {right.id}: its events, or it was disabled")
        return {}


def secrets_in(secret: Mapping[str, Any]) -> list[str]:
    """The signing secrets that a stack's secret holds."""
    found = secret.get(SECRETS, [])
    values = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return [value for value in values if isinstance(value, str) and value not in {"", PLACEHOLDER}]


def owners_in(secret: Mapping[str, Any]) -> dict[str, str]:
    """Whose signing secrets they are: the ids of destinations that `connect` made, and each one's secret."""
    found = secret.get(ENDPOINTS)
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
