"""The meter event stream of the v2 API, and the sessions that give access to it."""

from __future__ import annotations

from contextlib import suppress

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.intake import CODES, DuplicateEventError, Offered, take
from sandbox.stripe.schema import DateTime, Fields, Pairs, Rows, Text
from sandbox.stripe.thin_events import instant

MAX_EVENTS = 100
STREAM = "/v2/billing/meter_event_stream"


def _open_session(call: Call) -> Json:
    session = call.stripe.sessions.open()
    return {
        "id": session.id,
        "object": "v2.billing.meter_event_session",
        "authentication_token": session.token,
        "created": instant(session.created),
        "expires_at": instant(session.expires_at),
        "livemode": call.account.settings.livemode,
    }


def _take_events(call: Call) -> Json:
    """Accept well-formed events whatever they say: that is found wrong afterwards.

    A report names the request, by its idempotency key, and so never which of its events were refused.
    Stripe documents that identifiers are unique for 24 hours, and not how a stream tells of one that is
    not: here it does not tell at all, and counts the first.
    """
    account = call.account
    request = account.idempotency_key or account.request_id or ""
    for row in call.params["events"]:
        event = Offered(
            row["event_name"],
            row["payload"],
            row.get("timestamp", account.now()),
            row.get("identifier") or account.new_id("evt_meter", 32),
            is_streamed=True,
        )
        with suppress(DuplicateEventError):
            take(call.stripe, event, late=CODES, request=request)
    return {}


_EVENT = Fields(
    {
        "event_name*": Text(100),
        "payload*": Pairs(max_pairs=20, max_name=100, clearable=False, numbered=False),
        "identifier": Text(100),
        "timestamp": DateTime(),
    }
)

ROUTES = [
    Route("POST", "/v2/billing/meter_event_session", "billing_meter_event", _open_session),
    Route(
        "POST",
        STREAM,
        "billing_meter_event",
        _take_events,
        fields({"events*": Rows(_EVENT, MAX_EVENTS, min_rows=1)}),
        by_session=True,
    ),
]
