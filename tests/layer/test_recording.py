"""Legacy prices: one usage record a period, set at one instant, and never after Stripe closed its door."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import cast

import pytest

from tests.layer.builders import (
    MONTH_END,
    MONTH_START,
    NOON,
    SETTINGS,
    Clock,
    D,
    MemoryTable,
    legacy,
    span,
)
from tests.layer.protocol import Behaviour, FakeStripe, SteppedLedger, no_sleep
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.errors import RefusedError
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Entry
from usage_reporting.model import CustomerMeter, Report, SendState, SpanState, Status
from usage_reporting.openmeter import OpenMeter, OpenMeterMeter
from usage_reporting.recording import Recording
from usage_reporting.sender import Sender
from usage_reporting.windows import DAY, HOUR, MINUTE

RECORDS = "/v1/subscription_items/si_1/usage_records"
LATER = span(MONTH_START, MONTH_END)
"""Not the first period of its item."""


@dataclass
class FakeOpenMeter:
    """One total, and what was asked for it."""

    customers: None = field(default=None, init=False)

    total: Decimal | None = Decimal(0)
    aggregation: str = "SUM"
    asked: list[tuple[str, list[str], int, int]] = field(default_factory=list)

    async def totals(self, slug: str, subjects: list[str], start: int, end: int) -> dict[str, Decimal]:
        self.asked.append((slug, subjects, start, end))
        return {} if self.total is None else {subjects[0]: self.total}

    async def meter(self, slug: str) -> OpenMeterMeter:
        return OpenMeterMeter(slug, self.aggregation)


@dataclass
class World:
    settings: Settings = SETTINGS
    customer_meter: CustomerMeter = field(default_factory=lambda: legacy(LATER))
    clock: Clock = field(default_factory=lambda: Clock(NOON + 30 * MINUTE))

    def __post_init__(self) -> None:
        self.stripe = FakeStripe(self.clock)
        self.openmeter = FakeOpenMeter()
        self.ledger = SteppedLedger(MemoryTable())
        sender = Sender(self.stripe.api, self.ledger, self.clock, no_sleep)
        heads = Heads(cast("Billing", None), self.ledger, self.clock)
        openmeter = cast("OpenMeter", self.openmeter)
        self.recording = Recording(self.settings, openmeter, self.ledger, heads, sender, self.clock)

    def report(
        self, total: str | None, options: Options | None = None, budget: Budget | None = None
    ) -> Report:
        self.openmeter.total = None if total is None else D(total)
        report = Report(self.customer_meter)
        pk = self.customer_meter.pk

        async def once() -> None:
            stored = (await self.ledger.heads([pk])).get(pk)
            await self.recording.report(report, stored, options or Options(), Budget())

        asyncio.run(once())
        return report

    @property
    def entry(self) -> Entry:
        return self.ledger.stored((self.customer_meter.pk, str(MONTH_START)))

    @property
    def billed(self) -> dict[tuple[str, int], Decimal]:
        return self.stripe.records


def test_a_period_without_usage_after_one_with_usage_is_set_to_nothing() -> None:
    """Else a price with aggregate_usage `last_ever` would bill the earlier period's record again."""
    world = World(customer_meter=legacy(span(MONTH_START - 30 * DAY, MONTH_START)))
    world.clock.now = MONTH_START - DAY
    world.report("5")
    world.customer_meter, world.clock.now = legacy(LATER), NOON + 30 * MINUTE

    assert world.report("0").status is Status.SENT
    assert world.billed[RECORDS, MONTH_START + 1] == 0
    assert world.report("0").status is Status.UNCHANGED


def test_the_total_so_far_is_set() -> None:
    world = World()
    report = world.report("10.5")

    assert report.status is Status.SENT
    assert world.billed == {(RECORDS, MONTH_START + 1): 11}
    assert world.openmeter.asked == [
        ("m1", ["cus_1"], MONTH_START - 30 * MINUTE, NOON + 29 * MINUTE),
    ]
    [line] = report.lines
    assert (line.total, line.start, line.end) == (D("10.5"), MONTH_START - 30 * MINUTE, NOON + 29 * MINUTE)


