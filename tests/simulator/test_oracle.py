"""The oracle against the examples that Stripe's pages give, in our own words and numbers."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import pytest

from sandbox.simulator.aggregations import aggregated
from sandbox.simulator.bills import Measures, bills
from sandbox.simulator.calendar import DAY, moved
from sandbox.simulator.history import Act, Contract, History, Item, Usage
from sandbox.simulator.oracle import Segment, segments

HOUR = 3600
APRIL = 1_806_537_600
"""2027-04-01T00:00:00Z"""
MAY = APRIL + 30 * DAY
TOKENS = Item(meter="m1")
NEW_PRICE = Item(meter="m1", variant="b")


def monthly(*items: Item, **more: Any) -> Contract:
    contract = Contract("s0", "c0", APRIL, "month", items or (TOKENS,), "flexible")
    return dataclasses.replace(contract, **more)


def used(day: float, value: str, meter: str = "m1") -> Usage:
    time = APRIL + int(day * DAY)
    return Usage("c0", meter, time, value, time)


def history(contract: Contract, *acts: Act, usage: tuple[Usage, ...] = (), months: int = 1) -> History:
    end = moved(APRIL, "month", months) + 2 * HOUR
    return History("page", APRIL, end, (contract,), usage, acts)


def billed(made: History) -> list[tuple[str, Decimal]]:
    return [(segment.item.variant, quantity) for segment, quantity in bills(made)]


def stretches(made: History) -> list[tuple[float, float, str]]:
    return [((s.start - APRIL) / DAY, (s.end - APRIL) / DAY, s.how) for s in segments(made, 0)]


@pytest.mark.parametrize(
    ("mode", "lines"),
    [("flexible", [("a", Decimal(300)), ("b", Decimal(450))]), ("classic", [("b", Decimal(450))])],
)
def test_manage_billing_setup_a_price_changed_in_mid_cycle(mode: Any, lines: list[Any]) -> None:
    """Flexible mode bills each price what was used under it; classic mode never bills the old one."""
    swap = Act(APRIL + 15 * DAY, "s0", "swap", to=NEW_PRICE)
    usage = (used(3, "100"), used(14.99, "200"), used(15, "50"), used(29, "400"))

    assert billed(history(monthly(mode=mode), swap, usage=usage)) == lines


def test_without_prorations_the_old_price_is_never_billed() -> None:
    swap = Act(APRIL + 15 * DAY, "s0", "swap", to=NEW_PRICE, proration="none")

    assert billed(history(monthly(), swap, usage=(used(3, "100"), used(16, "1")))) == [("b", Decimal(1))]


@pytest.mark.parametrize(("mode", "how"), [("flexible", "received"), ("classic", "dropped")])
def test_manage_billing_setup_an_item_removed(mode: Any, how: str) -> None:
    other = Item(meter="m2")
    remove = Act(APRIL + 10 * DAY, "s0", "remove", item=0)

    found = list(segments(history(monthly(TOKENS, other, mode=mode), remove), 0))

    assert [(one.item.meter, one.how) for one in found] == [("m1", how), ("m2", "draft")]
    assert (found[0].end - APRIL) / DAY == 10


def test_an_item_added_bills_from_then_on() -> None:
    add = Act(APRIL + 10 * DAY, "s0", "add", to=Item(meter="m2"))

    assert stretches(history(monthly(), add)) == [(0, 30, "draft"), (10, 30, "draft")]


def test_configure_a_grace_period_usage_is_taken_for_an_hour_after_the_period() -> None:
    made = list(segments(history(monthly()), 16))

    assert [(one.end, one.closes) for one in made] == [(MAY, MAY + 16 + HOUR)]


def test_usage_in_a_free_trial_is_on_a_line_for_nothing() -> None:
    contract = dataclasses.replace(monthly(), trial_days=14, interval="week")

    assert stretches(history(contract))[:2] == [(0, 14, "free"), (14, 21, "draft")]


def test_a_trial_that_is_ended_early_puts_the_anchor_there() -> None:
    contract = dataclasses.replace(monthly(), trial_days=14, interval="week")

    found = stretches(history(contract, Act(APRIL + 4 * DAY, "s0", "end_trial")))

    assert found[:3] == [(0, 4, "free"), (4, 11, "draft"), (11, 18, "draft")]


def test_billing_cycle_a_new_anchor_bills_at_once_and_begins_anew() -> None:
    reset = Act(APRIL + 10 * DAY, "s0", "reset_anchor")

    assert stretches(history(monthly(), reset, months=2)) == [(0, 10, "received"), (10, 40, "draft")]


@pytest.mark.parametrize(
    ("act", "last"),
    [
        (Act(APRIL + DAY, "s0", "cancel_at_period_end"), (0, 30, "draft")),
        (Act(APRIL + DAY, "s0", "cancel_at", until=APRIL + 12 * DAY), (0, 12, "draft")),
        (Act(APRIL + DAY, "s0", "cancel_now"), (0, 1, "dropped")),
        (Act(APRIL + DAY, "s0", "cancel_now_and_bill"), (0, 1, "received")),
    ],
)
def test_cancel_subscriptions(act: Act, last: tuple[float, float, str]) -> None:
    assert stretches(history(monthly(), act, months=3)) == [last]


def test_mixed_intervals_share_the_anchor_and_renew_each_in_its_own_time() -> None:
    weekly = Item(meter="m2", interval="week")

    found = list(segments(history(monthly(TOKENS, weekly)), 0))

    ends = {item: [(s.end - APRIL) // DAY for s in found if s.item == item] for item in (TOKENS, weekly)}
    assert ends == {TOKENS: [30], weekly: [7, 14, 21, 28]}


@pytest.mark.parametrize(("mode", "found"), [("flexible", (15, 21)), ("classic", (15, 22))])
def test_a_swap_to_another_interval_moves_the_anchor_in_classic_mode_only(
    mode: Any, found: tuple[float, float]
) -> None:
    weekly = Item(meter="m1", interval="week", variant="b")
    swap = Act(APRIL + 15 * DAY, "s0", "swap", to=weekly)

    made = [s for s in segments(history(monthly(mode=mode), swap), 0) if s.item == weekly]

    assert ((made[0].start - APRIL) / DAY, (made[0].end - APRIL) / DAY) == found


def test_months_keep_the_day_of_their_anchor_where_they_have_it() -> None:
    leap = 1_832_889_600  # 2028-01-31T00:00:00Z

    assert [(moved(leap, "month", n) - leap) // DAY for n in (1, 2, 3)] == [29, 60, 90]


@pytest.mark.parametrize(
    ("meter", "total"),
    [("m1", "9"), ("m2", "3"), ("m3", "2"), ("m4", "3"), ("m5", "2"), ("m6", "5"), ("m7", "2")],
)
def test_the_seven_aggregations(meter: str, total: str) -> None:
    assert aggregated([used(3, "2", meter), used(1, "2", meter), used(2, "5", meter)]) == Decimal(total)
    assert aggregated([]) == 0


def period(start: int, end: int, kind: Any = "mirror", **more: Any) -> Segment:
    segment = Segment("s0", "c0", Item(kind=kind), start, end, "draft", end + HOUR, first=False, place=0)
    return dataclasses.replace(segment, **more)


@pytest.mark.parametrize("kind", ["mirror", "last", "legacy"])
def test_what_is_measured_to_the_second(kind: Any) -> None:
    first, second = period(APRIL + 7, MAY, kind, first=True), period(MAY, MAY + 30 * DAY, kind)
    early = 1800 if kind == "legacy" else 0

    measures = Measures("exact", [first, second])

    assert measures.of(first) == (APRIL + 7, MAY - early)
    assert measures.of(second) == (MAY - early, MAY + 30 * DAY - early)


@pytest.mark.parametrize(
    ("setting", "renewed"),
    [("minute", "10:37:00"), ("hour", "10:00:00"), ("day", "00:00:00")],
)
def test_a_renewal_is_rounded_down_to_its_window(setting: Any, renewed: str) -> None:
    at = APRIL + 10 * HOUR + 37 * 60 + 42
    first = period(at, at + DAY, first=True)
    second = period(at + DAY, at + 2 * DAY, is_last=True)

    measures = Measures(setting, [first, second])

    hours, minutes, seconds = map(int, renewed.split(":"))
    cut = APRIL + DAY + hours * HOUR + minutes * 60 + seconds
    assert measures.of(first) == (at + 18, cut)
    assert measures.of(second) == (cut, at + 2 * DAY - 42)


def test_no_bound_is_rounded_to_before_an_earlier_one() -> None:
    at = APRIL + 10 * HOUR + 37 * 60 + 42
    short = period(at, at + 600, first=True)

    assert Measures("hour", [short]).of(short) == (at + 18, at + 18)


def test_a_legacy_line_is_whole_and_no_line_is_below_zero() -> None:
    contract = monthly(Item(kind="legacy"), mode="classic")

    assert billed(history(contract, usage=(used(1, "1.25"), used(2, "1.25")))) == [("a", Decimal(3))]
    assert billed(history(monthly(), usage=(used(1, "1"), used(2, "-2")))) == [("a", Decimal(0))]
