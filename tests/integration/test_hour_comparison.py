"""The columns side by side, read afresh from both stand-ins and the ledger."""

from __future__ import annotations

from decimal import Decimal

from tests.integration.world import HOUR, NOON, World
from usage_reporting.amounts import ZERO
from usage_reporting.hour_comparison import HourComparer, HourComparison
from usage_reporting.verdict import Known


def compare(world: World, start: int = NOON, end: int = NOON + 5 * HOUR) -> list[HourComparison]:
    made = world.container()
    comparer = HourComparer(made.billing, made.reporter.openmeter, made.ledger)

    async def read() -> list[HourComparison]:
        listings = [listing async for listing in made.billing.subscriptions({})]
        found = [one for listing in listings for one in listing.customer_meters]
        return await comparer.compare(found, start, end)

    return made.run(read())


def known(one: HourComparison, hour: int) -> Known:
    """What the ledger knows of an hour."""
    return Known.of(one.entries.values(), hour, hour + HOUR)


def test_what_was_reported_is_the_same_in_every_column(world: World) -> None:
    price, _ = world.metered_price()
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOON + 60, "2.5")
    world.use(customer, NOON + 2 * HOUR, "4")
    world.travel(NOON + 4 * HOUR)
    world.tick()
    world.travel(NOON + 5 * HOUR)

    [one] = compare(world)

    assert [(hour, one.metered[hour], one.held[hour], known(one, hour).sent) for hour in one.hours] == [
        (NOON, Decimal("2.5"), Decimal("2.5"), Decimal("2.5")),
        (NOON + 2 * HOUR, 4, 4, 4),
    ]


def test_a_foreign_writer_and_late_usage_differ_by_hour(world: World) -> None:
    price, _ = world.metered_price()
    customer = world.customer()
    world.subscription(price, customer)
    world.travel(NOON + 4 * HOUR)
    world.use(customer, NOON + HOUR, 3)
    event = {"stripe_customer_id": customer, "value": "7"}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": event, "timestamp": NOON + 60}
    )
    world.travel(NOON + 5 * HOUR)

    [one] = compare(world)

    lacking = {hour: one.metered.get(hour, ZERO) - one.held.get(hour, ZERO) for hour in one.hours}
    assert [(hour, lacking[hour], known(one, hour)) for hour in one.hours] == [
        (NOON, Decimal(-7), Known()),
        (NOON + HOUR, Decimal(3), Known()),
    ]
    assert one.head is None
    assert one.subject == customer


def test_one_subject_with_an_impossible_value_stops_no_other(world: World) -> None:
    price, _ = world.metered_price()
    bad, good = world.customer(), world.customer()
    world.subscription(price, bad)
    world.subscription(price, good)
    world.travel(NOON + 4 * HOUR)
    world.use(bad, NOON + 60, "1e300")
    world.use(good, NOON + 60, 1)

    found = {one.customer_meter.customer: one for one in compare(world)}

    assert "digits" in str(found[bad].error)
    assert found[bad].hours == []
    assert [found[good].metered[hour] for hour in found[good].hours] == [1]
