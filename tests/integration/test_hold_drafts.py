"""HOLD_DRAFTS: a draft that Stripe would close before its usage is delivered is kept open, and let go."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.config import Mode
from usage_reporting.errors import OutOfTimeError
from usage_reporting.invoices import KEPT_OPEN
from usage_reporting.ticks import work_off

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY
FINAL = END + HOUR


def subscribed(world: World, **params: Any) -> tuple[str, str]:
    """A subscription that is billed by e-mail, with a unit used in its last second."""
    world.settings.setdefault("hold_drafts", True)
    world.clock.set(START)
    price, _ = world.metered_price()
    subscription = world.subscription(price, **params)
    customer = str(subscription.customer)
    world.use(customer, END - 1, 1)
    return str(subscription.id), customer


def draft(world: World, subscription: str) -> Any:
    return world.client.v1.invoices.list({"subscription": subscription, "status": "draft"}).data[0]


def ticked(world: World, minutes: int) -> None:
    """A closing tick so long after the period's end."""
    world.travel(END + minutes * MINUTE)
    world.tick("closing")


def moves(world: World) -> int:
    return world.stripe.calls.get(("POST", "/v1/invoices/{invoice}"), 0)


def test_a_draft_is_kept_open_while_openmeter_is_down_and_let_go_when_it_is_complete(world: World) -> None:
    subscription, _ = subscribed(world)
    world.openmeter.faults.down = True
    ticked(world, 8)
    assert draft(world, subscription).automatically_finalizes_at == FINAL
    for minutes in (38, 53, 68, 83):
        ticked(world, minutes)
        kept = draft(world, subscription)
        assert kept.automatically_finalizes_at == END + 72 * HOUR
        assert kept.metadata[KEPT_OPEN].split()[0] == str(FINAL)
    assert moves(world) == 1
    world.openmeter.faults.down = False
    ticked(world, 98)

    let_go = draft(world, subscription)
    assert let_go.automatically_finalizes_at == END + 118 * MINUTE
    assert KEPT_OPEN not in let_go.metadata
    world.travel(END + 3 * HOUR)
    assert world.billed(subscription)[-1][1:] == (Decimal(1), "open")
    assert moves(world) == 2


def test_a_draft_that_is_complete_in_time_has_its_own_deadline_back(world: World) -> None:
    subscription, _ = subscribed(world)
    world.stripe.change_settings(finalization_grace=2 * HOUR)
    world.openmeter.faults.down = True
    ticked(world, 90)
    assert draft(world, subscription).automatically_finalizes_at == END + 72 * HOUR
    world.openmeter.faults.down = False
    ticked(world, 95)

    assert draft(world, subscription).automatically_finalizes_at == END + 2 * HOUR


@pytest.mark.parametrize("settings", [{"hold_drafts": False}, {"mode": Mode.SHADOW}])
def test_neither_by_default_nor_in_shadow_mode_is_a_draft_moved(
    world: World, settings: dict[str, Any]
) -> None:
    world.settings.update(settings)
    subscription, _ = subscribed(world)
    world.openmeter.faults.down = True
    for minutes in (8, 23, 38, 53):
        ticked(world, minutes)

    assert moves(world) == 0
    assert draft(world, subscription).automatically_finalizes_at == FINAL


def test_a_draft_waits_for_each_of_its_meters(world: World) -> None:
    world.settings["hold_drafts"] = True
    world.clock.set(START)
    one, _ = world.metered_price("one")
    two, _ = world.metered_price("two")
    world.openmeter.create_meter("m2", "asked")
    customer = world.customer()
    rows = [
        {"price": price, "metadata": {"om_meter_id": meter}} for price, meter in ((one, "m1"), (two, "m2"))
    ]
    subscription = str(world.subscription(one, customer, items=rows).id)
    world.use(customer, END - 1, 1)
    world.use(customer, END - 1, 2, meter="m2")
    world.openmeter.faults.down = True
    ticked(world, 38)
    assert len(draft(world, subscription).metadata[KEPT_OPEN].split()) == 3
    world.openmeter.faults.down = False
    events = "/v1/billing/meter_events"
    world.stripe.faults.add("status", "POST", events, contains="event_name=two", times=None)
    ticked(world, 53)

    assert draft(world, subscription).automatically_finalizes_at == END + 72 * HOUR
    assert len(draft(world, subscription).metadata[KEPT_OPEN].split()) == 2
    world.stripe.faults.clear()
    ticked(world, 68)
    world.travel(END + 3 * HOUR)
    assert {price: quantity for price, quantity, _ in world.billed(subscription)} == {one: 1, two: 2}


