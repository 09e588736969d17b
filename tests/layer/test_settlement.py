"""Doubted sends: which are, what Stripe's summary says of them, and when it is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, cast

import pytest

from tests.layer.builders import NOON, Clock, D, MemoryTable, customer_meter, send
from usage_reporting.billing import Billing
from usage_reporting.doubts import MARGIN, Doubts, Look, Window
from usage_reporting.heads import LONG_AGO, Options
from usage_reporting.hours import Case
from usage_reporting.ledger import Entry, Head, HourRead, Ledger
from usage_reporting.model import Report, Send, SendState, Status
from usage_reporting.settlement import (
    LOOKS_APART,
    MOST_DOUBTED,
    SUMMARIES_LAG,
    SUMMARIES_SURE,
    Settlement,
    explanation,
)
from usage_reporting.windows import DAY, HOUR, MINUTE, Slice

ONE = customer_meter()
DAY_OF = "2026-07-15"
KEY = (ONE.pk, DAY_OF)
SENT_AT = NOON + HOUR + MINUTE
SETTLED = SENT_AT + SUMMARIES_LAG


def made(name: str, value: str | int | Decimal, state: SendState = SendState.DOUBTED, **other: Any) -> Send:
    one = replace(send(name, intended_at=SENT_AT, state=state), value=Decimal(value))
    return replace(one, **{"sent_at": SENT_AT, **other})


def doubted(*values: str | int) -> list[Send]:
    return [made(f"d{number}", value) for number, value in enumerate(values)]


# What explains a summary


@pytest.mark.parametrize(
    ("known", "values", "held", "counted"),
    [
        ("10", ["3"], "13", {"d0"}),
        ("10", ["3"], "10", set()),
        ("10", ["3"], "11", None),
        ("10", ["3", "4"], "14", {"d1"}),
        ("0", ["0.1", "0.2"], "0.30000000000000004", {"d0", "d1"}),
        ("0", ["5", "-5"], "0", {"d0", "d1"}),
    ],
)
def test_the_summary_with_or_without_each(
    known: str, values: list[str], held: str, counted: set[str] | None
) -> None:
    assert explanation(D(known), doubted(*values), D(held)) == counted


def test_two_explanations_explain_nothing() -> None:
    """Two equal sends of one slice are the same to every bill; of two slices they are not."""
    same = doubted(3, 3)
    assert explanation(D(1), same, D(4)) == frozenset({"d0"})

    other = replace(same[1], slice_start=NOON + 30 * MINUTE)
    assert explanation(D(1), [same[0], other], D(4)) is None
    assert explanation(D(1), [same[0], other], D(7)) == frozenset({"d0", "d1"})


def test_too_many_doubts_are_not_tried() -> None:
    many = doubted(*(2**number for number in range(MOST_DOUBTED)))
    assert explanation(D(0), many, D(2**MOST_DOUBTED - 1)) is not None
    more = [*many, made("one more", 2**MOST_DOUBTED)]
    assert explanation(D(0), more, D(2 ** (MOST_DOUBTED + 1) - 1)) is None


# Which sends are doubted


@pytest.mark.parametrize(
    ("intended", "sent", "concerned"),
    [
        (100, 110, True),
        (40, 50, True),
        (39, 39, False),
        (0, 500, True),
        (170, 170, True),
        (171, 171, False),
        (0, 0, False),
    ],
)
def test_a_window_concerns_what_was_under_way_in_it(intended: int, sent: int, concerned: bool) -> None:
    assert MARGIN == 60
    window = Window(100, 110, 1)
    one = replace(send(state=SendState.SENT), intended_at=intended, sent_at=sent)
    assert window.concerns(one, 10_000) == concerned


def test_an_intent_is_under_way_until_now() -> None:
    one = replace(send(), intended_at=0)
    assert Window(100, 110, 1).concerns(one, 100)
    assert not Window(100, 110, 1).concerns(one, 39)


def test_windows_are_kept_once_and_for_35_days() -> None:
    first = Doubts("pk").with_window("evt_1", NOON, NOON + 10, NOON + 12)
    assert first.with_window("evt_1", 0, 1, NOON + 99) == first
    second = first.with_window("evt_2", NOON + 60, NOON + 70, NOON + 72)
    assert [window.number for window in second.after(0)] == [1, 2]
    assert second.after(1) == [Window(NOON + 60, NOON + 70, 2)]
    assert Doubts.from_item(second.to_item(NOON)) == replace(second, version=1)

    later = second.with_window("evt_3", NOON + 36 * DAY, NOON + 36 * DAY, NOON + 36 * DAY)
    assert list(later.windows) == ["evt_3"]
    assert later.newest == 3


# A whole settlement


@dataclass
class Summaries:
    """Stripe's hourly summaries of one customer."""

    held: dict[int, Decimal] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def hours_held(self, customer: str, meter: str, start: int, end: int) -> dict[int, Decimal]:
        assert (customer, meter) == ("cus_1", "mtr_1")
        self.asked.append((start, end))
        return {hour: value for hour, value in self.held.items() if start <= hour < end}


