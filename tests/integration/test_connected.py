"""Stripe Connect: one deployment for a platform, whose accounts hold objects of the same ids."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.world import HOUR, MINUTE, NOON, World
from usage_reporting import event_bridge
from usage_reporting.accounts import OWN_ACCOUNT, ConnectedAccounts
from usage_reporting.billing import Finalized
from usage_reporting.pages import Cursor, Scope, cursor_message, finalized_message, page_message
from usage_reporting.renewals import DELETED, INVOICE_CREATED, INVOICE_FINALIZED, UPDATED
from usage_reporting.telemetry import logger

ONE, OTHER = "acct_1One", "acct_1Other"
NEXT_HOUR = NOON + HOUR + 5 * MINUTE


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said as a warning."""
    found: list[str] = []
    monkeypatch.setattr(logger, "warning", lambda text, *args, **_: found.append(str(text) % args))
    return found


def serving(world: World, accounts: str = "all", **settings: Any) -> None:
    world.settings.update(connected_accounts=ConnectedAccounts.parse(accounts), **settings)


def subscribed(world: World, account: str = OWN_ACCOUNT, **params: Any) -> Any:
    """A subscription of the account; the accounts' customers have different ids."""
    if account == OWN_ACCOUNT:
        return world.subscription(world.metered_price()[0], **params)
    with world.of_account(account):
        return world.subscription(world.metered_price()[0], **params)


def told(world: World, account: str) -> list[tuple[str, Decimal]]:
    """What Stripe took of an account: customer and value."""
    stripe = world.stripe if account == OWN_ACCOUNT else world.stripe.connected[account]
    return sorted((row.customer, row.value) for row in stripe.meters.accepted())


def kept(world: World, sk: str) -> list[str]:
    """The partition keys of the ledger's items of one kind."""
    return [item["pk"]["S"] for item in world.ledger() if item["sk"]["S"] == sk]


def used(world: World, subscription: Any, units: int, *, account: str = "") -> str:
    customer = str(subscription.customer)
    world.use(f"{account}:{customer}" if account else customer, NOON + MINUTE, units)
    return customer


@pytest.mark.parametrize("accounts", ["all", f"{ONE},{OTHER}"])
def test_each_account_is_told_of_its_own_usage(world: World, accounts: str) -> None:
    serving(world, accounts)
    own, one, other = (
        used(world, subscribed(world, each), 1 + number)
        for number, each in enumerate([OWN_ACCOUNT, ONE, OTHER])
    )
    world.travel(NEXT_HOUR)

    assert world.tick()["failures"] == 0
    assert world.tick()["failures"] == 0

    assert told(world, OWN_ACCOUNT) == [(own, Decimal(1))]
    assert told(world, ONE) == [(one, Decimal(2))]
    assert told(world, OTHER) == [(other, Decimal(3))]
    assert {tuple(pk.split("#")[::2]) for pk in kept(world, "head")} == {
        (OWN_ACCOUNT, own),
        (ONE, one),
        (OTHER, other),
    }


def test_accounts_that_are_not_named_are_left_alone(world: World) -> None:
    serving(world, ONE)
    used(world, subscribed(world, OTHER), 5)
    used(world, subscribed(world, ONE), 2)
    world.travel(NEXT_HOUR)

    assert world.tick()["failures"] == 0

    assert told(world, OTHER) == []
    assert len(told(world, ONE)) == 1


def test_messages_of_an_account_that_was_taken_out_since_are_dropped(world: World, warned: list[str]) -> None:
    """It may be another stack's by now, and a dead letter may be sent again days later."""
    serving(world, ONE)
    used(world, subscribed(world, ONE), 1)
    world.travel(NEXT_HOUR)
    made = world.container()
    for message in (
        page_message(made.run(_found(made.of(ONE)))),
        cursor_message(Cursor(Scope.ALL, account=ONE)),
        finalized_message(Finalized("test", ["in_1"], account=ONE)),
    ):
        made.queue.send(message)
    serving(world, OTHER)

    assert world.work() == 0

    assert told(world, ONE) == []
    assert kept(world, "head") == []
    dropped = f"dropped a message of {ONE}, which ConnectedAccounts does not name any more"
    assert warned == [dropped] * 3


def test_an_account_that_took_its_permission_back_stops_nobody(
    world: World, warned: list[str], counted: dict[str, float]
) -> None:
    serving(world, f"{ONE},{OTHER}")
    gone, other = subscribed(world, ONE), subscribed(world, OTHER)
    used(world, gone, 1)
    used(world, other, 2)
    world.stripe.deauthorize(ONE)
    world.travel(NEXT_HOUR)

    assert world.tick()["failures"] == 0

    assert told(world, ONE) == []
    assert len(told(world, OTHER)) == 1
    assert counted["Refused"] == 1
    [said] = [text for text in warned if ONE in text]
    assert said.startswith(f"the listing of {ONE}: refused: the Stripe key may not act for")


