"""Stripe's events over Amazon EventBridge: the destinations in Stripe, and the event sources that they make.

Two destinations, of snapshots and of thin events, and for each Stripe makes a partner event source in the AWS
account. The stack associates them with buses of its own, by its parameters; that has to be done within seven
days of their making, or AWS deletes them (Stripe, "Send events to Amazon EventBridge").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import stripe
from stripe.params.v2.core import EventDestinationCreateParams

from cli.destination import (
    DESCRIPTION,
    ENDPOINTS,
    EVENT_TYPES,
    SECRETS,
    STACK,
    THIN_DESCRIPTION,
    THIN_EVENT_TYPES,
    THIN_NAME,
    Found,
    Kind,
    listed_by_kind,
    made_for,
    owners_in,
    secrets_in,
)
from cli.stack import Stack
from usage_reporting.stripe_api import API_VERSION

SNAPSHOT, THIN = "snapshot", "thin"
TYPES: Mapping[str, tuple[str, ...]] = {SNAPSHOT: EVENT_TYPES, THIN: THIN_EVENT_TYPES}
"""What each destination is told of."""
PARAMETERS = {SNAPSHOT: "StripeEventSource", THIN: "StripeThinEventSource"}
OUTPUTS = {SNAPSHOT: "StripeEventSourceName", THIN: "StripeThinEventSourceName"}
"""The template's, for each."""
LIVING = frozenset({"pending", "active", "unknown"})
"""States of a source that events may still come through; the last is what Stripe could not ask AWS for."""
KIND = "amazon_eventbridge"

_NAMES = {SNAPSHOT: "usage-reporter-events", THIN: THIN_NAME}
_DESCRIPTIONS = {SNAPSHOT: DESCRIPTION, THIN: THIN_DESCRIPTION}

Json = dict[str, Any]


def source_of(arn: str) -> str:
    """The name of a partner event source, which its bus has, too."""
    return arn.partition(":event-source/")[2]


def region_of(arn: str) -> str:
    """The AWS region of a partner event source."""
    return (arn.split(":") + [""] * 4)[3]


@dataclass(frozen=True, slots=True)
class BusDestinations:
    """Event destinations of the v2 API with a partner event source in an AWS account and region.

    Those of another account or region are listed, too; without a payload, of either.
    """

    client: stripe.StripeClient
    payload: str = ""
    account: str = ""
    region: str = ""
    noun: str = "event destination"
    is_connect: bool = False

    def listed(self) -> Iterator[Found]:
        """All of the Stripe account; `url` is the ARN of the source."""
        for one in self.client.v2.core.event_destinations.list({}).auto_paging_iter():
            # Of another type it has no such member at all.
            if one.type != KIND or not one.amazon_eventbridge:
                continue
            payload = one.event_payload
            if self.payload not in {"", payload}:
                continue
            bus = one.amazon_eventbridge
            arn = bus.aws_event_source_arn
            is_ours = (bus.aws_account_id, region_of(arn)) == (self.account, self.region)
            is_right = payload == THIN or one.snapshot_api_version == API_VERSION
            is_living = bus.aws_event_source_status in LIVING
            is_as_wanted = one.status == "enabled" and sorted(one.enabled_events) == list(TYPES[payload])
            yield Found(
                one.id,
                arn,
                is_ours and is_right and is_living,
                is_as_wanted,
                made_for(one.metadata),
                account=bus.aws_account_id,
            )

    def mend(self, id: str) -> None:
        """Enable it for the event types that it should have."""
        self.client.v2.core.event_destinations.update(id, {"enabled_events": list(TYPES[self.payload])})
        self.client.v2.core.event_destinations.enable(id)

    def create(self, url: str, stack: str) -> tuple[str, str]:
        """Make one; its id and the ARN of its source, which has no secret. It has no address either."""
        del url
        version = {"snapshot_api_version": API_VERSION} if self.payload == SNAPSHOT else {}
        params: Json = {
            "name": _NAMES[self.payload],
            "description": _DESCRIPTIONS[self.payload],
            "type": KIND,
            "event_payload": self.payload,
            "enabled_events": list(TYPES[self.payload]),
            "amazon_eventbridge": {"aws_account_id": self.account, "aws_region": self.region},
            "metadata": {STACK: stack},
            **version,
        }
        made = self.client.v2.core.event_destinations.create(cast("EventDestinationCreateParams", params))
        bus = made.amazon_eventbridge
        return made.id, bus.aws_event_source_arn if bus else ""

    def delete(self, id: str) -> None:
        """Delete one."""
        self.client.v2.core.event_destinations.delete(id)


