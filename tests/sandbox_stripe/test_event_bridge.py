"""Destinations on Amazon EventBridge: made, associated, expired; what goes over them holds no invoice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import DEFAULT_API_VERSION, StripeSandbox, StripeSettings
from sandbox.stripe.messages import Request
from sandbox.stripe.partner_events import PREFIX, Entry, on_the_bus
from sandbox.stripe.thin_events import ERROR_REPORT
from tests.contract.stripe_openapi import object_errors, request_errors
from tests.sandbox_stripe.direct import ACACIA, DAY, HOUR, Json, World, end_of

PATH = "/v2/core/event_destinations"
ACCOUNT, REGION = "123456789012", "eu-west-1"
UPDATED, CREATED = "customer.subscription.updated", "invoice.created"


class Bus:
    """Takes what it is given, or, for so many times, does not."""

    def __init__(self) -> None:
        self.taken: list[Entry] = []
        self.refusals = 0

    def __call__(self, entry: Entry) -> bool:
        if self.refusals:
            self.refusals -= 1
            return False
        self.taken.append(entry)
        return True


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def stripe(clock: ManualClock, bus: Bus) -> StripeSandbox:
    settings = StripeSettings(seed=1, meter_event_latency=0)
    return StripeSandbox(clock, settings, deliver=lambda *_: 200, hand_over=bus)


def ask(world: World, method: str, path: str, params: Json | None = None) -> tuple[int, Json]:
    """A call of the v2 API."""
    headers = {
        "authorization": "Bearer sk_test_sandbox",
        "stripe-version": DEFAULT_API_VERSION,
        "content-type": "application/json",
    }
    body = json.dumps(params or {}).encode() if method == "POST" else b""
    answer = asyncio.run(world.api.gateway.answer(Request(method, path, "", headers, body)))
    return answer.status, answer.json()


def wanted(**params: Any) -> Json:
    return {
        "name": "events",
        "type": "amazon_eventbridge",
        "event_payload": "snapshot",
        "snapshot_api_version": DEFAULT_API_VERSION,
        "enabled_events": [UPDATED, CREATED],
        "amazon_eventbridge": {"aws_account_id": ACCOUNT, "aws_region": REGION},
        **params,
    }


THIN: Json = {"event_payload": "thin", "enabled_events": [ERROR_REPORT]}


def made(world: World, *, associated: bool = True, **params: Any) -> Json:
    """A destination, associated with a bus; its name as `source`."""
    asked = {name: value for name, value in wanted(**params).items() if value is not None}
    assert request_errors("POST", PATH, asked) == []
    status, shown = ask(world, "POST", PATH, asked)
    assert status == 200, shown
    source = PREFIX + shown["id"]
    if associated:
        world.stripe.associate(source)
    return {**shown, "source": source}


def test_a_destination_has_a_source_in_the_account_that_waits_for_a_bus(world: World) -> None:
    shown = made(world, associated=False, metadata={"stack": "a"})
    source = shown.pop("source")

    assert shown["amazon_eventbridge"] == {
        "aws_account_id": ACCOUNT,
        "aws_event_source_arn": f"arn:aws:events:{REGION}::event-source/{source}",
        "aws_event_source_status": "pending",
    }
    assert (shown["event_payload"], shown["snapshot_api_version"]) == ("snapshot", DEFAULT_API_VERSION)
    present = {name: value for name, value in shown.items() if value is not None}
    assert object_errors("v2.core.event_destination", present) == []


@pytest.mark.parametrize(
    "params",
    [
        {"amazon_eventbridge": None},
        {"amazon_eventbridge": {"aws_account_id": "123", "aws_region": REGION}},
        {"amazon_eventbridge": {"aws_account_id": ACCOUNT, "aws_region": "Ireland"}},
        {"amazon_eventbridge": {"aws_account_id": ACCOUNT}},
        {"webhook_endpoint": {"url": "https://example.com"}},
        {"enabled_events": [ERROR_REPORT]},
        {"event_payload": "thin"},
        {**THIN, "snapshot_api_version": DEFAULT_API_VERSION},
        {"snapshot_api_version": "2020-01-01"},
        {"type": "azure_event_grid"},
    ],
)
def test_what_does_not_go_together_is_refused(world: World, params: Json) -> None:
    asked = {name: value for name, value in wanted(**params).items() if value is not None}

    status, shown = ask(world, "POST", PATH, asked)

    assert status == 400, shown


def test_it_has_no_url_and_no_other_kind_of_events_later_either(world: World) -> None:
    path = f"{PATH}/{made(world)['id']}"
    assert ask(world, "POST", path, {"webhook_endpoint": {"url": "https://example.com"}})[0] == 400
    assert ask(world, "POST", path, {"enabled_events": [ERROR_REPORT]})[0] == 400
    assert ask(world, "POST", path, {"enabled_events": [UPDATED]})[1]["enabled_events"] == [UPDATED]


def test_events_come_in_the_version_of_the_destination(
    world: World, bus: Bus, clock: ManualClock, stripe: StripeSandbox
) -> None:
    subscription = world.subscribe()
    new, old = made(world), made(world, snapshot_api_version=ACACIA)
    clock.set(end_of(subscription) + 60)
    stripe.run_due()

    found = {(one["Source"], one["DetailType"]): json.loads(one["Detail"]) for one in bus.taken}
    assert found.keys() == {(one["source"], kind) for one in (new, old) for kind in (UPDATED, CREATED)}
    assert found[new["source"], UPDATED]["api_version"] == DEFAULT_API_VERSION
    moved = found[old["source"], UPDATED]
    assert moved["api_version"] == ACACIA
    assert "current_period_end" in moved["data"]["previous_attributes"]


def test_what_a_rules_target_gets(world: World, bus: Bus, clock: ManualClock, stripe: StripeSandbox) -> None:
    shown = made(world)
    subscription = world.subscribe()
    clock.set(end_of(subscription) + 60)
    stripe.run_due()

    event = on_the_bus(bus.taken[0], ACCOUNT, REGION)

    assert event["source"] == shown["source"]
    assert event["detail-type"] == event["detail"]["type"]
    assert event["resources"] == [shown["amazon_eventbridge"]["aws_event_source_arn"]]
    assert (event["account"], event["region"], event["version"]) == (ACCOUNT, REGION, "0")
    assert event["time"].endswith("Z")


def test_thin_events_come_thin(world: World, bus: Bus, stripe: StripeSandbox, clock: ManualClock) -> None:
    shown = made(world, **THIN, snapshot_api_version=None)
    snapshots = made(world, enabled_events=["*"])
    world.subscribe()
    stripe.validation.refuse_next("archived_meter")
    world.report("1")
    clock.advance(DAY)
    stripe.run_due()

    [thin] = [one for one in bus.taken if one["Source"] == shown["source"]]
    assert thin["DetailType"] == ERROR_REPORT
    assert json.loads(thin["Detail"])["object"] == "v2.core.event"
    assert "data" not in json.loads(thin["Detail"])
    assert not [
        one for one in bus.taken if one["Source"] == snapshots["source"] and "v1." in one["DetailType"]
    ]


def test_nothing_comes_before_a_bus_is_associated_nor_is_made_up_for(
    world: World, bus: Bus, clock: ManualClock, stripe: StripeSandbox
) -> None:
    shown = made(world, associated=False)
    subscription = world.subscribe()
    clock.set(end_of(subscription) + 60)
    stripe.run_due()
    assert not [one for one in bus.taken if one["DetailType"] == UPDATED]

    ask(world, "POST", f"{PATH}/{shown['id']}/enable")
    stripe.run_due()
    assert bus.taken == []


def test_a_source_without_a_bus_is_gone_after_a_week_and_its_destination_disabled(
    world: World, clock: ManualClock, bus: Bus
) -> None:
    path = f"{PATH}/{made(world, associated=False)['id']}"
    clock.advance(7 * DAY - 1)
    assert ask(world, "GET", path)[1]["status"] == "enabled"

    clock.advance(1)

    shown = ask(world, "GET", path)[1]
    assert shown["amazon_eventbridge"]["aws_event_source_status"] == "deleted"
    assert shown["status_details"] == {"disabled": {"reason": "no_aws_event_source_exists"}}
    assert ask(world, "POST", f"{path}/enable")[1]["status"] == "disabled"
    with pytest.raises(ValueError, match="no partner event source"):
        world.stripe.associate("aws.partner/stripe.com/ed_unknown")


def test_what_a_bus_does_not_take_is_tried_again_and_holds_no_invoice(
    world: World, bus: Bus, clock: ManualClock, stripe: StripeSandbox
) -> None:
    """The same invoice would be held for three days by a webhook endpoint that does not answer."""
    made(world, enabled_events=[CREATED])
    subscription = world.subscribe()
    world.report("3")
    bus.refusals = 100
    clock.set(end_of(subscription) + 2 * HOUR)
    stripe.run_due()

    [invoice] = [one for one in stripe.account.invoices if one.created >= end_of(subscription)]
    assert invoice.status != "draft"
    [event] = [one for one in stripe.events.table if one.type == CREATED and one.object_id == invoice.id]
    assert event.acknowledged_at == event.created
    assert bus.taken == []

    bus.refusals = 0
    clock.advance(5 * HOUR)
    stripe.run_due()
    assert [one["DetailType"] for one in bus.taken] == [CREATED]
    assert event.acknowledged_at == event.created


def test_what_never_arrives_counts_as_not_delivered(
    world: World, bus: Bus, clock: ManualClock, stripe: StripeSandbox
) -> None:
    made(world, enabled_events=[UPDATED])
    subscription = world.subscribe()
    bus.refusals = 1000
    clock.set(end_of(subscription) + 5 * DAY)
    stripe.run_due()

    failed = world.api.get("events", {"delivery_success": False})["data"]
    assert [one["type"] for one in failed] == [UPDATED]
