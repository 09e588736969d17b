"""Routes that steer the stand-in from outside its process; Stripe has nothing like them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sandbox.stripe.account import Json
from sandbox.stripe.errors import StripeError
from sandbox.stripe.sandbox import StripeSandbox

_CHANGEABLE = frozenset(
    {
        "aggregation_delay",
        "checked_late",
        "date_skew",
        "endpoint_concurrency",
        "enforce_rate_limits",
        "error_samples",
        "finalization_grace",
        "global_concurrency",
        "invoice_created_hold",
        "latency",
        "log_requests",
        "meter_event_latency",
        "meter_events_per_second",
        "renewal_delay",
        "stream_requests_per_second",
        "webhook_retry_delays",
    }
)


def control_routes(stripe: StripeSandbox) -> list[Route]:
    """`/_sandbox/...`: faults, calls, limited, requests, clock, settings, meter_events, webhooks, run_due,
    subscriptions, accounts; `?account=acct_...`: of a connected account."""
    return [
        Route(f"/_sandbox/{path}", _endpoint(stripe, method, path), methods=[method])
        for method, path in _actions(stripe)
    ]


def _actions(stripe: StripeSandbox) -> dict[tuple[str, str], Callable[[Json], Any]]:
    return {
        ("GET", "accounts"): lambda _: [vars(row) for row in stripe.account.connected.newest()],
        ("POST", "accounts"): lambda body: stripe.connect(**body).settings.account_id,
        ("POST", "accounts/deauthorize"): lambda body: stripe.deauthorize(**body),
        ("GET", "calls"): lambda _: _calls(stripe),
        ("GET", "limited"): lambda _: stripe.log.limited,
        ("GET", "requests"): lambda _: [vars(request) for request in stripe.log.requests],
        ("DELETE", "requests"): lambda _: stripe.log.clear(),
        ("GET", "faults"): lambda _: [vars(fault) for fault in stripe.faults.struck],
        ("POST", "faults"): lambda body: vars(stripe.faults.add(**body)),
        ("DELETE", "faults"): lambda _: stripe.faults.clear(),
        ("POST", "settings"): lambda body: _change_settings(stripe, body),
        ("GET", "clock"): lambda _: {"now": stripe.account.clock()},
        ("POST", "clock"): lambda body: _move_clock(stripe, body),
        ("POST", "run_due"): lambda _: stripe.run_due(),
        ("POST", "meter_events/refuse"): lambda body: stripe.validation.refuse_next(**body),
        ("POST", "subscriptions/end_periods"): lambda body: stripe.end_periods(**body),
        ("GET", "webhooks"): lambda _: _deliveries(stripe),
        ("POST", "webhooks/drop"): lambda body: stripe.webhooks.drop_next(**body),
        ("POST", "webhooks/duplicate"): lambda body: stripe.webhooks.duplicate_next(**body),
        ("POST", "webhooks/twin"): lambda body: stripe.webhooks.twin_next(**body),
        ("POST", "webhooks/delay"): lambda body: stripe.webhooks.delay_next(**body),
        ("POST", "webhooks/again"): lambda body: stripe.deliver_again(stripe.webhooks.log[body["number"]]),
        ("DELETE", "webhooks/disturbances"): lambda _: stripe.webhooks.leave_alone(),
        ("POST", "event_sources/associate"): lambda body: stripe.associate(**body),
        ("POST", "webhooks/roll"): lambda body: {"secret": stripe.webhooks.roll_secret(**body)},
    }


def _endpoint(stripe: StripeSandbox, method: str, path: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> JSONResponse:
        named = request.query_params.get("account")
        try:
            action = _actions(stripe.connected[named] if named else stripe)[method, path]
            body = json.loads(await request.body() or b"{}")
            return JSONResponse({"result": await run_in_threadpool(action, body)})
        except (IndexError, KeyError, TypeError, ValueError, StripeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return endpoint


def _calls(stripe: StripeSandbox) -> dict[str, int]:
    return {f"{method} {path}": count for (method, path), count in stripe.calls.items()}


def _change_settings(stripe: StripeSandbox, changes: Json) -> None:
    unknown = set(changes) - _CHANGEABLE
    if unknown:
        raise ValueError(f"cannot be changed: {', '.join(sorted(unknown))}")
    if "checked_late" in changes:
        changes["checked_late"] = frozenset(changes["checked_late"])
    if changes.get("webhook_retry_delays") is not None:
        changes["webhook_retry_delays"] = tuple(changes["webhook_retry_delays"])
    stripe.change_settings(**changes)


def _move_clock(stripe: StripeSandbox, body: Json) -> Json:
    """`offset` in seconds against the real clock; entities of the past are made with it."""
    with stripe.account.lock:
        stripe.account.offset = int(body["offset"]) if "offset" in body else 0
    return {"now": stripe.account.clock()}


def _deliveries(stripe: StripeSandbox) -> list[Json]:
    return [
        {
            "event": row.event.id,
            "type": row.event.type,
            "customer": row.event.customer,
            "endpoint": row.endpoint,
            "statuses": list(row.statuses),
            "due": row.due,
        }
        for row in stripe.webhooks.log
    ]
