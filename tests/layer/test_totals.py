"""Which spans are read where the last value counts, and together with whom."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, customer_meter, send, span
from usage_reporting.errors import RefusedError
from usage_reporting.heads import Options
from usage_reporting.ledger import Entry, Head
from usage_reporting.model import Report, SendState, Span, SpanState, Status, Target
from usage_reporting.openmeter import OpenMeter
from usage_reporting.totals import SpanRead, TotalsCase, read_totals
from usage_reporting.windows import DAY, HOUR, MINUTE

AT = NOON + 30 * MINUTE


def case(*shown: Span, known: tuple[Span, ...] = (), now: int = AT, **other: Any) -> TotalsCase:
    one = customer_meter(*shown, target=Target.LAST, seen_at=other.pop("seen_at", now), **other)
    head = Head(one.pk, one.subject, "m1", "1", spans=known, full_read_at=now - HOUR)
    return TotalsCase(Report(one), head, now, Options(), "MAX")


def starts(one: TotalsCase) -> list[tuple[int, int]]:
    return [(spans[0].start, spans[0].end) for spans in one.due()]


def test_what_runs_and_what_ended_of_late_is_read() -> None:
    before = span(MONTH_START, NOON)
    now_on = span(NOON, MONTH_END)

    assert starts(case(now_on, known=(before, now_on))) == [(MONTH_START, NOON), (NOON, MONTH_END)]
    later = NOON + 7 * HOUR
    assert starts(case(now_on, known=(before, now_on), now=later)) == [(NOON, MONTH_END)]
    full = case(now_on, known=(before, now_on), now=later)
    full.options = Options(full=True)
    assert len(full.due()) == 2
    old = case(now_on, known=(before, now_on), now=NOON + 4 * DAY)
    old.options = Options(full=True)
    assert starts(old) == [(NOON, MONTH_END)]


def test_a_look_at_what_ended_reads_nothing_else() -> None:
    ended = span(MONTH_START, NOON, state=SpanState.DRAFT)
    other = span(MONTH_START, NOON - HOUR, item="si_2")

    assert starts(case(ended, known=(ended, other), closing=True, partial=True)) == [(MONTH_START, NOON)]


def test_what_is_free_or_has_not_begun_is_not_read() -> None:
    assert case(span(state=SpanState.FREE)).due() == []
    assert case(span(AT, MONTH_END)).due() == []


def test_items_billed_over_the_same_time_go_together() -> None:
    [together] = case(span(), span(item="si_2")).due()

    assert [one.item for one in together] == ["si_1", "si_2"]


def test_a_drafts_line_begins_where_its_item_came_in() -> None:
    added = span(NOON - DAY, NOON)
    line = span(MONTH_START, NOON, state=SpanState.DRAFT)

    assert starts(case(line, known=(added,), closing=True, partial=True)) == [(NOON - DAY, NOON)]


def test_a_span_is_stamped_no_later_than_it_was_seen() -> None:
    one = case(span(), seen_at=AT - HOUR)

    assert one.latest(span(), AT) == AT - HOUR
    assert one.latest(span(end=NOON), AT) == AT


def test_nothing_is_told_of_a_deleted_customer() -> None:
    one = case(span(), is_deleted=True)
    read = SpanRead([span()], AT, Entry("pk", "1"), D(5))

    assert not one.total(read, AT).takes_usage


@pytest.mark.parametrize(("age", "told_anew"), [(23 * HOUR, False), (23 * HOUR + 1, True)])
def test_an_intent_of_23_hours_is_not_repeated(age: int, told_anew: bool) -> None:
    read = SpanRead([span()], NOON, Entry("pk", "1").with_sends([send(intended_at=NOON)]))

    assert bool(read.doubtful(NOON + age)) is told_anew


def test_a_negative_total_is_refused() -> None:
    read = SpanRead([span()], AT, Entry("pk", "1"), D(-5))

    with pytest.raises(RefusedError, match="a total of -5"):
        case(span()).total(read, AT)


def test_after_another_span_ended_early_the_total_is_told_again() -> None:
    """Its values lie in this span, too."""
    other = span(MONTH_START - DAY, NOON, item="si_2", state=SpanState.DROPPED)
    told = {
        stamp: Entry("pk", "1", sends={"a": send("a", 5, stamp, state=SendState.SENT)})
        for stamp in (NOON - 1, NOON)
    }
    one = case(span(), known=(other,))

    assert one.total(SpanRead([span()], AT, told[NOON - 1], D(5)), AT).is_doubtful
    assert not one.total(SpanRead([span()], AT, told[NOON], D(5)), AT).is_doubtful


@dataclass
class FakeOpenMeter:
    """Has one unit of everybody but of a subject that it refuses."""

    refused: str = ""
    asked: list[tuple[list[str], int, int]] = field(default_factory=list)

    async def totals(self, _slug: str, subjects: list[str], start: int, end: int) -> dict[str, Decimal]:
        self.asked.append((subjects, start, end))
        if self.refused in subjects:
            raise RefusedError("it does not take this subject")
        return dict.fromkeys(subjects, D(1))


def read(openmeter: FakeOpenMeter, cases: list[TotalsCase]) -> list[Status]:
    reports = [one.report for one in cases]
    for one in cases:
        one.reads = [SpanRead(spans, AT, Entry("pk", "1"), start=spans[0].start) for spans in one.due()]
    by_report = {id(one.report): one for one in cases}
    asyncio.run(read_totals(cast("OpenMeter", openmeter), reports, by_report))
    return [report.status for report in reports]


def test_customers_with_the_same_span_are_asked_together() -> None:
    openmeter = FakeOpenMeter()
    cases = [case(span(), subject=f"s{n}", customer=f"cus_{n}") for n in range(130)]
    cases.append(case(span(MONTH_START + 1), subject="odd", customer="cus_odd"))
    read(openmeter, cases)

    assert sorted(len(subjects) for subjects, *_ in openmeter.asked) == [1, 30, 100]
    assert {(start, end) for _, start, end in openmeter.asked} == {(MONTH_START, AT), (MONTH_START + 1, AT)}
    assert all(one.reads[0].value == 1 for one in cases)


def test_a_subject_that_openmeter_refuses_stops_nobody_else() -> None:
    cases = [case(span(), subject=f"s{n}", customer=f"cus_{n}") for n in range(5)]

    statuses = read(FakeOpenMeter(refused="s3"), cases)

    assert [str(status) for status in statuses].count("refused") == 1
    assert statuses[3] is Status.REFUSED
    assert [one.reads[0].value for one in cases] == [1, 1, 1, None, 1]


def test_lines_tell_each_span() -> None:
    one = case(span(), span(item="si_2", price="price_2"))
    one.reads = [SpanRead(one.due()[0], AT, Entry("pk", "1"), D("1.5"), start=MONTH_START)]

    assert [(line.price, line.total, line.start, line.end) for line in one.lines()] == [
        ("price_1", D("1.5"), MONTH_START, AT),
        ("price_2", D("1.5"), MONTH_START, AT),
    ]
