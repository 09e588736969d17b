"""The rows: their words, their order, and what Stripe's summary changes of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from cli.desk import words
from cli.desk.desk import Query
from cli.desk.periods import Condition, Period, counts, periods_of, with_report
from cli.desk.reading import Reading
from tests.integration.world import DAY, HOUR, MINUTE, NOON
from tests.layer.builders import customer_meter, span
from usage_reporting.model import Line, Report, Send, Status, Target


def period(**changes: object) -> Period:
    one = customer_meter(spans=[span(NOON, NOON + 30 * DAY)])
    [found] = periods_of(one, {one.customer: "Ada"})
    return replace(found, **changes)  # type: ignore[arg-type]


def reported(status: Status = Status.UNCHANGED, *sends: str, reason: str = "") -> Report:
    one = customer_meter(spans=[span(NOON, NOON + 30 * DAY)])
    report = Report(one)
    report.note(status, reason)
    report.lines.append(Line(one.customer, "price_1", "m1", Decimal(12), NOON, NOON + HOUR))
    report.sent += [
        Send(f"s{number}", NOON, NOON + HOUR - 1 + number, Decimal(value), NOON)
        for number, value in enumerate(sends)
    ]
    return report


@pytest.mark.parametrize(
    ("report", "condition", "said"),
    [
        (reported(), Condition.EXACT, "exact"),
        (reported(Status.SHADOW, "2", "0.5"), Condition.TO_SEND, "2.5 to send"),
        (reported(Status.SHADOW, "-1200"), Condition.TO_SEND, "-1,200 to send"),
        (reported(Status.HELD, reason="less"), Condition.HELD, "held: less"),
        (reported(Status.REFUSED, reason="why"), Condition.REFUSED, "refused: why"),
        (reported(Status.REJECTED, reason="no"), Condition.REJECTED, "rejected: no"),
        (reported(Status.UNKNOWN, reason="silent"), Condition.UNKNOWN, "unknown: silent"),
        (reported(Status.HANDED_OVER), Condition.UNKNOWN, "unknown"),
        (reported(Status.DOUBTED, reason="refused"), Condition.DOUBTED, "doubted: refused"),
        (reported(Status.LATE, reason="5 late"), Condition.UNBILLED, "on no invoice: 5 late"),
        (reported(Status.HELD, reason="key sk_test_abcdefgh123"), Condition.HELD, "held: key [key]"),
    ],
)
def test_the_words_of_a_report(report: Report, condition: Condition, said: str) -> None:
    found = with_report(period(), report)

    assert (found.condition, found.words) == (condition, said)
    assert found.metered == 12


def test_a_total_is_told_anew() -> None:
    found = with_report(period(), reported(Status.SHADOW, "2", "7"))
    total = replace(found, customer_meter=replace(found.customer_meter, target=Target.LAST))

    assert total.words == "a total of 7 to send"


def test_what_stripe_shows_otherwise_than_it_was_told_is_said() -> None:
    exact = with_report(period(), reported())

    assert exact.with_held(Decimal(12)).condition is Condition.EXACT
    less = exact.with_held(Decimal(9))
    assert less.condition is Condition.DIFFERS
    assert less.difference == 3
    assert "shows 9" in less.words
    assert with_report(period(), reported(Status.HELD)).with_held(Decimal(9)).condition is Condition.HELD


def test_what_is_open_and_closes_soon_is_first() -> None:
    now = NOON
    held, to_send = Condition.HELD, Condition.TO_SEND
    in_order = (
        period(invoice="in_1", deadline=now + MINUTE, condition=to_send, end=now),
        period(invoice="in_2", deadline=now + HOUR, condition=held, end=now),
        period(end=now + 5 * HOUR, condition=to_send),
        period(end=now + 20 * DAY, condition=held),
        period(invoice="in_3", deadline=now + MINUTE, condition=Condition.EXACT, end=now),
        period(end=now + HOUR, condition=Condition.EXACT),
        period(end=now + 20 * DAY, condition=to_send),
    )
    mixed = [in_order[number] for number in (6, 0, 3, 5, 1, 4, 2)]

    assert tuple(sorted(mixed, key=lambda one: one.urgency(now))) == in_order


def test_a_part_of_anything_that_names_a_period_finds_it() -> None:
    one = period(invoice="in_77")

    assert all(Query(text).takes(one) for text in ("", "ADA", "cus_", "m1", "in_77", "sub_"))
    assert not Query("Bell").takes(one)
    assert not Query("Ada", condition="held").takes(one)
    assert counts([one, one]) == {Condition.READING: 2}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "over"), (0, "over"), (59, "59 s"), (3600, "1 h 0 min"), (125, "2 min 5 s"), (90_000, "1 d 1 h")],
)
def test_time_left(seconds: int, said: str) -> None:
    assert words.time_left(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [("1234567.500", "1,234,567.5"), ("-0.25", "-0.25"), ("1E+3", "1,000"), ("0.000000001", "0.000000001")],
)
def test_units_keep_every_digit(value: str, said: str) -> None:
    assert words.units(Decimal(value)) == said


async def _reads() -> None:
    times: list[int] = []

    async def read() -> int:
        times.append(len(times))
        if len(times) == 2:
            raise RuntimeError
        return len(times)

    reading = Reading(read, lambda: 42)
    assert await reading.fresh() == 1
    assert (reading.read_at, reading.error) == (42, "")
    reading.forget()
    assert await reading.fresh() == 1
    assert "unexpected RuntimeError" in reading.error
    reading.forget()
    assert await reading.fresh() == 3
    assert reading.error == ""
    await reading.close()


def test_an_older_value_stands_while_a_newer_one_cannot_be_read() -> None:
    asyncio.run(_reads())
