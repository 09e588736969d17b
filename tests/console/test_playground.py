"""The levers themselves: what they do to the stand-ins is what they say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

import pytest

from sandbox.playground import Playground, PlaygroundError
from tests.console.conftest import playground_of
from tests.integration.world import HOUR, NOON, World


@pytest.fixture
def levers(world: World, ada: str) -> Playground:
    return playground_of(world)


def five_more(levers: Playground, ada: str) -> None:
    levers.use(ada, "m1", Decimal(5), NOON + HOUR)


@pytest.mark.parametrize("kind", ["stripe_500", "stripe_500_after", "stripe_silent", "stripe_429"])
def test_what_breaks_on_the_way_to_stripe_is_billed_once(
    levers: Playground, world: World, ada: str, kind: str
) -> None:
    five_more(levers, ada)
    levers.inject(kind)

    for _ in range(3):
        levers.tick("all")

    assert world.stripe.faults.struck
    assert world.held(ada, NOON, NOON + 2 * HOUR) == 15


@pytest.mark.parametrize("kind", ["openmeter_500", "openmeter_empty", "openmeter_down", "stripe_down"])
def test_after_an_outage_all_is_made_good(levers: Playground, world: World, ada: str, kind: str) -> None:
    five_more(levers, ada)
    levers.inject(kind)
    with suppress(PlaygroundError):
        levers.tick("all")
    assert world.held(ada, NOON, NOON + 2 * HOUR) == 10

    levers.be_well()
    levers.tick("all")

    assert levers.trouble == ""
    assert world.held(ada, NOON, NOON + 2 * HOUR) == 15


@pytest.mark.parametrize(("kind", "copies"), [("webhook_lost", 1), ("webhook_twice", 3), ("webhook_twin", 3)])
def test_webhooks_are_lost_and_doubled(
    levers: Playground, world: World, ada: str, kind: str, copies: int
) -> None:
    world.listen(enabled_events=("customer.subscription.updated", "invoice.created"))
    levers.inject(kind)
    [subscription] = [row.id for row in world.stripe.account.subscriptions]

    levers.end_periods(subscription)
    world.travel(world.clock() + HOUR // 2)

    assert len(world.inbox) == copies


def test_a_meter_that_counts_takes_whole_events(levers: Playground, world: World) -> None:
    world.openmeter.create_meter("calls", "called", aggregation="COUNT", value_property=None)

    levers.use("cus_1", "calls", Decimal(3), NOON)

    assert world.openmeter.usage("calls", "cus_1", NOON, NOON + HOUR) == 3
    refused: list[Callable[[], str]] = [
        lambda: levers.use("cus_1", "calls", Decimal("2.5"), NOON),
        lambda: levers.use("cus_1", "calls", Decimal(101), NOON),
        lambda: levers.use("cus_1", "m1", Decimal(0), NOON),
        lambda: levers.use("cus_1", "m1", Decimal(1), world.clock() + 1),
        lambda: levers.use("", "m1", Decimal(1), NOON),
    ]
    for act in refused:
        with pytest.raises(PlaygroundError):
            act()
