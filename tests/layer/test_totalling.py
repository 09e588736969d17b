"""The pipeline of meters that take the last value: what is told, held, counted and told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, cast

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, SETTINGS, D, span
from tests.layer.page_world import PageWorld
from tests.layer.protocol import Behaviour
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Settings
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Entry
from usage_reporting.model import Report, SendState, Span, SpanState, Status, Target
from usage_reporting.openmeter import OpenMeter, OpenMeterMeter
from usage_reporting.sender import Sender
from usage_reporting.swaps import Swap
from usage_reporting.totalling import Totalling
from usage_reporting.verdict import Known
from usage_reporting.windows import DAY, HOUR, MINUTE

AT = NOON + 30 * MINUTE
ENDED = span(MONTH_START, NOON, state=SpanState.ENDED)
NEXT = span(NOON, MONTH_END)


@dataclass
class FakeOpenMeter:
    """The total of every span, but for those with one of their own."""

    total: Decimal | None = None
    by_start: dict[int, Decimal] = field(default_factory=dict)
    aggregation: str = "MAX"
    asked: list[tuple[str, list[str], int, int]] = field(default_factory=list)

    async def totals(self, slug: str, subjects: list[str], start: int, end: int) -> dict[str, Decimal]:
        self.asked.append((slug, subjects, start, end))
        total = self.by_start.get(start, self.total)
        return {} if total is None else dict.fromkeys(subjects, total)

    async def meter(self, slug: str) -> OpenMeterMeter:
        return OpenMeterMeter(slug, self.aggregation)


class World(PageWorld[FakeOpenMeter]):
    """One page of customer meters, and all that it is reported to."""

    target = Target.LAST
    pipeline = Totalling

    def __init__(self, *spans: Span, settings: Settings = SETTINGS, now: int = AT) -> None:
        super().__init__(spans or (span(),), FakeOpenMeter(), settings, now)

    def page(
        self, total: str | None, *customers: str, budget: Budget | None = None, **options: bool
    ) -> list[Report]:
        self.openmeter.total = None if total is None else D(total)
        return self.reported(customers, budget, options)

    def report(self, total: str | None, budget: Budget | None = None, **options: bool) -> Report:
        [report] = self.page(total, budget=budget, **options)
        return report

    def entry(self, start: int = MONTH_START) -> Entry:
        return self.ledger.stored((self.customer_meter().pk, str(start)))


# What is told


def test_the_total_so_far_is_told_with_a_later_stamp_each_time() -> None:
    world = World()
    report = world.report("10")

    assert report.status is Status.SENT
    assert world.openmeter.asked == [("m1", ["cus_1"], MONTH_START, AT - MINUTE)]
    [line] = report.lines
    assert (line.total, line.start, line.end) == (D(10), MONTH_START, AT - MINUTE)
    assert world.report("10").status is Status.UNCHANGED
    world.clock.now += HOUR
    assert world.report("12").status is Status.SENT
    assert world.told == [(AT - 11 * MINUTE, D(10)), (AT + 49 * MINUTE, D(12))]


@pytest.mark.parametrize(("known_from", "late"), [(0, 10), (NOON, 0)])
def test_what_a_period_was_told_before_the_ledger_was_made_anew_is_not_known(
    known_from: int, late: int
) -> None:
    """Its usage may well be on its invoice: it is not counted as late."""
    world = World(NEXT)
    world.openmeter.by_start = {MONTH_START: D(10), NOON: D(5)}
    world.report(None)
    world.table.items[(world.customer_meter().pk, "head")]["known_from"] = known_from
    world.shown = (replace(ENDED, state=SpanState.FINAL), NEXT)

    assert world.report(None).late == late


def test_each_period_is_told_its_own_total() -> None:
    world = World(ENDED, NEXT)
    world.openmeter.by_start = {MONTH_START: D(7), NOON: D(2)}

    assert world.report(None).status is Status.SENT
    assert world.told == [(NOON - 10 * MINUTE, D(7)), (AT - 11 * MINUTE, D(2))]


@pytest.mark.parametrize(
    ("aggregation", "allow", "status"),
    [
        ("SUM", False, Status.HELD),
        ("MAX", False, Status.HELD),
        ("SUM", True, Status.SENT),
        ("AVG", False, Status.SENT),
        ("MIN", False, Status.SENT),
        ("LATEST", False, Status.SENT),
    ],
)
def test_what_may_fall_falls(aggregation: str, allow: bool, status: Status) -> None:
    world = World(settings=replace(SETTINGS, allow_decrease=allow))
    world.openmeter.aggregation = aggregation
    world.report("10")

    assert world.report("7").status is status
    assert world.report("7", accept=True).status in {Status.SENT, Status.UNCHANGED}
    assert world.told[-1][1] == 7


def test_nothing_at_all_is_released_by_a_word_of_its_own() -> None:
    world = World(settings=replace(SETTINGS, allow_decrease=True))
    world.openmeter.aggregation = "LATEST"
    world.report("10")

    held = world.report(None, accept=True)
    assert (held.status, world.told[-1][1]) == (Status.HELD, D(10))
    assert "has nothing in OpenMeter" in held.reason
    assert world.report(None, accept_empty=True).status is Status.SENT
    assert world.told[-1][1] == 0


def test_a_total_that_cannot_be_billed_stops_no_other_period() -> None:
    world = World(ENDED, NEXT)
    world.openmeter.by_start = {MONTH_START: D(-1), NOON: D(2)}

    report = world.report(None)

    assert report.status is Status.REFUSED
    assert "a total of -1 from" in report.reason
    assert world.told == [(AT - 11 * MINUTE, D(2))]


def test_an_entry_keeps_the_newest_sends() -> None:
    world = World()
    for total in range(1, 60):
        world.report(str(total))
        world.clock.now += MINUTE

    kept = [send.value for send in world.entry().sends.values()]
    assert len(kept) == 51, "50, and the new one"
    assert max(kept) == 59
    assert min(kept) == 9


def test_of_a_deleted_customer_usage_is_counted_until_it_can_be_told_again() -> None:
    world = World()
    world.other = {"is_deleted": True}

    lost = world.report("5")
    assert (lost.status, lost.unbillable, lost.late) == (Status.UNBILLABLE, D(5), D(0))
    assert lost.reason == (
        "5 units from 2026-07-01T12:00:00Z are on no invoice: they were not in Stripe when it "
        "billed that time, or Stripe dropped them, or takes no later value"
    )
    assert world.entry().undelivered == {MONTH_START: 5}
    assert world.report("5").status is Status.UNCHANGED
    assert world.report("8").unbillable == 3
    assert world.entry().undelivered == {MONTH_START: 8}
    world.other = {}
    assert world.report("8").status is Status.SENT
    assert world.entry().undelivered == {}


# After the end


def test_before_its_invoice_is_final_an_ended_period_is_corrected() -> None:
    world = World(ENDED)
    world.report("5")

    assert world.report("6").status is Status.SENT
    assert world.told == [(NOON - 600, D(5)), (NOON - 599, D(6))]


def test_after_its_invoice_what_is_more_is_late_once() -> None:
    world = World(ENDED)
    world.report("5")
    world.billing.state = SpanState.FINAL

    late = world.report("8")
    assert (late.status, late.late, late.unbillable) == (Status.LATE, D(3), D(0))
    assert late.reason == "3 units from 2026-07-01T12:00:00Z came after their invoice was final"
    assert world.report("8").status is Status.UNCHANGED
    assert world.report("9").late == 1
    assert world.entry().undelivered == {MONTH_START: 4}
    assert len(world.told) == 1


def test_after_its_invoice_what_is_less_is_held_and_noted_when_accepted() -> None:
    world = World(ENDED)
    world.report("5")
    world.billing.state = SpanState.FINAL

    assert "credit the customer" in world.report("3").reason
    noted = world.report("3", accept=True)
    assert (noted.status, noted.late) == (Status.LATE, D(0))
    assert noted.reason == (
        "Stripe has billed 2 units from 2026-07-01T12:00:00Z more than OpenMeter holds; noted"
    )
    assert world.report("3").status is Status.UNCHANGED


def test_a_dry_run_counts_what_is_late_without_noting_it() -> None:
    world = World(ENDED)
    world.report("5")
    world.billing.state = SpanState.FINAL

    assert world.report("8", dry_run=True).late == 3
    assert world.entry().undelivered == {}


def test_a_canceled_span_is_asked_for_even_when_nothing_changed() -> None:
    world = World(replace(ENDED, state=SpanState.CANCELED))
    world.report("5")
    world.billing.state = SpanState.DROPPED

    lost = world.report("5")
    assert (lost.status, lost.unbillable) == (Status.UNBILLABLE, D(5))


# Sends without an answer


def test_an_unknown_is_repeated_before_anything_else_is_told() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    assert world.report("10").status is Status.UNKNOWN
    unknown = world.stripe.calls[-1]
    assert world.report("20").status is Status.UNKNOWN
    assert world.stripe.calls[-1] == unknown

    world.stripe.otherwise = Behaviour.OK
    assert world.report("20").status is Status.SENT
    assert world.told == [(AT - 11 * MINUTE, D(10)), (AT - 11 * MINUTE + 1, D(20))]


def test_a_dry_run_says_what_it_would_send_and_leaves_open_intents_alone() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report("10")
    calls, items = len(world.stripe.calls), dict(world.table.items)

    report = world.report("20", dry_run=True, full=True)

    assert (report.status, [send.value for send in report.sent]) == (Status.SHADOW, [D(20)])
    assert (len(world.stripe.calls), world.table.items) == (calls, items)


def test_what_is_too_old_to_be_repeated_is_told_anew() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report("10")
    world.clock.now += 24 * HOUR
    world.stripe.otherwise = Behaviour.OK

    assert world.report("10").status is Status.SENT
    assert world.told == [(AT + 24 * HOUR - 11 * MINUTE, D(10))]
    states = [send.state for send in world.entry().sends.values()]
    assert states == [SendState.REJECTED, SendState.SENT]


def test_an_old_unknown_of_a_final_invoice_is_held() -> None:
    world = World(ENDED)
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report("10")
    world.clock.now += 24 * HOUR
    world.billing.state = SpanState.FINAL

    held = world.report("10", full=True)

    assert held.status is Status.HELD
    assert held.reason == (
        "it is not known whether Stripe has the total from 2026-07-01T12:00:00Z, sent over 23 hours ago, "
        "and its invoice takes no more; compare it with the invoice"
    )


# What Stripe may have refused afterwards, because it refused another event of the same request


def doubt(world: World, start: int = MONTH_START, which: int = -1) -> None:
    """As a report of refusals does it that names a request only."""
    entry = world.entry(start)
    told = sorted(entry.sends.values(), key=lambda send: send.stamp)[which]
    world.table.put(entry.doubting({told.identifier: "archived_meter"}).to_item(AT), entry.version)


def test_a_doubted_total_is_told_again_with_a_later_stamp() -> None:
    world = World()
    world.report("10")
    doubt(world)

    assert world.report("10").status is Status.SENT
    assert world.told == [(AT - 11 * MINUTE, D(10)), (AT - 11 * MINUTE + 1, D(10))]
    assert world.report("10").status is Status.UNCHANGED


def test_a_doubt_that_a_later_total_outdid_changes_nothing() -> None:
    world = World()
    world.report("10")
    world.report("12")
    doubt(world, which=0)

    assert world.report("12").status is Status.UNCHANGED
    assert len(world.told) == 2


def test_an_unknown_beside_a_doubt_is_repeated_before_anything_else_is_told() -> None:
    world = World()
    world.report("10")
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report("20")
    doubt(world, which=0)
    world.stripe.otherwise = Behaviour.OK

    world.report("20")

    assert [units for _, units in world.told] == [10, 20]
    assert world.entry().intents == []


def test_a_doubt_on_a_final_invoice_holds_nothing_up_and_is_for_the_verdict() -> None:
    world = World(ENDED, NEXT)
    world.openmeter.by_start = {MONTH_START: D(7), NOON: D(2)}
    world.report(None)
    doubt(world)
    world.billing.state = SpanState.FINAL
    world.openmeter.by_start[NOON] = D(3)
    world.clock.now += HOUR

    report = world.report(None)

    assert (report.status, report.reason) == (Status.SENT, "")
    assert [units for _, units in world.told] == [7, 2, 3]
    known = Known.of_total(world.entry())
    assert (known.sent, known.unknown) == (D(0), D(7))


def test_a_send_that_comes_through_after_the_invoice_is_said() -> None:
    world = World(ENDED)
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.report("10")
    world.stripe.otherwise = Behaviour.OK
    world.billing.state = SpanState.FINAL

    report = world.report("10")

    assert report.status is Status.LATE
    assert report.reason == (
        "the total of 10 from 2026-07-01T12:00:00Z was confirmed by Stripe only after its invoice was "
        "final; see whether it has it"
    )
    assert world.report("10").status is Status.UNCHANGED


def test_while_stripe_is_out_of_reach_the_next_period_waits() -> None:
    world = World(ENDED, NEXT)
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED

    assert world.report("10").status is Status.UNKNOWN
    assert {call["params"]["timestamp"] for call in world.stripe.calls} == {NOON - 600}


def test_without_time_nothing_is_read_or_sent() -> None:
    world = World()

    report = world.report("10", budget=Budget(0.0, lambda: 1.0))

    assert (report.status, world.openmeter.asked, world.told) == (Status.HANDED_OVER, [], [])


def test_who_lost_a_race_reads_again() -> None:
    world = World()
    world.table.lost = {"entry": 1}

    assert world.report("10").status is Status.SENT
    assert len(world.openmeter.asked) == 2
    assert len(world.told) == 1


# Full readings


def test_a_full_reading_is_remembered_when_all_went_well() -> None:
    world = World()
    assert world.report("10", full=True, dry_run=True).status is Status.SHADOW
    assert world.table.items == {}
    world.table.lost = {}
    world.report("10", full=True)
    assert world.head.full_read_at == AT

    world.clock.now += HOUR
    world.report("5", full=True)
    assert world.head.full_read_at == AT, "held"
    world.report("11")
    assert world.head.full_read_at == AT, "not a full reading"
    world.report("11", full=True)
    assert world.head.full_read_at == AT + HOUR


def test_a_full_reading_that_another_writer_outran_does_no_harm() -> None:
    world = World()
    world.report("10")
    world.other = {"seen_at": AT}
    world.table.lost = {"head": 100}

    assert world.report("10", full=True).status is Status.UNCHANGED


# Prices swapped unseen


def swap(at: int, **other: Any) -> Swap:
    values = {"subscription": "sub_1", "item": "si_1", "old": "price_0", "new": "price_1", **other}
    return Swap(at, **values)


def test_a_price_that_was_swapped_unseen_parts_the_span() -> None:
    world = World()
    world.report("10")
    swapped = AT + 20 * MINUTE
    world.clock.now += HOUR
    world.billing.changes = [swap(swapped)]
    world.openmeter.by_start = {MONTH_START: D(12), swapped: D(3)}

    report = world.report(None)

    assert (report.status, report.unbillable) == (Status.UNBILLABLE, D(2))
    assert world.told[1:] == [(swapped + 29 * MINUTE, D(3))]
    assert {(one.start, one.end, one.price, one.state) for one in world.head.spans} == {
        (MONTH_START, swapped, "price_0", SpanState.BILLED),
        (swapped, MONTH_END, "price_1", SpanState.CURRENT),
    }


def test_swaps_are_asked_for_since_the_span_was_told_last() -> None:
    world = World()
    world.report("10")
    world.clock.now += HOUR
    world.report("11")

    assert world.billing.asked_from == [MONTH_START + 1, AT]


def test_a_dry_run_tells_nothing_of_a_span_with_a_swapped_price() -> None:
    world = World()
    world.billing.changes = [swap(NOON)]

    report = world.report("10", dry_run=True)

    assert (report.status, report.sent, world.table.items) == (Status.UNCHANGED, [], {})


# Spans that overlap


OVERLAPPING = span(NOON - DAY, MONTH_END - DAY, subscription="sub_2", item="si_2")


def test_spans_that_overlap_are_refused_and_others_are_told() -> None:
    before = span(MONTH_START - 2 * DAY, MONTH_START, state=SpanState.ENDED)
    world = World(before, span(), OVERLAPPING)

    report = world.report("5")

    assert report.status is Status.REFUSED
    assert report.reason.count("subscriptions sub_1 and sub_2 bill") == 1
    assert report.reason.count("subscriptions sub_2 and sub_1 bill") == 1
    assert world.told == [(MONTH_START - 600, D(5))]


@pytest.mark.parametrize(
    ("now_said", "status"),
    [
        (None, Status.UNCHANGED),  # told once Stripe would no longer count it for the other
        ({"ended_at": NOON - MINUTE}, Status.SENT),
        ({"ended_at": None, "cancel_at": NOON - HOUR}, Status.SENT),
        ({"ended_at": None, "cancel_at": AT + DAY}, Status.REFUSED),
        ({"ended_at": None, "cancel_at": None}, Status.REFUSED),
    ],
)
def test_a_remembered_span_that_is_over_does_not_stand_in_the_way(
    now_said: dict[str, Any] | None, status: Status
) -> None:
    world = World(OVERLAPPING, now=NOON - HOUR)
    world.report("5")
    world.clock.now = AT
    world.shown = (span(NOON - HOUR, MONTH_END),)
    world.openmeter.by_start = {NOON - HOUR: D(2)}
    if now_said is not None:
        world.billing.subscriptions = {"sub_2": now_said}

    report = world.report("5")

    assert report.status is status
    assert ((AT - 11 * MINUTE, D(2)) in world.told) is (status is Status.SENT)


# A page


def customers(count: int) -> Sequence[str]:
    return [f"cus_{number}" for number in range(count)]


@pytest.mark.parametrize(("empty", "newcomers", "stopped"), [(5, 0, False), (6, 0, True), (6, 60, True)])
def test_a_page_that_comes_back_empty_sends_nothing(empty: int, newcomers: int, stopped: bool) -> None:
    world = World()
    names = customers(empty)
    world.page("10", *names)

    reports = world.page(None, *names, *(f"new_{number}" for number in range(newcomers)))

    of_page = "OpenMeter has nothing of most customers that had usage before"
    assert all(report.status is Status.HELD for report in reports[:empty])
    assert all((of_page in report.reason) is stopped for report in reports)
    if stopped:
        assert "check OpenMeter, then release each customer with `" in reports[0].reason
    assert all(report.status is Status.SENT for report in world.page(None, *names, accept_empty=True))


def test_a_tenth_of_a_page_may_come_back_empty() -> None:
    world = World()
    for count, of_page in ((60, False), (59, True)):
        names = customers(count)
        world.page("10", *names)
        world.openmeter.total = D(10)

        class Six(FakeOpenMeter):
            async def totals(
                self, slug: str, subjects: list[str], start: int, end: int
            ) -> dict[str, Decimal]:
                return {one: D(10) for one in subjects if one not in customers(6)}

        world.openmeter = Six()
        reports = world.page("10", *names)
        held = [report for report in reports if report.status is Status.HELD]
        assert len(held) == (count if of_page else 6)
        world.openmeter = FakeOpenMeter()


def test_an_empty_page_is_no_work() -> None:
    world = World()
    totalling = Totalling(
        SETTINGS,
        cast("Billing", None),
        cast("OpenMeter", None),
        world.ledger,
        cast("Heads", None),
        cast("Sender", None),
        world.clock,
    )

    asyncio.run(totalling.report([], Options(), Budget()))
