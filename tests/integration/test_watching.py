"""What the functions measure of themselves while things go well, and while they do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting import telemetry
from usage_reporting.config import Mode

EVENTS = "/v1/billing/meter_events"

Metrics = dict[str, list[float]]


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], Metrics]]:
    """All values of each metric since the last time; those of more dimensions by name and dimensions."""

    def read() -> Metrics:
        telemetry.flush()
        found: Metrics = {}
        for line in capsys.readouterr().out.splitlines():
            if '"_aws"' in line:
                document = json.loads(line)
                [directive] = document["_aws"]["CloudWatchMetrics"]
                extra = [document[name] for name in directive["Dimensions"][0] if name != "service"]
                for one in directive["Metrics"]:
                    name = " ".join([one["Name"], *extra])
                    found.setdefault(name, []).extend(document[one["Name"]])
        return found

    read()
    yield read
    read()


def subscribed(world: World, formula: str = "sum") -> str:
    price, _ = world.metered_price(formula=formula)
    return str(world.subscription(price).customer)


def test_while_all_goes_well_nothing_waits(world: World, measured: Callable[[], Metrics]) -> None:
    customer = subscribed(world)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.log.clear()

    world.tick()

    found = measured()
    assert found["Reported"] == [1]
    assert len(found["ReportDuration"]) == 1
    assert not found.keys() & {"OldestUnsent", "DeadlineMargin", "RateLimited stripe endpoint-rate"}
    assert found["Calls openmeter"] == [2]  # the meter's aggregation, and one query
    assert sum(found["Calls stripe"]) == len(world.stripe.log.requests)


def test_while_openmeter_is_down_the_oldest_grows(world: World, measured: Callable[[], Metrics]) -> None:
    customer = subscribed(world)
    world.use(customer, NOON + MINUTE, 5)
    told = NOON + HOUR + 2 * MINUTE
    world.travel(told)
    world.tick()
    measured()
    world.openmeter.faults.down = True

    for hours in (1, 2, 5):
        world.travel(told + hours * HOUR)
        world.tick()
        assert measured()["OldestUnsent"] == [hours * HOUR]


def test_what_is_held_waits_since_its_hour(world: World, measured: Callable[[], Metrics]) -> None:
    customer = subscribed(world)
    world.use(customer, NOON + MINUTE, 5)
    world.use(customer, NOON + HOUR, 1)
    world.travel(NOON + 3 * HOUR)
    world.tick()
    measured()
    world.use(customer, NOON + 2 * MINUTE, -2)
    world.use(customer, NOON + 3 * HOUR, 4)
    world.travel(NOON + 5 * HOUR)

    world.tick()

    found = measured()
    assert found["Held"] == [1]
    assert found["OldestUnsent"] == [5 * HOUR]


def test_what_stripe_says_no_to_waits_and_what_it_took_does_not(
    world: World, measured: Callable[[], Metrics]
) -> None:
    customer = subscribed(world)
    for hour in range(3):
        world.use(customer, NOON + hour * HOUR, 1 + hour)
    world.travel(NOON + 4 * HOUR)
    world.stripe.faults.add("status", "POST", EVENTS, status=400, contains=str(NOON + HOUR), times=None)

    world.tick()

    assert measured()["OldestUnsent"] == [3 * HOUR]


def test_a_total_that_is_held_waits_since_stripe_was_told(
    world: World, measured: Callable[[], Metrics]
) -> None:
    customer = subscribed(world, "last")
    world.use(customer, NOON + MINUTE, 5)
    told = NOON + 2 * HOUR
    world.travel(told)
    world.tick()
    measured()
    world.use(customer, NOON + 2 * MINUTE, -2)
    world.travel(told + 3 * HOUR)

    world.tick()

    assert measured()["OldestUnsent"] == [3 * HOUR]


def test_a_total_that_cannot_be_read_or_sent_waits_too(world: World, measured: Callable[[], Metrics]) -> None:
    customer = subscribed(world, "last")
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add("status", "POST", EVENTS, status=500, times=None)
    worker = world.container()
    world.tick(container=worker)
    assert measured()["OldestUnsent"] == [2 * HOUR]

    world.openmeter.faults.down = True
    world.travel(NOON + 3 * HOUR)
    world.tick(container=worker)

    assert measured()["OldestUnsent"] == [HOUR], "since Stripe was told, or may have been"


def test_a_draft_tells_how_much_time_was_left(world: World, measured: Callable[[], Metrics]) -> None:
    customer = subscribed(world)
    end = NOON + 31 * DAY
    world.use(customer, end - 1, 5)
    world.travel(end + 15 * MINUTE)
    world.tick("closing")
    assert measured()["DeadlineMargin"] == [45 * MINUTE]

    world.travel(end + 30 * MINUTE)
    world.tick("closing")
    assert "DeadlineMargin" not in measured(), "it was complete already"

    world.use(customer, end - 2, 1)
    world.travel(end + 45 * MINUTE)
    world.openmeter.faults.down = True
    world.tick("closing")

    found = measured()
    assert found["DeadlineMargin"] == [15 * MINUTE]
    assert found["ClosingUndelivered"] == [1]


def test_a_call_that_stripe_turns_away_is_counted_with_its_reason(
    world: World, measured: Callable[[], Metrics]
) -> None:
    customer = subscribed(world)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add("rate_limited", "POST", EVENTS, reason="endpoint-rate", times=3)
    world.stripe.faults.add("rate_limited", "POST", EVENTS, reason=None)
    world.openmeter.faults.fail(429)

    world.tick()

    found = measured()
    assert found["RateLimited stripe endpoint-rate"] == [3]
    assert found["RateLimited stripe unnamed"] == [1]
    assert found["RateLimited openmeter unnamed"] == [1]
    assert found["Reported"] == [1]


def test_in_shadow_no_draft_has_a_margin(world: World, measured: Callable[[], Metrics]) -> None:
    customer = subscribed(world)
    world.settings["mode"] = Mode.SHADOW
    end = NOON + 31 * DAY
    world.use(customer, end - 1, 5)
    world.travel(end + 15 * MINUTE)

    world.tick("closing")

    found = measured()
    assert found["Shadowed"] == [1]
    assert "DeadlineMargin" not in found