def test_one_time_stamp_for_ever() -> None:
    world = World()
    for total in ("1", "5", "5.4", "120"):
        world.report(total)
        world.clock.now += HOUR

    assert world.billed == {(RECORDS, MONTH_START + 1): 120}
    assert {call["params"]["timestamp"] for call in world.stripe.calls} == {MONTH_START + 1}
    assert len({call["key"] for call in world.stripe.calls}) == len(world.stripe.calls) == 3


def test_the_same_total_is_not_sent_again() -> None:
    world = World()
    world.report("10")

    assert world.report("10").status is Status.UNCHANGED
    assert world.report("10.4").status is Status.UNCHANGED
    assert len(world.stripe.calls) == 1


def test_no_usage_is_said_once_of_a_period_that_the_ledger_may_have_forgotten() -> None:
    """A lost or restored ledger does not know what Stripe was told: that is set anew, even to zero."""
    world = World()

    assert [world.report(None).status for _ in range(3)] == [Status.SENT, Status.UNCHANGED, Status.UNCHANGED]
    assert len(world.stripe.calls) == 1


def test_a_total_that_comes_back_is_sent_again() -> None:
    world = World()
    for total in ("10", "20"):
        world.report(total)
    world.report("10", Options(accept=True))

    assert world.billed == {(RECORDS, MONTH_START + 1): 10}


def test_two_totals_within_one_second_are_told_apart() -> None:
    world = World()
    for total in ("10", "20"):
        world.report(total)
    # DynamoDB keeps no order within a map.
    [key] = [key for key in world.ledger.memory.items if key[1] != "head"]
    item = world.ledger.memory.items[key]
    item["sends"] = dict(reversed(item["sends"].items()))

    assert world.report("20").status is Status.UNCHANGED
    assert world.report("21").status is Status.SENT
    assert world.billed == {(RECORDS, MONTH_START + 1): 21}


@pytest.mark.parametrize(("rounding", "quantity"), [("half_up", 3), ("down", 2), ("up", 3)])
def test_the_rounding_of_the_settings(rounding: str, quantity: int) -> None:
    world = World(replace(SETTINGS, rounding=rounding))
    world.report("2.5")

    assert world.billed == {(RECORDS, MONTH_START + 1): quantity}


# Decreases


def test_a_decrease_is_held_until_it_is_released() -> None:
    world = World()
    world.report("10")

    held = world.report("7")
    assert held.status is Status.HELD
    assert held.reason == (
        "the period from 2026-07-01T12:00:00Z has 7 in OpenMeter, less than the 10 that Stripe holds; check "
        "OpenMeter, then release it with `usage-reporter report --stack NAME --customer cus_1 --accept`"
    )
    assert world.billed == {(RECORDS, MONTH_START + 1): 10}
    assert world.report(None).status is Status.HELD

    assert world.report("7", Options(accept=True)).status is Status.SENT
    assert world.billed == {(RECORDS, MONTH_START + 1): 7}
    assert world.report("7").status is Status.UNCHANGED


@pytest.mark.parametrize(
    ("aggregation", "allow", "status"),
    [
        ("SUM", False, Status.HELD),
        ("MAX", False, Status.HELD),
        ("UNIQUE_COUNT", False, Status.HELD),
        ("SUM", True, Status.SENT),
        ("AVG", False, Status.SENT),
        ("MIN", False, Status.SENT),
        ("LATEST", False, Status.SENT),
    ],
)
def test_what_may_fall_falls(aggregation: str, allow: bool, status: Status) -> None:
    world = World(replace(SETTINGS, allow_decrease=allow))
    world.openmeter.aggregation = aggregation
    world.report("10")

    assert world.report("7").status is status