@dataclass
class World:
    """One customer meter with one day of sends."""

    sends: Iterable[Send]
    windows: tuple[Window, ...] = ()
    held: dict[int, Decimal] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    closing: bool = False

    def __post_init__(self) -> None:
        self.clock = Clock(SETTLED)
        self.summaries = Summaries(self.held)
        self.table = MemoryTable()
        self.ledger = Ledger(self.table)
        self.settlement = Settlement(cast("Billing", self.summaries), self.ledger, self.clock)
        entry = Entry(*KEY, hours={NOON: HourRead(D(9), frozenset({Slice(NOON, NOON + HOUR)}))})
        asyncio.run(self.ledger.write_entry(entry.with_sends(self.sends), NOON))
        head = Head(ONE.pk, "cus_1", "m1", "1", full_read_at=NOON).sees(ONE, NOON)
        asyncio.run(self.ledger.write_head(head, NOON))

    @property
    def head(self) -> Head:
        return asyncio.run(self.ledger.heads([ONE.pk]))[ONE.pk]

    @property
    def entry(self) -> Entry:
        return asyncio.run(self.ledger.entries([KEY]))[KEY]

    @property
    def states(self) -> list[str]:
        return [str(one.state) for one in self.entry.sends.values()]

    def settle(self, at: int) -> Report:
        self.clock.now = at
        report = Report(replace(ONE, closing=self.closing))
        case = Case(report, self.head, at, self.options)
        case.windows = [window for window in self.windows if window.number > case.head.doubts_seen]
        case.entries = asyncio.run(self.ledger.entries(case.keys))
        asyncio.run(self.settlement.settle(case))
        return report


def test_two_looks_ten_minutes_apart_settle_it() -> None:
    world = World([made("known", 5, SendState.SENT), *doubted(3, 4)], held={NOON: D(8)})

    report = world.settle(SETTLED)
    assert (report.status, "7 units" in report.reason) == (Status.DOUBTED, True)
    assert world.entry.looks == {NOON: Look(SETTLED, D(8), D(5), frozenset({"d0", "d1"}))}
    assert world.head.doubtful == {DAY_OF}
    assert world.settle(SETTLED + LOOKS_APART - 1).status is Status.DOUBTED
    assert len(world.summaries.asked) == 1
    assert world.settle(SETTLED + LOOKS_APART).status is Status.DOUBTED, "the summary may only be late"
    assert world.settle(SENT_AT + SUMMARIES_SURE - 1).status is Status.DOUBTED
    assert world.settle(SENT_AT + SUMMARIES_SURE).status is Status.UNCHANGED

    assert world.states == ["sent", "sent", "discarded"]
    assert world.entry.looks == {}
    assert world.entry.hours == {}, "the hour is to be asked again"
    assert (world.head.doubtful, world.head.full_read_at) == (frozenset(), LONG_AGO)


@pytest.mark.parametrize(
    ("later_by", "shown", "status"),
    [(1, 2, Status.UNCHANGED), (1, 0, Status.DOUBTED), (0, 2, Status.DOUBTED), (-1, 2, Status.DOUBTED)],
)
def test_a_summary_that_shows_what_was_sent_later_is_fresh(later_by: int, shown: int, status: Status) -> None:
    at = SENT_AT + later_by
    later = made(
        "later", 2, SendState.SENT, stamp=NOON - 1, slice_start=NOON - HOUR, intended_at=at, sent_at=at
    )
    world = World([*doubted(3), later], held={NOON: D(0), NOON - HOUR: D(shown)})

    world.settle(SETTLED)
    assert world.settle(SETTLED + LOOKS_APART).status is status


def test_what_is_found_to_count_has_nothing_read_again() -> None:
    world = World(doubted(3), held={NOON: D(3)})
    world.settle(SETTLED)
    world.settle(SETTLED + LOOKS_APART)

    assert world.states == ["sent"]
    assert NOON in world.entry.hours
    assert world.head.full_read_at == NOON


def test_no_look_before_the_summaries_had_time() -> None:
    late = made("late", 1, SendState.SENT, sent_at=SENT_AT + 30 * MINUTE)
    world = World([*doubted(3), late], held={NOON: D(4)})

    for at in (SETTLED - 1, SETTLED, SETTLED + 30 * MINUTE - 1):
        assert world.settle(at).status is Status.DOUBTED
    assert world.summaries.asked == []
    world.settle(SETTLED + 30 * MINUTE)
    assert world.summaries.asked == [(NOON, NOON + HOUR)]


def test_no_look_while_a_send_of_the_hour_is_open() -> None:
    world = World([*doubted(3), made("open", 1, SendState.INTENT, sent_at=0)])
    assert world.settle(SETTLED + HOUR).status is Status.DOUBTED
    assert world.summaries.asked == []


