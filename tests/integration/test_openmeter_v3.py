"""The whole way with OpenMeter's v3 API: a renewal is billed to the last unit, and nothing is asked of v1."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.model import Status

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY


@pytest.fixture
def world(world: World) -> World:
    """With an OpenMeter that serves v3 alone."""
    world.settings["openmeter_api"] = "v3"
    world.openmeter.settings = replace(world.openmeter.settings, apis=("v3",))
    world.clock.set(START)
    return world


def billed(world: World, subscription: Any) -> list[tuple[Decimal, str]]:
    return [(quantity, status) for _, quantity, status in world.billed(subscription.id)]


def of_v1(world: World) -> list[str]:
    """What was asked of v1, which there is not."""
    counts = world.openmeter.calls.counts
    return [name for name in counts if not name.startswith("v3_")] or (
        [] if counts else ["nothing was asked"]
    )


def test_sums_and_last_values_are_billed_by_v3_alone(world: World) -> None:
    world.openmeter.create_meter("people", "seen", aggregation="UNIQUE_COUNT")
    mirrored = world.subscription(world.metered_price()[0])
    last = world.subscription(world.metered_price("seats", formula="last")[0], om_meter_id="people")
    for at, value in ((START, "5"), (START + 9 * DAY + 7, "0.25"), (END - 1, "2.5"), (END, "100")):
        world.use(str(mirrored.customer), at, value)
    for at, who in ((START, "ann"), (START + DAY, "bob"), (END - 1, "ann"), (END, "cem")):
        world.use(str(last.customer), at, who, meter="people")

    world.travel(END + 30 * MINUTE)
    world.tick()
    world.travel(END + 2 * HOUR)

    assert billed(world, mirrored) == [(Decimal("7.75"), "open")]
    assert billed(world, last) == [(Decimal(2), "open")]
    assert of_v1(world) == []


def test_an_unknown_meter_is_refused_and_the_others_are_reported(world: World) -> None:
    price, _ = world.metered_price()
    known = world.subscription(price)
    world.subscription(price, om_meter_id="gone")
    world.use(str(known.customer), START + MINUTE, 3)
    world.travel(START + 2 * HOUR)

    reports = world.report_all()

    assert {report.customer_meter.openmeter_meter: report.status for report in reports} == {
        "m1": Status.SENT,
        "gone": Status.REFUSED,
    }
    [refused] = [report.reasons[0] for report in reports if report.status is Status.REFUSED]
    assert "OpenMeter has no meter 'gone' (404); create it or correct om_meter_id" in refused
    assert of_v1(world) == []


def test_the_meter_is_looked_up_once_for_many_customers(world: World) -> None:
    price, _ = world.metered_price()
    for _ in range(12):
        customer = str(world.subscription(price).customer)
        world.use(customer, START + MINUTE, 1)
    world.travel(START + 2 * HOUR)

    world.tick()

    assert len(world.meter_events()) == 12
    assert world.openmeter.calls.counts["v3_list_meters"] == 1
    assert {call.meter for call in world.openmeter.calls.queries} == {world.openmeter.meter("m1").id}
