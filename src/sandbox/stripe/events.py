"""Events: what changed, told in the shape of each API version that listens."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from sandbox.stripe.account import Account, Json
from sandbox.stripe.render import render
from sandbox.stripe.settings import DEFAULT_API_VERSION
from sandbox.stripe.table import Table
from sandbox.stripe.thin_events import ThinEvent
from sandbox.stripe.versions import ApiVersion

Rendered = Mapping[str, Json]
_EVENT_SECONDS = 30 * 24 * 3600


@dataclass
class Event:
    """One event; `data` per API version, fixed at the moment of the change.

    It is packed: a renewal of 100,000 subscriptions makes half a million events, of several kilobytes each.
    """

    resource: ClassVar[str] = "event"
    id: str
    created: int
    type: str
    object_id: str
    customer: str | None
    data: dict[str, bytes]
    default_version: str
    request_id: str | None
    idempotency_key: str | None
    test_clock: str | None = None
    waiting: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    acknowledged_at: int | None = None

    def body(self, livemode: bool, version: str | None = None, account: str | None = None) -> Json:
        """The Event object in this version, else in the account's at the time of the event.

        `account`: the connected account that it comes from, for whoever listens to several.
        """
        version = version if version in self.data else self.default_version
        shown = event_object(
            id_=self.id,
            type_=self.type,
            created=self.created,
            data=json.loads(zlib.decompress(self.data[version])),
            api_version=version,
            livemode=livemode,
            pending_webhooks=len(self.waiting),
            request={"id": self.request_id, "idempotency_key": self.idempotency_key},
        )
        return shown if account is None else {**shown, "account": account}


AnyEvent = Event | ThinEvent


class Events:
    """Records the account's events and hands them to whoever delivers them."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.table: Table[Event] = Table("event")
        self.thin: Table[ThinEvent] = Table("thin event")
        self.listeners: list[Callable[[AnyEvent], None]] = []

    def render(self, row: Any) -> Rendered:
        """The object as every version in use shows it now, for `emit(before=...)`."""
        return {version: render(self._account, row, ApiVersion(version)) for version in self._versions()}

    def emit(self, type_: str, row: Any, before: Rendered | None = None) -> Event:
        """Record that something happened to row at the account's present instant."""
        account = self._account
        data = {version: _packed(self._data(row, version, before)) for version in self._versions()}
        clock = account.test_clock_of(row.id)
        event = Event(
            id=account.new_id("evt"),
            created=account.now(),
            type=type_,
            object_id=row.id,
            customer=row.id if row.resource == "customer" else getattr(row, "customer", None),
            data=data,
            default_version=account.settings.default_api_version,
            request_id=account.request_id,
            idempotency_key=account.idempotency_key,
            test_clock=clock.id if clock else None,
        )
        return self._record(event)

    def emit_thin(self, type_: str, meter: str | None, data: Json) -> ThinEvent:
        """Record a thin event at the account's present instant."""
        id_ = self._account.new_id("evt")
        return self._record(ThinEvent(id_, self._account.now(), type_, meter, data))

    def repeat(self, event: AnyEvent) -> AnyEvent:
        """Record the same change once more, as an event of its own."""
        return self._record(replace(event, id=self._account.new_id("evt"), waiting=set(), failed=set()))

    def _record[E: AnyEvent](self, event: E) -> E:
        if isinstance(event, ThinEvent):
            self.thin.add(event)
        else:
            self.table.add(event)
        for listener in self.listeners:
            listener(event)
        return event

    def is_kept(self, event: Event) -> bool:
        """Whether the event can still be read: for 30 days (API reference, "Events")."""
        return event.created >= self._account.now() - _EVENT_SECONDS

    def _versions(self) -> set[str]:
        account = self._account
        default = account.settings.default_api_version
        listeners = [*account.endpoints, *account.destinations]
        if account.platform is not None:
            of_platform = (*account.platform.endpoints, *account.platform.destinations)
            listeners += [row for row in of_platform if row.connect]
        # Thin events have none: what they are about is the same in each.
        return {default} | {row.api_version or default for row in listeners}

    def _data(self, row: Any, version: str, before: Rendered | None) -> Json:
        data: Json = {"object": render(self._account, row, ApiVersion(version))}
        if before is not None and version in before:
            data["previous_attributes"] = previous_attributes(before[version], data["object"])
        return data


def _packed(data: Json) -> bytes:
    return zlib.compress(json.dumps(data).encode(), level=1)


def previous_attributes(before: Json, after: Json) -> Json:
    """Old values of what changed: of objects the changed members, of arrays the whole.

    Changelog 2015-01-26 (nested objects) and 2017-05-25 (arrays).
    """
    changed: Json = {}
    for name, old in before.items():
        new = after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changed[name] = previous_attributes(old, new)
        else:
            changed[name] = old
    changed.update({name: None for name in after if name not in before})
    return changed


def event_object(
    *,
    id_: str,
    type_: str,
    created: int,
    data: Json,
    api_version: str,
    livemode: bool,
    pending_webhooks: int,
    request: Json,
) -> Json:
    """An Event object as the API and the webhooks show it."""
    return {
        "id": id_,
        "object": "event",
        "api_version": api_version,
        "created": created,
        "data": data,
        "livemode": livemode,
        "pending_webhooks": pending_webhooks,
        "request": request,
        "type": type_,
    }


def build_event(
    type_: str,
    obj: Json,
    *,
    created: int,
    previous_attributes: Json | None = None,
    api_version: str = DEFAULT_API_VERSION,
    id_: str = "evt_sandboxOffline",
    livemode: bool = False,
) -> bytes:
    """The body of a webhook for any object, built without a sandbox; to be signed with `sign`."""
    data: Json = {"object": obj}
    if previous_attributes is not None:
        data["previous_attributes"] = previous_attributes
    event = event_object(
        id_=id_,
        type_=type_,
        created=created,
        data=data,
        api_version=api_version,
        livemode=livemode,
        pending_webhooks=1,
        request={"id": None, "idempotency_key": None},
    )
    return encode_event(event)


def encode_event(event: Json) -> bytes:
    """The bytes that are posted, and signed."""
    return json.dumps(event, indent=2).encode()
