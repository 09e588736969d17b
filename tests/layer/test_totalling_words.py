"""What a report of last values says: tiny amounts, pages that come back empty, what was discarded."""

from __future__ import annotations

import pytest

from tests.layer.builders import MONTH_START, NOON, D, span
from tests.layer.protocol import Behaviour
from tests.layer.test_totalling import AT, ENDED, NEXT, World, customers
from usage_reporting.model import SpanState, Status

TINY = "0.0000001"
SINCE = "from 2026-07-01T12:00:00Z"


def test_tiny_amounts_are_counted_and_written_out() -> None:
    lost = World()
    lost.other = {"is_deleted": True}
    assert lost.report(TINY).reason.startswith(f"{TINY} units {SINCE} are on no invoice")

    late = World(ENDED)
    late.report("0.0000003")
    late.billing.state = SpanState.FINAL
    assert late.report("0.0000004").reason.startswith(f"{TINY} units {SINCE} came after their invoice")
    over = World(ENDED)
    over.report("0.0000003")
    over.billing.state = SpanState.FINAL
    assert over.report("0.0000002", accept=True).reason.startswith(f"Stripe has billed {TINY} units")

    unknown = World(ENDED)
    unknown.stripe.otherwise = Behaviour.NEVER_ARRIVED
    unknown.report(TINY)
    unknown.stripe.otherwise = Behaviour.OK
    unknown.billing.state = SpanState.FINAL
    assert unknown.report(TINY).reason.startswith(f"the total of {TINY} {SINCE} was confirmed")


@pytest.mark.parametrize("of_ended", [True, False])
def test_one_period_that_comes_back_empty_is_enough(of_ended: bool) -> None:
    world = World(ENDED, NEXT)
    world.openmeter.by_start = {MONTH_START if of_ended else NOON: D(5)}
    world.page(None, *customers(6))
    world.openmeter.by_start = {}

    reports = world.page(None, *customers(6))

    assert all("OpenMeter has nothing of most customers" in report.reason for report in reports)


def test_what_stripe_discarded_waits_for_a_person() -> None:
    world = World(span())
    world.report("5")
    [made] = world.entry().sends.values()
    discarded = world.entry().discarding({made.identifier: "meter_event_invalid_value"})
    world.table.items[(discarded.pk, discarded.sk)] = discarded.to_item(AT)

    report = world.report("5")

    assert (report.status, len(world.told)) == (Status.REJECTED, 1)
    assert report.reason.startswith(
        f"Stripe took the total of 5 {SINCE}, and discarded it afterwards as meter_event_invalid_value: "
    )
    assert report.reason.endswith(
        ". `usage-reporter report --stack NAME --customer cus_1 --accept` sends it once more"
    )
    assert world.report("5", accept=True).status is Status.SENT