@pytest.mark.parametrize("change", ["summary", "known"])
def test_a_second_look_that_differs_is_a_first_one(change: str) -> None:
    world = World([made("known", 5, SendState.SENT), *doubted(3)], held={NOON: D(5)})
    world.settle(SETTLED)
    if change == "summary":
        world.held[NOON] = D(8)
    else:
        more = world.entry.with_sends([made("more", 1, SendState.SENT)])
        asyncio.run(world.ledger.write_entry(more, NOON))
        world.held[NOON] = D(6)

    assert world.settle(SETTLED + LOOKS_APART).status is Status.DOUBTED
    world.settle(SETTLED + 2 * LOOKS_APART)
    assert world.settle(SENT_AT + SUMMARIES_SURE).status is Status.UNCHANGED
    assert world.states[1] == ("sent" if change == "summary" else "discarded")


def test_what_nothing_explains_is_held_with_both_numbers_until_it_is() -> None:
    world = World([made("known", 5, SendState.SENT), *doubted(3)], held={NOON: D(100)})
    assert world.settle(SETTLED).status is Status.DOUBTED
    for looks in (1, 2, 3):
        report = world.settle(SETTLED + looks * LOOKS_APART)
        assert report.status is Status.HELD
        assert "holds 100 units" in report.reason
        assert "3 units that are doubted beside the 5 that are known" in report.reason
        assert "`usage-reporter adopt --stack NAME --customer cus_1`" in report.reason

    world.held[NOON] = D(8)
    assert world.settle(SETTLED + 4 * LOOKS_APART).status is Status.DOUBTED
    assert world.settle(SETTLED + 5 * LOOKS_APART).status is Status.UNCHANGED
    assert world.states == ["sent", "sent"]


def test_a_window_doubts_what_was_sent_in_it_once() -> None:
    before = made("before", 1, SendState.SENT, intended_at=SENT_AT - HOUR, sent_at=SENT_AT - HOUR)
    refused = made("refused", 2, SendState.REJECTED)
    world = World(
        [before, made("inside", 3, SendState.SENT), refused],
        windows=(Window(SENT_AT, SENT_AT + 10, 7),),
        held={NOON: D(4)},
    )

    assert world.settle(SENT_AT + 12).status is Status.DOUBTED
    assert world.states == ["sent", "doubted", "rejected"]
    assert world.head.doubts_seen == 7
    assert world.head.doubtful == {DAY_OF}
    world.settle(SETTLED)
    world.settle(SETTLED + LOOKS_APART)
    assert world.states == ["sent", "sent", "rejected"]
    world.settle(SETTLED + 2 * LOOKS_APART)
    assert world.states == ["sent", "sent", "rejected"], "the window was dealt with"


def test_a_window_waits_for_an_intent_under_way() -> None:
    world = World([made("open", 1, SendState.INTENT)], windows=(Window(SENT_AT, SENT_AT + 10, 7),))
    world.settle(SENT_AT + 12)

    assert (world.states, world.head.doubts_seen) == (["intent"], 0)


def test_a_window_reaches_days_that_are_not_read_otherwise() -> None:
    old = NOON - 20 * DAY
    case = Case(Report(ONE), Head(ONE.pk, "cus_1", "m1", "1", full_read_at=NOON), NOON, Options())
    assert (ONE.pk, "2026-06-25") not in case.keys
    case.head = replace(case.head, doubtful=frozenset({"2026-06-25"}))
    assert (ONE.pk, "2026-06-25") in case.keys
    case.head = replace(case.head, doubtful=frozenset())
    case.windows = [Window(old, old + 10, 1)]
    assert {(ONE.pk, "2026-06-25"), (ONE.pk, "2026-05-22")} <= set(case.keys)


def test_a_dry_run_says_it_and_writes_nothing() -> None:
    world = World(doubted(3), held={NOON: D(3)}, options=Options(dry_run=True))
    before = dict(world.table.items)

    assert world.settle(SETTLED + DAY).status is Status.DOUBTED
    assert (world.table.items, world.summaries.asked) == (before, [])


def test_a_closing_period_is_not_held_up_by_doubts_of_another() -> None:
    beyond = ONE.spans[0].end + HOUR
    other = replace(made("d", 3), stamp=beyond, slice_start=beyond)
    assert World([other], closing=True).settle(SETTLED).status is Status.UNCHANGED
    assert World(doubted(3), closing=True).settle(SETTLED).status is Status.DOUBTED


@pytest.mark.parametrize(("age", "state"), [(23 * HOUR, "intent"), (23 * HOUR + 1, "doubted")])
def test_an_intent_of_23_hours_is_doubted_instead_of_repeated(age: int, state: str) -> None:
    world = World([made("open", 3, SendState.INTENT, sent_at=0)])
    world.clock.now = SENT_AT + age

    asyncio.run(world.settlement.doubt_old_intents(world.entry))

    assert world.states == [state]
