"""Events and webhook endpoints."""

from __future__ import annotations

from urllib.parse import urlsplit

from sandbox.stripe.account import Json
from sandbox.stripe.api.event_types import EVENT_TYPES
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import invalid, malformed, no_such
from sandbox.stripe.events import Event
from sandbox.stripe.metadata import merged
from sandbox.stripe.objects import WebhookEndpoint, WebhookSecret
from sandbox.stripe.schema import (
    EXPAND,
    METADATA,
    PAGE,
    RANGE,
    Choice,
    Flag,
    Members,
    Rows,
    Text,
    in_range,
)
from sandbox.stripe.versions import KNOWN_VERSIONS

MAX_ENDPOINTS = 16


def _list_events(call: Call) -> Json:
    params = call.params
    if "type" in params and "types" in params:
        raise malformed("You may only specify one of type and types.", "type")
    wanted = params.get("types") or [params.get("type", "*")]
    exact = {type_ for type_ in wanted if not type_.endswith("*")}
    prefixes = tuple(type_[:-1] for type_ in wanted if type_.endswith("*"))

    def matches(event: Event) -> bool:
        return (
            (event.type in exact or event.type.startswith(prefixes))
            and in_range(event.created, params.get("created"))
            and params.get("delivery_success") in (None, not event.waiting and not event.failed)
            and call.stripe.events.is_kept(event)
        )

    return call.page(call.stripe.events.table, matches)


def _retrieve_event(call: Call) -> Json:
    event = call.stripe.events.table.get(call.id)
    if not call.stripe.events.is_kept(event):
        raise no_such("event", call.id)
    return call.show(event)


def _create_endpoint(call: Call) -> Json:
    params = call.params
    if len(call.account.endpoints) + len(call.account.destinations) >= MAX_ENDPOINTS:
        raise invalid(f"You have reached the maximum of {MAX_ENDPOINTS} test webhook endpoints.")
    check_url(call, params["url"])
    endpoint = WebhookEndpoint(
        id=call.account.new_id("we"),
        created=call.account.now(),
        url=params["url"],
        enabled_events=params["enabled_events"],
        secrets=[WebhookSecret(call.account.new_id("whsec", 32))],
        connect=params.get("connect", False),
        api_version=params.get("api_version"),
        description=params.get("description") or None,
        metadata=merged({}, params.get("metadata", {})),
    )
    call.account.endpoints.add(endpoint)
    return {**call.show(endpoint), "secret": endpoint.secrets[0].value}


def _update_endpoint(call: Call) -> Json:
    endpoint = call.account.endpoints.get(call.id)
    if "url" in call.params:
        check_url(call, call.params["url"])
        endpoint.url = call.params["url"]
    if "enabled_events" in call.params:
        endpoint.enabled_events = call.params["enabled_events"]
    if "description" in call.params:
        endpoint.description = call.params["description"] or None
    if "disabled" in call.params:
        endpoint.status = "disabled" if call.params["disabled"] else "enabled"
    endpoint.metadata = merged(endpoint.metadata, call.params.get("metadata", {}))
    return call.show(endpoint)


def _delete_endpoint(call: Call) -> Json:
    endpoint = call.account.endpoints.get(call.id)
    call.account.endpoints.remove(endpoint.id)
    return {"id": endpoint.id, "object": "webhook_endpoint", "deleted": True}


def check_url(call: Call, url: str) -> None:
    """Live endpoints take https only; unlike Stripe, a sandbox may post to this very machine."""
    parts = urlsplit(url)
    schemes = ("https",) if call.account.settings.livemode else ("http", "https")
    if parts.scheme not in schemes or not parts.hostname:
        raise invalid(f"Invalid URL: must be an absolute {' or '.join(schemes)} URL.", "url", "url_invalid")


_ENABLED = Rows(Choice(EVENT_TYPES), 300)
_ENDPOINT: Members = {"description": Text(clearable=True), "metadata": METADATA, **EXPAND}
_ENDPOINT_PATH = "/v1/webhook_endpoints/{webhook_endpoint}"

ROUTES = [
    Route(
        "GET",
        "/v1/events",
        "event",
        _list_events,
        fields(PAGE, type=Text(), types=Rows(Text(), 20), created=RANGE, delivery_success=Flag()),
    ),
    Route("GET", "/v1/events/{id}", "event", _retrieve_event, fields(EXPAND)),
    Route(
        "POST",
        "/v1/webhook_endpoints",
        "webhook",
        _create_endpoint,
        fields(
            _ENDPOINT,
            {"url*": Text(), "enabled_events*": _ENABLED},
            api_version=Choice(KNOWN_VERSIONS),
            connect=Flag(),
        ),
    ),
    Route(
        "GET",
        "/v1/webhook_endpoints",
        "webhook",
        lambda call: call.page(call.account.endpoints),
        fields(PAGE),
    ),
    Route(
        "GET",
        _ENDPOINT_PATH,
        "webhook",
        lambda call: call.show(call.account.endpoints.get(call.id)),
        fields(EXPAND),
    ),
    Route(
        "POST",
        _ENDPOINT_PATH,
        "webhook",
        _update_endpoint,
        fields(_ENDPOINT, url=Text(), enabled_events=_ENABLED, disabled=Flag()),
    ),
    Route("DELETE", _ENDPOINT_PATH, "webhook", _delete_endpoint),
]
