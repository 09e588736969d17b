"""Test clocks."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.schema import EXPAND, PAGE, Moment, Text


def _create(call: Call) -> Json:
    params = call.params
    return call.show(call.stripe.test_clocks.create(params["frozen_time"], params.get("name")))


def _advance(call: Call) -> Json:
    clock = call.account.test_clocks.get(call.id, "test_clock")
    call.stripe.test_clocks.start_advancing(clock, call.params["frozen_time"])
    return call.show(clock)


def _delete(call: Call) -> Json:
    clock = call.account.test_clocks.get(call.id, "test_clock")
    call.stripe.test_clocks.delete(clock)
    return {"id": clock.id, "object": clock.resource, "deleted": True}


_CLOCKS = "/v1/test_helpers/test_clocks"
_CLOCK = _CLOCKS + "/{test_clock}"
_RESOURCE = "billing_clock"

ROUTES = [
    Route(
        "POST",
        _CLOCKS,
        _RESOURCE,
        _create,
        fields(EXPAND, {"frozen_time*": Moment()}, name=Text(300)),
    ),
    Route("GET", _CLOCKS, _RESOURCE, lambda call: call.page(call.account.test_clocks), fields(PAGE)),
    Route(
        "GET",
        _CLOCK,
        _RESOURCE,
        lambda call: call.show(call.account.test_clocks.get(call.id, "test_clock")),
        fields(EXPAND),
    ),
    Route("DELETE", _CLOCK, _RESOURCE, _delete),
    Route(
        "POST",
        _CLOCK + "/advance",
        _RESOURCE,
        _advance,
        fields(EXPAND, {"frozen_time*": Moment()}),
    ),
]
