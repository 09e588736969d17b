"""What is to be said of a line, and of which there is nothing more to say."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.memory_table import MemoryTable
from tests.layer.builders import NOON, D
from usage_reporting.ledger import Entry
from usage_reporting.model import Send, SendState
from usage_reporting.verdict import Cause, Finding, JudgedLine, Judgement, Known, causes_of, compared
from usage_reporting.windows import HOUR

LINE = JudgedLine("cus_1", "price_1", "si_1", "m1", NOON, NOON + HOUR, D(5), Finding.EXACT, D(5))


@pytest.mark.parametrize(
    ("metered", "quantity", "finding"),
    [
        ("10", "10", Finding.EXACT),
        ("10", "10.000001", Finding.EXACT),
        ("10", "10.0000011", Finding.OVER),
        ("10", "9.9999989", Finding.SHORT),
        ("1e9", "1000000000.001", Finding.EXACT),
        ("1e9", "1000000000.0011", Finding.OVER),
        ("-3", "0", Finding.EXACT),
        ("-3", "1", Finding.OVER),
        ("0", "0", Finding.EXACT),
    ],
)
def test_a_difference_counts_from_a_millionth_on(metered: str, quantity: str, finding: Finding) -> None:
    assert compared(D(metered), D(quantity)) is finding


@pytest.mark.parametrize(
    ("metered", "quantity", "known", "causes"),
    [
        ("10", "10", Known(undelivered=D(3)), {}),
        ("10", "7", Known(sent=D(7), undelivered=D(3)), {Cause.LATE: 3}),
        ("10", "7", Known(sent=D(7), undelivered=D(3), braked=D(2)), {Cause.HELD: 2, Cause.LATE: 1}),
        ("10", "10", Known(sent=D(10), braked=D(2)), {}),
        ("10", "7", Known(sent=D(10)), {Cause.NOT_BILLED: 3}),
        ("10", "7", Known(sent=D(7), unknown=D(3)), {Cause.UNKNOWN: 3}),
        ("10", "7", Known(sent=D(7), rejected=D(9)), {Cause.REJECTED: 3}),
        ("10", "7", Known(sent=D(7)), {Cause.NOT_REPORTED: 3}),
        (
            "10",
            "4",
            Known(sent=D(6), undelivered=D(1)),
            {Cause.LATE: 1, Cause.NOT_BILLED: 2, Cause.NOT_REPORTED: 3},
        ),
        ("10", "13", Known(sent=D(10)), {Cause.OTHER_WRITER: 3}),
        ("10", "13", Known(sent=D(13)), {Cause.DECREASE: 3}),
        ("10", "13", Known(sent=D(11)), {Cause.OTHER_WRITER: 2, Cause.DECREASE: 1}),
    ],
)
def test_the_causes_of_a_difference(
    metered: str, quantity: str, known: Known, causes: dict[Cause, Decimal]
) -> None:
    assert causes_of(D(metered), D(quantity), known) == causes


UNITS = st.integers(0, 50).map(Decimal)


@given(UNITS, UNITS, UNITS, UNITS, UNITS, UNITS)
def test_the_causes_add_up_to_the_difference(
    metered: Decimal, quantity: Decimal, sent: Decimal, unknown: Decimal, rejected: Decimal, late: Decimal
) -> None:
    found = causes_of(metered, quantity, Known(sent, unknown, rejected, late))
    # What the ledger does not know of is either another writer's or not reported: nothing stays unnamed.
    if quantity <= metered:
        assert sum(found.values(), D(0)) == metered - quantity
    else:
        assert sum(found.values(), D(0)) >= quantity - metered


def send(stamp: int, value: int, state: SendState, at: int = NOON) -> Send:
    return Send(f"{stamp}", NOON, stamp, D(value), at, state)


def test_what_is_known_of_a_span_is_what_is_stamped_in_it() -> None:
    sends = [
        send(NOON - 1, 1, SendState.SENT),
        send(NOON, 2, SendState.SENT),
        send(NOON + HOUR - 1, 4, SendState.INTENT),
        send(NOON + 1, 8, SendState.REJECTED),
        send(NOON + HOUR, 16, SendState.SENT),
        send(NOON + 2, 32, SendState.SENT, at=NOON + 5),
    ]
    entry = Entry(
        "pk", "day", sends={one.identifier: one for one in sends}, undelivered={NOON - 5: D(1), NOON: D(2)}
    )
    entry = replace(entry, braked={NOON - 5: D(8), NOON: D(16), NOON + HOUR: D(32)})

    assert Known.of([entry], NOON, NOON + HOUR) == Known(D(34), D(4), D(8), D(2), D(16))
    assert Known.of_total(entry).braked == 56
    assert Known.of([entry], NOON, NOON + HOUR, until=NOON + 4).sent == 2
    assert Known.of([entry], NOON, NOON + HOUR, slices=(NOON - 5, NOON + HOUR)).undelivered == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (LINE, "EXACT"),
        (replace(LINE, causes={Cause.UNBILLABLE: D(3)}), "EXACT (3 unbillable)"),
        (
            replace(LINE, finding=Finding.SHORT, metered=D("8.50"), causes={Cause.LATE: D("3.5")}),
            "SHORT by 3.5 (3.5 late)",
        ),
        (replace(LINE, finding=Finding.OVER, metered=D(1)), "OVER by 4"),
        (replace(LINE, finding=Finding.NOT_JUDGED, metered=None, reason="why"), "NOT JUDGED: why"),
    ],
)
def test_a_verdict_in_words(line: JudgedLine, says: str) -> None:
    assert line.verdict == says
    assert str(line).endswith(f"verdict: {says}")


def judgement(*findings: Finding, looks: int = 1, at: int = NOON) -> Judgement:
    lines = tuple(replace(LINE, finding=one, start=NOON + n) for n, one in enumerate(findings))
    return Judgement("self#test#in_1", lines, at, looks, 1)


@pytest.mark.parametrize(
    ("found", "after", "is_settled"),
    [
        (Judgement("pk"), 0, False),
        (judgement(), 10 * HOUR, True),
        (judgement(Finding.EXACT, Finding.FREE), 10 * HOUR, True),
        (judgement(Finding.SHORT), HOUR - 1, True),
        (judgement(Finding.EXACT, Finding.SHORT), HOUR, False),
        (judgement(Finding.OVER, looks=2), 10 * HOUR, True),
        (judgement(Finding.NOT_JUDGED), HOUR, False),
    ],
)
def test_what_is_not_exact_has_a_second_look_after_an_hour(
    found: Judgement, after: int, is_settled: bool
) -> None:
    assert found.is_settled(NOON + after) is is_settled


def test_the_worst_line_is_the_invoices() -> None:
    assert judgement().worst is None
    assert judgement(Finding.FREE, Finding.EXACT).worst is Finding.EXACT
    assert judgement(Finding.NOT_JUDGED, Finding.EXACT).worst is Finding.NOT_JUDGED
    assert judgement(Finding.SHORT, Finding.OVER, Finding.EXACT).worst is Finding.OVER


def test_only_what_changed_is_news() -> None:
    before, after = judgement(Finding.SHORT, Finding.EXACT), judgement(Finding.SHORT, Finding.OVER)

    assert [line.finding for line in after.news(before)] == [Finding.OVER]
    assert len(after.news(Judgement("pk"))) == 2


def test_a_verdict_comes_back_from_the_table_as_it_was_written() -> None:
    short = replace(LINE, finding=Finding.SHORT, metered=D("8.5"), causes={Cause.LATE: D("3.5")})
    unknown = replace(LINE, finding=Finding.NOT_JUDGED, metered=None, reason="why")
    found = replace(judgement(), lines=(short, unknown), version=0)
    table = MemoryTable()

    table.put(found.to_item(), 0)

    [item] = table.get([(found.pk, "verdict")])
    assert Judgement.from_item(item) == replace(found, version=1)
    assert item["expires_at"] == NOON + 400 * 24 * HOUR