def test_of_a_canceled_period_nothing_is_held() -> None:
    """Its end moved, and with it what is measured; Stripe bills nothing of it."""
    world = World()
    world.report("10")
    [running] = world.customer_meter.spans
    canceled = replace(running, end=NOON, state=SpanState.CANCELED)
    world.customer_meter = replace(world.customer_meter, spans=(canceled,))

    assert world.report(None).status is Status.UNCHANGED


@pytest.mark.parametrize("after_its_end", [False, True])
@pytest.mark.parametrize("aggregation", ["SUM", "AVG", "MIN", "LATEST"])
def test_what_may_fall_does_not_fall_to_nothing(aggregation: str, after_its_end: bool) -> None:
    world = World(replace(SETTINGS, allow_decrease=True))
    world.openmeter.aggregation = aggregation
    world.report("10")
    if after_its_end:
        world.clock.now = MONTH_END + 5 * MINUTE

    held = world.report(None)

    assert held.status is Status.HELD
    assert (
        "OpenMeter has nothing of the period from 2026-07-01T12:00:00Z, but Stripe holds 10; check "
        "OpenMeter, then release it with `"
    ) in held.reason
    assert world.billed == {(RECORDS, MONTH_START + 1): 10}
    assert world.entry.undelivered == {}
    assert world.report(None, Options(accept=True)).status is Status.HELD
    assert world.report(None, Options(accept=True, accept_empty=True)).status is not Status.HELD


@pytest.mark.parametrize("total", ["-1", "NaN", "1e15"])
def test_a_total_that_cannot_be_billed_is_refused(total: str) -> None:
    world = World()

    with pytest.raises(RefusedError):
        world.report(total)
    assert world.stripe.calls == []


# The end of a period


def test_the_total_is_complete_half_an_hour_before_the_end() -> None:
    world = World(clock=Clock(MONTH_END - 29 * MINUTE))
    world.report("99")

    assert world.openmeter.asked[-1][3] == MONTH_END - 30 * MINUTE
    assert world.billed == {(RECORDS, MONTH_START + 1): 99}


def test_what_shows_up_after_the_end_is_late_once() -> None:
    world = World(clock=Clock(MONTH_END - 60))
    world.report("10")
    world.clock.now = MONTH_END

    late = world.report("12")
    assert (late.status, late.late) == (Status.LATE, D(2))
    assert "2 units of si_1 came after its period ended" in late.reason
    again = world.report("12")
    assert (again.status, again.late) == (Status.UNCHANGED, D(0))
    more = world.report("15")
    assert (more.status, more.late) == (Status.LATE, D(3))
    assert world.billed == {(RECORDS, MONTH_START + 1): 10}
    assert world.entry.undelivered == {MONTH_START: 5}


def test_of_a_period_that_was_over_at_first_sight_nothing_is_late() -> None:
    world = World(clock=Clock(MONTH_END))

    report = world.report("12")

    assert (report.status, report.late) == (Status.UNCHANGED, D(0))
    assert world.billed == {}


def test_the_last_second_of_a_period_still_takes_usage() -> None:
    world = World(clock=Clock(MONTH_END - 1))

    assert world.report("10").status is Status.SENT


def test_a_period_that_was_just_begun_has_nothing_to_read() -> None:
    first = span(NOON, MONTH_END, first=True)
    world = World(customer_meter=legacy(first), clock=Clock(NOON + 5 * MINUTE))

    report = world.report("10")

    assert (report.status, report.lines, world.openmeter.asked) == (Status.UNCHANGED, [], [])


def test_a_period_that_follows_begins_with_the_last_half_hour() -> None:
    world = World(clock=Clock(MONTH_START + 15 * MINUTE))
    world.report("4")

    assert world.openmeter.asked == [
        ("m1", ["cus_1"], MONTH_START - 30 * MINUTE, MONTH_START + 14 * MINUTE),
    ]


def test_what_is_less_after_the_end_is_noted_and_not_subtracted() -> None:
    world = World(clock=Clock(MONTH_END - 60))
    world.report("12")
    world.clock.now = MONTH_END

    over = world.report("10")
    assert (over.status, over.late) == (Status.LATE, D(0))
    assert over.reason == "Stripe bills 2 units of si_1 more than OpenMeter holds; noted"
    more = world.report("11")
    assert (more.late, more.reason[:28]) == (D(1), "1 units of si_1 came after i")


