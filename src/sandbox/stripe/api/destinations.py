"""Event destinations of the v2 API: of thin events at a URL; over Amazon EventBridge, of snapshots, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sandbox.stripe.account import Json
from sandbox.stripe.api.event_types import EVENT_TYPES
from sandbox.stripe.api.events import MAX_ENDPOINTS, check_url
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import StripeError, invalid, malformed
from sandbox.stripe.metadata import merged
from sandbox.stripe.objects import EventDestination, EventSource, WebhookSecret
from sandbox.stripe.partner_events import PREFIX
from sandbox.stripe.schema import METADATA, Choice, Fields, Integer, Rows, Text, choice
from sandbox.stripe.thin_events import THIN_EVENT_TYPES, instant
from sandbox.stripe.versions import KNOWN_VERSIONS
from sandbox.stripe.webhooks import expire

_SECRET, _URL = "webhook_endpoint.signing_secret", "webhook_endpoint.url"
_SELF, _ACCOUNTS = "@self", "@accounts"
_DEFAULT_LIMIT, _MOST = 20, 100
_EVENT_SECONDS = 30 * 24 * 3600


def _create(call: Call) -> Json:
    params = call.params
    _check_kind(params)
    if len(call.account.endpoints) + len(call.account.destinations) >= MAX_ENDPOINTS:
        raise invalid(f"You have reached the maximum of {MAX_ENDPOINTS} event destinations.")
    now = call.account.now()
    made = EventDestination(
        id=call.account.new_id("ed" if call.account.settings.livemode else "ed_test"),
        created=now,
        updated=now,
        name=params["name"],
        enabled_events=params["enabled_events"],
        connect=_is_connect(params.get("events_from", [_SELF])),
        event_payload=params["event_payload"],
        api_version=_version(call),
        description=params.get("description", ""),
        metadata=merged({}, params.get("metadata", {})),
    )
    _set_transport(call, made)
    call.account.destinations.add(made)
    return _show(call, made)


def _is_connect(origins: list[str]) -> bool:
    """Whose events it is sent: the documentation shows no destination of both."""
    if len(origins) != 1:
        raise malformed("Events can come from the account, or from its connected accounts.", "events_from")
    return origins == [_ACCOUNTS]


def _check_kind(params: Mapping[str, Any]) -> None:
    """Raises StripeError where the parts of a destination do not go together."""
    kind, payload = params["type"], params["event_payload"]
    if kind == "azure_event_grid" or (kind, payload) == ("webhook_endpoint", "snapshot"):
        raise invalid("The stand-in has v2 destinations for thin events at a URL, and on Amazon EventBridge.")
    if payload == "thin" and "snapshot_api_version" in params:
        raise malformed("Thin events have no API version.", "snapshot_api_version")
    for name in ("webhook_endpoint", "amazon_eventbridge"):
        if (name == kind) != (name in params):
            raise malformed(f"A destination of type {kind} has its own settings, and no others.", name)
    _check_types(payload, params["enabled_events"])


def _check_types(payload: str, types: list[str]) -> None:
    """Raises StripeError for an event that there is not in this form."""
    known = THIN_EVENT_TYPES if payload == "thin" else EVENT_TYPES
    if unknown := [one for one in types if one not in known]:
        raise malformed(f"There is no {payload} event of type {unknown[0]}.", "enabled_events")


def _version(call: Call) -> str | None:
    """The version of snapshots, which cannot be changed afterwards; of the account, if none is named."""
    if call.params["event_payload"] == "thin":
        return None
    version: str = call.params.get("snapshot_api_version", call.account.settings.default_api_version)
    return version


def _set_transport(call: Call, made: EventDestination) -> None:
    if "amazon_eventbridge" in call.params:
        given = call.params["amazon_eventbridge"]
        if not re.fullmatch(r"\d{12}", given["aws_account_id"]):
            raise malformed("An AWS account has 12 digits.", "amazon_eventbridge[aws_account_id]")
        if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", given["aws_region"]):
            raise malformed("There is no such AWS region.", "amazon_eventbridge[aws_region]")
        made.event_source = EventSource(PREFIX + made.id, given["aws_account_id"], given["aws_region"])
        return
    made.url = call.params["webhook_endpoint"]["url"]
    check_url(call, made.url)
    made.secrets = [WebhookSecret(call.account.new_id("whsec", 32))]


def _update(call: Call) -> Json:
    found = _found(call)
    if "webhook_endpoint" in call.params:
        if found.event_source is not None:
            raise malformed("This destination has no URL.", "webhook_endpoint")
        check_url(call, call.params["webhook_endpoint"]["url"])
        found.url = call.params["webhook_endpoint"]["url"]
    _check_types(found.event_payload, call.params.get("enabled_events", []))
    found.name = call.params.get("name", found.name)
    found.description = call.params.get("description", found.description)
    found.enabled_events = call.params.get("enabled_events", found.enabled_events)
    found.metadata = merged(found.metadata, call.params.get("metadata", {}))
    found.updated = call.account.now()
    return _show(call, found)


def _switch(call: Call, status: str) -> Json:
    found = _found(call)
    found.status, found.disabled_reason = status, "user"
    found.updated = call.account.now()
    return _show(call, found)


def _delete(call: Call) -> Json:
    found = _found(call)
    call.account.destinations.remove(found.id)
    return {"id": found.id, "object": found.resource}


def _list(call: Call) -> Json:
    """Pages by URL: the v2 API has no cursors of ids (API reference, "Pagination in v2")."""
    rows = list(call.account.destinations.newest())
    page = call.params.get("page", "0")
    if not page.isdecimal():
        raise malformed("The page does not exist.", "page")
    first, limit = int(page), call.params.get("limit", _DEFAULT_LIMIT)

    def url(start: int) -> str:
        include = "".join(f"&include[{n}]={name}" for n, name in enumerate(call.params.get("include", [])))
        return f"{call.path}?page={start}&limit={limit}{include}"

    return {
        "data": [_show(call, row) for row in rows[first : first + limit]],
        "next_page_url": url(first + limit) if first + limit < len(rows) else None,
        "previous_page_url": url(max(first - limit, 0)) if first else None,
    }


def _retrieve_event(call: Call) -> Json:
    """An event of the last 30 days, with its data."""
    event = call.stripe.events.thin.find(call.id)
    if event is None or event.created < call.account.now() - _EVENT_SECONDS:
        raise _not_found("event", call.id)
    settings = call.account.settings
    return event.fetched(settings.livemode, settings.account_id if call.account.platform else None)


def _found(call: Call) -> EventDestination:
    found = call.account.destinations.find(call.id)
    if found is None:
        raise _not_found("event destination", call.id)
    return found


def _not_found(what: str, id_: str) -> StripeError:
    return StripeError(404, f"The {what} {id_} was not found.", code="not_found")


def _show(call: Call, row: EventDestination) -> Json:
    """The address is shown on request; the signing secret too, but at the creation alone."""
    asked = call.params.get("include", [])
    expire(row, call.account.now())
    return {
        "id": row.id,
        "object": row.resource,
        "created": instant(row.created),
        "description": row.description,
        "enabled_events": list(row.enabled_events),
        "event_payload": row.event_payload,
        "events_from": [_ACCOUNTS if row.connect else _SELF],
        "livemode": call.account.settings.livemode,
        "metadata": dict(row.metadata),
        "name": row.name,
        "snapshot_api_version": row.api_version,
        "status": row.status,
        "status_details": {"disabled": {"reason": row.disabled_reason}} if row.status == "disabled" else None,
        "updated": instant(row.updated),
        **_transport(row, asked),
    }


def _transport(row: EventDestination, asked: list[str]) -> Json:
    if row.event_source is not None:
        source = row.event_source
        return {
            "type": "amazon_eventbridge",
            "amazon_eventbridge": {
                "aws_account_id": source.account,
                "aws_event_source_arn": source.arn,
                "aws_event_source_status": source.status,
            },
        }
    return {
        "type": "webhook_endpoint",
        "webhook_endpoint": {
            "signing_secret": row.secrets[0].value if _SECRET in asked else None,
            "url": row.url if _URL in asked else None,
        },
    }


_ENABLED = Rows(Choice((*THIN_EVENT_TYPES, *EVENT_TYPES)), 300)
_EVENT_BRIDGE = Fields({"aws_account_id*": Text(), "aws_region*": Text()})
_ENDPOINT = Fields({"url*": Text()})
_INCLUDE = Rows(choice(_URL))
_BASE = "/v2/core/event_destinations"
_ONE = f"{_BASE}/{{id}}"

ROUTES = [
    Route(
        "POST",
        _BASE,
        "event_destination",
        _create,
        fields(
            {
                "enabled_events*": _ENABLED,
                "event_payload*": choice("snapshot", "thin"),
                "name*": Text(),
                "type*": choice("amazon_eventbridge", "azure_event_grid", "webhook_endpoint"),
            },
            amazon_eventbridge=_EVENT_BRIDGE,
            description=Text(),
            events_from=Rows(choice(_SELF, _ACCOUNTS)),
            include=Rows(choice(_SECRET, _URL)),
            metadata=METADATA,
            snapshot_api_version=Choice(KNOWN_VERSIONS),
            webhook_endpoint=_ENDPOINT,
        ),
    ),
    Route(
        "GET",
        _BASE,
        "event_destination",
        _list,
        fields(include=_INCLUDE, limit=Integer(1, _MOST), page=Text()),
    ),
    Route("GET", _ONE, "event_destination", lambda call: _show(call, _found(call)), fields(include=_INCLUDE)),
    Route(
        "POST",
        _ONE,
        "event_destination",
        _update,
        fields(
            description=Text(),
            enabled_events=_ENABLED,
            include=_INCLUDE,
            metadata=METADATA,
            name=Text(),
            webhook_endpoint=_ENDPOINT,
        ),
    ),
    Route("DELETE", _ONE, "event_destination", _delete),
    Route("POST", f"{_ONE}/disable", "event_destination", lambda call: _switch(call, "disabled")),
    Route("POST", f"{_ONE}/enable", "event_destination", lambda call: _switch(call, "enabled")),
    # Who may read the object that a thin event is about may read the event (Event destinations).
    Route("GET", "/v2/core/events/{id}", "billing_meter", _retrieve_event),
]
