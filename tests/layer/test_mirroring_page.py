"""A page of mirrored customer meters: what is refused, too old, counted and remembered, and who goes on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, SETTINGS, Clock, D, span
from tests.layer.page_world import PageWorld
from tests.layer.protocol import Behaviour
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Settings
from usage_reporting.doubts import Doubts
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Entry
from usage_reporting.mirroring import Mirroring
from usage_reporting.model import Report, SendState, Span, SpanState, Status
from usage_reporting.openmeter import OpenMeter, OpenMeterMeter
from usage_reporting.sender import Sender
from usage_reporting.windows import DAY, HOUR, MINUTE, floor_hour

AT = NOON + HOUR + 30 * MINUTE
ODD = NOON + 37 * MINUTE + 42
CURRENT = span(MONTH_START, MONTH_END)


@dataclass
class FakeOpenMeter:
    """Events by the second, of every subject or of one."""

    events: dict[str, dict[int, Decimal]] = field(default_factory=lambda: defaultdict(dict))
    aggregation: str = "SUM"
    exactly: list[tuple[int, int]] = field(default_factory=list)
    """What was asked beside whole hours."""

    async def meter(self, slug: str) -> OpenMeterMeter:
        return OpenMeterMeter(slug, self.aggregation)

    async def hours(
        self, slug: str, subjects: Sequence[str], start: int, end: int
    ) -> dict[str, dict[int, Decimal]]:
        found: dict[str, dict[int, Decimal]] = {}
        for subject in subjects:
            hours: dict[int, Decimal] = defaultdict(Decimal)
            for at, units in self.events[subject].items():
                if start <= at < end:
                    hours[floor_hour(at)] += units
            if hours:
                found[subject] = dict(hours)
        return found

    async def totals(self, slug: str, subjects: Sequence[str], start: int, end: int) -> dict[str, Decimal]:
        self.exactly.append((start, end))
        found = {
            one: [units for at, units in self.events[one].items() if start <= at < end] for one in subjects
        }
        return {one: sum(units, D(0)) for one, units in found.items() if units}


class World(PageWorld[FakeOpenMeter]):
    """One page of customer meters, and all that it is reported to."""

    def __init__(self, *spans: Span, settings: Settings = SETTINGS, now: int = AT) -> None:
        super().__init__(spans or (CURRENT,), FakeOpenMeter(), settings, now)

    def use(self, at: int, units: int, customer: str = "cus_1") -> None:
        events = self.openmeter.events[customer]
        events[at] = events.get(at, D(0)) + units

    def page(self, *customers: str, budget: Budget | None = None, **options: bool) -> list[Report]:
        return self.reported(customers, budget, options)

    def report(self, budget: Budget | None = None, **options: bool) -> Report:
        [report] = self.page(budget=budget, **options)
        return report

    def entry(self, day: str = "2026-07-15") -> Entry:
        return self.ledger.stored((self.customer_meter().pk, day))


def test_what_does_not_add_up_is_refused() -> None:
    world = World()
    world.use(NOON, 5)
    world.openmeter.aggregation = "MAX"

    report = world.report()

    assert (report.status, world.told) == (Status.REFUSED, [])
    assert report.reason == (
        "OpenMeter meter 'm1' aggregates by MAX, which does not add up over hours, and its Stripe meter "
        "sums; use a Stripe meter with formula 'last', or an OpenMeter meter of SUM or COUNT"
    )


def test_a_line_tells_what_was_read() -> None:
    world = World()
    world.use(NOON, 5)

    [line] = world.report().lines
    assert (line.total, line.start, line.end) == (D(5), MONTH_START, AT - MINUTE)


def test_an_empty_page_is_no_work() -> None:
    assert World().page("cus_1", "cus_2") != []
    mirroring = Mirroring(
        SETTINGS,
        cast("Billing", None),
        cast("OpenMeter", None),
        cast("Any", None),
        cast("Heads", None),
        cast("Sender", None),
        Clock(),
    )
    asyncio.run(mirroring.report([], Options(), Budget()))


@pytest.mark.parametrize(("empty", "stopped"), [(5, False), (6, True)])
def test_a_page_that_comes_back_empty_sends_nothing(empty: int, stopped: bool) -> None:
    world = World()
    names = [f"cus_{number}" for number in range(empty)]
    for name in names:
        world.use(NOON, 5, name)
    world.page(*names)
    world.openmeter.events.clear()
    world.use(NOON, 1, "cus_new")

    reports = world.page(*names, "cus_new")

    assert all(report.status is Status.HELD for report in reports[:-1])
    assert reports[-1].status is (Status.HELD if stopped else Status.SENT)
    if stopped:
        assert {report.reason for report in reports} == {
            "OpenMeter has nothing of most customers that had usage before, so nothing of this page is "
            "sent; check OpenMeter, then release each customer with `usage-reporter report --stack NAME "
            f"--customer {name} --accept-empty`"
            for name in [*names, "cus_new"]
        }
    assert all(report.status is Status.SENT for report in world.page(*names, accept=True, accept_empty=True))


# Too old for Stripe


LONG = span(NOON - 60 * DAY, NOON + 30 * DAY)


def test_at_first_sight_usage_older_than_stripe_takes_is_counted_once() -> None:
    world = World(LONG)
    world.use(NOON - 50 * DAY, 3)
    world.use(NOON, 5)
    oldest = floor_hour(AT - 34 * DAY) + HOUR
    world.use(oldest - 1, 4)
    world.use(oldest, 2)

    shown = world.report(dry_run=True)
    assert (shown.unbillable, len(shown.sent)) == (D(7), 2)
    report = world.report()
    assert (report.status, report.unbillable) == (Status.UNBILLABLE, D(7))
    assert report.reason == "7 units before 2026-06-11T14:00:00Z are older than Stripe takes"
    assert [value for _, value in world.told] == [2, 5]
    assert world.report(full=True).status is Status.UNCHANGED


def test_at_first_sight_without_older_usage_nothing_is_lost() -> None:
    world = World(LONG, span(item="si_2"))
    world.use(NOON, 5)

    assert world.report().status is Status.SENT
    newcomer = World(CURRENT)
    newcomer.use(MONTH_START - HOUR, 3)
    assert newcomer.report().unbillable == 0


def test_the_earliest_span_says_what_is_too_old() -> None:
    world = World(CURRENT, LONG)
    world.use(NOON - 50 * DAY, 3)

    assert world.report().unbillable == 3


def test_a_look_at_what_ended_counts_nothing_as_too_old() -> None:
    world = World(LONG)
    world.use(NOON - 50 * DAY, 3)
    world.other = {"closing": True}

    assert world.report().unbillable == 0


def test_what_is_too_old_is_counted_only_when_the_reading_is_remembered() -> None:
    world = World(LONG)
    world.use(NOON - 50 * DAY, 3)
    world.use(NOON, 5)
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    assert (world.report().unbillable, world.head.full_read_at) == (D(0), 0)

    world.stripe.otherwise = Behaviour.OK
    assert world.report().unbillable == 3


# On no invoice


def test_what_no_invoice_takes_is_counted_and_may_shrink_or_be_taken_again() -> None:
    world = World()
    world.use(NOON, 5)
    world.other = {"is_deleted": True}

    lost = world.report()
    assert (lost.status, lost.unbillable, lost.late) == (Status.UNBILLABLE, D(5), D(0))
    assert lost.reason == (
        "5 units of 2026-07-15T12:00:00Z are on no invoice: they were not in Stripe when it billed that "
        "time, or Stripe dropped them (a price swapped, an item removed, an anchor reset or an immediate "
        "cancellation)"
    )
    assert world.report().status is Status.UNCHANGED
    world.use(NOON, -1)
    fewer = world.report()
    assert (fewer.status, fewer.unbillable) == (Status.UNBILLABLE, D(-1))
    assert fewer.reason == "1 units of 2026-07-15T12:00:00Z are no longer among those on no invoice"
    world.other = {}
    assert world.report().status is Status.SENT
    assert world.told == [(NOON + HOUR - 1, D(4))]
    assert world.entry().undelivered == {}


def test_what_was_counted_of_one_hour_stays_when_another_is_sent() -> None:
    world = World(span(MONTH_START, NOON, state=SpanState.ENDED), span(NOON, MONTH_END))
    world.billing.state = SpanState.FINAL
    world.other = {"is_deleted": True}
    world.use(NOON - HOUR, 2)
    world.use(NOON, 3)
    first = world.report()
    assert (first.status, first.late, first.unbillable) == (Status.UNBILLABLE, D(2), D(3))

    world.other = {}
    again = world.report()

    assert (again.status, again.late) == (Status.SENT, D(0))
    assert world.entry().undelivered == {NOON - HOUR: 2}


def test_a_dry_run_counts_what_no_invoice_takes_without_noting_it() -> None:
    world = World()
    world.use(NOON, 5)
    world.other = {"is_deleted": True}

    assert world.report(dry_run=True).unbillable == 5
    assert world.table.items == {}


def test_a_canceled_span_is_asked_for_before_it_is_read() -> None:
    world = World(span(MONTH_START, NOON, state=SpanState.CANCELED))
    world.use(NOON - HOUR, 2)
    world.report()
    assert world.told == [(NOON - 1, D(2))]
    world.billing.state = SpanState.DROPPED

    assert world.report().unbillable == 2


def test_a_send_confirmed_after_the_time_was_billed_is_late() -> None:
    world = World()
    world.use(NOON, 5)
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report()
    world.stripe.otherwise = Behaviour.OK
    world.other = {"is_deleted": True}

    report = world.report()

    assert (report.status, report.late) == (Status.LATE, D(5))


def test_a_send_confirmed_while_its_time_is_open_is_not_late() -> None:
    world = World()
    world.use(NOON, 5)
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report()
    world.stripe.otherwise = Behaviour.OK

    report = world.report()

    assert (report.status, report.late) == (Status.SENT, D(0))


def test_what_stripe_took_and_discarded_waits_for_a_person() -> None:
    world = World()
    world.use(NOON, 5)
    world.report()
    [made] = world.entry().sends.values()
    discarded = world.entry().discarding({made.identifier: "meter_event_invalid_value"})
    world.table.items[(discarded.pk, discarded.sk)] = discarded.to_item(AT)

    report = world.report()

    assert report.status is Status.REJECTED
    assert report.reason.startswith("Stripe took 5 units of 2026-07-15T12:00:00Z, and discarded them")
    assert world.report(accept=True).status is Status.SENT


def test_refusals_of_unknown_sends_put_those_of_their_time_in_doubt() -> None:
    world = World()
    world.use(NOON, 5)
    world.report()
    doubts = Doubts(world.customer_meter().meter_pk).with_window("evt_1", AT - MINUTE, AT, AT)
    world.table.items[(doubts.pk, "doubts")] = doubts.to_item(AT)

    assert world.report().status is Status.DOUBTED
    assert [one.state for one in world.entry().sends.values()] == [SendState.DOUBTED]


# Who goes on


def test_what_stripe_refused_of_one_day_does_not_stop_the_next() -> None:
    world = World()
    world.use(NOON - DAY, 2)
    world.use(NOON, 5)
    world.stripe.behaviours.append(Behaviour.REJECTED)

    assert world.report().status is Status.REJECTED
    assert [value for _, value in world.told] == [5]


def test_days_are_sent_in_order() -> None:
    world = World()
    for days in (3, 1, 0, 2):
        world.use(NOON - days * DAY, 1 + days)
    world.report()

    assert [value for _, value in world.told] == [4, 3, 2, 1]


def test_who_lost_a_race_reads_again() -> None:
    world = World()
    world.use(NOON, 5)
    world.table.lost = {"entry": 1}

    assert world.report().status is Status.SENT
    assert world.told == [(NOON + HOUR - 1, D(5))]


def test_who_lost_a_race_sends_what_is_there_now() -> None:
    world = World()
    world.use(NOON, 5)
    world.table.lost = {"entry": 1}
    world.table.on_loss = lambda: world.use(NOON, 2)

    assert world.report().status is Status.SENT
    assert world.told == [(NOON + HOUR - 1, D(7))]


def test_time_may_run_out_between_two_days_or_two_hours() -> None:
    world = World()
    world.use(NOON - DAY, 2)
    world.use(NOON, 5)
    late = Budget(50.0, lambda: 100.0 if world.stripe.calls else 0.0)

    assert world.report(late).status is Status.HANDED_OVER
    assert world.told == [(NOON - DAY + HOUR - 1, D(2))]

    bounds = frozenset({MONTH_START, MONTH_END, ODD, ODD + HOUR})
    other = World(now=NOON + 3 * HOUR)
    other.other = {"bounds": bounds}
    other.use(ODD, 2)
    other.use(ODD + HOUR, 5)
    late = Budget(50.0, lambda: 100.0 if other.openmeter.exactly else 0.0)
    assert other.report(late).status is Status.HANDED_OVER
    assert len(other.openmeter.exactly) == 2, "those of the first hour"