def test_an_operator_may_read_the_young_hour() -> None:
    world = World(clock=Clock(NOON + 5 * MINUTE))
    world.report("5", Options(eager=True))

    assert world.openmeter.asked[-1][3] == NOON + 4 * MINUTE


# Failures


@pytest.mark.parametrize("dry", ["option", "shadow"])
def test_a_dry_run_says_what_it_would_set(dry: str) -> None:
    world = World(replace(SETTINGS, mode=Mode.SHADOW) if dry == "shadow" else SETTINGS)
    report = world.report("10", Options(dry_run=dry == "option"))

    assert (report.status, report.reason) == (Status.SHADOW, "would set si_1 to 10")
    assert len(report.lines) == 1
    assert [send.value for send in report.sent] == [10]
    assert [(one.held, one.metered) for one in report.prospects] == [(D(0), D(10))]
    assert world.stripe.calls == []
    assert world.ledger.memory.items == {}


def test_a_dry_run_counts_what_is_late_without_noting_it() -> None:
    world = World(clock=Clock(MONTH_END - 60))
    world.report("10")
    world.clock.now = MONTH_END
    before = dict(world.ledger.memory.items)
    report = world.report("13", Options(dry_run=True))

    assert (report.status, report.late) == (Status.LATE, D(3))
    assert world.ledger.memory.items == before


def test_an_unknown_is_repeated_before_anything_else_is_set() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    assert world.report("10").status is Status.UNKNOWN
    assert [one.state for one in world.entry.sends.values()] == [SendState.INTENT]
    unknown = world.stripe.calls[-1]

    assert world.report("20").status is Status.UNKNOWN
    assert world.stripe.calls[-1] == unknown

    world.stripe.otherwise = Behaviour.OK
    assert world.report("20").status is Status.SENT
    assert [call["params"]["quantity"] for call in world.stripe.calls[-2:]] == ["10", "20"]
    assert world.billed == {(RECORDS, MONTH_START + 1): 20}


def test_an_open_intent_stops_a_dry_run() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report("10")
    calls = len(world.stripe.calls)

    assert world.report("20", Options(dry_run=True)).status is Status.UNCHANGED
    assert len(world.stripe.calls) == calls


def test_what_stripe_refused_is_not_taken_as_held() -> None:
    world = World()
    world.report("10")
    world.stripe.behaviours = deque([Behaviour.REJECTED])
    assert world.report("20").status is Status.REJECTED

    assert world.report("20").status is Status.SENT
    assert world.billed == {(RECORDS, MONTH_START + 1): 20}
    assert [one.value for one in world.entry.sends.values() if one.counts][-1] == 20


def test_what_stripe_had_before_it_refused_is_still_held() -> None:
    world = World()
    world.report("10")
    world.stripe.behaviours = deque([Behaviour.REJECTED])
    world.report("20")

    assert world.report("10").status is Status.UNCHANGED


def test_an_open_intent_of_one_period_does_not_stop_the_next() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report("10")
    world.customer_meter = legacy(LATER, span(NOON, MONTH_END + DAY))

    assert world.report("20", Options(dry_run=True)).reason == "would set si_1 to 20"


def test_a_crash_after_stripe_took_it_ends_right() -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_SILENT])
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    assert world.report("10").status is Status.UNKNOWN
    world.stripe.otherwise = Behaviour.OK
    world.clock.now += HOUR

    assert world.report("10").status is Status.SENT
    assert world.report("10").status is Status.UNCHANGED
    assert world.billed == {(RECORDS, MONTH_START + 1): 10}


def test_old_records_do_not_fill_the_entry() -> None:
    world = World()
    for total in range(1, 50):
        world.report(str(total))
        world.clock.now += MINUTE

    assert len(world.entry.sends) <= 2