def test_one_that_takes_its_permission_back_while_its_page_waits_is_refused_too(
    world: World, counted: dict[str, float]
) -> None:
    serving(world)
    used(world, subscribed(world, ONE), 1)
    world.travel(NEXT_HOUR)
    world.tick()
    world.use(told(world, ONE)[0][0], NEXT_HOUR - MINUTE, 3)
    made = world.container()
    page = made.run(_found(made.of(ONE)))
    world.stripe.deauthorize(ONE)
    world.clock.advance(HOUR)

    [report] = made.run(made.of(ONE).reporter.report(page))

    assert report.status.value == "rejected"
    assert not report.status.ask_again
    assert "may not act for the connected account" in report.reason


async def _found(parts: Any) -> list[Any]:
    return [one async for listing in parts.billing.subscriptions({}) for one in listing.customer_meters]


def test_a_renewal_in_a_connected_account_is_reported_by_its_webhook(world: World) -> None:
    serving(world, ONE)
    world.listen(enabled_events=[UPDATED, DELETED, INVOICE_CREATED, INVOICE_FINALIZED], connect=True)
    bills = {each: subscribed(world, each) for each in (ONE, OTHER)}
    end = bills[ONE]["items"].data[0].current_period_end
    world.tick()
    for one in bills.values():
        world.use(str(one.customer), end - MINUTE, 4)
    world.travel(end + 16)

    answers = world.deliver()

    assert {one.status for one in answers} == {"sent", "unchanged", "not_ours"}
    assert [one.reason for one in answers if one.status == "not_ours"] == [
        f"the event is of the connected account {OTHER}, which ConnectedAccounts does not name"
    ] * 2
    assert told(world, ONE) == [(str(bills[ONE].customer), Decimal(4))]
    assert told(world, OTHER) == []

    world.travel(end + 2 * HOUR)
    [judged] = [one for one in world.deliver() if one.status == "exact"]
    assert "EXACT" in judged.reason
    [pk] = kept(world, "verdict")
    assert pk.startswith(f"{ONE}#test#in_")


def test_an_event_of_a_connected_account_over_eventbridge_is_of_that_account(world: World) -> None:
    """No stack asks for them, but an operator may let them onto the queue."""
    serving(world, ONE)
    world.listen(enabled_events=[INVOICE_CREATED], connect=True)
    bills = {each: subscribed(world, each) for each in (ONE, OTHER)}
    end = bills[ONE]["items"].data[0].current_period_end
    for one in bills.values():
        world.use(str(one.customer), end - MINUTE, 4)
    world.travel(end + 16)
    events = [json.loads(body) for body in world.inbox]
    made = world.container()

    answers = {
        event["account"]: event_bridge.invoke(
            made, {"detail-type": event["type"], "source": "aws.partner/stripe.com/ed_1", "detail": event}
        )["status"]
        for event in events
    }

    assert answers == {ONE: "sent", OTHER: "not_ours"}
    assert told(world, ONE) == [(str(bills[ONE].customer), Decimal(4))]
    assert told(world, OTHER) == told(world, OWN_ACCOUNT) == []


def test_an_event_of_an_account_that_took_its_permission_back_is_not_asked_for_again(
    world: World, counted: dict[str, float]
) -> None:
    serving(world)
    world.listen(enabled_events=[INVOICE_CREATED], connect=True)
    end = subscribed(world, ONE)["items"].data[0].current_period_end
    world.travel(end + 16)
    world.stripe.deauthorize(ONE)

    assert [(one.code, one.status) for one in world.deliver()] == [(200, "refused")]
    assert (counted["Refused"], "Rejected" in counted) == (1, False)


def test_a_draft_of_a_connected_account_waits_while_openmeter_is_silent(world: World) -> None:
    serving(world, ONE)
    world.listen(enabled_events=[INVOICE_CREATED], connect=True)
    end = subscribed(world, ONE)["items"].data[0].current_period_end
    world.travel(end + 16)
    world.settings["openmeter_url"] = "http://127.0.0.1:9"

    assert [one.code for one in world.deliver()] == [503]


def test_refused_usage_of_a_connected_account_is_sent_again(world: World) -> None:
    """The thin event is fetched in the account's own context, and leads to the account's own entry."""
    serving(world)
    world.listen_to_refusals(events_from=["@accounts"])
    customer = used(world, subscribed(world, ONE), 5)
    world.stripe.connected[ONE].validation.refuse_next("timestamp_in_future")
    world.travel(NEXT_HOUR)
    world.tick()
    assert told(world, ONE) == []
    world.travel(world.clock() + 15)

    assert [(one.code, one.status) for one in world.deliver()] == [(200, "rejected")]
    world.tick()

    assert told(world, ONE) == [(customer, Decimal(5))]


