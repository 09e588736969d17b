"""The account itself, and those that are connected to it."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.objects import ConnectedAccount
from sandbox.stripe.schema import EXPAND, PAGE, RANGE, in_range


def _retrieve(call: Call) -> Json:
    """The account that is asked: one in the path is named by that, as though by the header."""
    account = call.account
    id_ = account.settings.account_id
    listed = account.platform.connected.find(id_) if account.platform else None
    return call.show(listed or ConnectedAccount(id_, account.made_at))


def _list(call: Call) -> Json:
    """Those connected to it, newest first; not the account itself."""
    created = call.params.get("created")
    return call.page(call.account.connected, lambda row: in_range(row.created, created))


ROUTES = [
    Route("GET", "/v1/account", "connected_account", _retrieve, fields(EXPAND)),
    Route("GET", "/v1/accounts", "connected_account", _list, fields(PAGE, created=RANGE)),
    Route("GET", "/v1/accounts/{account}", "connected_account", _retrieve, fields(EXPAND)),
]
