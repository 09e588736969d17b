"""Event destinations of the v2 API, and the thin events that they receive."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.events import MAX_ENDPOINTS, check_url
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import StripeError, invalid, malformed
from sandbox.stripe.item_changes import merged
from sandbox.stripe.objects import EventDestination, WebhookSecret
from sandbox.stripe.schema import METADATA, Choice, Fields, Integer, Rows, Text, choice
from sandbox.stripe.thin_events import THIN_EVENT_TYPES, instant

_SECRET, _URL = "webhook_endpoint.signing_secret", "webhook_endpoint.url"
_SELF, _ACCOUNTS = "@self", "@accounts"
_DEFAULT_LIMIT, _MOST = 20, 100
_EVENT_SECONDS = 30 * 24 * 3600


def _create(call: Call) -> Json:
    params = call.params
    if params["event_payload"] == "snapshot" or params["type"] != "webhook_endpoint":
        raise invalid("The stand-in has v2 destinations for thin events to webhook endpoints alone.")
    if "snapshot_api_version" in params:
        raise malformed("Thin events have no API version.", "snapshot_api_version")
    if "webhook_endpoint" not in params:
        raise malformed("A webhook endpoint needs its URL.", "webhook_endpoint")
    if len(call.account.endpoints) + len(call.account.destinations) >= MAX_ENDPOINTS:
        raise invalid(f"You have reached the maximum of {MAX_ENDPOINTS} event destinations.")
    url = params["webhook_endpoint"]["url"]
    check_url(call, url)
    now = call.account.now()
    made = EventDestination(
        id=call.account.new_id("ed"),
        created=now,
        updated=now,
        name=params["name"],
        url=url,
        enabled_events=params["enabled_events"],
        secrets=[WebhookSecret(call.account.new_id("whsec", 32))],
        connect=_is_connect(params.get("events_from", [_SELF])),
        description=params.get("description", ""),
        metadata=merged({}, params.get("metadata", {})),
    )
    call.account.destinations.add(made)
    return _show(call, made)


def _is_connect(origins: list[str]) -> bool:
    """Whose events it is sent: the documentation shows no destination of both."""
    if len(origins) != 1:
        raise malformed("Events can come from the account, or from its connected accounts.", "events_from")
    return origins == [_ACCOUNTS]


def _update(call: Call) -> Json:
    found = _found(call)
    if "webhook_endpoint" in call.params:
        check_url(call, call.params["webhook_endpoint"]["url"])
        found.url = call.params["webhook_endpoint"]["url"]
    found.name = call.params.get("name", found.name)
    found.description = call.params.get("description", found.description)
    found.enabled_events = call.params.get("enabled_events", found.enabled_events)
    found.metadata = merged(found.metadata, call.params.get("metadata", {}))
    found.updated = call.account.now()
    return _show(call, found)


def _switch(call: Call, status: str) -> Json:
    found = _found(call)
    found.status = status
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
    return {
        "id": row.id,
        "object": row.resource,
        "created": instant(row.created),
        "description": row.description,
        "enabled_events": list(row.enabled_events),
        "event_payload": "thin",
        "events_from": [_ACCOUNTS if row.connect else _SELF],
        "livemode": call.account.settings.livemode,
        "metadata": dict(row.metadata),
        "name": row.name,
        "snapshot_api_version": None,
        "status": row.status,
        "status_details": {"disabled": {"reason": "user"}} if row.status == "disabled" else None,
        "type": "webhook_endpoint",
        "updated": instant(row.updated),
        "webhook_endpoint": {
            "signing_secret": row.secrets[0].value if _SECRET in asked else None,
            "url": row.url if _URL in asked else None,
        },
    }


_ENABLED = Rows(Choice(THIN_EVENT_TYPES), 300)
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
            description=Text(),
            events_from=Rows(choice(_SELF, _ACCOUNTS)),
            include=Rows(choice(_SECRET, _URL)),
            metadata=METADATA,
            snapshot_api_version=Text(),
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