def test_one_subject_is_not_billed_in_two_accounts(world: World, warned: list[str]) -> None:
    serving(world, f"{ONE},{OTHER}", subject_metadata_key="tenant")
    for account in (ONE, OTHER):
        with world.of_account(account):
            customer = world.customer(metadata={"tenant": "acme"})
            world.subscription(world.metered_price()[0], customer)
    world.use("acme", NOON + MINUTE, 7)
    world.travel(NEXT_HOUR)

    world.tick()

    [(first, value)] = told(world, ONE) + told(world, OTHER)
    assert value == 7
    [held] = [text for text in warned if "held" in text]
    billed, refused = (ONE, OTHER) if told(world, ONE) else (OTHER, ONE)
    assert f"is billed to customer {first} of {billed} already, and that one and" in held
    assert f"of {refused} would pay for all of it" in held
    assert f"--account {refused} --accept" in held


def test_one_customer_id_in_two_accounts_is_held_though_the_first_ran_before_there_were_any(
    world: World, warned: list[str]
) -> None:
    """A customer that Stripe copied to another account keeps its id."""
    world.stripe.change_settings(same_ids=True)
    customer = used(world, subscribed(world), 5)
    world.travel(NEXT_HOUR)
    world.tick()
    serving(world)
    world.tick()
    assert subscribed(world, ONE).customer == customer
    world.use(customer, NEXT_HOUR + MINUTE, 4)
    world.travel(NEXT_HOUR + 2 * HOUR)

    world.tick()

    assert told(world, OWN_ACCOUNT) == [(customer, Decimal(4)), (customer, Decimal(5))]
    assert told(world, ONE) == []
    [held] = warned
    assert f"{customer} of {ONE}: held: the subject '{customer}'" in held
    assert f"is billed to customer {customer} of the own account already, and that one and" in held


def test_with_the_account_in_the_subject_both_are_billed_for_their_own(world: World) -> None:
    serving(world, subject_metadata_key="tenant", subject_with_account=True)
    for account in (ONE, OTHER):
        with world.of_account(account):
            customer = world.customer(metadata={"tenant": "acme"})
            world.subscription(world.metered_price()[0], customer)
    world.use(f"{ONE}:acme", NOON + MINUTE, 7)
    world.use(f"{OTHER}:acme", NOON + MINUTE, 8)
    world.travel(NEXT_HOUR)

    assert world.tick()["failures"] == 0

    assert [value for _, value in told(world, ONE)] == [7]
    assert [value for _, value in told(world, OTHER)] == [8]


def test_the_daily_line_is_one_over_all_accounts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logger, "info", lambda text, *args, **_: said.append(str(text) % args))
    serving(world, f"{ONE},{OTHER}")
    world.clock.set(NOON - 11 * HOUR)
    customers = {each: str(subscribed(world, each).customer) for each in (OWN_ACCOUNT, ONE, OTHER)}
    for customer in customers.values():
        world.use(customer, NOON - 10 * HOUR, 5)
    world.travel(NOON + 10 * HOUR)
    world.tick()
    world.travel(NOON + 17 * HOUR)
    world.stripe.deauthorize(OTHER)

    assert world.tick("reconcile")["failures"] == 0

    [line] = [text for text in said if "customer meters compared" in text]
    assert "2 customer meters compared (2 EXACT)" in line
    assert f"differs: {OTHER} could not be compared: the Stripe key may not act for" in line
    assert kept(world, "2026-07-15").count("self#reconciled") == 1


def test_an_account_without_usage_costs_closing_ticks_nothing(world: World) -> None:
    serving(world)
    subscribed(world, ONE)
    with world.of_account(OTHER):
        world.customer()
    for hours in range(0, 26, 12):
        world.travel(NOON + hours * HOUR)
        world.tick("all")
    world.stripe.log.clear()
    for connected in world.stripe.connected.values():
        connected.log.clear()
    world.travel(NOON + 25 * HOUR)

    assert world.tick("closing")["failures"] == 0

    assert world.stripe.connected[OTHER].log.requests == []
    assert len(world.stripe.connected[ONE].log.requests) == 3

    subscribed(world, OTHER)
    assert world.tick("all")["failures"] == 0
    world.stripe.connected[OTHER].log.clear()
    world.tick("closing")
    assert len(world.stripe.connected[OTHER].log.requests) == 3