def test_a_draft_of_which_nothing_is_ours_is_left_alone(world: World) -> None:
    world.settings["hold_drafts"] = True
    world.clock.set(START)
    price, _ = world.metered_price()
    world.subscription(price, items=[{"price": price}])
    world.openmeter.faults.down = True
    for minutes in (38, 53):
        ticked(world, minutes)

    assert moves(world) == 0


def test_what_somebody_else_set_later_stays(world: World) -> None:
    subscription, _ = subscribed(world)
    world.openmeter.faults.down = True
    ticked(world, 38)
    later = END + 100 * HOUR
    world.client.v1.invoices.update(
        draft(world, subscription).id, {"auto_advance": True, "automatically_finalizes_at": later}
    )
    world.openmeter.faults.down = False
    ticked(world, 53)

    assert draft(world, subscription).automatically_finalizes_at == later
    assert KEPT_OPEN not in draft(world, subscription).metadata


def test_a_deadline_beyond_72_hours_is_never_moved_forward(world: World) -> None:
    subscription, _ = subscribed(world)
    world.travel(END + MINUTE)
    later = END + 80 * HOUR
    world.client.v1.invoices.update(
        draft(world, subscription).id, {"auto_advance": True, "automatically_finalizes_at": later}
    )
    before = moves(world)
    world.openmeter.faults.down = True
    world.travel(later - 10 * MINUTE)
    world.tick("closing")

    assert moves(world) == before


@pytest.mark.parametrize(("minutes", "is_moved"), [(38, False), (53, True)])
def test_an_automatically_collected_draft_is_stripes_to_hold_until_it_is_very_near(
    world: World, minutes: int, *, is_moved: bool
) -> None:
    world.settings["hold_drafts"] = True
    world.clock.set(START)
    price, _ = world.metered_price()
    customer = world.customer()
    rows = [{"price": price, "metadata": {"om_meter_id": "m1"}}]
    subscription = world.client.v1.subscriptions.create({"customer": customer, "items": rows}).id
    world.listen(enabled_events=["invoice.created"])
    world.stripe.deliver = lambda _url, _headers, _body: 503
    world.use(customer, END - 1, 1)
    world.openmeter.faults.down = True
    ticked(world, minutes)

    expected = END + 72 * HOUR if is_moved else FINAL
    assert draft(world, subscription).automatically_finalizes_at == expected


def test_a_key_that_may_not_write_invoices_is_said_and_nothing_else_suffers(world: World) -> None:
    subscription, customer = subscribed(world)
    read = dict.fromkeys(("subscription", "invoice", "billing_meter", "product", "price", "event"), "read")
    world.stripe.change_settings(restricted_keys={"rk_test_1": {**read, "billing_meter_event": "write"}})
    keys = {"stripe_api_key": "rk_test_1", "stripe_webhook_secret": "whsec_1"}
    world.secrets.put_secret_value(SecretId="keys", SecretString=json.dumps(keys))
    world.openmeter.faults.down = True
    ticked(world, 38)
    assert draft(world, subscription).automatically_finalizes_at == FINAL
    world.openmeter.faults.down = False
    ticked(world, 53)

    assert world.held(customer, START, END) == 1


def test_a_page_that_hangs_keeps_its_drafts_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    subscription, _ = subscribed(world)
    world.travel(END + 38 * MINUTE)
    container = world.container()

    async def hang(*_: object, **__: object) -> None:
        raise OutOfTimeError("it hangs")

    listed = container.run(_drafts(container))
    monkeypatch.setattr(type(container.reporter), "report", hang)
    body = json.dumps({"customer_meters": [one.to_json() for one in listed]})
    answer = work_off(container, {"Records": [{"messageId": "1", "body": body}]}, None)

    assert answer["batchItemFailures"] == [{"itemIdentifier": "1"}]
    assert draft(world, subscription).automatically_finalizes_at == END + 72 * HOUR


async def _drafts(container: Any) -> list[Any]:
    listings = [listing async for listing in container.billing.drafts()]
    return [one for listing in listings for one in listing.customer_meters]