def all_listed(client: stripe.StripeClient) -> list[tuple[Kind, Found]]:
    """All destinations of the kinds that `connect` makes."""
    bus = BusDestinations(client)
    at_urls = [(kind, one) for kind, several in listed_by_kind(client) for one in several]
    return [*at_urls, *((bus, one) for one in bus.listed())]


@dataclass(slots=True)
class EventSources:
    """Brings a stack's destinations over EventBridge to what the stack needs; run again, it goes on."""

    client: stripe.StripeClient
    deployed: Stack
    done: list[str] = field(default_factory=list)
    """What was done, for the operator."""
    left: list[str] = field(default_factory=list)
    """What was not, and why."""
    names: dict[str, str] = field(default_factory=dict)
    """By payload, the sources that the stack should listen to."""
    _created: list[tuple[Kind, str]] = field(default_factory=list)

    @property
    def is_deployed(self) -> bool:
        """Whether the stack listens to just these sources."""
        outputs = self.deployed.outputs
        return all(outputs.get(OUTPUTS[payload]) == name for payload, name in self.names.items())

    @property
    def overrides(self) -> list[str]:
        """The template's parameters that associate the sources with the stack."""
        return [f"{PARAMETERS[payload]}={name}" for payload, name in self.names.items()]

    def prepare(self, secret: Mapping[str, Any]) -> Json:
        """Find, mend or make both destinations; what the secret is to hold from now on.

        Raises Stripe's errors; what was made before is then taken back.
        """
        try:
            for payload in (SNAPSHOT, THIN):
                kind = BusDestinations(self.client, payload, self.deployed.account, self.deployed.region)
                self.names[payload] = source_of(self._bring_in_line(kind, payload))
        except Exception:
            self.undo()
            raise
        if self.deployed.is_over_event_bridge:
            self._delete_dead(secret)
            return {**secret, SECRETS: [], ENDPOINTS: {}}
        # Signed events still come, until the stack is deployed otherwise.
        return {**secret, SECRETS: secrets_in(secret)}

    def delete_outdated(self) -> None:
        """Delete what another one replaces; one that the stack listens to stays until that is deployed."""
        if not self.deployed.is_over_event_bridge:
            return
        used = {*self.names.values(), *(self.deployed.outputs.get(name, "") for name in OUTPUTS.values())}
        for payload in (SNAPSHOT, THIN):
            bus = BusDestinations(self.client, payload, self.deployed.account, self.deployed.region)
            for one in self._ours(bus):
                if source_of(one.url) not in used:
                    bus.delete(one.id)
                    self.done.append(f"deleted {bus.noun} {one.id}: another one took its place")

    def undo(self) -> None:
        """Take back what was made."""
        for kind, id_ in self._created:
            kind.delete(id_)

    def _bring_in_line(self, kind: BusDestinations, payload: str) -> str:
        """The ARN of a source that is, or is to be, the stack's."""
        mine = [one for one in self._ours(kind) if one.can_stay]
        deployed = self.deployed.outputs.get(OUTPUTS[payload])
        right = next((one for one in mine if source_of(one.url) == deployed), mine[0] if mine else None)
        if right is None:
            id_, arn = kind.create("", self.deployed.name)
            self._created.append((kind, id_))
            self.done.append(f"created {kind.noun} {id_} of {payload} events")
            return arn
        if right.is_as_wanted:
            self.done.append(f"found {kind.noun} {right.id} of {payload} events, as it should be")
        else:
            kind.mend(right.id)
            self.done.append(f"updated {kind.noun} {right.id}: its events, or it was disabled")
        return right.url

    def _ours(self, kind: BusDestinations) -> list[Found]:
        """Those made for this very stack: of its name, in its account and region."""
        here = (self.deployed.name, self.deployed.account, self.deployed.region)
        return [one for one in kind.listed() if (one.stack, one.account, region_of(one.url)) == here]

    def _delete_dead(self, secret: Mapping[str, Any]) -> None:
        """Delete the destinations at the address that the stack had; the secret says which these are.

        What Stripe posts there is not answered, and so keeps every draft open for three days.
        """
        owned = owners_in(secret)
        for kind, several in listed_by_kind(self.client):
            for one in [one for one in several if one.id in owned]:
                kind.delete(one.id)
                self.done.append(f"deleted {kind.noun} {one.id}: nothing answers at {one.url} any more")
